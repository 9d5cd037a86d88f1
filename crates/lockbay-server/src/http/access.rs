//! Which route needs which role, and who asks.
//!
//! Every route has a row in [`ACCESS`]; one without a row is for admins alone, and a test fails.
//! Whoever asks stands in the extensions of the request as an [`Identity`].

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use lockbay::access::Role;
use lockbay::access::Role::{Admin, Operator, Viewer};

use self::Need::{Least, Open};

/// What a route asks of those who call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: it tells no secret and changes nothing.
    Open,
    /// This role, or one with more power.
    Least(Role),
}

/// By what somebody is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Means {
    /// By nothing: there are no tokens yet, and all may do everything.
    Nothing,
    /// By a token in the Authorization header; its id.
    Token(String),
    /// By the cookie of a session, which a token began; its id.
    Session(String),
    /// By a client certificate; its fingerprint.
    Certificate(String),
}

/// Who asks. Every handler finds one in the extensions of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The name that the audit trail gets, if there is one: that of the token or the certificate.
    pub(super) actor: Option<String>,
    /// What they may do.
    pub(super) role: Role,
    /// By what they are known.
    pub(super) means: Means,
}

/// The certificate that a client showed, verified, and what its owner may do. It stands in the
/// extensions of each request of its connection.
#[derive(Debug, Clone)]
pub(super) struct ClientCertificate {
    /// The common name of its subject.
    pub(super) subject_cn: String,
    /// SHA-256 over it, in hexadecimal digits.
    pub(super) fingerprint: String,
    /// What the settings allow its owner.
    pub(super) role: Role,
}

/// Every route and its least role, by the path as it was routed.
pub(super) const ACCESS: &[(&str, &str, Need)] = &[
    // Probes and telemetry.
    ("GET", "/", Open),
    ("GET", "/openapi.json", Open),
    ("GET", "/docs", Open),
    ("GET", "/docs/{file}", Open),
    ("GET", "/assets/{*path}", Open),
    ("GET", "/health/live", Open),
    ("GET", "/health/ready", Open),
    ("GET", "/metrics", Least(Viewer)),
    ("GET", "/v1/events", Least(Viewer)),
    // The guide's paths.
    ("GET", "/api/advanced-state/health", Least(Viewer)),
    ("GET", "/api/advanced-state/metrics", Least(Viewer)),
    ("GET", "/api/advanced-state/report", Least(Viewer)),
    // Who this is, and who else there is.
    ("GET", "/v1/about", Least(Viewer)),
    ("GET", "/v1/instances", Least(Viewer)),
    // Leader and leases.
    ("GET", "/v1/leader", Least(Viewer)),
    ("POST", "/v1/leader/resign", Least(Operator)),
    ("GET", "/v1/leases", Least(Viewer)),
    ("GET", "/v1/leases/{name}", Least(Viewer)),
    ("POST", "/v1/leases/{name}", Least(Operator)),
    ("PUT", "/v1/leases/{name}", Least(Operator)),
    ("DELETE", "/v1/leases/{name}", Least(Operator)),
    // Jobs.
    ("GET", "/v1/jobs", Least(Viewer)),
    ("GET", "/v1/jobs/{job_id}", Least(Viewer)),
    ("POST", "/v1/jobs/bulk", Least(Operator)),
    ("POST", "/v1/jobs/claim", Least(Operator)),
    ("POST", "/v1/jobs/{job_id}/heartbeat", Least(Operator)),
    ("POST", "/v1/jobs/{job_id}/complete", Least(Operator)),
    ("POST", "/v1/jobs/{job_id}/fail", Least(Operator)),
    ("POST", "/v1/jobs/{job_id}/cancel", Least(Operator)),
    ("POST", "/v1/jobs/{job_id}/retry", Least(Operator)),
    // Search.
    ("GET", "/v1/search", Least(Viewer)),
    // Sagas.
    ("GET", "/v1/sagas", Least(Viewer)),
    ("POST", "/v1/sagas", Least(Operator)),
    ("POST", "/v1/sagas/bulk", Least(Operator)),
    ("POST", "/v1/sagas/escrow", Least(Operator)),
    ("POST", "/v1/sagas/release", Least(Operator)),
    ("POST", "/v1/sagas/refund", Least(Operator)),
    ("POST", "/v1/sagas/cashout", Least(Operator)),
    ("GET", "/v1/sagas/{saga_id}", Least(Viewer)),
    ("GET", "/v1/sagas/{saga_id}/history", Least(Viewer)),
    ("POST", "/v1/sagas/{saga_id}/cancel", Least(Operator)),
    ("POST", "/v1/sagas/{saga_id}/resume", Least(Operator)),
    ("POST", "/v1/sagas/{saga_id}/abandon", Least(Operator)),
    ("POST", "/v1/sagas/{saga_id}/steps/{step}/retry", Least(Operator)),
    ("POST", "/v1/sagas/{saga_id}/steps/{step}/skip", Least(Operator)),
    ("POST", "/v1/sagas/{saga_id}/steps/{step}/resolve", Least(Operator)),
    // Handlers and tasks.
    ("GET", "/v1/handlers", Least(Viewer)),
    ("PUT", "/v1/handlers/{name}", Least(Operator)),
    ("DELETE", "/v1/handlers/{name}", Least(Operator)),
    ("POST", "/v1/tasks/poll", Least(Operator)),
    ("POST", "/v1/tasks/{task_id}/heartbeat", Least(Operator)),
    ("POST", "/v1/tasks/{task_id}/complete", Least(Operator)),
    ("POST", "/v1/tasks/{task_id}/fail", Least(Operator)),
    // Schedules.
    ("GET", "/v1/schedules", Least(Viewer)),
    ("GET", "/v1/schedules/{job_id}", Least(Viewer)),
    ("GET", "/v1/schedules/{job_id}/upcoming", Least(Viewer)),
    ("PUT", "/v1/schedules/{job_id}", Least(Operator)),
    ("DELETE", "/v1/schedules/{job_id}", Least(Operator)),
    ("POST", "/v1/schedules/{job_id}/pause", Least(Operator)),
    ("POST", "/v1/schedules/{job_id}/resume", Least(Operator)),
    ("POST", "/v1/schedules/{job_id}/run", Least(Operator)),
    ("GET", "/v1/schedule-preview", Least(Viewer)),
    // Ledger.
    ("POST", "/v1/ledger/deposits", Least(Operator)),
    ("GET", "/v1/ledger/accounts/{user_id}", Least(Viewer)),
    ("GET", "/v1/ledger/trial-balance", Least(Viewer)),
    ("GET", "/v1/ledger/postings", Least(Viewer)),
    // State.
    ("GET", "/v1/state", Least(Viewer)),
    ("GET", "/v1/state/{key}", Least(Viewer)),
    ("PUT", "/v1/state/{key}", Least(Operator)),
    ("DELETE", "/v1/state/{key}", Least(Operator)),
    ("POST", "/v1/state/invalidate", Least(Operator)),
    // Besides, it is the path of the key of this name.
    ("GET", "/v1/state/invalidate", Least(Viewer)),
    ("PUT", "/v1/state/invalidate", Least(Operator)),
    ("DELETE", "/v1/state/invalidate", Least(Operator)),
    ("GET", "/v1/state-rules", Least(Viewer)),
    ("GET", "/v1/state-rules/{name}", Least(Viewer)),
    ("PUT", "/v1/state-rules/{name}", Least(Operator)),
    ("DELETE", "/v1/state-rules/{name}", Least(Operator)),
    ("GET", "/v1/state-dependencies/{key}", Least(Viewer)),
    ("PUT", "/v1/state-dependencies/{key}", Least(Operator)),
    ("DELETE", "/v1/state-dependencies/{key}", Least(Operator)),
    // Cleanup: what a rule names is deleted.
    ("GET", "/v1/cleanup/rules", Least(Viewer)),
    ("GET", "/v1/cleanup/rules/{name}", Least(Viewer)),
    ("PUT", "/v1/cleanup/rules/{name}", Least(Admin)),
    ("DELETE", "/v1/cleanup/rules/{name}", Least(Admin)),
    ("POST", "/v1/cleanup/run", Least(Operator)),
    ("POST", "/v1/cleanup/optimize-memory", Least(Operator)),
    // Alerts, history, trends.
    ("GET", "/v1/alerts", Least(Viewer)),
    ("GET", "/v1/alerts/rules", Least(Viewer)),
    ("GET", "/v1/alerts/rules/{name}", Least(Viewer)),
    ("PUT", "/v1/alerts/rules/{name}", Least(Operator)),
    ("DELETE", "/v1/alerts/rules/{name}", Least(Operator)),
    ("POST", "/v1/alerts/rules/{name}/test", Least(Viewer)),
    ("GET", "/v1/alerts/silences", Least(Viewer)),
    ("POST", "/v1/alerts/silences", Least(Operator)),
    ("DELETE", "/v1/alerts/silences", Least(Operator)),
    ("GET", "/v1/alerts/silences/{id}", Least(Viewer)),
    ("DELETE", "/v1/alerts/silences/{id}", Least(Operator)),
    ("GET", "/v1/alerts/notifications", Least(Viewer)),
    ("POST", "/v1/alerts/notifications/test", Least(Operator)),
    ("GET", "/v1/alerts/notifications/{id}", Least(Viewer)),
    ("POST", "/v1/alerts/notifications/{id}/retry", Least(Operator)),
    ("GET", "/v1/metrics/history", Least(Viewer)),
    ("GET", "/v1/metrics/paths", Least(Viewer)),
    ("GET", "/v1/trends", Least(Viewer)),
    // Approvals: of what somebody else asked for.
    ("GET", "/v1/approvals", Least(Viewer)),
    ("GET", "/v1/approvals/{approval_id}", Least(Viewer)),
    ("POST", "/v1/approvals/{approval_id}/approve", Least(Operator)),
    ("POST", "/v1/approvals/{approval_id}/reject", Least(Operator)),
    // Audit.
    ("GET", "/v1/audit", Least(Viewer)),
    ("GET", "/v1/audit/verify", Least(Viewer)),
    ("GET", "/v1/audit/history", Least(Viewer)),
    ("GET", "/v1/audit/proof", Least(Viewer)),
    ("GET", "/v1/audit/export", Least(Operator)),
    ("GET", "/v1/audit/checkpoints", Least(Viewer)),
    ("GET", "/v1/audit/key", Least(Viewer)),
];

/// What this route asks for. HEAD asks for what GET does.
pub(super) fn need(method: &str, path: &str) -> Need {
    let method = if method == "HEAD" { "GET" } else { method };
    let row = ACCESS.iter().find(|row| row.0 == method && row.1 == path);
    row.map_or(Least(Admin), |row| row.2)
}

/// Lets the request in, with who asks.
pub(super) async fn admit(mut request: Request, next: Next) -> Response {
    let identity = match request.extensions().get::<ClientCertificate>() {
        None => Identity { actor: None, role: Admin, means: Means::Nothing },
        Some(certificate) => Identity {
            actor: Some(certificate.subject_cn.clone()),
            role: certificate.role,
            means: Means::Certificate(certificate.fingerprint.clone()),
        },
    };
    request.extensions_mut().insert(identity);
    next.run(request).await
}
