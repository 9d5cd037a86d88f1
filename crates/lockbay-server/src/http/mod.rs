//! The HTTP API: which path leads to which handler, and what happens around every one.
//!
//! One file per group of paths. A handler extracts, converts, calls the library, and converts the
//! answer; it decides nothing. A request goes through here in this order: it gets its name, a panic
//! becomes a problem, headers that every call shares are checked, who asks is found out and whether
//! they may, the number of requests in flight is limited (probes are not, so that a busy server does
//! not look dead, and logging in, which is open to all, has limits of its own), and then comes the
//! handler.

mod abandoned;
mod about;
mod access;
mod admit;
mod alert;
mod approval;
mod audit;
mod caller;
mod cleanup;
mod dashboard;
mod docs;
mod events;
mod extract;
mod finance;
mod four_eyes;
mod guard;
mod handler;
mod health;
mod history;
mod job;
mod job_list;
mod job_operate;
mod leader;
mod lease;
mod ledger;
mod limit;
mod listen;
mod mask;
mod metrics;
mod notify;
mod openapi;
mod page;
mod peers;
mod problem;
mod report;
mod saga;
mod saga_operate;
mod schedule;
mod schedule_preview;
mod search;
mod session;
mod shape;
mod state;
mod task;
mod tls;
mod token;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json, Router, middleware};
use lockbay::metrics::Metric;
use lockbay::{ErrorKind, LockBay};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::listen::serve;
use self::openapi::Served;
use self::problem::Problem;
pub(crate) use self::tls::Tls;

/// Says that an answer was given before: nothing was done anew.
const REPLAYED: [(&str, &str); 1] = [("idempotency-replayed", "true")];

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App {
    /// The instance served.
    pub(crate) bay: LockBay,
    /// Fires when the server stops taking requests.
    pub(crate) stopping: CancellationToken,
    in_flight: Arc<Semaphore>,
    /// Calls that wait for somebody else, of which there may be half as many.
    waiting: Arc<Semaphore>,
    /// What a second person has to approve.
    four_eyes: four_eyes::FourEyes,
    /// Trial balances, of which there may be few at once.
    trials: Arc<Semaphore>,
    /// Who follows the events.
    listeners: events::Listeners,
    /// Who reads the whole audit trail.
    audit_readers: audit::Readers,
    /// Who logs in.
    logins: session::Logins,
    /// What is asked of everybody.
    gate: Arc<admit::Gate>,
    max_in_flight: usize,
}

impl App {
    /// Serves this instance until `stopping` fires.
    ///
    /// # Errors
    /// `Invalid` with a setting that cannot be read.
    pub(crate) fn new(bay: LockBay, stopping: CancellationToken) -> lockbay::Result<Self> {
        let four_eyes = four_eyes::FourEyes::of(&bay)?;
        let max_in_flight = usize::try_from(bay.config().max_in_flight)
            .unwrap_or(Semaphore::MAX_PERMITS)
            .min(Semaphore::MAX_PERMITS);
        let limit = i64::try_from(max_in_flight).unwrap_or(i64::MAX);
        bay.metrics().set(Metric::MaxInFlight, limit);
        Ok(App {
            gate: Arc::new(admit::Gate::new(&bay)),
            bay,
            four_eyes,
            stopping,
            in_flight: Arc::new(Semaphore::new(max_in_flight)),
            waiting: Arc::new(Semaphore::new(max_in_flight.div_ceil(2))),
            trials: Arc::new(Semaphore::new(ledger::MAX_TRIALS)),
            listeners: events::Listeners::default(),
            audit_readers: audit::Readers::default(),
            logins: session::Logins::default(),
            max_in_flight,
        })
    }

    /// As one that listens on this address.
    pub(crate) fn listening_on(mut self, address: SocketAddr) -> Self {
        let mut gate = admit::Gate::new(&self.bay);
        gate.boundary = gate.boundary.listening_on(address.ip());
        self.gate = Arc::new(gate);
        self
    }

    /// How many requests are being served, those that wait included.
    fn requests_in_flight(&self) -> usize {
        self.max_in_flight - self.in_flight.available_permits()
    }

    /// Those who wait have permits of their own, so that they cannot keep out those who would end
    /// the wait.
    fn waiting_permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| {
            Problem::new(ErrorKind::Busy, "too many calls wait already; nothing was done")
        })
    }
}

/// All routes.
pub(crate) fn router(app: App) -> Router {
    let limited = OpenApiRouter::new()
        .merge(about::routes())
        .merge(metrics::routes())
        .merge(history::routes())
        .merge(leader::routes())
        .merge(lease::routes())
        .merge(job::routes())
        .merge(job_list::routes())
        .merge(job_operate::routes())
        .merge(search::routes())
        .merge(saga::routes())
        .merge(saga_operate::routes())
        .merge(handler::routes())
        .merge(task::routes())
        .merge(schedule::routes())
        .merge(schedule_preview::routes())
        .merge(finance::routes())
        .merge(ledger::routes())
        .merge(state::routes())
        .merge(cleanup::routes())
        .merge(events::routes())
        .merge(alert::routes())
        .merge(approval::routes())
        .merge(notify::routes())
        .merge(report::routes())
        .merge(audit::routes())
        .merge(session::routes())
        .merge(token::routes())
        .layer(middleware::from_fn_with_state(app.clone(), guard::limit_in_flight));
    let (router, document) = OpenApiRouter::new()
        .merge(index_route())
        .merge(dashboard::routes())
        .merge(docs::routes())
        .merge(openapi::routes())
        .merge(limited)
        .merge(session::login())
        .merge(health::routes())
        .split_for_parts();
    router
        .layer(Extension(Served::new(document)))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(app.clone(), admit::admit))
        .layer(middleware::from_fn_with_state(app.clone(), guard::check_headers))
        .layer(middleware::from_fn(guard::mark_response))
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(middleware::from_fn_with_state(app.clone(), caller::name_request))
        .with_state(app)
}

/// What is here, in short.
#[derive(Serialize, ToSchema)]
struct Index {
    name: &'static str,
    version: &'static str,
    /// Methods and paths; `/openapi.json` says more.
    calls: Vec<String>,
}

/// What is here
///
/// For whoever comes with curl; a browser gets the dashboard. The name, the version, and every call.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "get_index",
    tag = "server",
    responses((status = 200, description = "What is here.", body = Index)),
)]
async fn index(Extension(served): Extension<Arc<Served>>) -> Json<Index> {
    let version = env!("CARGO_PKG_VERSION");
    let calls = served.calls.clone();
    Json(Index { name: "lockbay", version, calls })
}

/// A browser that asks for it gets the dashboard.
fn index_route() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(index))
        .layer(middleware::from_fn(dashboard::page_for_browsers))
}

async fn no_such_route(uri: Uri) -> Problem {
    Problem::new(ErrorKind::NotFound, format!("there is nothing at {:?}", uri.path()))
}

async fn no_such_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::refused(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{path:?} does not take {method}; see the Allow header"),
    )
}
