//! `/v1/audit`: entries, checkpoints, verification, proofs and exports of the audit trail.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use lockbay::ErrorKind;
use lockbay::audit::{AuditEntry, AuditQuery, Checkpoint, Proof, Thoroughness, Verdict, hash_of};
use lockbay::clock::Timestamp;
use lockbay::store::{Order, Revision};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{Nothing, Query};
use super::openapi::{Conflict, NotFound, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape::{Moment, audit as shape};

/// How many exports are written at once: each reads the log.
const MAX_EXPORTS: usize = 2;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(verify))
        .routes(routes!(proof))
        .routes(routes!(export))
        .routes(routes!(checkpoints))
        .routes(routes!(history))
        .routes(routes!(key))
}

/// Who reads the whole log, of whom there may only be so many.
#[derive(Clone)]
pub(super) struct Readers {
    verifying: Arc<Semaphore>,
    exporting: Arc<Semaphore>,
}

impl Default for Readers {
    fn default() -> Self {
        Readers {
            verifying: Arc::new(Semaphore::new(1)),
            exporting: Arc::new(Semaphore::new(MAX_EXPORTS)),
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// What was changed: a kind and a name with a slash between them, or a kind alone.
    entity: Option<String>,
    /// Who did it.
    actor: Option<String>,
    /// What happened to it.
    action: Option<String>,
    /// Not before this.
    #[param(value_type = Option<Moment>)]
    from: Option<String>,
    /// Before this.
    #[param(value_type = Option<Moment>)]
    until: Option<String>,
    /// `newest` first if nothing is said.
    #[param(inline)]
    order: Option<EntryOrder>,
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum EntryOrder {
    Oldest,
    #[default]
    Newest,
}

fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let read =
        |text: &str| text.parse().map_err(|error| Problem::invalid(format!("{name}: {error}")));
    text.map(read).transpose()
}

/// List entries of the audit trail
///
/// Every change with who made it, when and why, filtered by what is given.
#[utoipa::path(
    get,
    path = "/v1/audit",
    operation_id = "list_audit_entries",
    tag = "audit",
    params(Listing),
    responses((status = 200, body = Page<shape::AuditEntry>, description = "A page of entries.")),
)]
async fn list(State(app): State<App>, Query(asked): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(asked.page_size)?;
    let order = match asked.order.unwrap_or_default() {
        EntryOrder::Oldest => Order::Forwards,
        EntryOrder::Newest => Order::Backwards,
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

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Entity {
    /// A kind and a name with a slash between them.
    entity: String,
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List what happened to one entity
///
/// The entries of one entity, newest first, found by the links between them.
#[utoipa::path(
    get,
    path = "/v1/audit/history",
    operation_id = "get_audit_history",
    tag = "audit",
    params(Entity),
    responses(
        (status = 200, body = Page<shape::AuditEntry>, description = "A page of entries."),
        NotFound,
    ),
)]
async fn history(State(app): State<App>, Query(asked): Query<Entity>) -> Result<Response, Problem> {
    let limit = page::size(asked.page_size)?;
    let list = format!("audit history {:?}", asked.entity);
    let place = page::place(&list, asked.page_token.as_deref())?;
    let from = place.and_then(|place| place.parse().ok()).map(Revision::new);
    let (items, next) = app.bay.audit().history(&asked.entity, from, limit).await?;
    let next = next.map(|next| next.to_string());
    Ok(Page::<AuditEntry>::new(&list, items, next).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Verifying {
    /// Also that the records that entries tell of are still as they were left.
    records: Option<bool>,
}

/// Verify the audit trail
///
/// Reads the whole log and checks it against its signed checkpoints; one such call at a time.
#[utoipa::path(
    get,
    path = "/v1/audit/verify",
    operation_id = "verify_audit",
    tag = "audit",
    params(Verifying),
    responses((status = 200, body = shape::AuditVerdict, description = "What was found.")),
)]
async fn verify(
    State(app): State<App>,
    Query(asked): Query<Verifying>,
) -> Result<Json<Verdict>, Problem> {
    let Ok(_permit) = app.audit_readers.verifying.try_acquire() else {
        let detail = "the audit trail is being verified already; ask again when that is done";
        return Err(Problem::new(ErrorKind::Busy, detail));
    };
    let thoroughness = match asked.records {
        Some(true) => Thoroughness::Records,
        Some(false) | None => Thoroughness::Log,
    };
    Ok(Json(app.bay.audit().verify(thoroughness).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Proving {
    /// The commit of the entry.
    #[param(pattern = "^[0-9]+$")]
    revision: String,
    /// Its place among the entries of that commit; 0 if nothing is said.
    index: Option<u32>,
    /// Goes on to this checkpoint.
    to_checkpoint: Option<u64>,
}

/// Prove that an entry was sealed
///
/// The way from the entry to a signed checkpoint, which can be checked without a server.
#[utoipa::path(
    get,
    path = "/v1/audit/proof",
    operation_id = "prove_audit_entry",
    tag = "audit",
    params(Proving),
    responses(
        (status = 200, body = shape::AuditProof, description = "The proof."),
        NotFound,
        Conflict,
    ),
)]
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

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Exporting {
    /// Not before this.
    #[param(value_type = Option<Moment>)]
    from: Option<String>,
    /// Before this.
    #[param(value_type = Option<Moment>)]
    until: Option<String>,
}

/// Export the audit trail
///
/// A line of JSON for the head, each entry, each checkpoint and the end, which is signed. An export
/// without its last line is not whole.
#[utoipa::path(
    get,
    path = "/v1/audit/export",
    operation_id = "export_audit",
    tag = "audit",
    params(Exporting),
    responses((
        status = 200,
        body = String,
        content_type = "application/x-ndjson",
        description = "The export, as it is written.",
    )),
)]
async fn export(
    State(app): State<App>,
    Query(asked): Query<Exporting>,
) -> Result<Response, Problem> {
    let Ok(permit) = Arc::clone(&app.audit_readers.exporting).try_acquire_owned() else {
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
#[derive(Serialize, ToSchema)]
#[schema(as = AuditCheckpoint)]
struct Listed {
    number: u64,
    /// The commit of the first entry that it seals; null, as what follows, if it cannot be read.
    #[schema(required)]
    first: Option<String>,
    /// The commit of the last one.
    #[schema(required)]
    last: Option<String>,
    /// How many it seals.
    #[schema(required)]
    count: Option<u64>,
    /// How many are sealed by it and all before it.
    #[schema(required)]
    total: Option<u64>,
    #[schema(required, value_type = Option<Moment>)]
    at: Option<Timestamp>,
    /// What the next one says of this one; keep it elsewhere as an anchor.
    hash: String,
    /// To the byte as it is stored.
    text: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Checkpoints {
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List checkpoints of the audit trail
///
/// Each seals the entries since the one before it, and is signed.
#[utoipa::path(
    get,
    path = "/v1/audit/checkpoints",
    operation_id = "list_audit_checkpoints",
    tag = "audit",
    params(Checkpoints),
    responses((status = 200, body = Page<Listed>, description = "A page of checkpoints.")),
)]
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

#[derive(Serialize, ToSchema)]
#[schema(as = AuditKey)]
struct Key {
    /// 64 hexadecimal digits; null if nothing is signed yet.
    #[schema(required)]
    public_key: Option<String>,
    /// Whether the store does not know the key that signs.
    outside_of_store: bool,
}

/// Show the key that signs checkpoints
///
/// Keep it elsewhere, and an export can be checked without this server.
#[utoipa::path(
    get,
    path = "/v1/audit/key",
    operation_id = "get_audit_key",
    tag = "audit",
    responses((status = 200, body = Key, description = "The public key.")),
)]
async fn key(State(app): State<App>, _: Query<Nothing>) -> Result<Json<Key>, Problem> {
    let audit = app.bay.audit();
    Ok(Json(Key {
        public_key: audit.public_key().await?.map(|key| key.to_string()),
        outside_of_store: audit.has_a_key_of_its_own(),
    }))
}
