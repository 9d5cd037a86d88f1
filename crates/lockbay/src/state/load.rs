//! Loading: one caller fills a key while all others wait, in this process and beyond.
//!
//! Within the process the callers of a key join one flight. Across instances the flight that finds
//! no value commits a lease on the key, and the others wait for the value or for the lease to
//! lapse. What is loaded is stored under that lease alone, so an invalidation or a set that came in
//! between, by deleting or replacing it, keeps out what was loaded from before. These are the leases
//! of R. Nishtala et al., "Scaling Memcache at Facebook" (NSDI 2013), with the lease as a record.
//!
//! # Who may take what a flight brings
//! A value is good as of a moment: when its commit was sent, which proves that nothing was
//! invalidated up to then; or, if it could not be stored, when its load began. A caller takes it if
//! that moment lies at most [`TRUST`] before the call began. No caller joins a flight that began
//! before an invalidation that was acknowledged here before the call.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::local::{Entry, Moment, TRUST};
use super::read::{Look, Sight};
use super::record::{
    Content, HOME, StateEntry, check_key, check_source, check_tags, check_ttl, check_value,
    state_key,
};
use super::write::tag_guard;
use super::{Found, ServeStale, State};
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::metrics::Metric;
use crate::store::{Commit, Deadline, Fence, Guard, Reply, Revision, Write};

/// How long a load may take.
const MIN_LOAD: Duration = Duration::from_millis(10);
const MAX_LOAD: Duration = Duration::from_secs(3_600);
/// How often a value is loaded anew because it was invalidated meanwhile, before what was loaded
/// last is given to those who may take it, and not stored.
const MAX_LOADS: usize = 4;
/// How often a caller looks for another flight because the one it joined brought what is too old.
const MAX_FLIGHTS: usize = 16;
/// How often it is looked whether another instance has loaded; a hint comes sooner.
const POLL: Duration = Duration::from_millis(100);
/// Those who wait for keys of one hash are woken together.
const WAKERS: usize = 64;

/// How long to wait before each look for a lease of which it is not known whether it is there.
const LOOKS_FOR_A_LEASE: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];

/// How a value is loaded, and what it comes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// How long it lives; for ever if nothing is said.
    pub ttl: Option<Duration>,
    /// By what else it can be invalidated.
    pub tags: Vec<String>,
    /// Where it comes from; for people.
    pub source: Option<String>,
    /// How long one load may take; from 10 ms to an hour. Others wait as long for one whose process
    /// died.
    pub load_timeout: Duration,
    /// Whether an older value is better than an error.
    pub stale: ServeStale,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            ttl: None,
            tags: Vec::new(),
            source: None,
            load_timeout: Duration::from_secs(30),
            stale: ServeStale::Never,
        }
    }
}

/// The flights of this process, and who waits for keys of other instances.
pub(super) struct Flights {
    flying: Mutex<HashMap<String, Flight>>,
    wakers: Vec<Notify>,
}

impl Default for Flights {
    fn default() -> Self {
        let wakers = (0..WAKERS).map(|_| Notify::new()).collect();
        Flights { flying: Mutex::default(), wakers }
    }
}

impl Flights {
    fn waker(&self, key: &str) -> &Notify {
        let sum = key.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31) + usize::from(byte));
        &self.wakers[sum % WAKERS]
    }

    /// Something of this key changed.
    pub(super) fn wake(&self, key: &str) {
        self.waker(key).notify_waiters();
    }

    /// Anything may have changed.
    pub(super) fn wake_all(&self) {
        self.wakers.iter().for_each(Notify::notify_waiters);
    }
}

/// Several callers that wait for one value.
#[derive(Clone)]
struct Flight {
    /// The number at which it began, and the tags that its value will have.
    began: u64,
    tags: Arc<[String]>,
    landed: watch::Receiver<Option<Landed>>,
}

/// How a flight ended.
#[derive(Clone)]
enum Landed {
    Value(Brought),
    Failed(ErrorKind, String),
}

/// What a flight brings.
#[derive(Clone)]
struct Brought {
    entry: Arc<StateEntry>,
    /// The moment that it is good as of.
    good: Tick,
    /// When it lapses.
    expires: Option<Tick>,
    /// The number of the read that found it in the store, where it may have other tags than the
    /// flight. Nothing if the flight loaded it: then it has those by which callers joined.
    read: Option<u64>,
}

impl Brought {
    /// Whether a caller may take it whose call began then.
    fn is_for(&self, called: Tick) -> bool {
        called.since(self.good) < TRUST && self.expires.is_none_or(|expires| called < expires)
    }
}

/// A load as a flight makes it.
struct Wish {
    key: String,
    tags: Arc<[String]>,
    options: LoadOptions,
}

impl State {
    /// The value of a key, which is loaded and stored if there is none. Callers of one key wait for
    /// one load, on all instances together; what they gave as options counts from the one who
    /// loads.
    ///
    /// A loader that fails, panics or takes too long is an error for all who wait for it, and the
    /// next call loads anew. It goes on if its caller goes away. If its process dies, others load
    /// when `load_timeout` is over. A value that is invalidated while it is loaded is loaded again
    /// and never stored; a value that is loaded sets off no rules. The loader may be called again,
    /// up to four times in one call. One that makes the value of other keys reads these with
    /// [`get_latest`](State::get_latest). Needs a Tokio runtime.
    ///
    /// # Errors
    /// As [`set`](State::set); the loader's own; `Busy` if others load and fail, or the value is
    /// invalidated, again and again.
    pub async fn get_or_load<L, F>(
        &self,
        key: &str,
        options: LoadOptions,
        loader: L,
    ) -> Result<Found>
    where
        L: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Json>> + Send + 'static,
    {
        check_key(key)?;
        check_ttl(options.ttl)?;
        check_source(options.source.as_deref())?;
        if !(MIN_LOAD..=MAX_LOAD).contains(&options.load_timeout) {
            let given = options.load_timeout;
            return Err(Error::invalid(format!(
                "a load_timeout is from {MIN_LOAD:?} to {MAX_LOAD:?}, not {given:?}"
            )));
        }
        let tags: Arc<[String]> = check_tags(&options.tags)?.into();
        let stale = options.stale;
        let called = self.0.clock.tick();
        let wish = Arc::new(Wish { key: key.to_owned(), tags, options });
        let loader = Arc::new(loader);
        for _ in 0..MAX_FLIGHTS {
            if let Some(found) = self.at_hand_of(key) {
                return Ok(found);
            }
            let mut landed = self.board(&wish, &loader);
            let landed = landed.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
            match landed {
                Some(Landed::Value(brought))
                    if brought.is_for(called) && !self.is_void(&brought) =>
                {
                    return Ok(Found { entry: brought.entry, stale: false });
                }
                Some(Landed::Value(_)) => {}
                Some(Landed::Failed(kind, message)) => {
                    return self.instead_of(Error::new(kind, message), key, stale);
                }
                None => return Err(Error::new(ErrorKind::Internal, "a load was lost")),
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("state key {key:?} is invalidated all the time")))
    }

    /// Whether what was found is from before an invalidation that is known here, by the tags that it
    /// has and not by those that were wished for.
    fn is_void(&self, brought: &Brought) -> bool {
        let Brought { entry, read, .. } = brought;
        read.is_some_and(|read| self.0.local.is_void_since(read, &entry.key, &entry.tags))
    }

    /// Joins the flight of a key, or begins one if there is none that may be joined.
    fn board<L, F>(&self, wish: &Arc<Wish>, loader: &Arc<L>) -> watch::Receiver<Option<Landed>>
    where
        L: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Json>> + Send + 'static,
    {
        let mut flying = self.0.flights.flying.lock();
        if let Some(flight) = flying.get(&wish.key)
            && flight.landed.borrow().is_none()
            // Its task is there still.
            && flight.landed.has_changed().is_ok()
            && !self.0.local.is_void_since(flight.began, &wish.key, &flight.tags)
        {
            self.count(Metric::StateLoadsShared, 1);
            return flight.landed.clone();
        }
        self.count(Metric::StateMisses, 1);
        let began = self.0.local.begin().number;
        let (land, landed) = watch::channel(None);
        let flight = Flight { began, tags: wish.tags.clone(), landed: landed.clone() };
        flying.insert(wish.key.clone(), flight);
        let (state, wish, loader) = (self.clone(), Arc::clone(wish), Arc::clone(loader));
        tokio::spawn(async move {
            let end = match state.fly(&wish, &*loader).await {
                Ok(brought) => Landed::Value(brought),
                Err(error) => Landed::Failed(error.kind(), error.to_string()),
            };
            let mut flying = state.0.flights.flying.lock();
            if flying.get(&wish.key).is_some_and(|flight| flight.began == began) {
                flying.remove(&wish.key);
            }
            drop(flying);
            land.send_replace(Some(end));
        });
        landed
    }

    /// Brings the value of a key, by whatever it takes.
    async fn fly<L, F>(&self, wish: &Arc<Wish>, loader: &L) -> Result<Brought>
    where
        L: Fn() -> F + Send + Sync,
        F: Future<Output = Result<Json>> + Send,
    {
        // Long enough for one whose process died and for one more, and then for our own.
        let until = self.0.clock.tick() + wish.options.load_timeout * 2 + POLL;
        let mut loads = 0;
        loop {
            // Registered before looking, so that a change in between is not slept through.
            let changed = self.0.flights.waker(&wish.key).notified();
            let look = self.look(&wish.key, &wish.tags).await?;
            let guard = match &look.sight {
                Sight::Fresh(entry) => {
                    let Moment { number, tick } = look.moment;
                    return Ok(Brought {
                        entry: entry.state.clone(),
                        good: tick,
                        expires: entry.expires,
                        read: Some(number),
                    });
                }
                Sight::Leased { left, .. } => {
                    if self.0.clock.tick() >= until {
                        return Err(busy(&wish.key));
                    }
                    // At least a little: a lease that is about to lapse is not asked for in a spin.
                    let nap = (*left).clamp(Duration::from_millis(1), POLL);
                    self.0.clock.timeout(nap, changed).await;
                    continue;
                }
                Sight::Free(guard) => guard.clone(),
            };
            let Some(lease) = self.lease(wish, guard, &look).await? else {
                if self.0.clock.tick() >= until {
                    return Err(busy(&wish.key));
                }
                continue;
            };
            loads += 1;
            let began = self.0.clock.tick();
            let json = match self.load(wish, loader).await {
                Ok(json) => json,
                Err(error) => {
                    self.give_up(wish, lease).await;
                    return Err(error);
                }
            };
            match self.store_loaded(wish, &look, lease.revision, &json).await {
                Ok(Some(stored)) => return Ok(stored),
                Ok(None) => {
                    // It is ours still where only the record of a tag has gone.
                    self.give_up(wish, lease).await;
                    if loads == MAX_LOADS {
                        return Ok(self.unstored(wish, json, began));
                    }
                }
                Err(error) => {
                    self.give_up_later(wish, lease.id);
                    // It is what the loader says, whatever the store does.
                    let is_away = is_away(&error);
                    return if is_away { Ok(self.unstored(wish, json, began)) } else { Err(error) };
                }
            }
        }
    }

    /// Takes the lease of a key that is free, unless somebody else was first.
    async fn lease(&self, wish: &Wish, free: Guard, look: &Look) -> Result<Option<Lease>> {
        let id = self.0.clock.random_id();
        let content = Content::Lease { tags: wish.tags.to_vec(), id: Some(id.clone()) };
        let put = Write::Put {
            key: state_key(&wish.key),
            value: content.encode()?,
            deadline: Deadline::After(wish.options.load_timeout),
        };
        let guards = std::iter::once(free).chain(tag_guards(wish, look)).collect();
        let commit = Commit::new(HOME, guards, vec![put], Vec::new())?;
        match self.commit_surely(&commit).await {
            Ok(Reply::Committed { revision, .. }) => Ok(Some(Lease { revision, id })),
            Ok(Reply::Conflict { .. }) => Ok(None),
            Err(error) => {
                if error.kind() == ErrorKind::Unknown {
                    self.give_up_later(wish, id);
                }
                Err(error)
            }
        }
    }

    /// Removes the lease of this id, of which it is not known whether it is there, so that nobody
    /// waits for it. It may come late, and the store may be away: it is looked for some times, while
    /// the caller goes on.
    fn give_up_later(&self, wish: &Wish, id: String) {
        let (state, key) = (self.clone(), wish.key.clone());
        tokio::spawn(async move {
            for nap in LOOKS_FOR_A_LEASE {
                state.0.clock.sleep(nap).await;
                match state.remove_lease(&key, &id).await {
                    Ok(Removed::Yes) => return,
                    Ok(Removed::NotThere) => {}
                    Err(error) => tracing::debug!(key, %error, "no lease to load was looked for"),
                }
            }
        });
    }

    async fn remove_lease(&self, key: &str, id: &str) -> Result<Removed> {
        let key = state_key(key);
        let read = self.0.store.get(std::slice::from_ref(&key)).await?;
        let Some(record) = read.records.into_iter().next().flatten() else {
            return Ok(Removed::NotThere);
        };
        match Content::of(&record)? {
            Content::Lease { id: Some(own), .. } if own == id => {}
            Content::Lease { .. } | Content::Value { .. } => return Ok(Removed::NotThere),
        }
        let guards = vec![Guard::RevisionIs(key.clone(), record.revision)];
        let writes = vec![Write::Delete { key: key.clone() }];
        let commit = Commit::new(HOME, guards, writes, vec![key])?;
        // Whatever was in between has replaced it.
        self.commit_surely(&commit).await.map(|_| Removed::Yes)
    }

    /// Calls the loader once.
    async fn load<L, F>(&self, wish: &Wish, loader: &L) -> Result<Json>
    where
        L: Fn() -> F + Send + Sync,
        F: Future<Output = Result<Json>> + Send,
    {
        self.count(Metric::StateLoads, 1);
        let limit = wish.options.load_timeout;
        // In a future of its own, so that a loader that panics before its first await is caught.
        let call = AssertUnwindSafe(async { loader().await }).catch_unwind();
        let key = &wish.key;
        match self.0.clock.timeout(limit, call).await {
            Some(Ok(loaded)) => {
                let json = loaded?;
                check_value(key, &json)?;
                Ok(json)
            }
            Some(Err(_)) => {
                let message = format!("the loader of state key {key:?} panicked");
                Err(Error::new(ErrorKind::Internal, message))
            }
            None => {
                let message = format!("the loader of state key {key:?} took longer than {limit:?}");
                Err(Error::new(ErrorKind::Unavailable, message))
            }
        }
    }

    /// Stores what was loaded, unless the lease is gone or a tag was invalidated meanwhile.
    async fn store_loaded(
        &self,
        wish: &Arc<Wish>,
        look: &Look,
        lease: Revision,
        json: &Json,
    ) -> Result<Option<Brought>> {
        let LoadOptions { ttl, source, .. } = &wish.options;
        let key = state_key(&wish.key);
        let content = Content::Value {
            json: json.clone(),
            tags: wish.tags.to_vec(),
            source: source.clone(),
            as_of: Some(lease.number()),
        };
        let put = Write::Put {
            key: key.clone(),
            value: content.encode()?,
            deadline: ttl.map_or(Deadline::Never, Deadline::After),
        };
        let held = Guard::Held(Fence { key: key.clone(), token: lease });
        let guards = std::iter::once(held).chain(tag_guards(wish, look)).collect();
        let commit = Commit::new(HOME, guards, vec![put], vec![key])?;
        let sent: Moment = self.0.local.begin();
        match self.commit_surely(&commit).await {
            Ok(Reply::Committed { revision, now }) => {
                let state = StateEntry {
                    key: wish.key.clone(),
                    value: json.clone(),
                    version: revision.to_string(),
                    tags: wish.tags.to_vec(),
                    source: source.clone(),
                    updated_at: revision.time(),
                    expires_at: ttl.map(|ttl| now + ttl),
                };
                let state = Arc::new(state);
                let tags = wish.tags.iter().map(|tag| look.tags.get(tag).copied().flatten());
                let expires = ttl.map(|ttl| sent.tick + ttl);
                let entry = Entry::new(state.clone(), revision, tags.collect(), sent, expires);
                self.0.local.put(Arc::new(entry));
                Ok(Some(Brought { entry: state, good: sent.tick, expires, read: None }))
            }
            Ok(Reply::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A value that was not stored, for those who wait for it.
    fn unstored(&self, wish: &Wish, json: Json, began: Tick) -> Brought {
        tracing::debug!(key = wish.key, "a loaded value was not stored");
        let entry = StateEntry {
            key: wish.key.clone(),
            value: json,
            version: "0".into(),
            tags: wish.tags.to_vec(),
            source: wish.options.source.clone(),
            updated_at: self.0.clock.now(),
            expires_at: None,
        };
        Brought { entry: Arc::new(entry), good: began, expires: None, read: None }
    }

    /// Lets others load at once.
    async fn give_up(&self, wish: &Wish, lease: Lease) {
        let key = state_key(&wish.key);
        let guards = vec![Guard::RevisionIs(key.clone(), lease.revision)];
        let writes = vec![Write::Delete { key: key.clone() }];
        let done = match Commit::new(HOME, guards, writes, vec![key]) {
            Ok(commit) => self.commit_surely(&commit).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::debug!(key = wish.key, %error, "a lease to load was not given up at once");
            self.give_up_later(wish, lease.id);
        }
    }
}

/// The right to load a key, until its time is over or it is given up.
struct Lease {
    revision: Revision,
    id: String,
}

/// What became of a lease that was looked for.
enum Removed {
    Yes,
    NotThere,
}

/// Hold as long as no tag of the wish is invalidated after it was looked at.
fn tag_guards<'a>(wish: &'a Wish, look: &'a Look) -> impl Iterator<Item = Guard> + 'a {
    wish.tags.iter().map(|tag| tag_guard(tag, look.tags.get(tag).copied().flatten()))
}

fn is_away(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::Busy)
}

fn busy(key: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("others load state key {key:?} and do not come to an end"))
}
