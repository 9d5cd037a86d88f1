//! `/v1/session`: who asks, and the sessions of browsers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::{Extensions, HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lockbay::{Caller, ErrorKind};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::access::{Encrypted, Identity, Means};
use super::admit::{NO_COOKIE, SESSION_COOKIE, UNKNOWN, cookie, may_try, refused, within_rate};
use super::extract::{Nothing, Query, ShortBody};
use super::openapi::NotLetIn;
use super::problem::Problem;

/// How long a browser keeps the cookie; the session ends by itself when it is not used.
const COOKIE_SECONDS: u32 = 12 * 3_600;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show_session, end_session))
}

/// Logging in is open to everybody, so that it has limits of its own and takes nobody's place among
/// the requests in flight.
pub(super) fn login() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(begin_session))
}

/// Sessions that begin at one moment. A body that is still on its way is none of them.
const MAX_LOGINS: usize = 16;

/// Who begins a session, of whom there may be few at once.
#[derive(Clone)]
pub(super) struct Logins(Arc<Semaphore>);

impl Default for Logins {
    fn default() -> Self {
        Logins(Arc::new(Semaphore::new(MAX_LOGINS)))
    }
}

/// Who asks, as this server knows them.
#[derive(Serialize, ToSchema)]
struct Session {
    /// The name that the audit trail gets.
    actor: Option<String>,
    /// `viewer`, `operator` or `admin`; nothing behind the end of a session.
    role: Option<String>,
    /// By what they are known: `none`, `token`, `session` or `certificate`.
    authentication: String,
    /// When that ends; never if there is nothing.
    expires_at: Option<String>,
    /// What a page sends as X-CSRF-Token with every change under a session.
    csrf_token: Option<String>,
}

impl From<&Identity> for Session {
    fn from(identity: &Identity) -> Self {
        let authentication = match &identity.means {
            Means::Nothing => "none",
            Means::Token(_) => "token",
            Means::Session(_) => "session",
            Means::Certificate(_) => "certificate",
        };
        Session {
            actor: identity.actor.clone(),
            role: Some(identity.role.to_string()),
            authentication: authentication.into(),
            expires_at: identity.expires_at.map(|end| end.to_string()),
            csrf_token: identity.csrf_token.clone(),
        }
    }
}

/// Say who asks
///
/// Whoever the token, cookie or certificate shows; on an open server everybody.
#[utoipa::path(
    get, path = "/v1/session", operation_id = "get_session", tag = "tokens",
    responses(
        (status = 200, body = Session, description = "Who asks; on an open server everybody is"),
    ),
)]
async fn show_session(
    Extension(identity): Extension<Identity>,
    _: Query<Nothing>,
) -> Json<Session> {
    Json(Session::from(&identity))
}

/// A token that begins a session.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    /// The token. It is kept nowhere.
    token: String,
}

/// Begin a session with a token
///
/// Sets a cookie by which a browser is known, for an hour behind its last request and twelve hours
/// at most. The session ends with its token.
#[utoipa::path(
    post, path = "/v1/session", operation_id = "begin_session", tag = "tokens",
    request_body = Login,
    responses(
        (status = 200, body = Session, description = "The session; the cookie is set"),
        NotLetIn,
    ),
)]
async fn begin_session(
    State(app): State<App>,
    extensions: Peered,
    ShortBody(login): ShortBody<Login>,
) -> Result<Response, Problem> {
    let Peered { extensions, headers } = extensions;
    let _turn = app.logins.0.try_acquire().map_err(|_| {
        let detail = format!("{MAX_LOGINS} sessions begin already, as many as may at one moment");
        Problem::new(ErrorKind::Busy, detail)
    })?;
    let access = app.bay.access();
    may_try(&app, &extensions, || access.last_known(&login.token).is_some())?;
    let unknown = || refused(&app, &extensions, UNKNOWN);
    let known = access.check(&login.token).await.map_err(cannot_begin)?.ok_or_else(unknown)?;
    // Otherwise whoever has a token would get room for more requests with each session.
    within_rate(&app, &Means::Token(known.token_id.clone()), &extensions)?;
    let begun = access.begin_session(&login.token).await.map_err(cannot_begin)?;
    let begun = begun.ok_or_else(unknown)?;
    // The one that this browser had before is of no use to it any more.
    if let Some(old) = cookie(&headers) {
        let caller = Caller { proven: Some(known.name.clone()), ..Caller::current() };
        if let Err(error) = caller.scope(access.end_session(&old)).await {
            tracing::debug!(%error, "an earlier session goes on until it is idle");
        }
    }
    let secure = if is_encrypted(&extensions, &headers) { "; Secure" } else { "" };
    let cookie = format!(
        "{SESSION_COOKIE}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_SECONDS}{secure}",
        begun.cookie
    );
    let cookie = HeaderValue::from_str(&cookie)
        .map_err(|_| Problem::new(ErrorKind::Internal, "the cookie cannot be written"))?;
    let shown = Json(Session::from(&Identity::of_session(&begun.session)));
    Ok(([(SET_COOKIE, cookie)], shown).into_response())
}

/// That the store refuses our own credentials says nothing of the caller's.
fn cannot_begin(error: lockbay::Error) -> Problem {
    if error.kind() == ErrorKind::Unauthorized {
        return Problem::new(ErrorKind::Unavailable, "the store cannot be asked; nothing was done");
    }
    error.into()
}

/// What of a request stands beside its body.
struct Peered {
    extensions: Extensions,
    headers: HeaderMap,
}

impl axum::extract::FromRequestParts<App> for Peered {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &App,
    ) -> Result<Self, Problem> {
        Ok(Peered { extensions: parts.extensions.clone(), headers: parts.headers.clone() })
    }
}

/// Whether the browser's way here is encrypted: to us, or to a proxy that says so. Who says so
/// falsely only keeps a cookie from coming back.
fn is_encrypted(extensions: &Extensions, headers: &HeaderMap) -> bool {
    let proxied = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    proxied || extensions.get::<Encrypted>().is_some()
}

/// End the session of the cookie
///
/// At once on this instance, within a second on others.
#[utoipa::path(
    delete, path = "/v1/session", operation_id = "end_session", tag = "tokens",
    responses((status = 200, body = Session, description = "Nobody, from now on")),
)]
async fn end_session(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    if let Some(cookie) = cookie(request.headers()) {
        app.bay.access().end_session(&cookie).await?;
    }
    let nobody = Session {
        actor: None,
        role: None,
        authentication: "none".into(),
        expires_at: None,
        csrf_token: None,
    };
    let taken_away = [(SET_COOKIE, HeaderValue::from_static(NO_COOKIE))];
    Ok((taken_away, Json(nobody)).into_response())
}
