//! Notifications: people are told of every alert that fires and of its end, and not of what they
//! asked not to be told.
//!
//! The notifier owns silences, the book of what was told, and the outbox of what is to be told. It
//! refuses to know when an alert fires, which the evaluator says, and how a channel reaches people.
//!
//! The way of a move through the files: [`plan`] decides whether it is told, by [`silence`] and
//! [`inhibit`]; [`notice`] is what is told, which [`outbox`] writes into the evaluator's own commit;
//! [`deliver`] hands it to each [`channel`], in the order that [`lane`] says.
//!
//! # What holds
//! A move and the notice of it are one commit: none is lost and none doubled, whoever leads. Each
//! move is in one notice, whose identity never changes. Every notice is delivered to every channel
//! at least once, or is a dead letter that is listed. On one channel no end of a firing is tried
//! before that firing has arrived or is a dead letter. One channel does not wait for another.
//!
//! # What does not
//! A receiver may get a notice twice, if its answer or this process was lost: it tells by the
//! identity. A dead letter that is tried again comes late, perhaps behind the end of its firing.

mod channel;
mod deliver;
mod inhibit;
mod lane;
mod notice;
mod outbox;
mod plan;
mod retire;
mod seen;
mod shelf;
mod silence;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Bus;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::monitor::alert::{Firing, Severity, Transition};
use crate::scribe::Scribe;
use crate::store::time::StoreTime;
use crate::store::{Deadline, Effects, Guard, Key, Kind, Partition, Record, Store, Write};

pub use channel::{Callback, Channel, MAX_CHANNEL_BYTES, MAX_CHANNELS, Undelivered};
pub use lane::{
    FIRST_PAUSE, LONGEST_ASKED, LONGEST_PAUSE, MAX_AGE, MAX_ATTEMPTS, Progress, Standing,
};
pub use notice::{Alert, MAX_ALERTS, MAX_SUMMARY_BYTES, Notice, Status};
pub use outbox::{Kept, NoticeStatus};
pub use plan::{Held, Why};
pub use shelf::NoticePage;
pub use silence::{
    MAX_SILENCE, MAX_SILENCES, MAX_WINDOW, Silence, SilenceRequest, SilenceState, Window,
};

pub(crate) use retire::Letters;

use channel::Channels;
use notice::cut;
use outbox::Kept as Stored;
use plan::{Book, Policy};
use seen::Seen;
use silence::Shelf;

/// What was told, what is held back and what waits. Key: `all`.
const BOOK: Kind = Kind::new("alert-book");
/// All silences. Key: `all`.
const SILENCES: Kind = Kind::new("alert-silence");

/// How the notifier of an instance works.
#[derive(Debug, Clone)]
pub(crate) struct NotifySettings {
    /// What is less severe is not told.
    pub(crate) least: Severity,
    /// How long the first move of a group waits for others.
    pub(crate) group_wait: Duration,
    /// Its name, or its identity.
    pub(crate) instance: String,
}

/// Notifications, as one instance sees them. Cheap to clone.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    bus: Bus,
    leadership: Leadership,
    scribe: Scribe,
    settings: NotifySettings,
    channels: Channels,
    time: StoreTime,
    seen: Seen,
    /// Tells the desk that there is something new.
    nudge: Notify,
}

/// What a test notice came to on a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// Which channel.
    pub channel: String,
    /// Whether it says that the notice arrived.
    pub delivered: bool,
    /// Why not.
    pub error: Option<String>,
}

impl Notifier {
    pub(crate) fn new(
        (store, clock): (Arc<dyn Store>, Clock),
        (metrics, bus): (Arc<Metrics>, Bus),
        leadership: Leadership,
        scribe: Scribe,
        settings: NotifySettings,
    ) -> Self {
        Notifier(Arc::new(Inner {
            time: StoreTime::new(clock.clone()),
            store,
            clock,
            metrics,
            bus,
            leadership,
            scribe,
            settings,
            channels: Channels::with_log(),
            seen: Seen::default(),
            nudge: Notify::new(),
        }))
    }

    /// Tells through this channel too, where this instance leads. Register the same channels on
    /// every instance, before it starts: any of them may lead. A notice goes to the channels that
    /// there are when it is written.
    ///
    /// # Errors
    /// `Invalid` for a name that is taken, or is not of small letters, digits and hyphens; `Busy`
    /// if there are [`MAX_CHANNELS`].
    pub fn tell_through(&self, channel: Arc<dyn Channel>) -> Result<()> {
        self.0.channels.add(channel)
    }

    /// The names of the channels of this instance; `log` is always among them.
    pub fn channels(&self) -> Vec<String> {
        self.0.channels.names()
    }

    /// What is to be written beside these moves, in the commit that makes them.
    ///
    /// `firing` is everything that fires after the moves. Ask at every evaluation, also when nothing
    /// moved: a silence may have ended, or a group have waited long enough. Commit the guards and
    /// writes under the leader's fence; when the guard on the book does not hold, another has
    /// written, and this is asked again. Asking changes nothing. After the commit,
    /// [`committed`](Notifier::committed) makes delivery begin at once.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn effects(
        &self,
        moves: &[Transition],
        firing: &[Firing],
        at: Timestamp,
    ) -> Result<Effects> {
        let keys = [book_key(), shelf_key()];
        let records = self.0.store.get(&keys).await?.records;
        let record = |key: &Key| records.iter().flatten().find(|record| record.key == *key);
        let (found, shelf) = (record(&keys[0]), record(&keys[1]));
        let book: Book = found.map(decode).transpose()?.unwrap_or_default();
        let shelf: Shelf = shelf.map(decode).transpose()?.unwrap_or_default();
        let settings = &self.0.settings;
        let policy = Policy {
            silences: &shelf.silences,
            least: settings.least,
            group_wait: settings.group_wait,
        };
        let plan = plan::plan(&book, moves, firing, &policy, at);
        if plan.book == book {
            return Ok(Effects::default());
        }
        let guard = match found {
            Some(record) => Guard::RevisionIs(book_key(), record.revision),
            None => Guard::Absent(book_key()),
        };
        let channels = self.0.channels.names();
        let mut writes = vec![put(book_key(), &plan.book)?];
        for draft in plan.drafts {
            let notice = Notice::of(at, draft.group, draft.alerts, &settings.instance);
            writes.extend(Stored::new(notice, draft.order, &channels).begin()?);
        }
        Ok(Effects { guards: vec![guard], writes })
    }

    /// What [`effects`](Notifier::effects) gave is committed: delivery begins now and not within a
    /// second.
    pub fn committed(&self) {
        self.0.nudge.notify_one();
    }

    /// What fires and is not told, by rule, with what holds it back.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn held(&self) -> Result<Vec<(String, Held)>> {
        let records = self.0.store.get(&[book_key()]).await?.records;
        let book: Book =
            records.iter().flatten().next().map(decode).transpose()?.unwrap_or_default();
        Ok(book.held.into_iter().collect())
    }

    /// Sends a test notice through every channel of this instance, now and once, and says what came
    /// of it. It is not kept and not tried again.
    pub async fn test(&self) -> Vec<Tested> {
        let at = self.0.clock.now();
        let mut labels = std::collections::BTreeMap::new();
        labels.insert("test".to_owned(), "true".to_owned());
        let alert = Alert {
            rule: "notification_test".into(),
            severity: Severity::Info,
            state: Status::Firing,
            episode: at.as_micros(),
            value: None,
            summary: "this is a test of notifications; nothing is wrong".into(),
            since: at,
            until: None,
            runbook: None,
            labels,
        };
        let notice = Notice::of(at, "test".into(), vec![alert], &self.0.settings.instance);
        let names = self.0.channels.names();
        let each = names.into_iter().filter_map(|name| Some((self.0.channels.get(&name)?, name)));
        let notice = &notice;
        let tests = each.map(|(channel, name)| async move {
            let outcome = deliver::deliver(&*channel, notice, &self.0.clock).await;
            let error = outcome.err().map(|failure| failure.why);
            Tested { channel: name, delivered: error.is_none(), error }
        });
        futures_util::future::join_all(tests).await
    }
}

fn book_key() -> Key {
    Key::new(Partition::FIRST, BOOK, "all")
}

fn shelf_key() -> Key {
    Key::new(Partition::FIRST, SILENCES, "all")
}

fn decode<T: DeserializeOwned>(record: &Record) -> Result<T> {
    serde_json::from_slice(&record.value).map_err(|error| {
        let message = format!("this record cannot be read: {}", record.key);
        Error::new(ErrorKind::Internal, message).with_source(error)
    })
}

fn put<T: Serialize>(key: Key, content: &T) -> Result<Write> {
    let value = serde_json::to_vec(content).map_err(|error| {
        let message = format!("this record has no JSON form: {key}");
        Error::new(ErrorKind::Internal, message).with_source(error)
    })?;
    Ok(Write::Put { key, value, deadline: Deadline::Never })
}
