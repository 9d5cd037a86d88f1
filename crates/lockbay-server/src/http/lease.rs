//! `/v1/leases`: named locks with a deadline and a fencing token.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lockbay::ErrorKind;
use lockbay::lease::{Acquired, LeaseInfo, Leases, parse_token};
use serde::{Deserialize, Serialize};

use super::abandoned::see_through;
use super::extract::{IdempotencyKey, JsonBody, Name, Nothing, Query, Seconds};
use super::page::{self, Page};
use super::problem::Problem;
use super::{App, REPLAYED};

/// What page tokens of this list are bound to.
const LIST: &str = "leases";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/leases", get(list))
        .route("/v1/leases/{name}", get(show).post(acquire).put(renew).delete(release))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acquire {
    holder: String,
    ttl_seconds: Seconds,
}

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renew {
    holder: String,
    fencing_token: String,
    ttl_seconds: Seconds,
}

async fn renew(
    State(app): State<App>,
    Name(name): Name,
    JsonBody(wish): JsonBody<Renew>,
) -> Result<Json<LeaseInfo>, Problem> {
    let token = parse_token(&wish.fencing_token)?;
    let leases = app.bay.leases();
    Ok(Json(leases.renew(&name, &wish.holder, token, wish.ttl_seconds.0).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    fencing_token: String,
}

#[derive(Serialize)]
struct Released {
    name: String,
    released: bool,
}

async fn release(
    State(app): State<App>,
    Name(name): Name,
    Query(right): Query<Release>,
) -> Result<Json<Released>, Problem> {
    let token = parse_token(&right.fencing_token)?;
    app.bay.leases().release(&name, token).await?;
    Ok(Json(Released { name, released: true }))
}

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let after = page::place(LIST, listing.page_token.as_deref())?;
    let (leases, next) = app.bay.leases().list(after, limit).await?;
    Ok(Page::new(LIST, leases, next).into_response())
}
