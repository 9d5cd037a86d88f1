//! `/v1/search`: jobs and sagas by the words in them; and `q` of the lists of both.
//!
//! The lists go through here where they are asked for words, so that a query means the same
//! everywhere. What a list shows of a job or a saga, it shows of those that were found.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lockbay::clock::Timestamp;
use lockbay::saga::SagaFilter;
use lockbay::search::{Brief, Found, FoundKind, Look};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::Query;
use super::openapi::{Unprocessable, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(search))
}

/// What is looked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Searching {
    /// Words that must all be found; the last may be the beginning of one, as may one with `*`
    q: String,
    /// Only jobs, or only sagas
    #[param(inline)]
    kind: Option<SearchKind>,
    /// How many at most.
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// Where an earlier page says to go on.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// What can be found.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SearchKind {
    Job,
    Saga,
}

/// Something that was found.
#[derive(Serialize, ToSchema)]
struct SearchItem {
    kind: SearchKind,
    /// Of the job or the saga
    id: String,
    /// The type of a job, the name of a saga
    name: String,
    /// The business key of a job; of a saga the text `key` of its metadata
    #[schema(required)]
    key: Option<String>,
    status: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The names of the values that hold words of the query
    matched: Vec<String>,
}

/// A page of what was found, the newest first.
#[derive(Serialize, ToSchema)]
struct SearchResults {
    items: Vec<SearchItem>,
    /// Where the next page begins, if there may be more
    #[schema(required)]
    next_page_token: Option<String>,
    /// What was entered up to this moment was looked through
    #[schema(value_type = String, format = DateTime)]
    indexed_until: Timestamp,
    /// Whether a beginning of words began so many that not all of them were looked up
    truncated: bool,
}

impl From<Brief> for SearchItem {
    fn from(brief: Brief) -> Self {
        let Brief { kind, id, name, key, status, created_at, matched } = brief;
        let (kind, status) = match kind {
            FoundKind::Job => (SearchKind::Job, status.to_owned()),
            FoundKind::Saga => (SearchKind::Saga, status.to_owned()),
        };
        SearchItem { kind, id, name, key, status, created_at, matched }
    }
}

/// Search jobs and sagas
///
/// Ids, names, keys, parameters, context, metadata and errors are looked through; masked fields and
/// results are not. What has exactly the id or key that is asked for comes first.
#[utoipa::path(
    get,
    path = "/v1/search",
    operation_id = "search_records",
    tag = "search",
    params(Searching),
    responses(
        (status = 200, body = SearchResults, description = "What was found, the newest first"),
        Unprocessable,
    ),
)]
async fn search(
    State(app): State<App>,
    Query(asked): Query<Searching>,
) -> Result<Json<SearchResults>, Problem> {
    let look = match asked.kind {
        None => Look::Any,
        Some(SearchKind::Job) => Look::Jobs(Default::default()),
        Some(SearchKind::Saga) => Look::Sagas(SagaFilter::default()),
    };
    let list_name = format!("search {:?} {:?}", asked.q, asked.kind);
    let limit = page::size(asked.page_size)?;
    let next = page::place(&list_name, asked.page_token.as_deref())?;
    let page = app.bay.search().find_brief(&asked.q, &look, next.as_deref(), limit).await?;
    Ok(Json(SearchResults {
        items: page.items.into_iter().map(SearchItem::from).collect(),
        next_page_token: page.next.map(|place| page::token_of(&list_name, &place)),
        indexed_until: page.indexed_until,
        truncated: page.truncated,
    }))
}

/// Words, what they are looked for in, and which page.
pub(super) struct Wish<'a> {
    pub(super) text: &'a str,
    pub(super) look: Look,
    pub(super) page_size: Option<usize>,
    pub(super) page_token: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item {
    Job(Box<lockbay::job::JobInfo>),
    Saga(Box<lockbay::saga::SagaInfo>),
}

/// Answers a list that was asked for words.
pub(super) async fn list(app: &App, list_name: &str, wish: Wish<'_>) -> Result<Response, Problem> {
    let limit = page::size(wish.page_size)?;
    let next = page::place(list_name, wish.page_token)?;
    let page = app.bay.search().find(wish.text, &wish.look, next.as_deref(), limit).await?;
    let items = page.items.into_iter().map(|hit| match hit.found {
        Found::Job(job) => Item::Job(job),
        Found::Saga(saga) => Item::Saga(saga),
    });
    let found = Page::new(list_name, items.collect(), page.next);
    Ok(found.found(page.indexed_until, page.truncated).into_response())
}
