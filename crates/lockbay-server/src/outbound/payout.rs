//! Who pays money out for this server: a provider that only pretends, or an HTTP endpoint.
//!
//! The endpoint is asked under a key and must pay once under each, however often it is asked. It is
//! believed when it says that it paid or did not; whatever leaves room for a payout is unknown, and
//! then the saga asks again under the same key. Nothing here knows the ledger, nor when a payout is
//! asked for again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use lockbay::config::Hidden;
use lockbay::finance::{Mischief, Payout, PayoutProvider, PayoutRequest};
use lockbay::{Json, LockBay};
use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::call::{CallError, Caller, Post, Reply, header_value};
use super::handlers::Handlers;
use super::sign::{Secret, message_id};
use super::step::{IDEMPOTENCY_KEY, said};
use super::vet::vet_url;

/// How long one call may take; a step's own limit may end it earlier.
const PAY_WITHIN: Duration = Duration::from_secs(30);
/// How much of a provider's own name for a payout is kept, in bytes.
const MAX_REFERENCE_BYTES: usize = 512;
/// The account outside through which money leaves that an endpoint paid.
const NAME: &str = "http";

/// The provider that the settings name, and a warning in the log if it only pretends.
///
/// # Errors
/// What is wrong with the settings.
pub(crate) fn payout_provider(
    bay: &LockBay,
    handlers: &Handlers,
) -> anyhow::Result<Arc<dyn PayoutProvider>> {
    let config = bay.config();
    let wrong = |why: &dyn std::fmt::Display| {
        anyhow!("setting payout_provider (LOCKBAY_PAYOUT_PROVIDER): {why}")
    };
    match config.payout_provider.strip_prefix("simulated") {
        Some(rest) => {
            let mischief = rest.strip_prefix(':').unwrap_or(rest);
            let mischief = Mischief::parse(mischief).map_err(|error| wrong(&error))?;
            tracing::warn!("payouts are simulated: no money leaves");
            Ok(Arc::new(bay.simulated_provider(mischief)))
        }
        None => {
            let url = vet_url(&config.payout_provider, handlers.caller().reach());
            let url = url.map_err(|refused| wrong(&refused))?;
            let secret = config.payout_secret.as_ref().map(|Hidden(text)| Secret::parse(text));
            let secret = secret
                .transpose()
                .map_err(|why| anyhow!("setting payout_secret (LOCKBAY_PAYOUT_SECRET): {why}"))?;
            if secret.is_none() {
                tracing::warn!("payouts are not signed: set LOCKBAY_PAYOUT_SECRET");
            }
            Ok(Arc::new(HttpProvider { caller: handlers.caller().clone(), url, secret }))
        }
    }
}

/// An endpoint that pays.
struct HttpProvider {
    caller: Caller,
    url: Url,
    secret: Option<Secret>,
}

/// What the endpoint is sent. Numbers are texts, because many readers of JSON round them.
#[derive(Serialize)]
struct Order<'a> {
    action: &'static str,
    key: &'a str,
    user_id: &'a str,
    amount: String,
    currency: &'a str,
    destination: &'a str,
    fencing_token: String,
}

#[async_trait]
impl PayoutProvider for HttpProvider {
    fn name(&self) -> &str {
        NAME
    }

    async fn pay(&self, request: &PayoutRequest) -> Payout {
        match self.ask(request).await {
            Ok(reply) => meaning(&reply),
            Err(CallError::Refused(why) | CallError::NotSent(why)) => {
                let reason = format!("the payout provider could not be asked: {why}");
                Payout::Refused { reason, retryable: true }
            }
            Err(CallError::Unknown(why)) => {
                Payout::Unknown { reason: format!("the payout provider may have paid: {why}") }
            }
        }
    }
}

impl HttpProvider {
    async fn ask(&self, request: &PayoutRequest) -> Result<Reply, CallError> {
        const ACTION: &str = "pay";
        let order = Order {
            action: ACTION,
            key: &request.key,
            user_id: request.user.as_str(),
            amount: request.amount.to_string(),
            currency: request.amount.currency().code(),
            destination: &request.destination,
            fencing_token: request.fencing_token.to_string(),
        };
        let body = serde_json::to_vec(&order);
        let post = Post {
            url: &self.url,
            body: body.map_err(|error| CallError::Refused(error.to_string()))?,
            headers: HeaderMap::from_iter([(IDEMPOTENCY_KEY, header_value(&request.key))]),
            message_id: &message_id(&request.key, ACTION, request.attempt),
            secret: self.secret.as_ref(),
            within: PAY_WITHIN,
        };
        self.caller.post(post).await
    }
}

/// What an answer says about the payout.
fn meaning(reply: &Reply) -> Payout {
    let status = reply.status;
    let reason = || match said(&reply.body) {
        said if said.is_empty() => {
            format!("the payout provider answered {status}, no reason given")
        }
        said => said,
    };
    match status {
        StatusCode::UNPROCESSABLE_ENTITY => Payout::Refused { reason: reason(), retryable: false },
        StatusCode::CONFLICT => Payout::Refused { reason: reason(), retryable: true },
        status if status.is_success() => match (&reply.cut, reference(&reply.body)) {
            (None, Some(reference)) => Payout::Paid { reference },
            (Some(why), _) => unknown(status, &format!("and its answer did not come whole: {why}")),
            (None, None) => unknown(status, "without the reference of a payout"),
        },
        status => unknown(status, "which leaves room for a payout"),
    }
}

fn unknown(status: StatusCode, why: &str) -> Payout {
    Payout::Unknown { reason: format!("the payout provider answered {status}, {why}") }
}

/// How the provider calls the payout: text, or a number by its digits.
fn reference(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Told {
        reference: Json,
    }
    let Told { reference } = serde_json::from_slice(body).ok()?;
    let text = match reference.text().as_bytes().first() {
        Some(b'"') => reference.to_value::<String>().ok()?,
        Some(b'0'..=b'9') => reference.text().to_owned(),
        Some(_) | None => return None,
    };
    let mut text = text.replace(char::is_control, " ").trim().to_owned();
    text.truncate(text.floor_char_boundary(MAX_REFERENCE_BYTES));
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use lockbay::Config;
    use lockbay::clock::Clock;
    use lockbay::ledger::{Amount, Currency, UserId};
    use lockbay::store::Revision;
    use serde_json::json;

    use super::super::receiver::{Answer, Receiver, answer};
    use super::super::vet::Reach;
    use super::*;

    fn request() -> PayoutRequest {
        let usd = Currency::parse("USD").unwrap();
        PayoutRequest {
            key: "saga_1/process_withdrawal".into(),
            user: UserId::parse("ann").unwrap(),
            amount: Amount::parse("900719925474099.31", usd).unwrap(),
            destination: "IBAN \u{e4} 1".into(),
            fencing_token: Revision::new(u64::MAX),
            attempt: 1,
        }
    }

    async fn bay(provider: &str, secret: Option<&str>) -> LockBay {
        let config = Config {
            store: "memory:".into(),
            payout_provider: provider.into(),
            payout_secret: secret.map(|secret| Hidden(secret.into())),
            ..Config::default()
        };
        LockBay::open(config).await.unwrap()
    }

    async fn provider(
        url: &str,
        secret: Option<&str>,
        reach: Reach,
    ) -> anyhow::Result<Arc<dyn PayoutProvider>> {
        let handlers = Handlers::new(Clock::system(), reach).unwrap();
        payout_provider(&bay(url, secret).await, &handlers)
    }

    async fn pay(url: &str) -> Payout {
        provider(url, None, Reach::Private).await.unwrap().pay(&request()).await
    }

    /// A payout in a word, and what is told of it.
    fn told(payout: Payout) -> (&'static str, String) {
        match payout {
            Payout::Paid { reference } => ("paid", reference),
            Payout::Refused { reason, retryable: false } => ("final", reason),
            Payout::Refused { reason, retryable: true } => ("again", reason),
            Payout::Unknown { reason } => ("unknown", reason),
        }
    }

    #[tokio::test]
    async fn each_answer_means_what_the_contract_says() {
        for (status, body, word, text) in [
            ("200 OK", r#"{"reference":"po_1"}"#, "paid", "po_1"),
            ("201 Created", r#"{"reference":9007199254740993,"x":1}"#, "paid", "9007199254740993"),
            ("200 OK", "", "unknown", "without the reference"),
            ("200 OK", "paid", "unknown", "without the reference"),
            ("200 OK", "{}", "unknown", "without the reference"),
            ("200 OK", r#"{"reference":null}"#, "unknown", "without the reference"),
            ("200 OK", r#"{"reference":""}"#, "unknown", "without the reference"),
            ("200 OK", r#"{"reference":"a""#, "unknown", "without the reference"),
            ("202 Accepted", "null", "unknown", "202"),
            (
                "422 Unprocessable Entity",
                r#"{"error":"account\nclosed"}"#,
                "final",
                "account closed",
            ),
            ("422 Unprocessable Entity", "", "final", "422"),
            ("409 Conflict", "busy", "again", "busy"),
            ("301 Moved Permanently", "", "unknown", "301"),
            ("400 Bad Request", "", "unknown", "400"),
            ("401 Unauthorized", "", "unknown", "401"),
            ("404 Not Found", "", "unknown", "404"),
            ("429 Too Many Requests", "", "unknown", "429"),
            ("500 Internal Server Error", "", "unknown", "500"),
            ("503 Service Unavailable", "", "unknown", "503"),
        ] {
            let receiver = Receiver::new(answer(status, body)).await;
            let (found, said) = told(pay(&receiver.url()).await);
            assert_eq!(found, word, "{status} {body}: {said}");
            assert!(said.contains(text), "{status} {body}: {said}");
        }
        let receiver = Receiver::new(Answer::CloseBeforeBody).await;
        assert_eq!(told(pay(&receiver.url()).await).0, "unknown");
        let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"reference\":\"po_1\"}";
        let receiver = Receiver::new(Answer::Last(cut.to_vec())).await;
        assert_eq!(told(pay(&receiver.url()).await).0, "unknown");
    }

    #[tokio::test]
    async fn a_payout_that_was_certainly_not_asked_for_may_be_asked_for_again() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        let (word, said) = told(pay(&format!("http://{address}/")).await);
        assert_eq!(word, "again", "{said}");
        assert!(said.contains("could not be asked"), "{said}");
    }

    #[tokio::test]
    async fn the_endpoint_gets_the_whole_payout_exactly_and_signed() {
        let receiver = Receiver::new(answer("200 OK", r#"{"reference":"po_1"}"#)).await;
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let provider = provider(&receiver.url(), Some(secret), Reach::Private).await.unwrap();
        assert_eq!(told(provider.pay(&request()).await).0, "paid");
        let received = receiver.only().await;
        let whole = json!({
            "action": "pay", "key": "saga_1/process_withdrawal", "user_id": "ann",
            "amount": "900719925474099.31", "currency": "USD", "destination": "IBAN \u{e4} 1",
            "fencing_token": "18446744073709551615",
        });
        assert_eq!(received.json(), whole);
        assert_eq!(received.header("idempotency-key"), Some("saga_1/process_withdrawal"));
        let id = received.header("webhook-id").unwrap();
        assert_eq!(id, message_id("saga_1/process_withdrawal", "pay", 1));
        let seconds = received.header("webhook-timestamp").unwrap().parse().unwrap();
        let signature = Secret::parse(secret).unwrap().sign(id, seconds, &received.body);
        assert_eq!(received.header("webhook-signature"), Some(&*signature));
    }

    #[tokio::test]
    async fn a_provider_that_cannot_be_meant_is_refused_at_start_without_its_secrets() {
        for (url, secret, reach, text) in [
            ("simulated:refused=101", None, Reach::Public, "payout_provider"),
            ("simulatedrefused=1", None, Reach::Public, "payout_provider"),
            ("http://127.0.0.1:1/hush", None, Reach::Public, "payout_provider"),
            ("http://169.254.169.254/hush", None, Reach::Private, "payout_provider"),
            ("http:///", None, Reach::Private, "payout_provider"),
            ("https://bank.example/hush", Some("whsec_hush!"), Reach::Public, "payout_secret"),
        ] {
            let handlers = Handlers::new(Clock::system(), reach).unwrap();
            let config = Config {
                store: "memory:".into(),
                payout_provider: url.into(),
                payout_secret: secret.map(|secret| Hidden(secret.into())),
                ..Config::default()
            };
            let error = match LockBay::open(config).await {
                Ok(bay) => payout_provider(&bay, &handlers).err().map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            let error = error.unwrap_or_else(|| panic!("{url} is taken"));
            assert!(error.contains(text) && !error.contains("hush"), "{url}: {error}");
        }
        for right in ["simulated", "simulated:", "simulated:refused=10, unknown=5,delay_ms=20"] {
            assert_eq!(provider(right, None, Reach::Public).await.unwrap().name(), "simulated");
        }
        let hooked = provider("https://bank.example/pay", None, Reach::Public).await.unwrap();
        assert_eq!(hooked.name(), "http");
    }
}
