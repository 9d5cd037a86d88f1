//! `/v1/leader`: who leads, and giving leadership up.

use axum::Json;
use axum::extract::State;
use lockbay::ErrorKind;
use lockbay::leader::LeaderInfo;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{NoBody, Nothing, Query};
use super::openapi::{Conflict, NotFound};
use super::problem::Problem;
use super::shape;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(resign))
}

/// Show who leads
///
/// As the store says, whichever instance is asked.
#[utoipa::path(
    get,
    path = "/v1/leader",
    operation_id = "get_leader",
    tag = "leader",
    responses((status = 200, description = "Who leads.", body = shape::Leader), NotFound),
)]
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

/// An instance that leads no longer.
#[derive(Serialize, ToSchema)]
struct Resigned {
    resigned: bool,
    instance_id: String,
    /// The term that ended.
    #[schema(required)]
    term: Option<u64>,
}

/// Give leadership up
///
/// The instance that is asked stops leading, and lets the others bid first. One that does not lead
/// refuses.
#[utoipa::path(
    post,
    path = "/v1/leader/resign",
    operation_id = "resign_leadership",
    tag = "leader",
    responses((status = 200, description = "It leads no longer.", body = Resigned), Conflict),
)]
async fn resign(State(app): State<App>, _: NoBody) -> Result<Json<Resigned>, Problem> {
    let term = app.bay.leadership().term();
    app.bay.leadership().resign().await?;
    Ok(Json(Resigned { resigned: true, instance_id: app.bay.instance_id().to_owned(), term }))
}
