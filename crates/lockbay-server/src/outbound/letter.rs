//! Letters about alerts: a mail server that is told of each notice in plain text.
//!
//! A letter has the identity of its notice, so that one that comes twice can be told. Beyond this
//! machine it goes encrypted or not at all. The settings are those of whoever runs the server, so
//! its address is not vetted.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, bail};
use async_trait::async_trait;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Mailboxes};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use lockbay::Config;
use lockbay::config::Hidden;
use lockbay::monitor::notify::{Channel, Notice, Undelivered};
use reqwest::Url;

/// How long each step of a delivery may take.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// The most people who are written to.
const MAX_RECEIVERS: usize = 50;
/// So many letters are remembered as written: those of all that are on their way.
const MAX_HAD: usize = 4_000;
/// How long a subject is at most, in characters.
const MAX_SUBJECT: usize = 150;

/// Writes to people.
pub(super) struct LetterChannel {
    from: Mailbox,
    to: Vec<Mailbox>,
    /// Who has had which notice, by its identity and the place in `to`: a letter that is written
    /// again because one of them could not be reached is not written to the others.
    had: Mutex<VecDeque<(String, usize)>>,
    server: AsyncSmtpTransport<Tokio1Executor>,
}

impl LetterChannel {
    /// What the settings say, if they say anything.
    ///
    /// # Errors
    /// Which setting is wrong, without what is secret in it.
    pub(super) fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(Hidden(url)) = &config.alert_smtp_url else {
            return Ok(None);
        };
        let missing = |name: &str, env: &str| {
            anyhow!("setting {name} ({env}) is needed where alert_smtp_url is set")
        };
        let from = config.alert_email_from.as_deref();
        let from = from.ok_or_else(|| missing("alert_email_from", "LOCKBAY_ALERT_EMAIL_FROM"))?;
        let from =
            from.parse().map_err(|why| anyhow!("setting alert_email_from: {why}: {from:?}"))?;
        let to = config.alert_email_to.as_deref();
        let to = to.ok_or_else(|| missing("alert_email_to", "LOCKBAY_ALERT_EMAIL_TO"))?;
        let receivers: Mailboxes =
            to.parse().map_err(|why| anyhow!("setting alert_email_to: {why}: {to:?}"))?;
        let to: Vec<Mailbox> = receivers.into();
        if to.is_empty() || to.len() > MAX_RECEIVERS {
            bail!("setting alert_email_to names 1 to {MAX_RECEIVERS} people, not {}", to.len());
        }
        let server = server(url)
            .map_err(|why| anyhow!("setting alert_smtp_url (LOCKBAY_ALERT_SMTP_URL): {why}"))?;
        Ok(Some(LetterChannel { from, to, had: Mutex::default(), server }))
    }

    /// Writes to one of them, unless that has been done.
    async fn write_to(&self, place: usize, notice: &Notice) -> Result<(), Undelivered> {
        let done = (notice.id.to_string(), place);
        if self.had.lock().unwrap_or_else(PoisonError::into_inner).contains(&done) {
            return Ok(());
        }
        let to = &self.to[place];
        let letter = self.letter(notice, to)?;
        self.server.send(letter).await.map_err(|error| {
            let failure = undelivered(&error);
            Undelivered { why: format!("{}: {}", to.email, failure.why), ..failure }
        })?;
        let mut had = self.had.lock().unwrap_or_else(PoisonError::into_inner);
        had.push_back(done);
        if had.len() > MAX_HAD {
            had.pop_front();
        }
        Ok(())
    }

    /// To one of them.
    fn letter(&self, notice: &Notice, to: &Mailbox) -> Result<Message, Undelivered> {
        let subject: String = notice
            .headline()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(MAX_SUBJECT)
            .collect();
        let letter = Message::builder()
            .from(self.from.clone())
            .message_id(Some(format!("<{}@lockbay>", notice.id)))
            .subject(subject)
            .header(ContentType::TEXT_PLAIN);
        letter
            .to(to.clone())
            .body(text(notice))
            .map_err(|error| Undelivered::for_good(format!("no letter can be made: {error}")))
    }
}

/// The way to a server, by a URL such as `smtps://user:password@mail.example.com:465`.
fn server(text: &str) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
    let url = Url::parse(text)
        .map_err(|_| "it is like smtps://user:password@mail.example.com:465".to_owned())?;
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
        return Err("it names no host".into());
    };
    let here = host == "localhost" || host == "127.0.0.1" || host == "[::1]";
    let encrypted = || {
        let parameters = TlsParameters::new(host.to_owned());
        parameters.map_err(|error| format!("TLS cannot be set up: {error}"))
    };
    let (tls, port) = match url.scheme() {
        "smtps" => (Tls::Wrapper(encrypted()?), 465),
        "smtp" if here => (Tls::None, 25),
        // With STARTTLS, or not at all.
        "smtp" => (Tls::Required(encrypted()?), 587),
        _ => return Err("it begins with smtp:// or smtps://".into()),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(bare)
        .port(url.port().unwrap_or(port))
        .tls(tls)
        .timeout(Some(STEP_WITHIN));
    if !url.username().is_empty() {
        let plain = |text: &str| decoded(text).ok_or_else(|| "it is not UTF-8".to_owned());
        let password = plain(url.password().unwrap_or_default())?;
        server = server.credentials(Credentials::new(plain(url.username())?, password));
    }
    Ok(server.build())
}

/// A part of a URL without its percent signs.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match byte.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// What a letter says.
fn text(notice: &Notice) -> String {
    let mut text = format!("{}\n\n", notice.headline());
    for alert in &notice.alerts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} ({}) {}", alert.rule, alert.severity.name(), alert.state.name());
        let _ = writeln!(text, "  {}", alert.summary.replace(char::is_control, " "));
        let _ = writeln!(text, "  since {}", alert.since);
        if let Some(until) = alert.until {
            let _ = writeln!(text, "  until {until}");
        }
        if let Some(runbook) = &alert.runbook {
            let _ = writeln!(text, "  runbook {}", runbook.replace(char::is_control, " "));
        }
    }
    let (instance, id) = (&notice.instance, &notice.id);
    let _ = writeln!(text, "\ntold by {instance} at {}, {id}", notice.at);
    text
}

#[async_trait]
impl Channel for LetterChannel {
    fn name(&self) -> &str {
        "email"
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), Undelivered> {
        let each = (0..self.to.len()).map(|place| self.write_to(place, notice));
        together(futures_util::future::join_all(each).await)
    }
}

/// What letters to several people come to: it is tried again while one of them may arrive later, and
/// refused only if all were.
fn together(ends: Vec<Result<(), Undelivered>>) -> Result<(), Undelivered> {
    let total = ends.len();
    let failures: Vec<Undelivered> = ends.into_iter().filter_map(Result::err).collect();
    let all_failed = failures.len() == total;
    for failure in failures {
        if failure.retryable || all_failed {
            return Err(failure);
        }
        tracing::warn!(why = failure.why, "one of those who are written to was refused");
    }
    Ok(())
}

fn undelivered(error: &SmtpError) -> Undelivered {
    let why = format!("the mail server: {error}");
    // A refusal of the server is final; one to log in may be mended, and the codes of it are these.
    let login =
        error.status().is_some_and(|code| ["530", "534", "535"].contains(&&*code.to_string()));
    match error.is_permanent() && !login {
        true => Undelivered::for_good(why),
        false => Undelivered::for_now(why),
    }
}
