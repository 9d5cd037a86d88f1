//! How a request is read: bodies, query parameters, path parameters and their common types.
//!
//! Every refusal is a [`Problem`] that says what is wrong with which value. Nothing here touches
//! the store, so a request that is refused here has written nothing. Bodies are read from bytes and
//! never through a tree, because [`lockbay::Json`] keeps numbers by their text.

use std::fmt;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use lockbay::clock::Clock;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};

use super::App;
use super::problem::Problem;

/// The largest body that is read.
pub(crate) const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;
/// The largest body of somebody who is not known, and how long it may take to come.
const MAX_SHORT_BODY_BYTES: usize = 1_024;
const SHORT_BODY_WITHIN: Duration = Duration::from_secs(3);
/// How much of a body that is too large is thrown away before the answer, so that a client that
/// sends before it reads gets to see the answer.
const MAX_DRAINED_BYTES: usize = 16 * 1024 * 1024;

/// A JSON object as the body. The call takes no query parameters.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        no_query(&parts)?;
        let bytes = read_body(&parts.headers, body, app).await?;
        an_object(&parts.headers, &bytes).map(JsonBody)
    }
}

/// As [`JsonBody`], from somebody who is not known: it is short, and comes soon.
pub(super) struct ShortBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for ShortBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        no_query(&parts)?;
        let within = app.bay.config().body_timeout.0.min(SHORT_BODY_WITHIN);
        let clock = app.bay.clock();
        let bytes = read_within(&parts.headers, body, clock, MAX_SHORT_BODY_BYTES, within).await?;
        an_object(&parts.headers, &bytes).map(ShortBody)
    }
}

/// A JSON object as the body, or no body, which says as little as an empty object. The call takes no
/// query parameters.
pub(super) struct JsonOrNothing<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<App> for JsonOrNothing<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        no_query(&parts)?;
        let bytes = read_body(&parts.headers, body, app).await?;
        if bytes.is_empty() {
            return Ok(JsonOrNothing(T::default()));
        }
        parse(&parts.headers, &bytes).map(JsonOrNothing)
    }
}

/// No body, or an empty JSON object. The call takes no query parameters.
pub(super) struct NoBody;

impl FromRequest<App> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        no_query(&parts)?;
        let bytes = read_body(&parts.headers, body, app).await?;
        if !bytes.is_empty() {
            parse::<Nothing>(&parts.headers, &bytes)?;
        }
        Ok(NoBody)
    }
}

/// An object without members, or a query without parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

fn an_object<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, Problem> {
    if bytes.is_empty() {
        return Err(Problem::invalid("the body is empty; this call takes a JSON object"));
    }
    parse(headers, bytes)
}

fn no_query(parts: &Parts) -> Result<(), Problem> {
    parse_query::<Nothing>(parts).map(drop)
}

async fn read_body(headers: &HeaderMap, body: Body, app: &App) -> Result<Bytes, Problem> {
    let (clock, within) = (app.bay.clock(), app.bay.config().body_timeout.0);
    read_within(headers, body, clock, MAX_BODY_BYTES, within).await
}

/// A body of at most so many bytes, if it comes in time.
async fn read_within(
    headers: &HeaderMap,
    body: Body,
    clock: &Clock,
    most: usize,
    within: Duration,
) -> Result<Bytes, Problem> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|text| text.parse::<usize>().ok());
    if announced.is_some_and(|length| length > most) {
        clock.timeout(within, drain(body)).await;
        return Err(too_large(most));
    }
    match clock.timeout(within, to_bytes(body, most)).await {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(error)) if is_too_large(&error) => Err(too_large(most)),
        Some(Err(error)) => Err(Problem::invalid(format!("the body could not be read: {error}"))),
        None => Err(Problem::refused(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {within:?}; nothing was done"),
        )),
    }
}

/// Reads and forgets what a client sends, up to a limit.
async fn drain(body: Body) {
    let mut chunks = body.into_data_stream();
    let mut drained = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        drained += chunk.len();
        if drained > MAX_DRAINED_BYTES {
            return;
        }
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = inner.source();
    }
    false
}

fn too_large(most: usize) -> Problem {
    Problem::refused(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("this body has at most {most} bytes; nothing was done"),
    )
}

/// Reads a JSON object. The content type must say so: a web page cannot send that to us unasked.
fn parse<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, Problem> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    let essence = given.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !essence.eq_ignore_ascii_case(b"application/json") {
        let given = String::from_utf8_lossy(essence);
        return Err(Problem::refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("a body is sent as Content-Type: application/json, not {given:?}"),
        ));
    }
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        // Without this, an array would be taken for the fields in their order.
        return Err(Problem::invalid("the body is not a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| Problem::invalid(format!("the body: {error}")))
}

/// Query parameters.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        parse_query(parts).map(Query)
    }
}

fn parse_query<T: DeserializeOwned>(parts: &Parts) -> Result<T, Problem> {
    if !is_utf8_when_decoded(parts.uri.query().unwrap_or_default()) {
        return Err(Problem::invalid("the query is not UTF-8"));
    }
    axum::extract::Query::try_from_uri(&parts.uri).map(|axum::extract::Query(query)| query).map_err(
        |rejection| {
            let text = rejection.body_text();
            let reason = text.strip_prefix("Failed to deserialize query string: ");
            Problem::invalid(format!("the query: {}", reason.unwrap_or(&text)))
        },
    )
}

/// The decoder of queries replaces what is not UTF-8, which could turn one key into another.
fn is_utf8_when_decoded(query: &str) -> bool {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = query.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    while let [first, rest @ ..] = bytes {
        let pair = digit(rest.first()).zip(digit(rest.get(1)));
        match pair.filter(|_| *first == b'%') {
            Some((high, low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                bytes = &rest[2..];
            }
            None => {
                decoded.push(*first);
                bytes = rest;
            }
        }
    }
    std::str::from_utf8(&decoded).is_ok()
}

/// The one parameter of a path.
pub(super) struct Name(pub(super) String);

impl FromRequestParts<App> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, app).await {
            Ok(Path(name)) => Ok(Name(name)),
            Err(rejection) => Err(Problem::invalid(format!("the path: {}", rejection.body_text()))),
        }
    }
}

/// The two parameters of a path.
pub(super) struct Names(pub(super) String, pub(super) String);

impl FromRequestParts<App> for Names {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match Path::<(String, String)>::from_request_parts(parts, app).await {
            Ok(Path((first, second))) => Ok(Names(first, second)),
            Err(rejection) => Err(Problem::invalid(format!("the path: {}", rejection.body_text()))),
        }
    }
}

/// The `Idempotency-Key` of a request, if it has one. Its form was checked on the way here.
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl FromRequestParts<App> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let key = parts.headers.get("idempotency-key").and_then(|key| key.to_str().ok());
        Ok(IdempotencyKey(key.map(str::to_owned)))
    }
}

/// The `Idempotency-Key` of a request that must have one.
pub(super) struct RequiredKey(pub(super) String);

impl FromRequestParts<App> for RequiredKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let IdempotencyKey(key) = IdempotencyKey::from_request_parts(parts, app).await?;
        key.map(RequiredKey).ok_or_else(|| {
            Problem::invalid(
                "a call that moves money needs an Idempotency-Key header, a name of your own for \
                 this request, so that it can be repeated safely; nothing was done",
            )
        })
    }
}

/// A length of time in seconds, fractions allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seconds(pub(super) Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecondsVisitor;
        impl Visitor<'_> for SecondsVisitor {
            type Value = Seconds;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds, such as 30 or 0.5")
            }
            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Seconds, E> {
                Ok(Seconds(Duration::from_secs(seconds)))
            }
            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Seconds, E> {
                Err(E::custom(format!("a number of seconds is not negative: {seconds}")))
            }
            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Seconds, E> {
                Duration::try_from_secs_f64(seconds).map(Seconds).map_err(|error| {
                    E::custom(format!("{seconds:?} is no time in seconds: {error}"))
                })
            }
        }
        deserializer.deserialize_any(SecondsVisitor)
    }
}

/// A length of time in seconds among the query parameters, where everything is text.
pub(super) fn seconds_of(name: &str, text: Option<&str>) -> Result<Option<Duration>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let seconds = text.parse::<f64>().ok().and_then(|time| Duration::try_from_secs_f64(time).ok());
    match seconds {
        Some(time) => Ok(Some(time)),
        None => Err(Problem::invalid(format!(
            "the query: {name} is a number of seconds, such as 30 or 0.5, not {text:?}"
        ))),
    }
}

/// Checks the reason that an operator gives.
pub(super) fn check_reason(reason: &str) -> Result<(), Problem> {
    if reason.trim().is_empty() || reason.len() > 1_024 || reason.chars().any(char::is_control) {
        let length = reason.len();
        return Err(Problem::invalid(format!(
            "a reason has 1 to 1024 bytes and no control characters, this has {length} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_plain_numbers_of_a_sane_size() {
        for (text, millis) in [("30", 30_000), ("0.5", 500), ("0", 0)] {
            let Seconds(duration) = serde_json::from_str(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
        }
        for text in ["-1", "-0.5", "1e300", "\"30\"", "null", "[1]", "true"] {
            assert!(serde_json::from_str::<Seconds>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_found_behind_percent_signs() {
        assert!(is_utf8_when_decoded("a=%C3%A9&b=%zz%"));
        assert!(!is_utf8_when_decoded("a=%ff"));
    }
}
