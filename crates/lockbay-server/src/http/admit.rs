//! Who comes in: the one place where a request gets its identity, or is refused.
//!
//! What a request shows is judged in this order: a token in the Authorization header, the cookie of
//! a session, a client certificate, nothing. Whatever is shown must count, on an open server too:
//! who believes to be known and is not should learn that. A cookie alone is sent by itself, so that
//! an old one counts as nothing, and what else is shown decides. Routes that ask for nothing look at
//! nothing, so that probes never wait for the store.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lockbay::access::{Known, Role, Session, Standing};
use lockbay::{Caller, Error, ErrorKind, LockBay};

use super::App;
use super::access::{ClientCertificate, Identity, Means, Need, Peer, need};
use super::guard;
use super::limit::Limits;
use super::mask::Masked;
use super::problem::Problem;

/// The cookie of a session.
pub(super) const SESSION_COOKIE: &str = "lockbay_session";
/// What a page sends with every change that it makes under a session.
pub(super) const CSRF_TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");
/// Takes the cookie of a session away.
pub(super) const NO_COOKIE: &str = "lockbay_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0";

/// What this process tells of itself, without the store and without what anybody stored.
const OF_ITSELF: [&str; 4] = [
    "/metrics",
    "/api/advanced-state/health",
    "/api/advanced-state/metrics",
    "/api/advanced-state/report",
];

/// What is asked of everybody, by the settings.
pub(super) struct Gate {
    pub(super) limits: Limits,
    pub(super) masked: Masked,
    pub(super) boundary: guard::Boundary,
}

impl Gate {
    pub(super) fn new(bay: &LockBay) -> Self {
        let config = bay.config();
        // Both were checked with the configuration.
        let names = config.masked_fields().unwrap_or_default();
        let hosts = config.hosts().unwrap_or_default();
        Gate {
            limits: Limits::new(bay.clock(), config.rate_limit),
            masked: Masked::new(names),
            boundary: guard::Boundary::new(hosts),
        }
    }
}

/// Why somebody is not let in.
struct Refusal {
    problem: Problem,
    /// Whether what they showed was a cookie, which is of no use to them any more.
    cookie: bool,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Refusal { problem, cookie: false }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.problem.into_response();
        if self.cookie {
            response.headers_mut().insert(SET_COOKIE, HeaderValue::from_static(NO_COOKIE));
        }
        response
    }
}

/// Lets the request in with who asks, if they may.
pub(super) async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(role) = least_role(&parts) else {
        parts.extensions.insert(Identity::nobody(Role::Viewer));
        return next.run(Request::from_parts(parts, body)).await;
    };
    let identity = match identify(&app, &parts).await {
        Ok(identity) => identity,
        Err(refusal) => return refusal.into_response(),
    };
    if let Err(problem) = may(&app, &identity, role, &parts) {
        return problem.into_response();
    }
    let masks = identity.role == Role::Viewer && app.gate.masked.covers(parts.uri.path());
    let caller = Caller { proven: identity.actor.clone(), ..Caller::current() };
    parts.extensions.insert(identity);
    let response = caller.scope(next.run(Request::from_parts(parts, body))).await;
    if masks { app.gate.masked.mask(response).await } else { response }
}

/// The least role that this request needs; nothing if it needs none. What leads nowhere tells
/// nothing and needs none.
fn least_role(request: &Parts) -> Option<Role> {
    let path = request.extensions.get::<MatchedPath>()?;
    match need(request.method.as_str(), path.as_str()) {
        Need::Open => None,
        Need::Least(role) => Some(role),
    }
}

async fn identify(app: &App, request: &Parts) -> Result<Identity, Refusal> {
    let (headers, extensions) = (&request.headers, &request.extensions);
    let access = app.bay.access();
    if headers.contains_key(AUTHORIZATION) {
        let text = bearer(headers).ok_or_else(|| refused(app, extensions, MALFORMED))?;
        may_try(app, extensions, || access.last_known(&text).is_some())?;
        return match access.check(&text).await {
            Ok(Some(known)) => Ok(Identity::of_token(&known)),
            Ok(None) => Err(refused(app, extensions, UNKNOWN).into()),
            Err(error) => match access.last_known(&text).filter(|_| tells_of_itself(request)) {
                Some(known) => Ok(Identity { role: Role::Viewer, ..Identity::of_token(&known) }),
                None => Err(cannot_tell(error).into()),
            },
        };
    }
    let certificate = extensions.get::<ClientCertificate>();
    let cookie = cookie(headers);
    if let Some(cookie) = &cookie {
        match may_try(app, extensions, || access.last_known_session(cookie).is_some()) {
            Ok(()) => {
                if let Some(identity) = of_cookie(app, request, cookie).await? {
                    return Ok(identity);
                }
            }
            // Its holder is known without it.
            Err(_) if certificate.is_some() => {}
            Err(problem) => return Err(problem.into()),
        }
    }
    if let Some(certificate) = certificate {
        return Ok(of_certificate(app, certificate)?);
    }
    match (standing(app, request).await?, cookie) {
        (Standing::Open, _) => Ok(Identity::nobody(Role::Admin)),
        (Standing::Closed, Some(_)) => {
            Err(Refusal { problem: refused(app, extensions, ENDED), cookie: true })
        }
        // Nobody tried anything, so that it is not counted as a failure.
        (Standing::Closed, None) => Err(Problem::unauthorized(NOTHING).into()),
    }
}

/// Who this cookie makes known; nobody if it holds no session that counts.
async fn of_cookie(app: &App, request: &Parts, cookie: &str) -> Result<Option<Identity>, Problem> {
    let access = app.bay.access();
    match access.check_session(cookie).await {
        Ok(Some(session)) => {
            comes_from_our_page(request, &session)?;
            Ok(Some(Identity::of_session(&session)))
        }
        Ok(None) => Ok(None),
        Err(error) => {
            let last = access.last_known_session(cookie).filter(|_| tells_of_itself(request));
            let session = last.ok_or_else(|| cannot_tell(error))?;
            Ok(Some(Identity { role: Role::Viewer, ..Identity::of_session(&session) }))
        }
    }
}

/// Who this certificate makes known. It was looked at when the connection began, which may be long
/// ago.
fn of_certificate(app: &App, certificate: &ClientCertificate) -> Result<Identity, Problem> {
    let now = app.bay.clock().now();
    let Some(end) = certificate.not_after.filter(|end| *end <= now) else {
        return Ok(Identity::of_certificate(certificate));
    };
    let name = &certificate.subject_cn;
    Err(Problem::unauthorized(format!(
        "the client certificate of {name:?} ended at {end}: connect again with another"
    )))
}

const NOTHING: &str = "this server does nothing for whoever shows no token: send it as \
                       Authorization: Bearer lbk_…, which `lockbay token create` makes";
const MALFORMED: &str = "the Authorization header is not of the form Bearer lbk_…, said once";
pub(super) const UNKNOWN: &str =
    "this token does not count: it is unknown, has expired or was revoked";
const ENDED: &str = "this session has ended: log in again";

/// Whether whoever was let in would be again, for answers that go on and on. While the store cannot
/// be asked they stay.
pub(super) async fn is_still_known(app: &App, headers: &HeaderMap, identity: &Identity) -> bool {
    let access = app.bay.access();
    let known = match &identity.means {
        Means::Nothing => access.standing().await.map(|now| now == Standing::Open),
        Means::Token(_) => {
            access.check(&bearer(headers).unwrap_or_default()).await.map(|known| known.is_some())
        }
        Means::Session(_) => {
            let cookie = cookie(headers).unwrap_or_default();
            access.check_session(&cookie).await.map(|known| known.is_some())
        }
        Means::Certificate(_) => {
            let now = app.bay.clock().now();
            Ok(identity.expires_at.is_none_or(|end| now < end))
        }
    };
    known.unwrap_or(true)
}

/// Whether a token is needed. While the store cannot be asked, what it said last counts for looking
/// at this process itself.
async fn standing(app: &App, request: &Parts) -> Result<Standing, Problem> {
    let access = app.bay.access();
    match access.standing().await {
        Ok(standing) => Ok(standing),
        Err(error) => {
            access.last_standing().filter(|_| tells_of_itself(request)).ok_or(cannot_tell(error))
        }
    }
}

fn tells_of_itself(request: &Parts) -> bool {
    let path = request.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    request.method.is_safe() && path.is_some_and(|path| OF_ITSELF.contains(&path))
}

/// Nobody is known while the store cannot be asked. That it refuses our own credentials is not the
/// caller's business.
fn cannot_tell(error: Error) -> Problem {
    if error.kind() != ErrorKind::Unauthorized {
        return error.into();
    }
    tracing::error!(%error, "the store refuses its credentials");
    Problem::new(ErrorKind::Unavailable, "the store cannot be asked who you are; nothing was done")
}

/// A refusal that counts among the failures of an address.
pub(super) fn refused(app: &App, extensions: &Extensions, detail: &str) -> Problem {
    match app.gate.limits.failed(peer(extensions)) {
        None => Problem::unauthorized(detail),
        Some(wait) => too_many_failures().retry_after(wait),
    }
}

fn too_many_failures() -> Problem {
    Problem::new(
        ErrorKind::Busy,
        "too many tokens that do not count came from this address; nothing was done",
    )
}

/// An address that failed too often makes us ask the store for nothing that is not at hand; whoever
/// is known and comes from there too is still let in.
pub(super) fn may_try(
    app: &App,
    extensions: &Extensions,
    is_known: impl FnOnce() -> bool,
) -> Result<(), Problem> {
    match app.gate.limits.barred(peer(extensions)) {
        Some(wait) if !is_known() => Err(too_many_failures().retry_after(wait)),
        None | Some(_) => Ok(()),
    }
}

/// The address that a request comes from.
fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get::<Peer>().map(|Peer(address)| *address)
}

/// The token of the Authorization header, if there is one such header and it has that form.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    scheme.eq_ignore_ascii_case("bearer").then(|| token.to_owned())
}

/// What the cookie of a session holds.
pub(super) fn cookie(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| name.trim() == SESSION_COOKIE).map(|(_, value)| value.trim().to_owned())
}

/// A change under a session comes from a page of ours: a browser sends the cookie whoever asks.
fn comes_from_our_page(request: &Parts, session: &Session) -> Result<(), Problem> {
    if request.method.is_safe() {
        return Ok(());
    }
    let headers = &request.headers;
    if !guard::comes_from_own_page(headers) {
        return Err(Problem::forbidden(
            "the page that asked for this change under a session is not of this server",
        ));
    }
    let token = headers.get(CSRF_TOKEN).and_then(|token| token.to_str().ok());
    if token.is_some_and(|token| session.proves(token)) {
        return Ok(());
    }
    Err(Problem::forbidden(
        "a change under a session needs the header X-CSRF-Token with the csrf_token of \
         GET /v1/session; nothing was done",
    ))
}

/// Whether the role suffices, and the limit of requests is not reached.
fn may(app: &App, identity: &Identity, role: Role, request: &Parts) -> Result<(), Problem> {
    within_rate(app, &identity.means, &request.extensions)?;
    if identity.role >= role {
        return Ok(());
    }
    let who = identity.actor.as_deref().unwrap_or("nobody");
    let (method, has) = (&request.method, identity.role);
    Err(Problem::forbidden(format!(
        "{method} here needs the role {role}, and {who:?} has the role {has}; nothing was done"
    )))
}

/// Counts a request, and refuses one that is too many.
pub(super) fn within_rate(app: &App, by: &Means, extensions: &Extensions) -> Result<(), Problem> {
    let Some(wait) = app.gate.limits.requested(by, peer(extensions)) else { return Ok(()) };
    let limit = app.bay.config().rate_limit;
    let detail = format!("more than {limit} requests a second, the setting rate_limit");
    Err(Problem::new(ErrorKind::Busy, detail).retry_after(wait))
}

impl Identity {
    /// Somebody who is not known.
    fn nobody(role: Role) -> Self {
        Identity { actor: None, role, means: Means::Nothing, expires_at: None, csrf_token: None }
    }

    /// Whoever has this token.
    fn of_token(known: &Arc<Known>) -> Self {
        Identity {
            actor: Some(known.name.clone()),
            role: known.role,
            means: Means::Token(known.token_id.clone()),
            expires_at: known.expires_at,
            csrf_token: None,
        }
    }

    /// Whoever has this session.
    pub(super) fn of_session(session: &Session) -> Self {
        Identity {
            actor: Some(session.known.name.clone()),
            role: session.known.role,
            means: Means::Session(session.known.token_id.clone()),
            expires_at: Some(session.expires_at),
            csrf_token: Some(session.csrf_token.clone()),
        }
    }

    fn of_certificate(certificate: &ClientCertificate) -> Self {
        Identity {
            actor: Some(certificate.subject_cn.clone()),
            role: certificate.role,
            means: Means::Certificate(certificate.fingerprint.clone()),
            expires_at: certificate.not_after,
            csrf_token: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn one_header_of_one_form_is_a_token() {
        for value in ["Bearer lbk_a", "bearer lbk_a", "BEARER   lbk_a"] {
            let headers = headers(&[("authorization", value.as_bytes())]);
            assert_eq!(bearer(&headers).as_deref(), Some("lbk_a"), "{value}");
        }
        for value in [&b"lbk_a"[..], b"Basic bGJr", b"Bearerlbk_a", b"", b"Bearer \xff"] {
            assert_eq!(bearer(&headers(&[("authorization", value)])), None, "{value:?}");
        }
        let two = headers(&[("authorization", b"Bearer a"), ("authorization", b"Bearer a")]);
        assert_eq!(bearer(&two), None);
    }

    #[test]
    fn sessions_are_told_apart_by_nothing_but_the_token_that_began_them() {
        let known = Known {
            token_id: "t".into(),
            name: "ops".into(),
            role: Role::Operator,
            expires_at: None,
        };
        let session = Session {
            known: Arc::new(known),
            session_id: "s".into(),
            expires_at: lockbay::clock::Timestamp::from_micros(1),
            csrf_token: "c".into(),
        };
        assert_eq!(Identity::of_session(&session).means, Means::Session("t".into()));
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let both = headers(&[("cookie", b"a=b; lockbay_session=x; c"), ("cookie", b"d=e")]);
        assert_eq!(cookie(&both).as_deref(), Some("x"));
        let later = headers(&[("cookie", b"a=b"), ("cookie", b"lockbay_session = y ")]);
        assert_eq!(cookie(&later).as_deref(), Some("y"));
        for none in [&b"my_lockbay_session=x"[..], b"lockbay_session", b"\xff", b""] {
            assert_eq!(cookie(&headers(&[("cookie", none)])), None);
        }
    }
}
