//! `/v1/about` and `/v1/instances`: what this server is, and which others there are.

use axum::extract::State;
use axum::{Extension, Json};
use lockbay::clock::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::access::{Identity, Means};
use super::extract::{Nothing, Query};
use super::openapi::{page_size, page_token};
use super::page;
use super::problem::Problem;
use crate::serve::without_credentials;

/// What page tokens of this list are bound to.
const LIST: &str = "instances";
/// The namespace of a store whose URL names none.
const USUAL_NAMESPACE: &str = "lockbay";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(about)).routes(routes!(instances))
}

/// What a server is, for who looks at it.
#[derive(Serialize, ToSchema)]
struct About {
    /// Always `lockbay`.
    name: &'static str,
    version: &'static str,
    /// What the setting `environment` says, such as `production`.
    #[schema(required)]
    environment: Option<String>,
    /// The random identity of the process.
    instance_id: String,
    /// A name for people.
    #[schema(required)]
    instance_name: Option<String>,
    /// The service whose leader is elected.
    service: String,
    /// Where things are kept, without user and password.
    store: String,
    /// Which part of the store.
    namespace: String,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Whether changes are entered into the audit trail.
    audit: bool,
    /// Whether history is kept and alerts are judged.
    monitoring: bool,
    authentication: Authentication,
    /// Above which amount a second person has to approve, if that is set.
    #[schema(required)]
    four_eyes_above: Option<String>,
}

/// Whether a caller has to be known.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Authentication {
    /// There are no tokens yet: all may do everything.
    Open,
    /// A token, a session or a certificate is needed.
    Required,
}

/// Say what this server is
///
/// Its name and version, where it keeps things, and what is switched on.
#[utoipa::path(
    get,
    path = "/v1/about",
    operation_id = "show_about",
    tag = "server",
    responses((status = 200, body = About, description = "This server."))
)]
async fn about(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    _: Query<Nothing>,
) -> Json<About> {
    let config = app.bay.config();
    let url = without_credentials(&config.store);
    let (store, query) = url.split_once('?').unwrap_or((&url, ""));
    let namespace = query.strip_prefix("namespace=").unwrap_or(USUAL_NAMESPACE);
    Json(About {
        name: "lockbay",
        version: env!("CARGO_PKG_VERSION"),
        environment: config.environment.clone(),
        instance_id: app.bay.instance_id().to_owned(),
        instance_name: config.instance_name.clone(),
        service: config.service.clone(),
        store: store.to_owned(),
        namespace: namespace.to_owned(),
        started_at: app.bay.clock().now() - app.bay.uptime(),
        audit: config.audit,
        monitoring: config.monitoring,
        authentication: match identity.means {
            Means::Nothing => Authentication::Open,
            Means::Token(_) | Means::Session(_) | Means::Certificate(_) => Authentication::Required,
        },
        four_eyes_above: config.four_eyes_above.clone(),
    })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// An instance that gave a sign of life within half a minute.
#[derive(Serialize, ToSchema)]
struct Instance {
    instance_id: String,
    #[schema(required)]
    instance_name: Option<String>,
    service: String,
    version: String,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    last_seen: Timestamp,
    /// Whether it leads its service, as the store says.
    is_leader: bool,
    /// Whether it is the one that answers.
    is_self: bool,
}

/// A page of instances.
#[derive(Serialize, ToSchema)]
struct Instances {
    items: Vec<Instance>,
    #[schema(required)]
    next_page_token: Option<String>,
}

/// List the instances
///
/// Every instance on this store that runs with `monitoring`.
#[utoipa::path(
    get,
    path = "/v1/instances",
    operation_id = "list_instances",
    tag = "server",
    params(Listing),
    responses((status = 200, body = Instances, description = "Those that live, by their ids."))
)]
async fn instances(
    State(app): State<App>,
    Query(listing): Query<Listing>,
) -> Result<Json<Instances>, Problem> {
    let limit = page::size(listing.page_size)?;
    let after = page::place(LIST, listing.page_token.as_deref())?;
    let (found, next) = app.bay.instances().list(after, limit).await?;
    let leader = app.bay.leadership().current().await?.map(|leader| leader.instance_id);
    let items = found
        .into_iter()
        .map(|one| Instance {
            is_leader: leader.as_ref() == Some(&one.instance_id),
            is_self: one.instance_id == app.bay.instance_id(),
            instance_id: one.instance_id,
            instance_name: one.instance_name,
            service: one.service,
            version: one.version,
            started_at: one.started_at,
            last_seen: one.last_seen,
        })
        .collect();
    let next_page_token = next.map(|place| page::token_of(LIST, &place));
    Ok(Json(Instances { items, next_page_token }))
}
