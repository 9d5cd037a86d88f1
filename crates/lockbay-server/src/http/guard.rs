//! What stands around every handler: limits, shared headers, and the net under a panic.
//!
//! It knows nothing of what the handlers do. A browser is told by the headers of every answer to
//! load nothing, to show it in no frame and to guess nothing about it, unless a handler that makes
//! pages has said what its pages need.

use std::any::Any;
use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lockbay::ErrorKind;
use lockbay::metrics::Metric;

use super::App;
use super::access::Encrypted;
use super::problem::Problem;

/// The longest idempotency key.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// Refuses more than `max_in_flight` requests at once. There is no queue: who is refused knows it
/// at once and comes back.
pub(super) async fn limit_in_flight(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(permit) = app.in_flight.try_acquire() else {
        let detail = format!(
            "{} requests are in flight, as many as max_in_flight allows; nothing was done",
            app.max_in_flight
        );
        return Problem::new(ErrorKind::Busy, detail).into_response();
    };
    // As of the last one that came or was answered: enough for a gauge, and one that is dropped is
    // seen with the next.
    let show = || {
        let in_flight = i64::try_from(app.requests_in_flight()).unwrap_or(i64::MAX);
        app.bay.metrics().set(Metric::RequestsInFlight, in_flight);
    };
    show();
    let response = next.run(request).await;
    drop(permit);
    show();
    response
}

/// Under which names this server is asked for.
pub(super) struct Boundary {
    hosts: Vec<String>,
    /// Whether it is reached from this machine alone.
    local: bool,
}

impl Boundary {
    /// One that is reached from this machine alone, and under these names besides.
    pub(super) fn new(hosts: Vec<String>) -> Self {
        Boundary { hosts, local: true }
    }

    /// One that listens here.
    pub(super) fn listening_on(self, address: IpAddr) -> Self {
        Boundary { local: address.is_loopback(), ..self }
    }

    /// Whether a request for this host is meant for us. A page elsewhere can make its own name lead
    /// to this machine, and then its browser takes us for its server; but it says the name.
    fn knows(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let (name, _) = parts(&host);
        let named = self.hosts.iter().any(|known| *known == host || known == name);
        named || if self.local { is_local(name) } else { self.hosts.is_empty() }
    }
}

/// A host's name and its port.
fn parts(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        Some(_) | None => (host, None),
    }
}

fn is_local(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Checks headers that every call takes.
///
/// An `Idempotency-Key` is accepted on every POST, and calls that move money insist on it. Which
/// calls answer again by it is told by the OpenAPI document; all others are judged anew.
///
/// A browser says where a page comes from that asks for a change; a page from another machine may
/// not ask. On an open server it needs no token, so it could otherwise use the one thing it has: to
/// run on this machine. Probes ask under whatever name they like, and learn nothing.
pub(super) async fn check_headers(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let host = text(headers, header::HOST.as_str());
    let is_probe = request.uri().path().starts_with("/health/");
    if let Some(host) = host.filter(|host| !is_probe && !app.gate.boundary.knows(host)) {
        let detail = format!(
            "this server is not known as {host:?}; name it in allowed_hosts if it is to be"
        );
        return Problem::refused(StatusCode::MISDIRECTED_REQUEST, detail).into_response();
    }
    if !request.method().is_safe() && comes_from_a_foreign_page(headers) {
        let detail = "a web page from elsewhere asked for this change; nothing was done";
        return Problem::forbidden(detail).into_response();
    }
    if *request.method() == Method::POST
        && let Some(key) = headers.get("idempotency-key")
    {
        let key = key.as_bytes();
        let visible = key.iter().all(u8::is_ascii_graphic);
        if !visible || key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY {
            let length = key.len();
            return Problem::invalid(format!(
                "an Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters, this \
                 has {length} bytes"
            ))
            .into_response();
        }
    }
    next.run(request).await
}

/// A header as text; what is none is like nothing that we know.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// Whether the page is of another machine, as far as its browser says where it comes from. A page
/// of another server on this machine is not foreign to one that is reached here.
fn comes_from_a_foreign_page(headers: &HeaderMap) -> bool {
    if text(headers, "sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return true;
    }
    let Some(origin) = text(headers, "origin") else { return false };
    let is_local_to_us = || {
        let local = |host: &str| is_local(parts(host).0);
        text(headers, "host").is_some_and(local)
            && origin.split_once("://").is_some_and(|(_, host)| local(host))
    };
    !comes_from_own_page(headers) && !is_local_to_us()
}

/// Whether the page is of this very server, as far as its browser says where it comes from.
pub(super) fn comes_from_own_page(headers: &HeaderMap) -> bool {
    let Some(origin) = text(headers, "origin") else { return true };
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    let usual = if scheme == "https" { "443" } else { "80" };
    let same = |host: &str| {
        let (name, port) = parts(host);
        (name.to_ascii_lowercase(), port.unwrap_or(usual).to_owned())
    };
    text(headers, "host").is_some_and(|own| same(own) == same(host))
}

/// What every answer says, unless its handler has said something else.
const UNLESS_SAID: [(HeaderName, &str); 2] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];
/// What every answer says.
const ALWAYS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];
/// Whoever came over TLS shall not come without it for half a year.
const TLS_FROM_NOW_ON: &str = "max-age=15552000";

/// Answers are about a moment, and are what they say they are.
pub(super) async fn mark_response(request: Request, next: Next) -> Response {
    let encrypted = request.extensions().get::<Encrypted>().is_some();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in UNLESS_SAID {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if encrypted {
        let value = HeaderValue::from_static(TLS_FROM_NOW_ON);
        headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
    response
}

/// The last resort: a handler panicked, which is a defect of ours. What it was about to write is
/// not known.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    let detail = "the request met a defect of this server; read before you repeat it";
    Problem::new(ErrorKind::Internal, detail).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn a_local_server_is_asked_for_by_a_local_name_or_one_that_is_allowed() {
        let boundary = Boundary::new(vec!["bay.example".into(), "other.example:8443".into()]);
        for host in [
            "localhost",
            "LOCALHOST:5000",
            "127.0.0.1:5000",
            "127.8.8.8",
            "[::1]:5000",
            "[::1]",
            "bay.example",
            "Bay.Example:443",
            "other.example:8443",
        ] {
            assert!(boundary.knows(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "evil.example:5000",
            "other.example",
            "10.0.0.1",
            "",
            ":5000",
            "127.0.0.1.evil.example",
            "[::2]",
            "bay.example.evil",
        ] {
            assert!(!boundary.knows(host), "{host}");
        }
    }

    #[test]
    fn a_server_that_others_reach_has_whatever_name_unless_some_are_allowed() {
        let anywhere = "0.0.0.0".parse().unwrap();
        assert!(Boundary::new(Vec::new()).listening_on(anywhere).knows("bay.example"));
        let named = Boundary::new(vec!["bay.example".into()]).listening_on(anywhere);
        assert!(named.knows("bay.example:5000") && !named.knows("evil.example"));
        assert!(!named.knows("127.0.0.1"));
    }

    #[test]
    fn a_page_is_known_by_where_it_comes_from() {
        for (origin, host, own, foreign) in [
            ("http://127.0.0.1:5000", "127.0.0.1:5000", true, false),
            ("https://bay.example", "bay.example", true, false),
            ("https://bay.example", "bay.example:443", true, false),
            ("https://BAY.example:443", "bay.example", true, false),
            ("http://localhost:3000", "localhost:5000", false, false),
            ("http://localhost:3000", "bay.example", false, true),
            ("http://evil.example", "bay.example", false, true),
            ("https://bay.example:444", "bay.example", false, true),
            ("http://localhost.evil.example", "localhost", false, true),
            ("null", "localhost", false, true),
            ("", "localhost", false, true),
        ] {
            let headers = headers(&[("origin", origin), ("host", host)]);
            assert_eq!(comes_from_own_page(&headers), own, "{origin} {host}");
            assert_eq!(comes_from_a_foreign_page(&headers), foreign, "{origin} {host}");
        }
        assert!(comes_from_a_foreign_page(&headers(&[("sec-fetch-site", "cross-site")])));
        assert!(!comes_from_a_foreign_page(&headers(&[("sec-fetch-site", "same-origin")])));
        assert!(!comes_from_a_foreign_page(&HeaderMap::new()));
    }
}
