//! State: values with a version, tags and a time to live, and what is at hand of them here.
//!
//! State owns the records of keys, tags, rules and dependencies, and the values that this instance
//! keeps at hand. It refuses to know what the values mean. What it promises of a value that is read:
//! on the instance that acknowledged a change, a read that begins afterwards never sees what was
//! before; on every other, not later than a second after.
//!
//! The way through the files: [`record`] is what is stored, [`rule`] what follows from a change,
//! [`book`] keeps the rules of the store at hand, [`read`] and [`write`] are one key, [`load`] lets
//! one caller fill it while others wait, [`invalidate`] voids many, [`local`] says what may be
//! served without asking, [`watch`] keeps that fresh, [`upkeep`] removes what nobody can see.
//!
//! # What holds
//! Every commit is made under the rules as they are at that moment, because it is guarded by the
//! revision of all rules together. Invalidating a tag is one commit of one record, however many
//! values have it: a value is stale if a tag of it was invalidated after the moment that the value
//! is as of. A value that is loaded is as of the moment when its load began, so that one that was
//! loaded from before an invalidation never survives it.

mod book;
mod invalidate;
mod load;
mod local;
mod read;
mod record;
mod rule;
mod upkeep;
mod watch;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::metrics::{Metric, Metrics};
use crate::scribe::Scribe;
use crate::store::{Revision, Store};

pub use invalidate::{Invalidated, Invalidation};
pub use load::LoadOptions;
pub use read::{ListedState, StatePage};
pub(crate) use record::STATE;
pub use record::{
    MAX_KEY_BYTES, MAX_SOURCE_BYTES, MAX_TAG_BYTES, MAX_TAGS, MAX_TTL, MAX_VALUE_BYTES, StateEntry,
};
pub use rule::{MAX_DEPENDENCIES, MAX_DEPENDENTS, MAX_RULE_PATTERNS, MAX_RULES, MAX_SOURCES, Rule};
pub use upkeep::StaleSwept;
pub use write::{IfVersion, SetOptions, Written};

use book::Library;
use load::Flights;
use local::Local;

/// All state of a namespace, as one instance sees it. Cheap to clone.
///
/// A value is loaded once, and loaded again after an invalidation:
///
/// ```
/// # tokio_test(async {
/// use lockbay::state::{Invalidation, LoadOptions};
/// use lockbay::{Config, Json, LockBay};
///
/// let bay = LockBay::open(Config { store: "memory:".into(), ..Config::default() }).await?;
/// let load = || async { Json::parse(r#"{"name":"Ann"}"#) };
/// let options = LoadOptions { tags: vec!["profiles".into()], ..LoadOptions::default() };
/// let profile = bay.state().get_or_load("user:7:profile", options, load).await?;
/// assert_eq!(profile.value.text(), r#"{"name":"Ann"}"#);
/// let tag = Invalidation { tags: vec!["profiles".into()], ..Invalidation::default() };
/// bay.state().invalidate(&tag).await?;
/// assert!(bay.state().get("user:7:profile").await?.is_none());
/// # Ok(()) });
/// # fn tokio_test(f: impl Future<Output = lockbay::Result<()>>) {
/// #     tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(f).unwrap()
/// # }
/// ```
///
/// A value that changed meanwhile is not overwritten:
///
/// ```
/// # tokio_test(async {
/// use lockbay::state::{SetOptions, parse_version};
/// use lockbay::{Config, ErrorKind, Json, LockBay};
///
/// let bay = LockBay::open(Config { store: "memory:".into(), ..Config::default() }).await?;
/// let first = bay.state().set("limit", Json::parse("10")?, SetOptions::default()).await?;
/// bay.state().set("limit", Json::parse("20")?, SetOptions::default()).await?;
/// let if_version = parse_version(&first.version)?;
/// let options = SetOptions { if_version, ..SetOptions::default() };
/// let refused = bay.state().set("limit", Json::parse("11")?, options).await.unwrap_err();
/// assert_eq!(refused.kind(), ErrorKind::Fenced);
/// # Ok(()) });
/// # fn tokio_test(f: impl Future<Output = lockbay::Result<()>>) {
/// #     tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(f).unwrap()
/// # }
/// ```
#[derive(Clone)]
pub struct State(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    scribe: Scribe,
    local: Local,
    library: Library,
    flights: Flights,
    upkeep: tokio::sync::Mutex<upkeep::Pass>,
}

/// Whether a value that may be old is better than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServeStale {
    /// No: a store or a loader that fails is an error.
    #[default]
    Never,
    /// If the store or the loader fails, a value is served that was verified at most this long ago,
    /// and at most a day, and is not known here to be invalidated. Its time to live may be over.
    UpTo(Duration),
}

/// A value that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The value and what belongs to it.
    pub entry: Arc<StateEntry>,
    /// Whether it may be older than promised, because nothing better could be had; see
    /// [`ServeStale`].
    pub stale: bool,
}

impl std::ops::Deref for Found {
    type Target = StateEntry;
    fn deref(&self) -> &StateEntry {
        &self.entry
    }
}

impl State {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        metrics: Arc<Metrics>,
        scribe: Scribe,
    ) -> Self {
        State(Arc::new(Inner {
            local: Local::new(clock.clone()),
            library: Library::default(),
            flights: Flights::default(),
            upkeep: tokio::sync::Mutex::default(),
            store,
            clock,
            metrics,
            scribe,
        }))
    }

    /// About how many values are at hand here, and how many bytes they take.
    pub fn at_hand(&self) -> (u64, u64) {
        self.0.local.size()
    }

    /// Counts so many at once.
    fn count(&self, metric: Metric, times: u64) {
        self.0.metrics.add(metric, times);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

/// A version as it was handed out; "0" means that there is no value.
///
/// # Errors
/// `Invalid` if it is not a number.
pub fn parse_version(text: &str) -> crate::Result<IfVersion> {
    match text.parse() {
        Ok(0) => Ok(IfVersion::Absent),
        Ok(number) => Ok(IfVersion::Is(Revision::new(number))),
        Err(_) => Err(crate::Error::invalid(format!(
            "a version is a number in quotes, \"0\" for no value, not {text:?}"
        ))),
    }
}
