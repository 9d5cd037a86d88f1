//! What stands around every handler: limits, shared headers, and the net under a panic.
//!
//! It knows nothing of what the handlers do.

use std::any::Any;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lockbay::ErrorKind;
use lockbay::metrics::Metric;

use super::App;
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

/// Checks headers that every call takes.
///
/// An `Idempotency-Key` is accepted on every POST. Claims and leases are given again to a request
/// that is repeated with it, and calls that move money insist on it; all other POSTs can be
/// repeated as they are.
///
/// A browser says where a page comes from that asks for a change; a page from another machine may
/// not ask. It needs no token here, so it could otherwise use the one thing it has: to run on this
/// machine.
pub(super) async fn check_headers(request: Request, next: Next) -> Response {
    if !request.method().is_safe() && comes_from_a_foreign_page(request.headers()) {
        let detail = "a web page from elsewhere asked for this change; nothing was done";
        return Problem::forbidden(detail).into_response();
    }
    if *request.method() == Method::POST
        && let Some(key) = request.headers().get("idempotency-key")
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

fn comes_from_a_foreign_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let cross_site = text("sec-fetch-site").is_some_and(|site| site == "cross-site");
    let foreign = text("origin").is_some_and(|origin| {
        let host = origin.split_once("://").map_or(origin, |(_, rest)| rest);
        let name = host.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        let name = name.map_or(host, |(name, _)| name);
        !matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    });
    cross_site || foreign
}

/// Answers are about a moment, and are what they say they are. Only files may be kept, and say so.
pub(super) async fn mark_response(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let no_store = HeaderValue::from_static("no-store");
    headers.entry(header::CACHE_CONTROL).or_insert(no_store);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The last resort: a handler panicked, which is a defect of ours. What it was about to write is
/// not known.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    let detail = "the request met a defect of this server; read before you repeat it";
    Problem::new(ErrorKind::Internal, detail).into_response()
}
