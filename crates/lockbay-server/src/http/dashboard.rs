//! `/` and `/assets`: the dashboard, a page of plain files inside of the binary.
//!
//! The files tell nothing and change nothing, so they need no token; what they show they ask of the
//! API as everybody does. Nothing comes from elsewhere and nothing is written inline, and the
//! content security policy holds them to that. All addresses in them are relative, so that a proxy
//! may put a prefix before them.
//!
//! They are sent as they are: together they are smaller than one screenshot, and a browser that has
//! them is told `304` by their hash. A proxy that compresses may do so.

use std::borrow::Cow;

use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lockbay::ErrorKind;
use rust_embed::Embed;
use utoipa_axum::router::OpenApiRouter;

use super::App;
use super::problem::Problem;

/// What the page may do: run and fetch what this server has, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; \
    form-action 'self'; frame-ancestors 'none'";

/// Kept, and asked about each time: a new version of the server has new files under the old names.
const KEEP_BUT_ASK: &str = "no-cache";

#[derive(Embed)]
#[folder = "assets/"]
struct Assets;

/// Files are no part of the API, and so not of its document.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().route("/assets/{*path}", get(asset))
}

/// Stands around `/`: a browser gets the page, and everybody else what is there.
pub(super) async fn page_for_browsers(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let mut response = if reads_html(headers) {
        file("index.html", headers).unwrap_or_else(|| none_at("/"))
    } else {
        next.run(request).await
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

async fn asset(Path(path): Path<String>, uri: Uri, headers: HeaderMap) -> Response {
    file(&path, &headers).unwrap_or_else(|| none_at(uri.path()))
}

fn reads_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    accepted.filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/html"))
}

/// A file, or that the caller has it already.
fn file(path: &str, headers: &HeaderMap) -> Option<Response> {
    let kind = content_type(path)?;
    let found = Assets::get(path)?;
    let tag = tag_of(&found.metadata.sha256_hash());
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let known = known.filter_map(|value| value.to_str().ok());
    let mut response = if known.into_iter().any(|tags| tags.contains(&tag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let body = match found.data {
            Cow::Borrowed(bytes) => axum::body::Body::from(bytes),
            Cow::Owned(bytes) => axum::body::Body::from(bytes),
        };
        ([(header::CONTENT_TYPE, kind)], body).into_response()
    };
    let told = [
        (header::CACHE_CONTROL, KEEP_BUT_ASK),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in told {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Some(response)
}

fn none_at(path: &str) -> Response {
    Problem::new(ErrorKind::NotFound, format!("there is no file at {path:?}")).into_response()
}

/// Half of the hash tells any two versions apart.
fn tag_of(hash: &[u8; 32]) -> String {
    let digits: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

/// By the ending; a file of an unknown kind is not served.
fn content_type(path: &str) -> Option<&'static str> {
    Some(match path.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "LICENSE" => "text/plain; charset=utf-8",
        _ => return None,
    })
}
