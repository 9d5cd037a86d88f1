//! The HTTP API: which path leads to which handler, and what happens around every one.
//!
//! One file per group of paths. A handler extracts, converts, calls the library, and converts the
//! answer; it decides nothing. A request goes through here in this order: it gets its name, a panic
//! becomes a problem, headers that every call shares are checked, who asks is found out and whether
//! they may, the number of requests in flight is limited (probes are not, so that a busy server does not look dead), and then comes the handler.

mod abandoned;
mod access;
mod admit;
mod alert;
mod audit;
mod caller;
mod cleanup;
mod events;
mod extract;
mod finance;
mod guard;
mod handler;
mod health;
mod history;
mod job;
mod job_list;
mod leader;
mod lease;
mod ledger;
mod limit;
mod listen;
mod mask;
mod metrics;
mod notify;
mod page;
mod problem;
mod report;
mod saga;
mod saga_operate;
mod schedule;
mod session;
mod state;
mod task;
mod token;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use axum::{Json, Router, middleware};
use lockbay::metrics::Metric;
use lockbay::{ErrorKind, LockBay};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

pub(crate) use self::listen::serve;
use self::problem::Problem;

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
    /// Who follows the events.
    listeners: events::Listeners,
    /// What is asked of everybody.
    gate: Arc<admit::Gate>,
    max_in_flight: usize,
}

impl App {
    /// Serves this instance until `stopping` fires.
    pub(crate) fn new(bay: LockBay, stopping: CancellationToken) -> Self {
        let max_in_flight = usize::try_from(bay.config().max_in_flight)
            .unwrap_or(Semaphore::MAX_PERMITS)
            .min(Semaphore::MAX_PERMITS);
        let limit = i64::try_from(max_in_flight).unwrap_or(i64::MAX);
        bay.metrics().set(Metric::MaxInFlight, limit);
        App {
            gate: Arc::new(admit::Gate::new(&bay)),
            bay,
            stopping,
            in_flight: Arc::new(Semaphore::new(max_in_flight)),
            waiting: Arc::new(Semaphore::new(max_in_flight.div_ceil(2))),
            listeners: events::Listeners::default(),
            max_in_flight,
        }
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
        .merge(metrics::routes().into())
        .merge(history::routes().into())
        .merge(leader::routes().into())
        .merge(lease::routes().into())
        .merge(job::routes().into())
        .merge(job_list::routes().into())
        .merge(saga::routes().into())
        .merge(saga_operate::routes().into())
        .merge(handler::routes().into())
        .merge(task::routes().into())
        .merge(schedule::routes().into())
        .merge(finance::routes().into())
        .merge(ledger::routes().into())
        .merge(state::routes().into())
        .merge(cleanup::routes().into())
        .merge(events::routes().into())
        .merge(alert::routes().into())
        .merge(notify::routes().into())
        .merge(report::routes().into())
        .merge(audit::routes().into())
        .merge(session::routes())
        .merge(token::routes())
        .layer(middleware::from_fn_with_state(app.clone(), guard::limit_in_flight));
    let (router, _document) = OpenApiRouter::new()
        .merge(Router::new().route("/", get(index)).into())
        .merge(limited)
        .merge(health::routes().into())
        .split_for_parts();
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(app.clone(), admit::admit))
        .layer(middleware::from_fn_with_state(app.clone(), guard::check_headers))
        .layer(middleware::from_fn(guard::mark_response))
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(middleware::from_fn_with_state(app.clone(), caller::name_request))
        .with_state(app)
}

/// What is here, for whoever comes with a browser or curl.
async fn index() -> Json<Value> {
    let calls = [
        "GET /health/live",
        "GET /health/ready",
        "GET /metrics",
        "GET /api/advanced-state/health",
        "GET /api/advanced-state/metrics",
        "GET /api/advanced-state/report?hours=&format=",
        "GET /v1/trends?path=&hours=",
        "GET /v1/events?events=",
        "GET /v1/metrics/history?path=&minutes=",
        "GET /v1/metrics/paths",
        "GET /v1/leader",
        "POST /v1/leader/resign",
        "GET /v1/leases",
        "GET|POST|PUT|DELETE /v1/leases/{name}",
        "GET /v1/jobs",
        "POST /v1/jobs/claim",
        "GET /v1/jobs/{job_id}",
        "POST /v1/jobs/{job_id}/heartbeat|complete|fail|cancel|retry",
        "GET|POST /v1/sagas",
        "POST /v1/sagas/bulk",
        "GET /v1/sagas/{saga_id}",
        "GET /v1/sagas/{saga_id}/history",
        "POST /v1/sagas/{saga_id}/cancel|resume|abandon",
        "POST /v1/sagas/{saga_id}/steps/{step}/retry|skip|resolve",
        "GET /v1/handlers",
        "PUT|DELETE /v1/handlers/{name}",
        "POST /v1/tasks/poll",
        "POST /v1/tasks/{task_id}/heartbeat|complete|fail",
        "GET /v1/schedules",
        "GET|PUT|DELETE /v1/schedules/{job_id}",
        "GET /v1/schedules/{job_id}/upcoming?count=",
        "POST /v1/schedules/{job_id}/pause|resume|run",
        "POST /v1/sagas/escrow|release|refund|cashout",
        "POST /v1/ledger/deposits",
        "GET /v1/ledger/accounts/{user_id}?currency=",
        "GET /v1/ledger/trial-balance",
        "GET /v1/ledger/postings?saga_id=",
        "GET /v1/state?prefix=",
        "GET|PUT|DELETE /v1/state/{key}",
        "POST /v1/state/invalidate",
        "GET /v1/state-rules",
        "GET|PUT|DELETE /v1/state-rules/{name}",
        "GET|PUT|DELETE /v1/state-dependencies/{key}",
        "GET /v1/cleanup/rules",
        "GET|PUT|DELETE /v1/cleanup/rules/{name}",
        "POST /v1/cleanup/run",
        "POST /v1/cleanup/optimize-memory",
        "GET /v1/alerts?state=",
        "GET /v1/alerts/rules",
        "GET|PUT|DELETE /v1/alerts/rules/{name}",
        "POST /v1/alerts/rules/{name}/test",
        "GET|POST|DELETE /v1/alerts/silences",
        "GET|DELETE /v1/alerts/silences/{id}",
        "GET /v1/alerts/notifications?status=",
        "POST /v1/alerts/notifications/test",
        "GET /v1/alerts/notifications/{id}",
        "POST /v1/alerts/notifications/{id}/retry",
        "GET /v1/audit?entity=&actor=&action=&from=&until=&order=",
        "GET /v1/audit/verify?records=",
        "GET /v1/audit/history?entity=",
        "GET /v1/audit/proof?revision=",
        "GET /v1/audit/export?from=&until=",
        "GET /v1/audit/checkpoints",
        "GET /v1/audit/key",
    ];
    let calls: Vec<&str> = calls.into_iter().chain(access::CALLS).collect();
    Json(json!({ "name": "lockbay", "version": env!("CARGO_PKG_VERSION"), "calls": calls }))
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
