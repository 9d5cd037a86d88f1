//! The way to a server: one request, one answer, and what its refusals mean to a person.
//!
//! Answers are kept as bytes, so that `--json` shows exactly what the server said. It never
//! repeats a request by itself: after a broken connection the outcome may be unknown.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use lockbay::clock::Clock;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::leader::WHO_LEADS;
use super::trust::Trust;
use super::{Shared, output};

/// How long a connection may take, and an answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// For an answer that goes on until somebody ends it.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A server, and how its answers are shown.
#[derive(Clone)]
pub(crate) struct Client {
    base: Url,
    token: Option<String>,
    /// Who asks.
    pub(super) actor: Option<String>,
    http: reqwest::Client,
    /// Show answers as the server gave them.
    pub(super) json: bool,
    sure: bool,
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Whether it says that the same request was carried out before.
    pub(crate) replayed: bool,
    is_problem: bool,
    body: Vec<u8>,
}

/// Where a request goes; or the name in it that no address can have.
#[derive(Clone)]
pub(crate) struct Address(Result<Url, String>);

impl Address {
    /// The address.
    ///
    /// # Errors
    /// `Usage` for a name that an address cannot have.
    pub(super) fn url(self) -> Result<Url, Failure> {
        self.0.map_err(|name| {
            Failure::Usage(format!("{name:?} is no name: correct it; the server was not asked"))
        })
    }
}

/// A problem as the server tells it.
#[derive(Debug, Deserialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    status: u16,
    detail: String,
    retry_after_ms: Option<u64>,
}

/// Why a command was not carried out.
pub(crate) enum Failure {
    /// The arguments cannot be meant.
    Usage(String),
    /// No server, or none that answers as ours does.
    Unreachable(String),
    /// The server refused.
    Refused { what: String, problem: Problem, body: Vec<u8> },
    /// Something failed here.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

impl Failure {
    /// Tells what failed, with which value, and what to do next.
    pub(super) fn tell(&self, json: bool) {
        match self {
            Failure::Usage(text) | Failure::Unreachable(text) => {
                output::talk(&format!("lockbay: {text}"));
            }
            Failure::Failed(error) => output::talk(&format!("lockbay: {error:#}")),
            Failure::Refused { what, problem, body } => {
                if json {
                    output::data(&String::from_utf8_lossy(body));
                }
                let (kind, status) = (problem.short_kind(), problem.status);
                let detail = output::shown(&problem.detail);
                output::talk(&format!("lockbay: cannot {what}: {detail} ({kind}, {status})"));
                if let Some(next) = next_step(what, problem) {
                    output::talk(&format!("next: {next}"));
                }
            }
        }
    }

    /// What failed, in one line.
    pub(crate) fn line(&self) -> String {
        match self {
            Failure::Usage(text) | Failure::Unreachable(text) => text.clone(),
            Failure::Failed(error) => format!("{error:#}"),
            Failure::Refused { what, problem, .. } => format!("cannot {what}: {}", problem.detail),
        }
    }

    /// 1 if it was refused or failed, 2 if it was never asked.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) | Failure::Unreachable(_) => ExitCode::from(2),
            Failure::Refused { .. } | Failure::Failed(_) => ExitCode::FAILURE,
        }
    }
}

impl Problem {
    fn short_kind(&self) -> &str {
        self.kind.rsplit('/').next().unwrap_or(&self.kind)
    }
}

/// What to do about a refusal, where more can be said than the refusal says.
fn next_step(what: &str, problem: &Problem) -> Option<String> {
    let step = match (problem.short_kind(), problem.retry_after_ms) {
        ("held", Some(after)) => return Some(format!("try again in {:.1} s", after as f64 / 1e3)),
        ("held", None) => "look at its state; it does not allow this now",
        ("busy", _) => "try again in a moment, or raise max_in_flight of the server",
        ("fenced", _) => "stop: somebody else may have it; look before you go on",
        ("key-reused", _) => "use another key for other parameters",
        ("not-found", _) if what == WHO_LEADS => return None, // there is no name to check
        ("not-found", _) => "list what there is, and check the name",
        ("unauthorized", _) => {
            "give a token that counts: --token, LOCKBAY_TOKEN or LOCKBAY_TOKEN_FILE"
        }
        ("forbidden", _) if problem.detail.contains("needs the role") => {
            "use a token of the role that is named above"
        }
        ("forbidden", _) => return None,
        ("unavailable", _) => "check the store with `lockbay doctor`, then try again",
        ("unknown-outcome", _) => "look whether it was done before you repeat it",
        ("rolled-back", _) => {
            "restore the store, or accept it with `lockbay doctor --accept-store`"
        }
        ("invalid", _) if problem.status == 422 => "look how it stands; it does not allow this now",
        ("invalid", _) => "correct the value named above",
        (_, _) => "look into the log of the server",
    };
    Some(step.to_owned())
}

impl Client {
    /// A client of the server that the arguments name.
    pub(super) fn new(shared: &Shared) -> Result<Self, Failure> {
        let token = shared.token()?;
        let (actor, json, sure) = (Some(shared.actor()), shared.json, shared.yes);
        let client =
            Client { token, actor, json, sure, ..Client::trusting(&shared.url, &shared.trust)? };
        if client.token.is_some() && !shared.allow_plain_http && client.is_overheard() {
            let host = client.base.host_str().unwrap_or_default();
            return Err(Failure::Usage(format!(
                "a token is not shown to {host} over plain http, where whoever listens reads it: \
                 use https, a tunnel, or --allow-plain-http on a network that you trust"
            )));
        }
        Ok(client)
    }

    /// A client of the server at this address, which shows it no token.
    pub(crate) fn of(url: &str) -> Result<Self, Failure> {
        Client::trusting(url, &Trust::default())
    }

    fn trusting(url: &str, trust: &Trust) -> Result<Self, Failure> {
        let wrong = |reason: String| {
            Failure::Usage(format!("--url is like http://127.0.0.1:5000, not {reason}"))
        };
        let base = Url::parse(url).map_err(|error| wrong(format!("{url:?}: {error}")))?;
        let is_https = base.scheme() == "https";
        if !(is_https || base.scheme() == "http") || base.cannot_be_a_base() {
            return Err(wrong(format!("{url:?}: it speaks http and https")));
        }
        let tls = trust.tls(is_https).map_err(|error| Failure::Usage(format!("{error:#}")))?;
        let http = reqwest::Client::builder()
            // Left to itself it would read the certificates of the system first, for nothing.
            .tls_backend_preconfigured(tls)
            // A server of ours sends nobody elsewhere, and what is shown to it is not for others.
            .redirect(Policy::none())
            .no_proxy() // a proxy of the environment would be asked for our loopback
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .build()
            .map_err(|error| Failure::Failed(error.into()))?;
        Ok(Client { base, token: None, actor: None, http, json: false, sure: false })
    }

    /// Whether others may listen on the way to the server.
    fn is_overheard(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        self.base.scheme() == "http" && !is_here
    }

    /// The address of a resource; each part is escaped. With a part that an address cannot have it
    /// would be that of another resource, so there is none then.
    pub(crate) fn address(&self, path: &[&str], query: &[(&str, Option<String>)]) -> Address {
        if let Some(part) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Address(Err((*part).to_owned()));
        }
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let given = query.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (name, value) in given {
            url.query_pairs_mut().append_pair(name, value);
        }
        Address(Ok(url))
    }

    /// Asks, and gives the answer if it is not a refusal. `what` completes "cannot …".
    pub(super) async fn get(&self, what: &str, url: Address) -> Result<Answer, Failure> {
        self.ask(Method::GET, url, None).await?.accepted(what)
    }

    /// As [`get`](Client::get), for work that takes its time.
    pub(super) async fn get_within(
        &self,
        limit: Duration,
        what: &str,
        url: Address,
    ) -> Result<Answer, Failure> {
        let request = self.http.get(url.url()?).timeout(limit);
        self.send_within(limit, request).await?.accepted(what)
    }

    /// Asks for something long, and gives it on piece by piece.
    pub(super) async fn download(
        &self,
        limit: Duration,
        what: &str,
        url: Address,
        sink: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Failure> {
        let mut request = self.http.get(url.url()?).timeout(limit);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(limit, &error))?;
        let status = response.status();
        if !status.is_success() {
            let body = response.bytes().await.map_err(|error| self.unreachable(limit, &error))?;
            let answer = Answer { status, replayed: false, is_problem: true, body: body.to_vec() };
            return answer.accepted(what).map(drop);
        }
        while let Some(piece) =
            response.chunk().await.map_err(|error| self.unreachable(limit, &error))?
        {
            sink(&piece).map_err(|error| Failure::Failed(error.into()))?;
        }
        Ok(())
    }

    /// Sends a change, and gives the answer if it is not a refusal.
    pub(super) async fn change(
        &self,
        what: &str,
        method: Method,
        url: Address,
        body: Option<Value>,
    ) -> Result<Answer, Failure> {
        self.ask(method, url, body).await?.accepted(what)
    }

    /// As [`change`](Client::change), for work that takes its time.
    pub(super) async fn change_within(
        &self,
        limit: Duration,
        what: &str,
        method: Method,
        url: Address,
        body: Option<Value>,
    ) -> Result<Answer, Failure> {
        let request = self.http.request(method, url.url()?).timeout(limit).json(&body);
        self.send_within(limit, request).await?.accepted(what)
    }

    /// Posts JSON to the last digit as it is given, under a key that names the request, if any.
    pub(super) async fn post_exactly(
        &self,
        what: &str,
        url: Address,
        body: Vec<u8>,
        idempotency_key: Option<&str>,
    ) -> Result<Answer, Failure> {
        let mut request =
            self.http.post(url.url()?).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        self.send(request).await?.accepted(what)
    }

    /// Puts JSON to the last digit as it is given.
    pub(super) async fn put_exactly(
        &self,
        what: &str,
        url: Address,
        body: Vec<u8>,
    ) -> Result<Answer, Failure> {
        let request = self.http.put(url.url()?).header(CONTENT_TYPE, "application/json").body(body);
        self.send(request).await?.accepted(what)
    }

    /// Asks, and gives whatever the server answers.
    pub(super) async fn ask(
        &self,
        method: Method,
        url: Address,
        body: Option<Value>,
    ) -> Result<Answer, Failure> {
        self.ask_under(None, method, url, body).await
    }

    /// As [`ask`](Client::ask), under a key that names the request, if any.
    pub(crate) async fn ask_under(
        &self,
        idempotency_key: Option<&str>,
        method: Method,
        url: Address,
        body: Option<Value>,
    ) -> Result<Answer, Failure> {
        let mut request = self.http.request(method, url.url()?);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request).await
    }

    /// Asks for a text of whatever kind, if it is not refused.
    pub(super) async fn get_text(&self, what: &str, url: Address) -> Result<String, Failure> {
        let answer = self.stream_within(Some(ANSWER_WITHIN), what, url, None).await?;
        answer.text().await.map_err(|error| self.unreachable(ANSWER_WITHIN, &error))
    }

    /// Asks for an answer that goes on, from behind the message of this id.
    pub(super) async fn stream(
        &self,
        what: &str,
        url: Address,
        after: Option<&str>,
    ) -> Result<reqwest::Response, Failure> {
        self.stream_within(None, what, url, after).await
    }

    async fn stream_within(
        &self,
        limit: Option<Duration>,
        what: &str,
        url: Address,
        after: Option<&str>,
    ) -> Result<reqwest::Response, Failure> {
        // Without a limit of its own a request has that of the client.
        let mut request = self.http.get(url.url()?).timeout(limit.unwrap_or(FOREVER));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let limit = limit.unwrap_or(ANSWER_WITHIN);
        let answer = request.send().await.map_err(|error| self.unreachable(limit, &error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.unwrap_or_default().starts_with("application/problem+json") {
            return Err(self.stranger(status));
        }
        let body = answer.bytes().await.map_err(|error| self.unreachable(limit, &error))?.to_vec();
        let refusal = Answer { status, replayed: false, is_problem: true, body };
        match refusal.accepted(what) {
            Ok(_) => Err(self.stranger(status)),
            Err(failure) => Err(failure),
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        self.send_within(ANSWER_WITHIN, request).await
    }

    /// Sends a request that has this limit, which is only told here.
    async fn send_within(
        &self,
        limit: Duration,
        mut request: RequestBuilder,
    ) -> Result<Answer, Failure> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(actor) = &self.actor {
            request = request.header("x-actor", actor.as_bytes());
            request = request.header("x-request-id", Clock::system().random_id());
        }
        let response = request.send().await.map_err(|error| self.unreachable(limit, &error))?;
        let status = response.status();
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let replayed = response.headers().contains_key("idempotency-replayed");
        let is_problem = kind.starts_with("application/problem+json");
        if !is_problem && !kind.starts_with("application/json") {
            return Err(self.stranger(status));
        }
        let body =
            response.bytes().await.map_err(|error| self.unreachable(limit, &error))?.to_vec();
        Ok(Answer { status, replayed, is_problem, body })
    }

    fn unreachable(&self, limit: Duration, error: &reqwest::Error) -> Failure {
        let base = &self.base;
        if error.is_builder() {
            return Failure::Usage(format!(
                "the token, the actor, the address or the idempotency key cannot be sent: {error}"
            ));
        }
        if error.is_timeout() && !error.is_connect() {
            return Failure::Unreachable(format!(
                "no answer from {base} within {limit:?}; a change may have been made, look \
                 before you repeat it"
            ));
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let advice = if cause.to_string().contains("certificate") {
            "name the authority of its certificate with --ca-cert or LOCKBAY_CA_CERT, and show one \
             of your own with --client-cert if it asks for that"
        } else {
            "start one with `lockbay serve`, or name another with --url or LOCKBAY_URL"
        };
        Failure::Unreachable(format!("cannot reach a server at {base}: {cause}; {advice}"))
    }

    fn stranger(&self, status: StatusCode) -> Failure {
        Failure::Unreachable(format!(
            "what answers at {} ({status}) is not lockbay; name the server with --url or \
             LOCKBAY_URL",
            self.base
        ))
    }

    /// Asks the person before a change that hurts. Scripts are not asked.
    pub(super) fn confirm(&self, question: &str) -> bool {
        self.sure || output::ask(question).unwrap_or(true)
    }
}

impl Answer {
    pub(super) fn accepted(self, what: &str) -> Result<Answer, Failure> {
        if self.status.is_success() && !self.is_problem {
            return Ok(self);
        }
        match serde_json::from_slice(&self.body) {
            Ok(problem) => {
                Err(Failure::Refused { what: what.to_owned(), problem, body: self.body })
            }
            Err(_) => Err(Failure::Unreachable(format!(
                "cannot {what}: the server answered {} without saying why",
                self.status
            ))),
        }
    }

    /// As the server said it.
    pub(super) fn show_raw(&self) {
        output::data(&String::from_utf8_lossy(&self.body));
    }

    /// Whether this is a refusal.
    pub(super) fn refused(self, what: &str) -> Result<Answer, Failure> {
        if self.is_problem { self.accepted(what) } else { Ok(self) }
    }

    /// Reads it as what it should be.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::Unreachable(format!(
                "the server's answer is not understood, its version may differ from this one: \
                 {error}"
            ))
        })
    }
}

/// A page of a list, as the server tells it.
#[derive(Deserialize)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) next_page_token: Option<String>,
}

impl<T> Page<T> {
    /// Says how to see the rest.
    pub(super) fn tell_rest(&self) {
        if let Some(token) = &self.next_page_token {
            output::talk(&format!("there may be more: --page-token {token}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_where_it_fits() {
        let next = |what: &str, kind: &str, status, detail: &str| {
            let (kind, detail) = (format!("/problems/{kind}"), detail.to_owned());
            next_step(what, &Problem { kind, status, detail, retry_after_ms: None })
        };
        let role = "POST here needs the role admin, and \"ann\" has the role viewer";
        assert!(next("resign", "forbidden", 403, role).is_some_and(|next| next.contains("role")));
        assert_eq!(next("deposit", "forbidden", 403, "the approval x is rejected"), None);
        assert!(next("show job \"a\"", "not-found", 404, "there is none").is_some());
        assert_eq!(next(WHO_LEADS, "not-found", 404, "nobody leads"), None);
    }
}
