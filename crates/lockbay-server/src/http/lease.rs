//! `/v1/leases`: named locks with a deadline and a fencing token.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lockbay::ErrorKind;
use lockbay::lease::{Acquired, LeaseInfo, Leases, parse_token};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::abandoned::see_through;
use super::extract::{IdempotencyKey, JsonBody, Name, Nothing, Query, Seconds};
use super::openapi::{Conflict, NotFound, Unprocessable, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape;
use super::{App, REPLAYED};

/// What page tokens of this list are bound to.
const LIST: &str = "leases";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, acquire, renew, release))
}

/// A wish for a lease.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AcquireLease)]
struct Acquire {
    /// Who asks, for people.
    #[schema(value_type = shape::LongName)]
    holder: String,
    /// How long it lasts unless it is renewed.
    #[schema(value_type = f64, minimum = 0.1, maximum = 86_400)]
    ttl_seconds: Seconds,
}

/// Acquire a lease
///
/// It is granted if nobody has it. Repeated with its `Idempotency-Key`, it is given again to whoever
/// has it by that request; a holder that lost the answer has no other way to it.
#[utoipa::path(
    post,
    path = "/v1/leases/{name}",
    operation_id = "acquire_lease",
    tag = "leases",
    params(("name" = shape::LongName, Path, description = "The lease.")),
    request_body = Acquire,
    responses(
        (
            status = 200,
            description = "It is yours until `expires_at`.",
            body = shape::Lease,
            headers(("Idempotency-Replayed" = bool, description = "Whether it was answered before.")),
        ),
        Conflict,
        Unprocessable,
    ),
)]
async fn acquire(
    State(app): State<App>,
    Name(name): Name,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(wish): JsonBody<Acquire>,
) -> Result<Response, Problem> {
    let (leases, ttl) = (app.bay.leases().clone(), wish.ttl_seconds.0);
    let repeatable = key.is_some();
    let work = {
        let (leases, name) = (leases.clone(), name.clone());
        async move { leases.acquire_once(&name, &wish.holder, ttl, key.as_deref()).await }
    };
    // A client that named its request will come back for it.
    let undo = move |acquired| async move {
        if let (Ok(Acquired::Granted(lease)), false) = (acquired, repeatable) {
            give_back(&leases, &lease).await;
        }
    };
    match see_through(work, undo).await?? {
        Acquired::Granted(lease) => Ok(Json(lease).into_response()),
        Acquired::Replayed(lease) => Ok((REPLAYED, Json(lease)).into_response()),
        Acquired::Held { holder, retry_after } => {
            let detail = format!("lease {name:?} is held by {holder:?}");
            Err(Problem::held(detail, holder, retry_after))
        }
    }
}

async fn give_back(leases: &Leases, lease: &LeaseInfo) {
    let Ok(token) = parse_token(&lease.fencing_token) else { return };
    if let Err(error) = leases.release(&lease.name, token).await {
        tracing::warn!(lease = %lease.name, %error, "abandoned lease not released, it lapses");
    }
}

/// A wish to keep a lease.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RenewLease)]
struct Renew {
    #[schema(value_type = shape::LongName)]
    holder: String,
    #[schema(value_type = shape::FencingToken)]
    fencing_token: String,
    /// How long it lasts from now on unless it is renewed again.
    #[schema(value_type = f64, minimum = 0.1, maximum = 86_400)]
    ttl_seconds: Seconds,
}

/// Renew a lease
///
/// Its token stays the same. Whoever has lost it is refused as fenced.
#[utoipa::path(
    put,
    path = "/v1/leases/{name}",
    operation_id = "renew_lease",
    tag = "leases",
    params(("name" = shape::LongName, Path, description = "The lease.")),
    request_body = Renew,
    responses((status = 200, description = "It is yours still.", body = shape::Lease), Conflict),
)]
async fn renew(
    State(app): State<App>,
    Name(name): Name,
    JsonBody(wish): JsonBody<Renew>,
) -> Result<Json<LeaseInfo>, Problem> {
    let token = parse_token(&wish.fencing_token)?;
    let leases = app.bay.leases();
    Ok(Json(leases.renew(&name, &wish.holder, token, wish.ttl_seconds.0).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Release {
    /// The token under which it is held.
    #[param(value_type = shape::FencingToken)]
    fencing_token: String,
}

/// A lease that is free.
#[derive(Serialize, ToSchema)]
#[schema(as = ReleasedLease)]
struct Released {
    name: String,
    released: bool,
}

/// Release a lease
///
/// Others may have it at once. Whoever has lost it is refused as fenced.
#[utoipa::path(
    delete,
    path = "/v1/leases/{name}",
    operation_id = "release_lease",
    tag = "leases",
    params(("name" = shape::LongName, Path, description = "The lease."), Release),
    responses((status = 200, description = "It is free.", body = Released), Conflict),
)]
async fn release(
    State(app): State<App>,
    Name(name): Name,
    Query(right): Query<Release>,
) -> Result<Json<Released>, Problem> {
    let token = parse_token(&right.fencing_token)?;
    app.bay.leases().release(&name, token).await?;
    Ok(Json(Released { name, released: true }))
}

/// Show a lease
///
/// Who holds it, and until when.
#[utoipa::path(
    get,
    path = "/v1/leases/{name}",
    operation_id = "get_lease",
    tag = "leases",
    params(("name" = shape::LongName, Path, description = "The lease.")),
    responses((status = 200, description = "The lease as it stands.", body = shape::Lease), NotFound),
)]
async fn show(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<LeaseInfo>, Problem> {
    match app.bay.leases().show(&name).await? {
        Some(lease) => Ok(Json(lease)),
        None => {
            Err(Problem::new(ErrorKind::NotFound, format!("nobody holds a lease {name:?} now")))
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// How many leases the page has at most.
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List leases
///
/// Those that are held, in the order of their names.
#[utoipa::path(
    get,
    path = "/v1/leases",
    operation_id = "list_leases",
    tag = "leases",
    params(Listing),
    responses((status = 200, description = "A page of leases.", body = Page<shape::Lease>)),
)]
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let after = page::place(LIST, listing.page_token.as_deref())?;
    let (leases, next) = app.bay.leases().list(after, limit).await?;
    Ok(Page::new(LIST, leases, next).into_response())
}
