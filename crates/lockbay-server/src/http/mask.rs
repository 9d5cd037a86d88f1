//! What viewers do not get to see: fields by their names, in whatever JSON is answered.
//!
//! An answer is copied byte by byte, so that numbers stay as they are written; only the value behind
//! a masked name is left out, whatever it is. Where the name stands does not matter: in the
//! parameters of a job, in the result of a step, in a value of state, in the detail of an entry of
//! the audit trail. Only answers to viewers come here.

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use lockbay::{ErrorKind, mask};

use super::problem::Problem;

/// What stands in the place of a value.
const MASK: &str = "\"•••\"";
/// More than the largest page of a list has.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// The names.
#[derive(Clone)]
pub(super) struct Masked(std::sync::Arc<[String]>);

impl Masked {
    pub(super) fn new(names: Vec<String>) -> Self {
        Masked(names.into())
    }

    /// Whether answers of this path may hold something that is masked.
    pub(super) fn covers(&self, path: &str) -> bool {
        !self.0.is_empty() && (path.starts_with("/v1/") || path.starts_with("/api/"))
    }

    /// The answer as a viewer gets it. Streams are left alone: their messages are masked where they
    /// are made.
    pub(super) async fn mask(&self, response: Response) -> Response {
        let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes());
        let is_json = kind.is_some_and(|kind| {
            kind.starts_with(b"application/json") || kind.starts_with(b"application/problem+json")
        });
        if !is_json {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        let Ok(bytes) = to_bytes(body, MOST_BYTES).await else {
            let detail = "the answer is too long to be shown to a viewer; ask for a smaller page";
            return Problem::new(ErrorKind::Busy, detail).into_response();
        };
        parts.headers.remove(CONTENT_LENGTH);
        match std::str::from_utf8(&bytes) {
            Ok(text) => Response::from_parts(parts, Body::from(self.text(text))),
            // JSON is UTF-8, so this is none.
            Err(_) => Problem::new(ErrorKind::Internal, "the answer is not text").into_response(),
        }
    }

    /// Valid JSON with the values of masked names left out.
    pub(super) fn text(&self, json: &str) -> String {
        let mut shown = String::with_capacity(json.len());
        let mut rest = json;
        // Outside of a text, quotes begin one and nothing else holds a quote; a text with a colon
        // behind it is a name.
        while let Some(quote) = rest.find('"') {
            let end = quote + text_length(rest.get(quote..).unwrap_or_default());
            let (before, behind) = rest.split_at(end);
            shown.push_str(before);
            rest = behind;
            let name = before.get(quote..).unwrap_or_default();
            let value = behind.trim_start().strip_prefix(':').map(str::trim_start);
            if let Some(value) = value.filter(|_| self.hides(name)) {
                shown.push(':');
                shown.push_str(MASK);
                rest = value.get(value_length(value)..).unwrap_or_default();
            }
        }
        shown.push_str(rest);
        shown
    }

    /// Whether this name is masked; it stands in its quotes. Letters in whatever case are the same.
    fn hides(&self, name: &str) -> bool {
        let masked = |name: &str| mask::covers(&self.0, name);
        if name.contains('\\') {
            return serde_json::from_str::<String>(name).is_ok_and(|name| masked(&name));
        }
        masked(name.trim_matches('"'))
    }
}

/// How long the text is that begins with this quote, both quotes counted.
fn text_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// How long the value is that begins here.
fn value_length(value: &str) -> usize {
    let (mut at, mut depth) = (0, 0usize);
    while let Some(byte) = value.as_bytes().get(at) {
        match byte {
            b'"' => {
                at += text_length(value.get(at..).unwrap_or_default());
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked() -> Masked {
        Masked::new(vec!["iban".into(), "destination".into()])
    }

    #[test]
    fn a_masked_field_is_left_out_wherever_it_stands_and_all_else_stays_as_it_is() {
        for (json, shown) in [
            (r#"{"iban":"DE1","a":1.50}"#, r#"{"iban":"•••","a":1.50}"#),
            (r#"{"a":[{"IBAN":{"x":[1,{"y":"}"}]}},2]}"#, r#"{"a":[{"IBAN":"•••"},2]}"#),
            (r#"{"iban":12345678901234567890.10}"#, r#"{"iban":"•••"}"#),
            (r#"{"iban": null , "b" : "iban"}"#, r#"{"iban":"•••" , "b" : "iban"}"#),
            (r#"{"\u0069ban":true}"#, r#"{"\u0069ban":"•••"}"#),
            (r#"{"iban":"a\"b\\","c":"\"iban\":1"}"#, r#"{"iban":"•••","c":"\"iban\":1"}"#),
            (r#"["iban",{"ibans":1,"my_iban":2}]"#, r#"["iban",{"ibans":1,"my_iban":2}]"#),
            (r#"{"destination":[],"iban":{}}"#, r#"{"destination":"•••","iban":"•••"}"#),
            ("9007199254740993", "9007199254740993"),
            ("\"é\"", "\"é\""),
        ] {
            assert_eq!(masked().text(json), shown, "{json}");
        }
    }

    /// Whatever JSON there is, what comes of it is JSON, is the same without masks, and hides all.
    #[test]
    fn any_json_stays_json_and_shows_nothing_that_is_masked() {
        fn draw(clock: &lockbay::clock::Clock, depth: usize) -> serde_json::Value {
            let texts = ["", "iban", "a\"b", "\\", "é•", "{\"iban\":1}", "x:y,"];
            let text = || texts[usize::try_from(clock.random() % 7).unwrap()];
            match clock.random() % if depth == 0 { 4 } else { 6 } {
                0 => serde_json::Value::Null,
                1 => clock.random().into(),
                2 => text().into(),
                3 => true.into(),
                4 => (0..clock.random() % 4).map(|_| draw(clock, depth - 1)).collect(),
                _ => {
                    let pairs = (0..clock.random() % 4)
                        .map(|_| (text().to_owned(), draw(clock, depth - 1)));
                    serde_json::Value::Object(pairs.collect())
                }
            }
        }
        fn hide(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::Object(members) => {
                    for (name, value) in members.iter_mut() {
                        if name == "iban" { *value = "•••".into() } else { hide(value) }
                    }
                }
                serde_json::Value::Array(items) => items.iter_mut().for_each(hide),
                serde_json::Value::Null
                | serde_json::Value::Bool(_)
                | serde_json::Value::Number(_)
                | serde_json::Value::String(_) => {}
            }
        }
        let clock = lockbay::clock::Clock::manual(11);
        for _ in 0..5_000 {
            let mut value = draw(&clock, 4);
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                assert_eq!(Masked::new(Vec::new()).text(&text), text);
                let shown: serde_json::Value = serde_json::from_str(&masked().text(&text))
                    .unwrap_or_else(|error| {
                        panic!("{error}: {text}");
                    });
                let mut wanted = value.clone();
                hide(&mut wanted);
                assert_eq!(shown, wanted, "{text}");
            }
            hide(&mut value);
        }
    }

    #[test]
    fn what_is_no_json_ends_too() {
        for text in ["\"", "{\"iban\":", "{\"iban\":\"", "{\"iban\":[", "\\", "\"iban\":}", "\"a\\"]
        {
            let _ = masked().text(text);
        }
    }
}
