//! Who asks, and by which request: what the audit trail, the log and the answer say of it.
//!
//! Both names are given by the caller and prove nothing; who they have shown to be is found out later
//! and stands before them. The name of a request is accepted if it is
//! one, else it gets another; a name of an actor that is none is refused, because a change would be
//! entered without it.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lockbay::Caller;
use tracing::Instrument;

use super::App;
use super::problem::Problem;

/// The request by its name, in both directions.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Who asks.
const ACTOR: HeaderName = HeaderName::from_static("x-actor");

/// The longest name of a request.
const MAX_REQUEST_ID: usize = 128;

/// Gives the request its name, and does everything in the name of who asks.
pub(super) async fn name_request(State(app): State<App>, request: Request, next: Next) -> Response {
    let given = request_id(request.headers());
    let id = given.unwrap_or_else(|| app.bay.clock().random_id());
    let header = HeaderValue::from_str(&id).ok();
    // Under it stand the spans of jobs, steps and commits. It names what was asked by its route, so
    // that keys of callers do not become names.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let status = tracing::field::Empty;
    let span = tracing::info_span!("request", id = %id, method = %request.method(), route, status);
    let actor = actor(request.headers());
    let caller = Caller { request_id: Some(id), ..Caller::default() };
    let answer = async {
        match actor {
            Ok(actor) => {
                let caller = Caller { actor, ..Caller::current() };
                caller.scope(next.run(request)).await
            }
            Err(problem) => problem.into_response(),
        }
    };
    let mut response = caller.scope(answer).instrument(span.clone()).await;
    span.record("status", response.status().as_u16());
    if let Some(header) = header {
        response.headers_mut().insert(REQUEST_ID, header);
    }
    response
}

/// The name that the request came with, if it is one.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_name =
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| id.to_owned())
}

fn actor(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(actor) = headers.get(ACTOR) else { return Ok(None) };
    let actor = String::from_utf8(actor.as_bytes().to_vec())
        .map_err(|_| Problem::invalid("the header X-Actor is UTF-8"))?;
    Ok(Caller::new(Some(actor), None)?.actor)
}

/// The name of the request that is answered.
pub(super) fn current_request() -> Option<String> {
    Caller::current().request_id
}
