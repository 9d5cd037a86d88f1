//! `/v1/handlers`: how the steps of sagas reach those who do them, for every instance.
//!
//! A secret goes in and never comes out again; of an address viewers see no query.

use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lockbay::access::Role;
use lockbay::saga::{Endpoint, HandlerInfo, Route};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::access::Identity;
use super::extract::{JsonBody, Name, Nothing, Query, Seconds};
use super::openapi::{Conflict, NotFound, Unprocessable, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape;

/// What page tokens of this list are bound to.
const LIST: &str = "handlers";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(set, forget))
}

/// How a handler is reached: at a `url`, or by its own polls with `pull`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PutHandler)]
struct HandlerBody {
    /// Where it is called, without user and password.
    #[schema(max_length = 2_048, pattern = "^https?://[^@/?#\\s]+([/?][!-~]*)?$")]
    url: Option<String>,
    /// What calls are signed with, `whsec_` and base64 or any text. It is never shown again.
    #[schema(min_length = 1, max_length = 512, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    secret: Option<String>,
    /// How long one call may take, if that is less than the step may.
    #[schema(value_type = Option<f64>, minimum = 0.001, maximum = 315_360_000)]
    timeout_seconds: Option<Seconds>,
    /// Whether it polls, and has no `url`, no `secret` and no `timeout_seconds`.
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

/// Register a handler
///
/// For every instance, in place of what was registered under the name. The names of handlers that
/// are built in are taken.
#[utoipa::path(
    put,
    path = "/v1/handlers/{name}",
    operation_id = "put_handler",
    tag = "handlers",
    params(("name" = shape::Name, Path, description = "The handler.")),
    request_body = HandlerBody,
    responses(
        (status = 200, description = "It is registered.", body = shape::Handler),
        Unprocessable,
    ),
)]
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

/// List handlers
///
/// Those that are built in, and those that are registered. Secrets are not shown, and to viewers
/// the query of a `url` is not either, which may hold a key.
#[utoipa::path(
    get,
    path = "/v1/handlers",
    operation_id = "list_handlers",
    tag = "handlers",
    params(Listing),
    responses((status = 200, description = "A page of handlers.", body = Page<shape::Handler>)),
)]
async fn list(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Query(listing): Query<Listing>,
) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let next = page::place(LIST, listing.page_token.as_deref())?;
    let (handlers, next) = app.bay.sagas().handlers(next, limit).await?;
    let handlers = match identity.role {
        Role::Viewer => handlers.into_iter().map(HandlerInfo::without_secrets).collect(),
        Role::Operator | Role::Admin => handlers,
    };
    Ok(Page::new(LIST, handlers, next).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// How many handlers the page has at most.
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// A handler that is registered no more.
#[derive(Serialize, ToSchema)]
#[schema(as = DeletedHandler)]
struct Deleted {
    name: String,
    deleted: bool,
}

/// Forget a handler
///
/// Steps that need it wait until it is registered again. One that is built in stays.
#[utoipa::path(
    delete,
    path = "/v1/handlers/{name}",
    operation_id = "delete_handler",
    tag = "handlers",
    params(("name" = shape::Name, Path, description = "The handler.")),
    responses((status = 200, description = "It is forgotten.", body = Deleted), NotFound, Conflict),
)]
async fn forget(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    app.bay.sagas().delete_handler(&name).await?;
    tracing::info!(handler = name, "handler_deleted");
    Ok(Json(Deleted { name, deleted: true }))
}
