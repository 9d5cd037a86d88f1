//! `/docs`: a page that shows the OpenAPI document to people.
//!
//! Its files are inside of the binary, and a debug build reads them from their folder. The page is
//! of this server alone: its policy lets it ask nobody else for anything, and it says every address
//! relative to its own, so that it works behind a path that a proxy takes away.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use lockbay::ErrorKind;
use rust_embed::RustEmbed;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{Name, Nothing, Query};
use super::openapi::NotFound;
use super::problem::Problem;

/// What the page may do: run its own modules, and read from its own server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The files of the page.
#[derive(RustEmbed)]
#[folder = "assets-docs/"]
struct Files;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(page)).routes(routes!(file))
}

/// Show this document to people
///
/// A page for a browser: every operation with what it takes and answers, and a line for curl.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "show_docs",
    tag = "server",
    responses((status = 200, body = String, content_type = "text/html", description = "The page.")),
)]
async fn page(_: Query<Nothing>) -> Result<Response, Problem> {
    answer("index.html")
}

/// Give a file of the page
///
/// Its modules and its style.
#[utoipa::path(
    get,
    path = "/docs/{file}",
    operation_id = "get_docs_file",
    tag = "server",
    params(("file" = String, Path, description = "Its name.")),
    responses(
        (status = 200, description = "The file.", content(
            (String = "text/javascript"),
            (String = "text/css"),
            (String = "text/html"),
        )),
        NotFound,
    ),
)]
async fn file(Name(name): Name, _: Query<Nothing>) -> Result<Response, Problem> {
    answer(&name)
}

fn answer(name: &str) -> Result<Response, Problem> {
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        _ => return Err(missing(name)),
    };
    let file = Files::get(name).ok_or_else(|| missing(name))?;
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    Ok((headers, file.data).into_response())
}

fn missing(name: &str) -> Problem {
    Problem::new(ErrorKind::NotFound, format!("the page has no file {name:?}"))
}
