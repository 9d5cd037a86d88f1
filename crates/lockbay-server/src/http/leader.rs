//! `/v1/leader`: who leads, and giving leadership up.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use lockbay::ErrorKind;
use lockbay::leader::LeaderInfo;
use serde::Serialize;

use super::App;
use super::extract::{NoBody, Nothing, Query};
use super::problem::Problem;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/leader", get(show)).route("/v1/leader/resign", post(resign))
}

async fn show(State(app): State<App>, _: Query<Nothing>) -> Result<Json<LeaderInfo>, Problem> {
    match app.bay.leadership().current().await? {
        Some(leader) => Ok(Json(leader)),
        None => {
            let service = &app.bay.config().service;
            let detail = format!("nobody leads service {service:?} now");
            Err(Problem::new(ErrorKind::NotFound, detail))
        }
    }
}

#[derive(Serialize)]
struct Resigned {
    resigned: bool,
    instance_id: String,
    term: Option<u64>,
}

async fn resign(State(app): State<App>, _: NoBody) -> Result<Json<Resigned>, Problem> {
    let term = app.bay.leadership().term();
    app.bay.leadership().resign().await?;
    Ok(Json(Resigned { resigned: true, instance_id: app.bay.instance_id().to_owned(), term }))
}
