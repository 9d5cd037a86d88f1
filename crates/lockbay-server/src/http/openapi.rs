//! The OpenAPI document: what all operations share, and the route that serves it.
//!
//! A handler file says only what is its own, in `#[utoipa::path(...)]`: method, path,
//! `operation_id`, `tag`, `params`, `request_body`, and `responses` with its successes and with
//! those of [`NotFound`] (404), [`Conflict`] (409) and [`Unprocessable`] (422) that it can give:
//! `responses((status = 200, body = Thing, description = "…"), NotFound, Conflict)`. The first line
//! of the handler's doc comment is the summary, and what follows it the description.
//!
//! [`document`] adds the rest to every operation, and no handler repeats it: the role by
//! [`ACCESS`], the ways to show who asks, the headers that every call takes, and the problems that
//! every call of its kind can meet: 400, 401, 403, 429, 500 and 503, for bodies 408, 413 and 415,
//! and 504 for whatever may write. A route that is open has 400 and 500 alone.
//!
//! What a parameter has for a type, and no body and no answer has, is written into it: by
//! `#[param(inline)]` or `inline(Type)`, because nobody collects it.
//!
//! Types: a list is `body = Page<Item>`; its parameters take `#[param(schema_with = page_size)]`
//! and `#[param(schema_with = page_token)]`. Any JSON is `#[schema(value_type = Value)]`, a time
//! `#[schema(value_type = String, format = DateTime)]`, a length of time
//! `#[schema(value_type = f64, minimum = 0)]`, a name with a limit
//! `#[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]`. An `Option`
//! that is written as `null` takes `#[schema(required)]`. Every schema has one name in the whole
//! document: what is called as elsewhere takes `#[schema(as = OtherName)]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lockbay::ErrorKind;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ArrayItems, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, HeaderBuilder, InfoBuilder, LicenseBuilder, OpenApi, Ref, RefOr, Required,
    ResponseBuilder,
};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::access::{Need, need};
use super::page;
use super::problem::Body;

/// What the tags stand for.
const TAGS: &[(&str, &str)] = &[
    ("server", "The server itself: what it is, whether it lives, and this document."),
    ("monitoring", "Health, metrics, their history, reports and trends."),
    ("events", "What happens, as it happens."),
    ("leader", "Who leads the instances of a service."),
    ("leases", "Named locks with a deadline and a fencing token."),
    ("jobs", "Work that is done once, whoever asks for it and however often."),
    ("sagas", "Work of several steps that is done whole or undone."),
    ("money", "The sagas that move money, and the ledger that counts it."),
    ("handlers", "How the steps of sagas reach the programs that do them."),
    ("tasks", "Steps of sagas for workers that poll."),
    ("schedules", "What is due when."),
    ("state", "Values with versions, rules and dependencies."),
    ("cleanup", "What is deleted when it is of no more use."),
    ("alerts", "Rules about metrics, silences, and who was told."),
    ("audit", "The record of every change, and proof that it is whole."),
    ("tokens", "Who may ask: tokens and sessions."),
    ("approvals", "What waits for a second pair of eyes."),
    ("search", "Jobs and sagas by what is written in them."),
];

/// The problems that are components: name, status, what it means, whether to come back later.
const PROBLEMS: &[(&str, &str, &str)] = &[
    ("Invalid", "400", "The request is wrong, and nothing was done: `invalid`."),
    ("Unauthorized", "401", "The server does not know who asks: `unauthorized`."),
    ("Forbidden", "403", "Who asks may not ask for this: `forbidden`."),
    ("NotFound", "404", "There is nothing of this name: `not-found`."),
    ("Timeout", "408", "The body did not arrive in time, and nothing was done: `invalid`."),
    (
        "Conflict",
        "409",
        "Somebody else has it (`held`), or the right to it is gone (`fenced`). Nothing was done.",
    ),
    ("TooLarge", "413", "The body is larger than 2 MiB, and nothing was done: `invalid`."),
    ("NotJson", "415", "The body is not sent as `application/json`: `invalid`."),
    (
        "Unprocessable",
        "422",
        "The key was used with other parameters (`key-reused`), or the rules of the business \
         refuse it (`invalid`). Nothing was done.",
    ),
    ("Busy", "429", "A limit is reached, and nothing was done: `busy`."),
    ("Internal", "500", "The server has a defect; read before you repeat the call: `internal`."),
    (
        "Unavailable",
        "503",
        "The store cannot be reached (`unavailable`), or it has lost data (`rolled-back`).",
    ),
    (
        "UnknownOutcome",
        "504",
        "What was asked for may have been done or not: `unknown-outcome`. Read, or repeat the call \
         with its `Idempotency-Key`.",
    ),
];

/// What every call but the open ones can meet.
const ALWAYS: &[&str] =
    &["Invalid", "Unauthorized", "Forbidden", "Busy", "Internal", "Unavailable"];
/// What calls to open routes can meet.
const OPEN: &[&str] = &["Invalid", "Internal"];
/// What calls with bodies can meet besides.
const WITH_BODY: &[&str] = &["Timeout", "TooLarge", "NotJson"];
/// What calls that may write can meet besides.
const WRITING: &[&str] = &["UnknownOutcome"];

/// 404, among the responses of an operation.
pub(super) enum NotFound {}
/// 409, among the responses of an operation.
pub(super) enum Conflict {}
/// Why a session is not begun: 401, 403, 429, 503 and 504.
pub(super) enum NotLetIn {}
/// 503, among the responses of an open route.
pub(super) enum Unavailable {}
/// 422, among the responses of an operation.
pub(super) enum Unprocessable {}

impl IntoResponses for NotFound {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems(&["NotFound"])
    }
}

impl IntoResponses for NotLetIn {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems(&["Unauthorized", "Forbidden", "Busy", "Unavailable", "UnknownOutcome"])
    }
}

impl IntoResponses for Conflict {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems(&["Conflict"])
    }
}

impl IntoResponses for Unavailable {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems(&["Unavailable"])
    }
}

impl IntoResponses for Unprocessable {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems(&["Unprocessable"])
    }
}

/// The `Idempotency-Key` that a call which moves money must have, among the parameters of an
/// operation. All other POSTs may have one, without saying so.
pub(super) enum RequiredIdempotencyKey {}

impl IntoParams for RequiredIdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![idempotency_key(Required::True)]
    }
}

/// The stable type of a problem.
pub(super) enum ProblemType {}

impl PartialSchema for ProblemType {
    fn schema() -> RefOr<Schema> {
        let kinds = ErrorKind::ALL.into_iter().map(ErrorKind::name).chain(["forbidden"]);
        let mut types: Vec<String> = kinds.map(|kind| format!("/problems/{kind}")).collect();
        // A refusal by the business has the type of a request that is wrong, and its own status.
        types.retain(|kind| kind != "/problems/refused");
        types.sort();
        text().enum_values(Some(types)).description(Some("What kind of problem it is.")).into()
    }
}

impl ToSchema for ProblemType {}

/// What the parameters of all lists mean.
const PAGING: &[(&str, &str)] = &[
    ("page_size", "How many items the page has at most."),
    (
        "page_token",
        "The `next_page_token` of the page before, of the same list with the same filter.",
    ),
];

/// How many items a page has at most.
pub(super) fn page_size() -> RefOr<Schema> {
    let size = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    size.maximum(Some(page::MAX_PAGE_SIZE)).default(Some(json!(page::DEFAULT_PAGE_SIZE))).into()
}

/// The `next_page_token` of the page before.
pub(super) fn page_token() -> RefOr<Schema> {
    text().pattern(Some("^[0-9a-f]{16}([0-9a-f]{2})*$")).into()
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// The document as it is sent.
pub(super) struct Served {
    text: Bytes,
    etag: HeaderValue,
    /// Every call, for people.
    pub(super) calls: Vec<String>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

/// The OpenAPI document of this server
///
/// It is made from the code of the very server that sends it. It needs no token, and its ETag
/// changes only with the document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "get_openapi_document",
    tag = "server",
    params(("If-None-Match" = Option<String>, Header, description = "An ETag that is known.")),
    responses(
        (status = 200, description = "The document.", body = Object, headers(("ETag" = String))),
        (status = 304, description = "The document is the one that is known."),
    ),
)]
async fn show(Extension(served): Extension<Arc<Served>>, headers: HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH);
    let tags = [
        (header::ETAG, served.etag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    if known.is_some_and(|known| known == served.etag) {
        return (StatusCode::NOT_MODIFIED, tags).into_response();
    }
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (tags, kind, served.text.clone()).into_response()
}

impl Served {
    /// The whole document from what the routes say of themselves.
    pub(super) fn new(routes: OpenApi) -> Arc<Self> {
        let document = document(routes);
        let text = document.to_json().unwrap_or_else(|error| {
            tracing::error!(%error, "the OpenAPI document cannot be written");
            "{}".to_owned()
        });
        let digest = Sha256::digest(&text);
        let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{digits}\""));
        let calls = calls(document);
        Arc::new(Served {
            text: text.into(),
            etag: etag.unwrap_or(HeaderValue::from_static("\"0\"")),
            calls,
        })
    }
}

fn calls(document: OpenApi) -> Vec<String> {
    let mut calls = Vec::new();
    for (path, mut item) in document.paths.paths {
        let methods: Vec<&str> = operations(&mut item).map(|(method, _)| method).collect();
        calls.push(format!("{} {path}", methods.join("|")));
    }
    calls
}

/// Adds to what the routes say of themselves what is true of all.
fn document(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("LockBay")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache-2.0 OR MIT")
                .identifier(Some(env!("CARGO_PKG_LICENSE")))
                .build(),
        ))
        .build();
    let tags = TAGS.iter().map(|(name, description)| {
        TagBuilder::new().name(*name).description(Some(*description)).build()
    });
    document.tags = Some(tags.collect());
    add_components(document.components.get_or_insert_default());
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            complete(method, path, operation);
        }
    }
    document
}

const ABOUT: &str = "\
Coordination for services that move money: leadership, leases, jobs that run once, sagas, schedules, \
state, and a ledger.\n\n\
Bodies are JSON, and members that are not described are refused. Amounts of money and 64-bit tokens \
are strings, times are RFC 3339 in UTC. Errors are `application/problem+json` (RFC 9457) with a \
stable `type`; `retryable` says whether the same call may simply be made again, and `Retry-After` \
when. Every POST takes an `Idempotency-Key`, calls that move money need one, and each says whether it \
answers again by it; an answer that was given before says `Idempotency-Replayed: true`.\n\n\
While no token of an admin exists, the server is open: all calls are allowed without any token. \
`x-required-role` names the least role that an operation needs once it is closed: `viewer`, \
`operator` or `admin`, or `none` where no token is ever needed.";

fn add_components(components: &mut Components) {
    components.schemas.insert("Problem".into(), Body::schema());
    let mut inner = Vec::new();
    Body::schemas(&mut inner);
    components.schemas.extend(inner);
    for (name, _, description) in PROBLEMS {
        components.responses.insert((*name).into(), problem(name, description).into());
    }
    refer_to_items(&mut components.schemas);
    for header in headers() {
        let name = header.name.replace('-', "");
        components.parameters.insert(name, header.into());
    }
    components.parameters.insert("TakenKey".into(), taken_key().into());
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("lbk_<id>_<secret>");
    let bearer = bearer.description(Some("A token that an admin has made.")).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let session = ApiKeyValue::with_description(
        "lockbay_session",
        "The cookie that `POST /v1/session` sets, for pages in a browser.",
    );
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(session)));
    let csrf = ApiKeyValue::with_description(
        "X-CSRF-Token",
        "The `csrf_token` of the session, which a change that is asked for by cookie needs besides.",
    );
    components.add_security_scheme("csrf", SecurityScheme::ApiKey(ApiKey::Header(csrf)));
}

/// A page of things refers to the thing, which is written into it otherwise.
fn refer_to_items(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let pages: Vec<(String, String)> = schemas
        .keys()
        .filter_map(|page| Some((page.clone(), page.strip_prefix("Page_")?.to_owned())))
        .filter(|(_, item)| schemas.contains_key(item))
        .collect();
    for (page, item) in pages {
        let Some(RefOr::T(Schema::Object(object))) = schemas.get_mut(&page) else { continue };
        let Some(RefOr::T(Schema::Array(items))) = object.properties.get_mut("items") else {
            continue;
        };
        items.items = ArrayItems::RefOrSchema(Box::new(Ref::from_schema_name(item).into()));
    }
}

/// A problem as a component. Those that ask to come back later say when.
fn problem(name: &str, description: &str) -> utoipa::openapi::Response {
    let schema = Content::new(Some(Ref::from_schema_name("Problem")));
    let response =
        ResponseBuilder::new().description(description).content("application/problem+json", schema);
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    let after = HeaderBuilder::new().schema(Some(seconds)).description(Some(
        "After how many seconds to make the call again, where making it again can help.",
    ));
    match name {
        "Conflict" | "Busy" | "Unavailable" => {
            response.header("Retry-After", after.build()).build()
        }
        _ => response.build(),
    }
}

fn problems(names: &[&str]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let named = PROBLEMS.iter().filter(|(name, _, _)| names.contains(name));
    named
        .map(|(name, status, _)| ((*status).to_owned(), Ref::from_response_name(*name).into()))
        .collect()
}

/// What is answered again by a key that it does not insist on.
const ANSWERS_AGAIN: &[&str] = &[
    "/v1/jobs/claim",
    "/v1/leases/{name}",
    "/v1/sagas",
    "/v1/schedules/{job_id}/run",
    "/v1/alerts/silences",
];

/// The headers that every call takes, and the one that every POST takes.
fn headers() -> [Parameter; 3] {
    let header = |name: &str, description: &str, schema: ObjectBuilder| {
        let header = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
        let header = header.required(Required::False).description(Some(description));
        header.schema(Some(schema)).build()
    };
    [
        header(
            "X-Request-Id",
            "A name for this request, under which the log and the audit trail know it. The answer \
             has it too. A request gets one if it has none of 1 to 128 visible ASCII characters.",
            text(),
        ),
        header(
            "X-Actor",
            "Who asks, for the audit trail, while tokens do not say it: UTF-8 without control \
             characters.",
            text().min_length(Some(1)).max_length(Some(256)),
        ),
        idempotency_key(Required::False),
    ]
}

fn idempotency_key(required: Required) -> Parameter {
    key_parameter(
        required,
        "A name of your own for this request, so that it can be repeated safely: repeated with the \
         same name and body, it is answered as before.",
    )
}

/// The key where nothing is kept for it.
fn taken_key() -> Parameter {
    key_parameter(
        Required::False,
        "Taken as by every POST, but nothing is kept for it: a request that is repeated is judged \
         anew, as any other. It may be refused because it is done, or do again what it does, such as \
         make another token.",
    )
}

fn key_parameter(required: Required, description: &str) -> Parameter {
    let schema = text().min_length(Some(1)).max_length(Some(255)).pattern(Some("^[!-~]+$"));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(required)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// The operations of a path, by their methods.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [
        ("GET", item.get.as_mut()),
        ("POST", item.post.as_mut()),
        ("PUT", item.put.as_mut()),
        ("DELETE", item.delete.as_mut()),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation?)))
}

/// Says of an operation what its handler need not say.
fn complete(method: &str, path: &str, operation: &mut Operation) {
    let need = need(method, path);
    let role = match need {
        Need::Open => "none",
        Need::Least(role) => role.name(),
    };
    let extensions = operation.extensions.get_or_insert_default();
    extensions.insert("x-required-role".into(), Value::from(role));
    let writes = method != "GET";
    operation.security = Some(match need {
        Need::Open => Vec::new(),
        Need::Least(_) => vec![SecurityRequirement::new("bearer", NO_SCOPES), by_cookie(writes)],
    });
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        let contents = body.content.values_mut();
        let schemas = contents.filter_map(|content| match content {
            RefOr::T(content) => content.schema.as_mut(),
            RefOr::Ref(_) => None,
        });
        schemas.for_each(without_null);
    }
    let parameters = operation.parameters.get_or_insert_default();
    for parameter in parameters.iter_mut() {
        let RefOr::T(parameter) = parameter else { continue };
        parameter.schema.iter_mut().for_each(without_null);
        let paging = PAGING.iter().find(|(name, _)| *name == parameter.name);
        if let (None, Some((_, description))) = (&parameter.description, paging) {
            parameter.description = Some((*description).to_owned());
        }
    }
    let has_key = parameters.iter().any(
        |parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == "Idempotency-Key"),
    );
    let mut shared = vec!["XRequestId", "XActor"];
    if method == "POST" && !has_key {
        shared.push(if ANSWERS_AGAIN.contains(&path) { "IdempotencyKey" } else { "TakenKey" });
    }
    parameters.extend(shared.into_iter().map(parameter));
    let responses = &mut operation.responses.responses;
    let mut add = |names: &[&str]| {
        for (status, response) in problems(names) {
            responses.entry(status).or_insert(response);
        }
    };
    add(if need == Need::Open { OPEN } else { ALWAYS });
    if writes {
        add(WRITING);
    }
    if matches!(method, "POST" | "PUT") {
        add(WITH_BODY);
    }
}

/// What may be left out is described as null or a thing. A parameter or a body is never sent as null.
fn without_null(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|given| *given != Type::Null);
                if let [only] = types.as_slice() {
                    object.schema_type = SchemaType::Type(only.clone());
                }
            }
        }
        RefOr::T(Schema::OneOf(either)) => {
            either.items.retain(|item| {
                !matches!(item, RefOr::T(Schema::Object(one)) if one.schema_type == Type::Null.into())
            });
            if let [only] = either.items.as_slice() {
                *schema = only.clone();
            }
        }
        RefOr::T(_) | RefOr::Ref(_) => {}
    }
}

const NO_SCOPES: [&str; 0] = [];

/// A cookie alone does not allow a change: a page from elsewhere has it too.
fn by_cookie(writes: bool) -> SecurityRequirement {
    let session = SecurityRequirement::new("session", NO_SCOPES);
    if writes { session.add("csrf", NO_SCOPES) } else { session }
}

fn parameter(name: &str) -> RefOr<Parameter> {
    RefOr::Ref(Ref::new(format!("#/components/parameters/{name}")))
}
