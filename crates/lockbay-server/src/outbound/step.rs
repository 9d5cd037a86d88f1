//! Steps of sagas that are HTTP endpoints: what they are sent, and what their answers mean.
//!
//! An endpoint that answers 409 or 422 says that there was no effect; it is believed. Whatever
//! leaves room for an effect is unknown, and what was certainly not sent had none. Nothing here
//! knows where endpoints are kept, nor when a step is tried again.

use std::time::Duration;

use async_trait::async_trait;
use lockbay::Json;
use lockbay::clock::Timestamp;
use lockbay::saga::{Action, Probe, Step, StepContext, StepError, StepOutput};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::call::{CallError, Caller, Post, Reply, header_value};
use super::sign::{Secret, message_id};
use super::vet::{Reach, vet_url};

/// How much of an endpoint's own error is kept, in bytes.
const MAX_ERROR_BYTES: usize = 4 * 1024;

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// An endpoint, as it was registered.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// The handler that it is.
    pub(crate) name: String,
    /// Where it is. May hold a secret, so that it is not shown in errors.
    pub(crate) url: String,
    /// Signs what it is sent.
    pub(crate) secret: Option<String>,
    /// How long one call may take, if the attempt may take longer.
    pub(crate) timeout: Option<Duration>,
}

impl Endpoint {
    /// Whether it can be called, as far as that can be told before its name is resolved.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self, reach: Reach) -> Result<(), String> {
        self.target(reach).map(|_| ())
    }

    fn target(&self, reach: Reach) -> Result<Target, String> {
        let url = vet_url(&self.url, reach).map_err(|refused| refused.to_string())?;
        let secret = self.secret.as_deref().map(Secret::parse).transpose()?;
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err("the timeout of a call is more than nothing".into());
        }
        Ok(Target { url, secret })
    }
}

/// An endpoint that can be called.
struct Target {
    url: Url,
    secret: Option<Secret>,
}

/// A step that an endpoint does.
pub(crate) struct PushStep {
    caller: Caller,
    name: String,
    timeout: Option<Duration>,
    /// Or why it cannot be called: a record may be older than the rules.
    target: Result<Target, String>,
}

/// What an endpoint is sent.
#[derive(Serialize)]
struct Request<'a> {
    action: &'static str,
    saga_id: &'a str,
    saga_name: &'a str,
    step: &'a str,
    parameters: &'a Json,
    context: Json,
    original_result: Option<&'a Json>,
    /// Whether the execution is known to have completed, for a compensation.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_completed: Option<bool>,
    idempotency_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    undo_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_time: Option<Timestamp>,
    attempt: u32,
    /// A text, because many readers of JSON have only 53 bits for a number.
    fencing_token: String,
    deadline: Timestamp,
}

impl PushStep {
    /// The step of an endpoint. One that cannot be called fails when it is asked.
    pub(crate) fn new(caller: Caller, endpoint: Endpoint) -> Self {
        let target = endpoint.target(caller.reach());
        let Endpoint { name, timeout, .. } = endpoint;
        PushStep { caller, name, timeout, target }
    }

    /// Sends what is asked, and waits until it is answered or no longer waited for.
    async fn ask(&self, context: &StepContext) -> Result<Reply, CallError> {
        let target = self.target.as_ref().map_err(|why| CallError::Refused(why.clone()))?;
        let left = context.time_left(self.caller.clock());
        let within = self.timeout.map_or(left, |timeout| timeout.min(left));
        let undo_key = (context.action == Action::Compensate).then(|| context.undo_key());
        let key = undo_key.as_deref().unwrap_or(&context.idempotency_key);
        // The endpoint's own limit may end the attempt earlier.
        let deadline = context.deadline_at - left.saturating_sub(within);
        let unsaid = |error: &dyn std::fmt::Display| CallError::Refused(error.to_string());
        let request = Request {
            action: context.action.name(),
            saga_id: &context.saga_id,
            saga_name: context.saga_name(),
            step: &context.step,
            parameters: &context.parameters,
            context: context.context.to_json().map_err(|error| unsaid(&error))?,
            original_result: context.original_result.as_ref(),
            is_completed: undo_key.is_some().then_some(context.original_result.is_some()),
            idempotency_key: &context.idempotency_key,
            undo_key: undo_key.as_deref(),
            scheduled_time: context.scheduled_time,
            attempt: context.attempt,
            fencing_token: context.fencing_token.to_string(),
            deadline,
        };
        let post = Post {
            url: &target.url,
            body: serde_json::to_vec(&request).map_err(|error| unsaid(&error))?,
            headers: HeaderMap::from_iter([(IDEMPOTENCY_KEY, header_value(key))]),
            message_id: &message_id(
                &context.idempotency_key,
                context.action.name(),
                context.attempt,
            ),
            secret: target.secret.as_ref(),
            within,
        };
        if context.cancelled.is_cancelled() {
            return Err(CallError::NotSent("the outcome is no longer waited for".into()));
        }
        tokio::select! {
            biased;
            outcome = self.caller.post(post) => outcome,
            () = context.cancelled.cancelled() => {
                Err(CallError::Unknown("the outcome was no longer waited for".into()))
            }
        }
    }

    /// Executes or compensates.
    async fn act(&self, context: &StepContext) -> Result<StepOutput, StepError> {
        let name = &self.name;
        let reply = self.ask(context).await.map_err(|error| match error {
            CallError::Refused(why) => {
                StepError::failed(format!("handler {name:?} is not called: {why}"))
            }
            CallError::NotSent(why) => {
                StepError::retryable(format!("handler {name:?} could not be asked: {why}"))
            }
            CallError::Unknown(why) => {
                StepError::unknown(format!("handler {name:?} may have acted: {why}"))
            }
        })?;
        match reply.status {
            StatusCode::UNPROCESSABLE_ENTITY => Err(StepError::failed(self.error_of(&reply))),
            StatusCode::CONFLICT => Err(StepError::retryable(self.error_of(&reply))),
            status if status.is_success() => self.result_of(&reply).map(StepOutput::from),
            status => Err(self.says_nothing(status)),
        }
    }

    /// The result in an answer that says it is done.
    fn result_of(&self, reply: &Reply) -> Result<Json, StepError> {
        let (name, status) = (&self.name, reply.status.as_u16());
        if let Some(why) = &reply.cut {
            let message = format!("handler {name:?} answered {status} without its result: {why}");
            return Err(StepError::unknown(message));
        }
        // Nothing at all may as well come from a proxy on the way.
        if reply.body.is_empty() && reply.status == StatusCode::NO_CONTENT {
            return Ok(Json::null());
        }
        let text = String::from_utf8(reply.body.clone()).ok();
        text.and_then(|text| Json::parse(text).ok()).ok_or_else(|| {
            let message = format!("handler {name:?} answered {status} with what is not JSON");
            StepError::unknown(message)
        })
    }

    /// Why there was no effect, in the words of the endpoint if it has any.
    fn error_of(&self, reply: &Reply) -> String {
        let said = said(&reply.body);
        if said.is_empty() {
            format!("handler {:?} answered {} without a reason", self.name, reply.status.as_u16())
        } else {
            said
        }
    }

    fn says_nothing(&self, status: StatusCode) -> StepError {
        let name = &self.name;
        let message =
            format!("handler {name:?} answered {status}, which leaves room for an effect");
        StepError::unknown(message)
    }
}

/// The error in a body: its member `error` if it is an object, else the text. Without control
/// characters, and not too long.
pub(super) fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Told {
        error: String,
    }
    let text = match serde_json::from_slice::<Told>(body) {
        Ok(Told { error }) => error,
        Err(_) => serde_json::from_slice::<String>(body)
            .unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()),
    };
    let mut text = text.replace(char::is_control, " ").trim().to_owned();
    text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
    text
}

#[async_trait]
impl Step for PushStep {
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        self.act(&context).await
    }

    async fn compensate(&self, context: StepContext) -> Result<StepOutput, StepError> {
        self.act(&context).await
    }

    async fn probe(&self, context: StepContext) -> Result<Probe, StepError> {
        let name = &self.name;
        // A question has no effect of its own: whatever kept it from being answered, the step may
        // have been done.
        let reply = self.ask(&context).await.map_err(|error| match error {
            CallError::Refused(why) | CallError::NotSent(why) | CallError::Unknown(why) => {
                StepError::unknown(format!("handler {name:?} did not say whether it acted: {why}"))
            }
        })?;
        match reply.status {
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT => Ok(Probe::NotDone),
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => {
                Err(StepError::missing(format!("handler {name:?} has no probe")))
            }
            status if status.is_success() => self.result_of(&reply).map(Probe::Done),
            status => Err(self.says_nothing(status)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use lockbay::clock::Clock;
    use lockbay::saga::SagaContext;
    use lockbay::store::Revision;
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::super::receiver::{Answer, Receiver, answer};
    use super::*;

    /// An amount that no float holds.
    const EXACT: &str = r#"{"amount":9007199254740993.10}"#;

    fn caller(clock: &Clock) -> Caller {
        Caller::new(clock.clone(), Reach::Private).unwrap()
    }

    fn endpoint(url: String) -> Endpoint {
        Endpoint { name: "charge".into(), url, secret: None, timeout: None }
    }

    fn step(url: String) -> PushStep {
        PushStep::new(caller(&Clock::system()), endpoint(url))
    }

    /// What a step is asked in these tests.
    pub(in crate::outbound) fn context(clock: &Clock, action: Action) -> StepContext {
        let within = Duration::from_secs(60);
        let done = [("reserve", Json::parse("[1.50]").unwrap())];
        StepContext {
            action,
            saga_id: "saga_1".into(),
            step: "charge".into(),
            parameters: Json::parse(EXACT).unwrap(),
            context: SagaContext::for_tests(
                "order",
                Json::parse(r#"{"order":1.0}"#).unwrap(),
                &done,
            ),
            original_result: (action != Action::Execute).then(|| Json::parse("\"tx\"").unwrap()),
            idempotency_key: "saga_1/charge".into(),
            attempt: 2,
            fencing_token: Revision::new(u64::MAX),
            deadline: clock.tick() + within,
            deadline_at: clock.now() + within,
            scheduled_time: None,
            cancelled: CancellationToken::new(),
        }
    }

    /// What an outcome is, in one word, and its result or error.
    fn outcome(outcome: Result<StepOutput, StepError>) -> (&'static str, String) {
        match outcome {
            Ok(output) => ("done", output.result.text().to_owned()),
            Err(StepError::Failed { error, retryable: false }) => ("final", error),
            Err(StepError::Failed { error, retryable: true }) => ("again", error),
            Err(StepError::Unknown { error }) => ("unknown", error),
            Err(StepError::Missing { what }) => ("missing", what),
        }
    }

    async fn execute(answer: Answer) -> (&'static str, String) {
        let receiver = Receiver::new(answer).await;
        let step = step(receiver.url());
        outcome(step.execute(context(&Clock::system(), Action::Execute)).await)
    }

    #[tokio::test]
    async fn each_answer_means_what_the_contract_says() {
        for (status, body, word, text) in [
            ("200 OK", r#"{"id": 1.50}"#, "done", r#"{"id": 1.50}"#),
            ("201 Created", "null", "done", "null"),
            ("204 No Content", "", "done", "null"),
            ("200 OK", "", "unknown", "is not JSON"),
            ("200 OK", "<html>", "unknown", "is not JSON"),
            ("200 OK", "{\"a\":1", "unknown", "is not JSON"),
            ("200 OK", "{} {}", "unknown", "is not JSON"),
            ("422 Unprocessable Entity", "card\ndeclined", "final", "card declined"),
            ("422 Unprocessable Entity", r#"{"error":"no\u0000 funds"}"#, "final", "no  funds"),
            ("422 Unprocessable Entity", "", "final", "answered 422 without a reason"),
            ("409 Conflict", "\"locked\"", "again", "locked"),
            ("301 Moved Permanently", "", "unknown", "301"),
            ("400 Bad Request", "", "unknown", "400"),
            ("401 Unauthorized", "", "unknown", "401"),
            ("404 Not Found", "", "unknown", "404"),
            ("408 Request Timeout", "", "unknown", "408"),
            ("429 Too Many Requests", "", "unknown", "429"),
            ("500 Internal Server Error", "", "unknown", "500"),
            ("503 Service Unavailable", "", "unknown", "503"),
        ] {
            let receiver = Receiver::new(answer(status, body)).await;
            let step = step(receiver.url());
            for action in [Action::Execute, Action::Compensate] {
                let context = context(&Clock::system(), action);
                let (found, told) = outcome(match action {
                    Action::Execute => step.execute(context).await,
                    Action::Compensate | Action::Probe => step.compensate(context).await,
                });
                assert_eq!(found, word, "{action:?} {status} {body}: {told}");
                assert!(told.contains(text), "{action:?} {status} {body}: {told}");
            }
        }
    }

    #[tokio::test]
    async fn a_probe_tells_done_from_not_done_from_nobody_to_ask() {
        let missing = || StepError::missing("handler \"charge\" has no probe");
        for (status, body, found) in [
            ("200 OK", "{\"id\":1}", Ok(Probe::Done(Json::parse("{\"id\":1}").unwrap()))),
            ("204 No Content", "", Ok(Probe::Done(Json::null()))),
            ("422 Unprocessable Entity", "", Ok(Probe::NotDone)),
            ("409 Conflict", "", Ok(Probe::NotDone)),
            ("404 Not Found", "", Err(missing())),
            ("405 Method Not Allowed", "", Err(missing())),
            ("501 Not Implemented", "", Err(missing())),
        ] {
            let receiver = Receiver::new(answer(status, body)).await;
            let probe = step(receiver.url()).probe(context(&Clock::system(), Action::Probe)).await;
            assert_eq!(probe, found, "{status}");
        }
        for (status, body) in [("200 OK", "<html>"), ("500 Oh", ""), ("302 Found", "")] {
            let receiver = Receiver::new(answer(status, body)).await;
            let probe = step(receiver.url()).probe(context(&Clock::system(), Action::Probe)).await;
            assert!(matches!(probe, Err(StepError::Unknown { .. })), "{status}: {probe:?}");
        }
        let refused =
            step("http://0/".into()).probe(context(&Clock::system(), Action::Probe)).await;
        assert!(matches!(refused, Err(StepError::Unknown { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn an_endpoint_gets_everything_by_its_exact_text() {
        let receiver = Receiver::new(answer("204 No Content", "")).await;
        let clock = Clock::system();
        let asked = context(&clock, Action::Execute);
        let deadline = asked.deadline_at.to_string();
        step(receiver.url()).execute(asked).await.unwrap();
        let received = receiver.only().await;
        assert!(received.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", received.head);
        assert_eq!(received.header("content-type"), Some("application/json"));
        assert_eq!(received.header("idempotency-key"), Some("saga_1/charge"));
        assert_eq!(received.header("webhook-signature"), None);
        assert_eq!(received.header("transfer-encoding"), None, "the length is said beforehand");
        let text = String::from_utf8(received.body.clone()).unwrap();
        assert!(text.contains(&format!("\"parameters\":{EXACT}")), "{text}");
        assert!(text.contains(r#""context":{"order":1.0,"reserve_result":[1.50]}"#), "{text}");
        let sent = received.json();
        assert_eq!(sent["deadline"], json!(deadline));
        for (member, value) in [
            ("action", json!("execute")),
            ("saga_id", json!("saga_1")),
            ("saga_name", json!("order")),
            ("step", json!("charge")),
            ("original_result", json!(null)),
            ("idempotency_key", json!("saga_1/charge")),
            ("attempt", json!(2)),
            ("fencing_token", json!("18446744073709551615")),
        ] {
            assert_eq!(sent[member], value, "{member}");
        }
        assert_eq!(sent.as_object().unwrap().len(), 11, "{sent}");
    }

    #[tokio::test]
    async fn a_compensation_has_a_key_of_its_own_and_a_probe_that_of_the_execution() {
        let receiver = Receiver::new(answer("204 No Content", "")).await;
        let step = step(receiver.url());
        step.compensate(context(&Clock::system(), Action::Compensate)).await.unwrap();
        step.probe(context(&Clock::system(), Action::Probe)).await.unwrap();
        let [undo, probe] = receiver.received().try_into().unwrap();
        assert_eq!(undo.header("idempotency-key"), Some("saga_1/charge/undo"));
        assert_eq!(undo.json()["undo_key"], json!("saga_1/charge/undo"));
        assert_eq!(undo.json()["idempotency_key"], json!("saga_1/charge"));
        assert_eq!(undo.json()["original_result"], json!("tx"));
        assert_eq!(
            (&undo.json()["is_completed"], &probe.json()["is_completed"]),
            (&json!(true), &json!(null))
        );
        assert_eq!(probe.header("idempotency-key"), Some("saga_1/charge"));
        assert_eq!(probe.json()["undo_key"], json!(null));
        assert_ne!(undo.header("webhook-id"), probe.header("webhook-id"));
    }

    #[tokio::test]
    async fn the_receiver_can_verify_the_signature_and_a_retry_has_the_same_identity() {
        let receiver = Receiver::new(answer("204 No Content", "")).await;
        let clock = Clock::manual(1);
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signed = Endpoint { secret: Some(secret.into()), ..endpoint(receiver.url()) };
        let step = PushStep::new(caller(&clock), signed);
        step.execute(context(&clock, Action::Execute)).await.unwrap();
        clock.advance(Duration::from_secs(5));
        step.execute(context(&clock, Action::Execute)).await.unwrap();
        let received = receiver.received();
        for it in &received {
            let (id, at) = (it.header("webhook-id").unwrap(), it.header("webhook-timestamp"));
            let at = at.unwrap().parse().unwrap();
            let expected = Secret::parse(secret).unwrap().sign(id, at, &it.body);
            assert_eq!(it.header("webhook-signature"), Some(expected.as_str()));
            assert!(!it.head.contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
        }
        assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
        assert_eq!(received[0].header("webhook-timestamp"), Some("1767225600"));
        assert_eq!(received[1].header("webhook-timestamp"), Some("1767225605"));
    }

    #[tokio::test]
    async fn a_broken_connection_leaves_room_for_an_effect() {
        for broken in [
            Answer::CloseBeforeBody,
            Answer::Last(Vec::new()),
            Answer::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n1".to_vec()),
            Answer::Last(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n".to_vec(),
            ),
            Answer::Last(b"220 smtp.example ESMTP\r\n".to_vec()),
        ] {
            let (word, told) = execute(broken.clone()).await;
            assert_eq!(word, "unknown", "{broken:?}: {told}");
        }
    }

    #[tokio::test]
    async fn a_refusal_counts_although_its_body_never_ends() {
        let head = b"HTTP/1.1 422 No\r\ncontent-length: 99\r\n\r\nno funds".to_vec();
        assert_eq!(execute(Answer::Last(head)).await, ("final", "no funds".into()));
    }

    #[tokio::test]
    async fn a_reply_too_large_is_unknown_and_an_error_is_cut() {
        let huge = "1".repeat(super::super::call::MAX_REPLY_BYTES + 1);
        assert_eq!(execute(answer("200 OK", &huge)).await.0, "unknown");
        let (word, told) = execute(answer("422 No", &"\u{e4}".repeat(5_000))).await;
        assert_eq!((word, told.len()), ("final", MAX_ERROR_BYTES));
        assert_eq!(execute(answer("409 No", &huge)).await.0, "again");
    }

    #[tokio::test]
    async fn a_late_answer_is_unknown_at_the_shorter_of_both_limits() {
        for (timeout, stalled) in [
            (None, Vec::new()),
            (Some(Duration::from_secs(7)), Vec::new()),
            (
                Some(Duration::from_secs(7)),
                b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_vec(),
            ),
            (Some(Duration::from_secs(600)), Vec::new()),
        ] {
            let receiver = Receiver::new(Answer::Stall(stalled)).await;
            let clock = Clock::manual(1);
            let limited = Endpoint { timeout, ..endpoint(receiver.url()) };
            let step = Arc::new(PushStep::new(caller(&clock), limited));
            let asked = context(&clock, Action::Execute);
            let now = clock.now();
            let call = tokio::spawn(async move { step.execute(asked).await });
            let received = receiver.only().await;
            let limit = timeout.unwrap_or(Duration::MAX).min(Duration::from_secs(60));
            assert_eq!(received.json()["deadline"], json!((now + limit).to_string()));
            clock.advance(limit);
            let (word, told) = outcome(call.await.unwrap());
            assert_eq!(word, "unknown", "{told}");
        }
    }

    #[tokio::test]
    async fn a_call_is_given_up_when_its_outcome_is_no_longer_waited_for() {
        let receiver = Receiver::new(Answer::Stall(Vec::new())).await;
        let clock = Clock::manual(1);
        let step = Arc::new(PushStep::new(caller(&clock), endpoint(receiver.url())));
        let asked = context(&clock, Action::Execute);
        let cancelled = asked.cancelled.clone();
        let call = tokio::spawn({
            let (step, asked) = (Arc::clone(&step), asked.clone());
            async move { step.execute(asked).await }
        });
        receiver.only().await;
        cancelled.cancel();
        assert_eq!(outcome(call.await.unwrap()).0, "unknown");
        assert_eq!(outcome(step.execute(asked).await).0, "again");
        assert_eq!(receiver.received().len(), 1, "what was cancelled before is not sent");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let target = Receiver::new(answer("200 OK", "")).await;
        for status in ["301 A", "302 B", "303 C", "307 D", "308 E"] {
            let head = format!(
                "HTTP/1.1 {status}\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
                target.url()
            );
            let (word, told) = execute(Answer::Bytes(head.into())).await;
            assert_eq!(word, "unknown", "{told}");
        }
        assert!(target.received().is_empty());
    }

    #[tokio::test]
    async fn what_certainly_was_not_sent_had_no_effect() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let clock = Clock::system();
        for (url, word) in [
            (format!("http://{closed}/"), "again"),
            ("http://169.254.169.254/".into(), "final"),
            ("http://0.0.0.0:1/".into(), "final"),
            ("ftp://127.0.0.1/".into(), "final"),
            ("not a url".into(), "final"),
        ] {
            let (found, told) =
                outcome(step(url.clone()).execute(context(&clock, Action::Execute)).await);
            assert_eq!(found, word, "{url}: {told}");
        }
        let public = Caller::new(clock.clone(), Reach::Public).unwrap();
        for host in ["127.0.0.1", "[::1]", "localhost", "[::ffff:127.0.0.1]"] {
            let step = PushStep::new(public.clone(), endpoint(format!("http://{host}:1/")));
            let (found, told) = outcome(step.execute(context(&clock, Action::Execute)).await);
            assert_eq!(found, "final", "{host}: {told}");
        }
        let wrong = Endpoint { secret: Some("whsec_*".into()), ..endpoint("http://10.1/".into()) };
        assert!(wrong.check(Reach::Private).is_err());
        let (found, told) =
            outcome(PushStep::new(public, wrong).execute(context(&clock, Action::Execute)).await);
        assert_eq!(found, "final", "{told}");
    }

    #[tokio::test]
    async fn names_cannot_add_headers_or_members() {
        let receiver = Receiver::new(answer("204 No Content", "")).await;
        let clock = Clock::system();
        let evil = "a\r\nx-evil: 1\r\n\r\n\",\"action\":\"compensate";
        let mut asked = context(&clock, Action::Execute);
        asked.step = evil.into();
        asked.saga_id = evil.into();
        asked.idempotency_key = evil.into();
        asked.context = SagaContext::for_tests(evil, Json::empty_object(), &[]);
        step(receiver.url()).execute(asked).await.unwrap();
        let received = receiver.only().await;
        assert_eq!(received.header("x-evil"), None, "{}", received.head);
        assert!(received.header("idempotency-key").unwrap().starts_with("a%0D%0Ax-evil:%201%0D"));
        let sent = received.json();
        assert_eq!((&sent["step"], &sent["saga_name"]), (&json!(evil), &json!(evil)));
        assert_eq!(sent["action"], json!("execute"));
    }
}
