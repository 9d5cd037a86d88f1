//! `GET /v1/events`: what happens in this instance, as server-sent events.
//!
//! An id names the instance and the number of the event, so that a client that comes back is given
//! what it missed, as far as that is kept, or told by `gap` that something is missing. Nothing is
//! kept for a client: each reads what the library keeps for all. One that falls behind that is told
//! so and cut off, and one that stops reading altogether is ended by its connection (`listen.rs`).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Message, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use lockbay::ErrorKind;
use lockbay::access::Role;
use lockbay::event::{Event, Heard, Tail, Told};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::access::Identity;
use super::admit::is_still_known;
use super::extract::Query;
use super::mask::Masked;
use super::problem::Problem;

/// Clients that listen at once. Each holds a connection; a service has a few dashboards, not
/// thousands.
const MAX_LISTENERS: usize = 128;
/// How long a stream may be silent, so that nobody on the way takes it for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client should wait before it comes back.
const COME_BACK_AFTER: Duration = Duration::from_secs(2);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Who listens, of whom there may only be so many.
#[derive(Clone)]
pub(super) struct Listeners(Arc<Semaphore>);

impl Default for Listeners {
    fn default() -> Self {
        Listeners(Arc::new(Semaphore::new(MAX_LISTENERS)))
    }
}

/// A message of the stream, as its lines say it.
#[derive(ToSchema)]
#[allow(dead_code)] // described, never made
struct EventMessage {
    /// With this as `Last-Event-ID`, a client goes on behind it.
    #[schema(nullable = false)]
    id: Option<String>,
    /// The name of the event; `listening` and `gap` are about the stream itself.
    #[schema(nullable = false)]
    event: Option<String>,
    /// The event as JSON.
    #[schema(nullable = false)]
    data: Option<String>,
    /// After how many milliseconds to come back.
    #[schema(nullable = false)]
    retry: Option<u64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wish {
    /// Names of events, separated by commas.
    events: Option<String>,
}

/// Follow what happens
///
/// Server-sent events of this instance. The first message is `listening`, or `gap` if something that
/// the client has not seen is missing; a stream that is silent for 15 seconds has a comment. Each
/// message has an id, with which a client that comes back goes on.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "follow_events",
    tag = "events",
    params(
        Wish,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last message seen."),
    ),
    responses((
        status = 200,
        body = EventMessage,
        content_type = "text/event-stream",
        description = "The events, as they happen; it does not end by itself.",
    )),
)]
async fn events(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    Query(wish): Query<Wish>,
) -> Result<Response, Problem> {
    let wanted = wish.events.as_deref().map(names).transpose()?;
    let permit = Arc::clone(&app.listeners.0).try_acquire_owned().map_err(|_| {
        let detail = format!("{MAX_LISTENERS} clients listen already, as many as may");
        Problem::new(ErrorKind::Busy, detail)
    })?;
    let instance = app.bay.instance_id().to_owned();
    let (tail, first) =
        begin(&app, &instance, headers.get("last-event-id").map(|id| id.as_bytes()));
    let masked = (identity.role == Role::Viewer).then(|| app.gate.masked.clone());
    let listener = Listener {
        app,
        identity,
        headers,
        masked,
        tail,
        instance,
        wanted,
        first: Some(first),
        cut_off: false,
        _permit: permit,
    };
    let sse = Sse::new(listener.stream());
    // Proxies that collect answers before they pass them on are asked not to. The stream would say
    // `no-cache` of itself, which lets others keep it.
    let headers = [("x-accel-buffering", "no"), ("cache-control", "no-store")];
    Ok((headers, sse).into_response())
}

fn names(text: &str) -> Result<Vec<&'static str>, Problem> {
    text.split(',')
        .map(|name| {
            Event::NAMES.iter().copied().find(|known| *known == name).ok_or_else(|| {
                let known = Event::NAMES.join(", ");
                Problem::invalid(format!(
                    "the query: there is no event {name:?}; there are {known}"
                ))
            })
        })
        .collect()
}

/// Where a client goes on, and what it is told first.
fn begin(app: &App, instance: &str, last_seen: Option<&[u8]>) -> (Tail, First) {
    let Some(last_seen) = last_seen else { return (app.bay.follow(None), First::Listening) };
    let last_seen = std::str::from_utf8(last_seen).unwrap_or_default();
    let number = last_seen.split_once(':').and_then(|(of, n)| Some((of, n.parse::<u64>().ok()?)));
    let (after, why) = match number {
        Some((of, number)) if of == instance => (number, None),
        Some(_) => (0, Some("other_instance")),
        None => (0, Some("unknown_id")),
    };
    let mut tail = app.bay.follow(Some(after));
    // Behind a gap, everything that is kept follows.
    let missing = tail.skip_missing().map(|_| "too_old");
    (tail, why.or(missing).map_or(First::Listening, First::Gap))
}

enum First {
    /// It goes on where the client wants it to.
    Listening,
    /// It does not, and why.
    Gap(&'static str),
}

struct Listener {
    app: App,
    /// Who listens, and what they have shown: it must count as long as they do.
    identity: Identity,
    headers: HeaderMap,
    /// What the listener does not get to see.
    masked: Option<Masked>,
    tail: Tail,
    instance: String,
    wanted: Option<Vec<&'static str>>,
    first: Option<First>,
    cut_off: bool,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    fn stream(self) -> impl Stream<Item = Result<Message, Infallible>> {
        stream::unfold(self, |mut listener| async move {
            let message = listener.next().await?;
            Some((Ok(message), listener))
        })
    }

    /// The next message; none at the end.
    async fn next(&mut self) -> Option<Message> {
        if self.cut_off {
            return None;
        }
        match self.first.take() {
            Some(First::Listening) => return Some(self.listening()),
            Some(First::Gap(reason)) => return Some(self.gap(reason)),
            None => {}
        }
        let clock = self.app.bay.clock().clone();
        let silent = clock.sleep(HEARTBEAT);
        let stopping = self.app.stopping.clone();
        let message = tokio::select! {
            () = stopping.cancelled() => return None,
            heard = heard(&mut self.tail, self.wanted.as_deref()) => match heard {
                Some(told) => self.told(&told),
                None => {
                    self.cut_off = true;
                    self.gap("too_slow")
                }
            },
            () = silent => self.at(self.tail.seen()).comment("heartbeat"),
        };
        is_still_known(&self.app, &self.headers, &self.identity).await.then_some(message)
    }

    fn at(&self, number: u64) -> Message {
        Message::default().id(format!("{}:{number}", self.instance))
    }

    fn listening(&self) -> Message {
        let data = json!({ "instance_id": self.instance, "sequence": self.tail.seen() });
        let message = self.at(self.tail.seen()).event("listening").retry(COME_BACK_AFTER);
        message.data(data.to_string())
    }
    fn told(&self, told: &Told) -> Message {
        // Events are plain structs of text and numbers, which can always be written.
        let mut data = serde_json::to_string(told).unwrap_or_default();
        if let Some(masked) = &self.masked {
            data = masked.text(&data);
        }
        self.at(told.sequence).event(told.event.name()).data(data)
    }

    fn gap(&self, reason: &str) -> Message {
        let until = self.tail.seen();
        let data = json!({ "instance_id": self.instance, "reason": reason, "until": until });
        self.at(until).event("gap").retry(COME_BACK_AFTER).data(data.to_string())
    }
}

/// The next event that is wanted; none if some are not kept any more.
async fn heard(tail: &mut Tail, wanted: Option<&[&'static str]>) -> Option<Arc<Told>> {
    loop {
        match tail.next().await {
            Heard::Event(told) => {
                if wanted.is_none_or(|wanted| wanted.contains(&told.event.name())) {
                    return Some(told);
                }
            }
            Heard::Gap { .. } => return None,
        }
    }
}
