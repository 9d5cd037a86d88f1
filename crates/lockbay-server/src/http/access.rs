//! Which route needs which role, and who asks.
//!
//! Every route has a row in [`ACCESS`]; one without a row is for admins alone, and a test fails.
//! Whoever asks stands in the extensions of the request as an [`Identity`].

use std::net::SocketAddr;

use lockbay::access::Role;
use lockbay::access::Role::{Admin, Operator, Viewer};
use lockbay::clock::Timestamp;

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
    /// By the cookie of a session; the id of the token that began it.
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
    /// When that ends.
    pub(super) expires_at: Option<Timestamp>,
    /// Under a session, what a page sends with every change.
    pub(super) csrf_token: Option<String>,
}

/// The address that a connection comes from, in the extensions of every request over it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// That the connection is encrypted, in the extensions of every request over it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encrypted;

/// A certificate that a client has shown and that was verified, in the extensions of every request
/// over its connection. Whoever shows nothing else is known by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientCertificate {
    /// The name that the audit trail gets.
    pub(super) subject_cn: String,
    /// What tells it from every other.
    pub(super) fingerprint: String,
    /// What its holder may do.
    pub(super) role: Role,
    /// When it ends, if ever.
    pub(super) not_after: Option<Timestamp>,
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
    // Who asks, and tokens. A session is begun by whoever has a token and nothing else.
    ("GET", "/v1/session", Least(Viewer)),
    ("POST", "/v1/session", Open),
    ("DELETE", "/v1/session", Least(Viewer)),
    ("GET", "/v1/tokens", Least(Admin)),
    ("POST", "/v1/tokens", Least(Admin)),
    ("DELETE", "/v1/tokens/{token_id}", Least(Admin)),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The routes that the sources declare, in either way: `.route("/x", get(a).post(b))`, and
    /// `#[utoipa::path(get, path = "/x")]`.
    fn routed(source: &str) -> Vec<(String, String)> {
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        let mut routes = Vec::new();
        for call in source.split(".route(").skip(1) {
            let call = inside(call);
            let (path, handlers) = call.split_once(',').unwrap();
            let (path, handlers) = (path_of(source, path.trim()), handlers.trim());
            let named = source.split(&format!("let {handlers} = ")).nth(1);
            let call = named.map_or(handlers, |named| named.split(';').next().unwrap());
            for method in ["get", "post", "put", "delete", "patch"] {
                let word = format!("{method}(");
                let is_call = |at: usize| {
                    !call[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
                };
                if call.match_indices(&word).any(|(at, _)| is_call(at)) {
                    routes.push((method.to_uppercase(), path.clone()));
                }
            }
        }
        // Prose that tells of it writes dots.
        let described = source.split("utoipa::path(").skip(1);
        for described in described.filter(|described| !described.starts_with("...")) {
            let method = described.trim_start().split([',', ' ', '\n']).next().unwrap();
            let path = described.split("path = ").nth(1).unwrap();
            let path = path_of(source, path.split([',', ')', '\n']).next().unwrap());
            routes.push((method.to_uppercase(), path));
        }
        routes
    }

    /// The path that is written so: in quotes, or by the name of a constant.
    fn path_of(source: &str, written: &str) -> String {
        let constant = format!("const {written}: &str = ");
        let written = match source.split(&constant).nth(1) {
            Some(value) if !written.starts_with('"') => value.split(';').next().unwrap(),
            Some(_) | None => written,
        };
        written.trim_matches('"').to_owned()
    }

    /// Up to the parenthesis that closes what has been opened.
    fn inside(text: &str) -> &str {
        let mut depth = 1;
        for (at, letter) in text.char_indices() {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return &text[..at];
            }
        }
        text
    }

    #[test]
    fn every_route_has_a_row_and_every_row_a_route() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
        let mut folders = vec![folder];
        let mut routes = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    routes.extend(routed(&std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let rows = ACCESS.iter().map(|(method, path, _)| ((*method).into(), (*path).into()));
        let rows: BTreeSet<(String, String)> = rows.collect();
        assert_eq!(rows.len(), ACCESS.len(), "a row comes twice");
        assert!(routes.len() > 90, "the routes are looked for in the wrong place");
        let without_row: Vec<_> = routes.difference(&rows).collect();
        let without_route: Vec<_> = rows.difference(&routes).collect();
        assert!(without_row.is_empty(), "routes without a row in ACCESS: {without_row:?}");
        assert!(without_route.is_empty(), "rows of ACCESS without a route: {without_route:?}");
    }

    #[test]
    fn the_reader_of_routes_finds_both_kinds() {
        let source = ".route(\"/a\", get(x).post(move |a| budget(a)))\n\
            #[utoipa::path(\n    delete, path = \"/b/{c}\", tag = \"t\")]";
        let found = routed(source);
        let wanted = [("GET", "/a"), ("POST", "/a"), ("DELETE", "/b/{c}")];
        assert_eq!(found, wanted.map(|(method, path)| (method.to_owned(), path.to_owned())));
    }

    #[test]
    fn what_has_no_row_is_for_admins_and_head_is_like_get() {
        assert_eq!(need("PATCH", "/v1/jobs"), Least(Admin));
        assert_eq!(need("GET", "/v1/secret"), Least(Admin));
        assert_eq!(need("HEAD", "/v1/jobs"), Least(Viewer));
        assert_eq!(need("HEAD", "/health/live"), Open);
        assert_eq!(need("HEAD", "/v1/sagas/bulk"), Least(Admin));
    }

    /// Reading is for viewers, but what tells of tokens and takes the trail away whole.
    #[test]
    fn a_change_is_never_for_viewers_and_reading_seldom_for_others() {
        for (method, path, need) in ACCESS {
            let safe =
                ["POST /v1/alerts/rules/{name}/test", "POST /v1/session", "DELETE /v1/session"];
            let named = format!("{method} {path}");
            let reads = *method == "GET" || safe.contains(&named.as_str());
            assert_eq!(
                reads,
                *need == Open || *need == Least(Viewer) || {
                    ["GET /v1/tokens", "GET /v1/audit/export"].contains(&named.as_str())
                },
                "{named}"
            );
        }
    }
}
