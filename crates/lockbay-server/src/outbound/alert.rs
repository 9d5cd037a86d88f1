//! Who is told of alerts by this server: webhooks, a command, letters, as the settings say; and the
//! webhook itself.
//!
//! Each setting is checked when the server starts. A webhook gets the notice as JSON, signed, in one
//! call for each attempt; whatever it answers but a success leaves the notice undelivered. Nothing
//! here knows when it is tried again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use lockbay::LockBay;
use lockbay::config::Hidden;
use lockbay::monitor::notify::{Channel, Notice, Undelivered};
use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};
use sha2::{Digest, Sha256};

use super::call::{CallError, Caller, Post, Reply};
use super::command::CommandChannel;
use super::handlers::Handlers;
use super::letter::LetterChannel;
use super::sign::Secret;
use super::step::said;
use super::vet::vet_url;

/// How long one call may take.
const TELL_WITHIN: Duration = Duration::from_secs(10);
/// How much of a host's name is in the name of its channel, in bytes.
const MAX_HOST_BYTES: usize = 40;

/// Registers every channel that the settings name.
///
/// # Errors
/// Which setting is wrong, and why.
pub(crate) fn tell_of_alerts(bay: &LockBay, handlers: &Handlers) -> anyhow::Result<()> {
    let config = bay.config();
    let mut channels: Vec<Arc<dyn Channel>> = Vec::new();
    if let Some(Hidden(urls)) = &config.alert_webhook_url {
        let secret = config.alert_webhook_secret.as_ref().map(|Hidden(text)| Secret::parse(text));
        let secret = secret.transpose().map_err(|why| {
            anyhow!("setting alert_webhook_secret (LOCKBAY_ALERT_WEBHOOK_SECRET): {why}")
        })?;
        if secret.is_none() {
            tracing::warn!("alerts are not signed: set LOCKBAY_ALERT_WEBHOOK_SECRET");
        }
        let urls = urls.split(|c: char| c == ',' || c.is_whitespace());
        for url in urls.filter(|url| !url.is_empty()) {
            let caller = handlers.caller().clone();
            let url = vet_url(url, caller.reach()).map_err(|refused| {
                anyhow!("setting alert_webhook_url (LOCKBAY_ALERT_WEBHOOK_URL): {refused}")
            })?;
            channels.push(Arc::new(Webhook::new(caller, url, secret.clone())));
        }
    }
    if let Some(command) = &config.alert_command {
        let command = CommandChannel::parse(command, bay.clock().clone())
            .map_err(|why| anyhow!("setting alert_command (LOCKBAY_ALERT_COMMAND): {why}"))?;
        channels.push(Arc::new(command));
    }
    if let Some(letters) = LetterChannel::of(config)? {
        channels.push(Arc::new(letters));
    }
    for channel in channels {
        bay.notifications().tell_through(channel).map_err(|error| anyhow!(error.to_string()))?;
    }
    Ok(())
}

/// An endpoint that is told.
struct Webhook {
    name: String,
    caller: Caller,
    url: Url,
    secret: Option<Secret>,
}

impl Webhook {
    fn new(caller: Caller, url: Url, secret: Option<Secret>) -> Self {
        Webhook { name: name_of(&url), caller, url, secret }
    }
}

/// The same for the same URL, and without what may be secret in it.
fn name_of(url: &Url) -> String {
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let host: String =
        url.host_str().unwrap_or_default().chars().map(plain).take(MAX_HOST_BYTES).collect();
    let digest = Sha256::digest(url.as_str());
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("webhook-{host}-{hash}")
}

#[async_trait]
impl Channel for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), Undelivered> {
        let body = serde_json::to_vec(notice)
            .map_err(|error| Undelivered::for_good(format!("no JSON: {error}")))?;
        let post = Post {
            url: &self.url,
            body,
            headers: HeaderMap::new(),
            message_id: &notice.id,
            secret: self.secret.as_ref(),
            within: TELL_WITHIN,
        };
        match self.caller.post(post).await {
            Ok(reply) => meaning(&reply),
            // A name may come to another address another time; an address stays what it is.
            Err(CallError::Refused(why)) if self.url.domain().is_some() => {
                Err(Undelivered::for_now(why))
            }
            Err(CallError::Refused(why)) => Err(Undelivered::for_good(why)),
            Err(CallError::NotSent(why) | CallError::Unknown(why)) => {
                Err(Undelivered::for_now(why))
            }
        }
    }
}

/// What an answer says about the notice. The body of an answer is not needed to know it.
fn meaning(reply: &Reply) -> Result<(), Undelivered> {
    let status = reply.status;
    if status.is_success() {
        return Ok(());
    }
    let said = said(&reply.body);
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let why = format!("the endpoint answered {status}{said}");
    let refused = match status {
        // It does not want this, and never will.
        StatusCode::BAD_REQUEST
        | StatusCode::GONE
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Undelivered::for_good(why),
        status if status.is_redirection() => {
            Undelivered::for_now(format!("{why}; redirects are not followed"))
        }
        // Others may be over when somebody has mended the endpoint.
        _ => Undelivered::for_now(why),
    };
    Err(match reply.retry_after {
        Some(after) => refused.not_before(after),
        None => refused,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use lockbay::clock::Clock;
    use lockbay::monitor::alert::Severity;
    use lockbay::monitor::notify::Status;

    use super::*;

    /// A webhook at this URL is told of nothing.
    pub(in crate::outbound) async fn is_not_delivered(caller: Caller, url: Url) {
        let notice = Notice {
            id: "notice_1".into(),
            at: Clock::system().now(),
            group: "rule".into(),
            status: Status::Firing,
            severity: Severity::Error,
            alerts: Vec::new(),
            instance: "test".into(),
        };
        let shown = url.to_string();
        let delivered = Webhook::new(caller, url, None).deliver(&notice).await;
        assert!(delivered.is_err(), "{shown} was told");
    }

    fn answered(status: u16, retry_after: Option<u64>) -> Result<(), Undelivered> {
        meaning(&Reply {
            status: StatusCode::from_u16(status).unwrap(),
            body: Vec::new(),
            cut: None,
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    #[test]
    fn an_answer_delivers_refuses_or_leaves_it_to_another_attempt() {
        for status in [200, 201, 202, 204] {
            assert_eq!(answered(status, None), Ok(()), "{status}");
        }
        for (status, retryable) in [
            (301, true),
            (302, true),
            (307, true),
            (400, false),
            (401, true),
            (404, true),
            (408, true),
            (410, false),
            (413, false),
            (422, false),
            (425, true),
            (429, true),
            (500, true),
            (503, true),
        ] {
            let refused = answered(status, None).unwrap_err();
            assert_eq!(refused.retryable, retryable, "{status}");
            assert!(refused.why.contains(&status.to_string()), "{refused:?}");
        }
        let busy = answered(429, Some(40)).unwrap_err();
        assert_eq!(busy.after, Some(Duration::from_secs(40)));
    }

    #[test]
    fn a_channel_is_named_by_its_host_and_never_by_what_may_be_secret() {
        let name =
            name_of(&Url::parse("https://hooks.example.com/services/hush?key=hush").unwrap());
        assert!(name.starts_with("webhook-hooks-example-com-"), "{name}");
        assert!(!name.contains("hush"));
        let other = name_of(&Url::parse("https://hooks.example.com/services/other").unwrap());
        assert_ne!(name, other);
    }
}
