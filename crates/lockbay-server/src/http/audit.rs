//! `/v1/audit`: entries, checkpoints, verification, proofs and exports of the audit trail.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use lockbay::ErrorKind;
use lockbay::audit::{AuditEntry, AuditQuery, Checkpoint, Proof, Thoroughness, Verdict, hash_of};
use lockbay::clock::Timestamp;
use lockbay::store::{Order, Revision};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::App;
use super::extract::{Nothing, Query};
use super::page::{self, Page};
use super::problem::Problem;

/// How many exports are written at once: each reads the log.
const MAX_EXPORTS: usize = 2;

pub(super) fn routes() -> Router<App> {
    let verifying = Arc::new(Semaphore::new(1));
    let exporting = Arc::new(Semaphore::new(MAX_EXPORTS));
    Router::new()
        .route("/v1/audit", get(list))
        .route("/v1/audit/verify", get(move |app, query| verify(app, query, verifying)))
        .route("/v1/audit/proof", get(proof))
        .route("/v1/audit/export", get(move |app, query| export(app, query, exporting)))
        .route("/v1/audit/checkpoints", get(checkpoints))
        .route("/v1/audit/history", get(history))
        .route("/v1/audit/key", get(key))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    entity: Option<String>,
    actor: Option<String>,
    action: Option<String>,
    from: Option<String>,
    until: Option<String>,
    order: Option<Sorting>,
    page_size: Option<usize>,
    page_token: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sorting {
    Oldest,
    #[default]
    Newest,
}

fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let read =
        |text: &str| text.parse().map_err(|error| Problem::invalid(format!("{name}: {error}")));
    text.map(read).transpose()
}

async fn list(State(app): State<App>, Query(asked): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(asked.page_size)?;
    let order = match asked.order.unwrap_or_default() {
        Sorting::Oldest => Order::Forwards,
        Sorting::Newest => Order::Backwards,
    };
    let list = format!(
        "audit {order:?} {:?} {:?} {:?} {:?} {:?}",
        asked.entity, asked.actor, asked.action, asked.from, asked.until
    );
    let query = AuditQuery {
        place: page::place(&list, asked.page_token.as_deref())?,
        from: time("from", asked.from.as_deref())?,
        until: time("until", asked.until.as_deref())?,
        entity: asked.entity,
        actor: asked.actor,
        action: asked.action,
        order,
    };
    let page = app.bay.audit().entries(&query, limit).await?;
    Ok(Page::new(&list, page.items, page.next).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entity {
    entity: String,
    page_size: Option<usize>,
    page_token: Option<String>,
}

/// The entries of one entity, newest first, found by the links between them.
async fn history(State(app): State<App>, Query(asked): Query<Entity>) -> Result<Response, Problem> {
    let limit = page::size(asked.page_size)?;
    let list = format!("audit history {:?}", asked.entity);
    let place = page::place(&list, asked.page_token.as_deref())?;
    let from = place.and_then(|place| place.parse().ok()).map(Revision::new);
    let (items, next) = app.bay.audit().history(&asked.entity, from, limit).await?;
    let next = next.map(|next| next.to_string());
    Ok(Page::<AuditEntry>::new(&list, items, next).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verifying {
    records: Option<bool>,
}

async fn verify(
    State(app): State<App>,
    Query(asked): Query<Verifying>,
    one_at_a_time: Arc<Semaphore>,
) -> Result<Json<Verdict>, Problem> {
    let Ok(_permit) = one_at_a_time.try_acquire() else {
        let detail = "the audit trail is being verified already; ask again when that is done";
        return Err(Problem::new(ErrorKind::Busy, detail));
    };
    let thoroughness = match asked.records {
        Some(true) => Thoroughness::Records,
        Some(false) | None => Thoroughness::Log,
    };
    Ok(Json(app.bay.audit().verify(thoroughness).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Proving {
    revision: String,
    index: Option<u32>,
    to_checkpoint: Option<u64>,
}

async fn proof(
    State(app): State<App>,
    Query(asked): Query<Proving>,
) -> Result<Json<Proof>, Problem> {
    let revision = asked.revision.parse().map(Revision::new).map_err(|_| {
        Problem::invalid(format!("a revision is a whole number, not {:?}", asked.revision))
    })?;
    let index = asked.index.unwrap_or(0);
    Ok(Json(app.bay.audit().proof(revision, index, asked.to_checkpoint).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exporting {
    from: Option<String>,
    until: Option<String>,
}

async fn export(
    State(app): State<App>,
    Query(asked): Query<Exporting>,
    at_once: Arc<Semaphore>,
) -> Result<Response, Problem> {
    let Ok(permit) = at_once.try_acquire_owned() else {
        let detail = format!("{MAX_EXPORTS} exports are being written already");
        return Err(Problem::new(ErrorKind::Busy, detail));
    };
    let from = time("from", asked.from.as_deref())?;
    let until = time("until", asked.until.as_deref())?;
    let export = app.bay.audit().export(from, until).await?;
    let pieces = stream::unfold((export, permit), async |(mut export, permit)| {
        match export.next().await {
            Ok(Some(piece)) => Some((Ok(Bytes::from(piece)), (export, permit))),
            Ok(None) => None,
            Err(error) => {
                // The last line is missing then, so nobody takes it for whole.
                tracing::warn!(%error, "an export of the audit trail was cut off");
                None
            }
        }
    });
    let body = Body::from_stream::<_>(stream::StreamExt::boxed(pieces) as Pieces);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

type Pieces = stream::BoxStream<'static, Result<Bytes, Infallible>>;

/// A checkpoint as it is listed.
#[derive(Serialize)]
struct Listed {
    number: u64,
    first: Option<String>,
    last: Option<String>,
    count: Option<u64>,
    total: Option<u64>,
    at: Option<Timestamp>,
    /// What the next one says of this one; keep it elsewhere as an anchor.
    hash: String,
    /// To the byte as it is stored.
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoints {
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn checkpoints(
    State(app): State<App>,
    Query(asked): Query<Checkpoints>,
) -> Result<Response, Problem> {
    const LIST: &str = "audit checkpoints";
    let limit = page::size(asked.page_size)?;
    let place = page::place(LIST, asked.page_token.as_deref())?;
    let after = place.and_then(|place| place.parse().ok()).unwrap_or(0);
    let (found, more) = app.bay.audit().checkpoints(after, limit).await?;
    let next = found.last().filter(|last| more && last.number > after);
    let next = next.map(|last| last.number.to_string());
    let items = found.into_iter().map(|found| {
        let read = Checkpoint::decode(&found.text).ok();
        let hash = hash_of(&found.text).iter().map(|byte| format!("{byte:02x}")).collect();
        Listed {
            number: found.number,
            first: read.as_ref().map(|read| read.first.to_string()),
            last: read.as_ref().map(|read| read.last.to_string()),
            count: read.as_ref().map(|read| read.count),
            total: read.as_ref().map(|read| read.total),
            at: read.as_ref().map(|read| read.at),
            hash,
            text: String::from_utf8_lossy(&found.text).into_owned(),
        }
    });
    Ok(Page::new(LIST, items.collect(), next).into_response())
}

#[derive(Serialize)]
struct Key {
    public_key: Option<String>,
    /// Whether the store does not know the key that signs.
    outside_of_store: bool,
}

async fn key(State(app): State<App>, _: Query<Nothing>) -> Result<Json<Key>, Problem> {
    let audit = app.bay.audit();
    Ok(Json(Key {
        public_key: audit.public_key().await?.map(|key| key.to_string()),
        outside_of_store: audit.has_a_key_of_its_own(),
    }))
}
