//! Ways to tell people: what a channel is, the log, and callbacks of this process.
//!
//! A channel delivers one notice, once for each time it is asked, and says what came of it. It
//! refuses to know whether it is asked again, and when; that is the business of `deliver`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;

use super::notice::{Notice, Status, cut};
use crate::error::{Error, ErrorKind, Result};

/// The most channels of an instance.
pub const MAX_CHANNELS: usize = 16;
/// The longest name of a channel, in bytes.
pub const MAX_CHANNEL_BYTES: usize = 64;
/// How much is kept of why a notice was not delivered, in bytes.
const MAX_WHY_BYTES: usize = 1_024;
/// The channel that is always there.
pub(super) const LOG: &str = "log";

/// A way to tell people.
///
/// # Contract
/// `deliver` returns `Ok` when the notice has arrived. It may be asked again for one that has
/// arrived, as what it said may be lost with this process; a receiver tells by [`Notice::id`] that
/// it is the same. It may be dropped at any await.
#[async_trait]
pub trait Channel: Send + Sync {
    /// Its name: the same on every instance and after every restart, as progress is kept by it.
    fn name(&self) -> &str;

    /// Delivers a notice.
    ///
    /// # Errors
    /// Why it did not arrive, as far as is known, and whether to try again.
    async fn deliver(&self, notice: &Notice) -> std::result::Result<(), Undelivered>;
}

/// A notice may not have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelivered {
    /// Whether it may arrive if it is tried again.
    pub retryable: bool,
    /// Not to be tried again sooner.
    pub after: Option<Duration>,
    /// For a person, without secrets.
    pub why: String,
}

impl Undelivered {
    /// It may arrive another time.
    pub fn for_now(why: impl Into<String>) -> Self {
        Undelivered { retryable: true, after: None, why: bounded(why.into()) }
    }

    /// It never will, as it stands.
    pub fn for_good(why: impl Into<String>) -> Self {
        Undelivered { retryable: false, after: None, why: bounded(why.into()) }
    }

    /// Not to be tried again sooner than after this.
    #[must_use]
    pub fn not_before(self, after: Duration) -> Self {
        Undelivered { after: Some(after), ..self }
    }
}

fn bounded(mut why: String) -> String {
    cut(&mut why, MAX_WHY_BYTES);
    why
}

/// The channels of this instance, by name.
#[derive(Default)]
pub(super) struct Channels(RwLock<BTreeMap<String, Arc<dyn Channel>>>);

impl Channels {
    /// With the log alone.
    pub(super) fn with_log() -> Self {
        let log: Arc<dyn Channel> = Arc::new(LogChannel);
        Channels(RwLock::new([(LOG.to_owned(), log)].into()))
    }

    /// # Errors
    /// `Invalid` for a name that cannot be stored or is taken, `Busy` if there are too many.
    pub(super) fn add(&self, channel: Arc<dyn Channel>) -> Result<()> {
        let name = channel.name().to_owned();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > MAX_CHANNEL_BYTES || !name.bytes().all(plain) {
            return Err(Error::invalid(format!(
                "the name of a channel has 1 to {MAX_CHANNEL_BYTES} of a-z, 0-9 and -, not {name:?}"
            )));
        }
        let mut channels = self.0.write();
        if channels.contains_key(&name) {
            return Err(Error::invalid(format!("there is a channel of this name: {name}")));
        }
        if channels.len() >= MAX_CHANNELS {
            let message = format!("an instance has {MAX_CHANNELS} channels at most");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        channels.insert(name, channel);
        Ok(())
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.read().keys().cloned().collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<dyn Channel>> {
        self.0.read().get(name).cloned()
    }
}

/// Writes notices to the log of this process.
struct LogChannel;

#[async_trait]
impl Channel for LogChannel {
    fn name(&self) -> &str {
        LOG
    }

    async fn deliver(&self, notice: &Notice) -> std::result::Result<(), Undelivered> {
        let (id, group) = (&*notice.id, &*notice.group);
        for alert in &notice.alerts {
            let (rule, severity, episode) = (&*alert.rule, alert.severity.name(), alert.episode);
            let summary = &*alert.summary;
            match alert.state {
                Status::Firing => {
                    tracing::warn!(id, group, rule, severity, episode, summary, "alert_firing");
                }
                Status::Resolved => {
                    tracing::info!(id, group, rule, severity, episode, summary, "alert_resolved");
                }
            }
        }
        Ok(())
    }
}

/// Calls a function of this process with each notice, where this instance leads.
pub struct Callback<F> {
    name: String,
    call: F,
}

impl<F: Fn(&Notice) + Send + Sync> Callback<F> {
    /// A channel of this name. The function must not block; one that panics is called again later.
    pub fn new(name: impl Into<String>, call: F) -> Self {
        Callback { name: name.into(), call }
    }
}

#[async_trait]
impl<F: Fn(&Notice) + Send + Sync> Channel for Callback<F> {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, notice: &Notice) -> std::result::Result<(), Undelivered> {
        catch_unwind(AssertUnwindSafe(|| (self.call)(notice)))
            .map_err(|_| Undelivered::for_now("the callback panicked"))
    }
}
