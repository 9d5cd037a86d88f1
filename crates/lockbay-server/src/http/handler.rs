//! `/v1/handlers`: how the steps of sagas reach those who do them, for every instance.
//!
//! A secret goes in and never comes out again.

use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use lockbay::saga::{Endpoint, HandlerInfo, Route};
use serde::{Deserialize, Serialize};

use super::App;
use super::extract::{JsonBody, Name, Nothing, Query, Seconds};
use super::page::{self, Page};
use super::problem::Problem;

/// What page tokens of this list are bound to.
const LIST: &str = "handlers";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/handlers", get(list))
        .route("/v1/handlers/{name}", put(set).delete(forget))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HandlerBody {
    url: Option<String>,
    secret: Option<String>,
    timeout_seconds: Option<Seconds>,
    #[serde(default)]
    pull: bool,
}

impl HandlerBody {
    fn into_route(self) -> Result<Route, Problem> {
        match (self.url, self.pull) {
            (Some(url), false) => {
                check_url(&url)?;
                let micros = |Seconds(time)| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                let timeout_us = self.timeout_seconds.map(micros);
                Ok(Route::Push(Endpoint { url, secret: self.secret, timeout_us }))
            }
            (None, true) if self.secret.is_none() && self.timeout_seconds.is_none() => {
                Ok(Route::Pull)
            }
            (None, true) => {
                Err(Problem::invalid("a handler that polls takes no secret and no timeout_seconds"))
            }
            (Some(_), true) | (None, false) => Err(Problem::invalid(
                "a handler has either a \"url\", at which it is called, or \"pull\": true",
            )),
        }
    }
}

/// Refuses what is not the address of a web server, or carries a password that lists would show.
fn check_url(url: &str) -> Result<(), Problem> {
    let uri: Option<Uri> = url.parse().ok();
    let fits = uri.as_ref().is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    if !fits {
        return Err(Problem::invalid(format!("a url is like https://host/path, not {url:?}")));
    }
    if uri.and_then(|uri| uri.authority().map(|host| host.as_str().contains('@'))) == Some(true) {
        let advice = "a url has no user and password in it: calls are signed with the \"secret\"";
        return Err(Problem::invalid(advice));
    }
    Ok(())
}

async fn set(
    State(app): State<App>,
    Name(name): Name,
    JsonBody(body): JsonBody<HandlerBody>,
) -> Result<Json<HandlerInfo>, Problem> {
    let route = body.into_route()?;
    app.bay.sagas().put_handler(&name, &route).await?;
    tracing::info!(handler = name, "handler_put");
    Ok(Json(HandlerInfo::of(name, &route)))
}

async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let next = page::place(LIST, listing.page_token.as_deref())?;
    let (handlers, next) = app.bay.sagas().handlers(next, limit).await?;
    Ok(Page::new(LIST, handlers, next).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    page_size: Option<usize>,
    page_token: Option<String>,
}

#[derive(Serialize)]
struct Deleted {
    name: String,
    deleted: bool,
}

async fn forget(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    app.bay.sagas().delete_handler(&name).await?;
    tracing::info!(handler = name, "handler_deleted");
    Ok(Json(Deleted { name, deleted: true }))
}
