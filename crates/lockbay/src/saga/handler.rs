//! Handlers: who does the steps of a name, here, at an address, or whoever polls for them.
//!
//! A handler of this process is registered with it and known to it alone. Any other is a record,
//! known to every instance: *push* has an address that is called, *pull* is served by workers that
//! poll. How an address is called is the business of whoever embeds this crate; it comes in as a
//! [`Caller`].

use std::collections::HashMap;
use std::sync::Arc;
#[cfg(any(test, feature = "test-util"))]
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::definition::check_time;
use super::record::{decode, encode};
use super::step::Step;
use crate::clock::{Clock, Tick};
use crate::error::{Error, ErrorKind, Result};
use crate::name::check_name;
use crate::scribe::{Entry, Scribe};
use crate::store::{Commit, Deadline, Guard, Key, Kind, Partition, Range, Reply, Store, Write};

/// A handler that is not of one process alone. Key: its name.
pub(crate) const HANDLER: Kind = Kind::new("handler");

/// How long a handler's record is trusted before it is read again, and how long that there is none.
const FRESH: Duration = Duration::from_secs(1);
const FRESH_NONE: Duration = Duration::from_millis(200);
/// The most handlers that are remembered; more are read each time.
const REMEMBERED: usize = 10_000;
/// The longest address.
const MAX_URL_BYTES: usize = 2_048;
/// The longest secret.
const MAX_SECRET_BYTES: usize = 512;

/// An address at which a handler is called.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where.
    pub url: String,
    /// What calls are signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// How long one call may take, in microseconds, if less than the step may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_us: Option<u64>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url).finish_non_exhaustive()
    }
}

/// How a handler is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// It is called.
    Push(Endpoint),
    /// It polls.
    Pull,
}

/// Calls handlers at their addresses.
pub trait Caller: Send + Sync + 'static {
    /// The step that a handler at this address does.
    fn step(&self, name: &str, endpoint: &Endpoint) -> Arc<dyn Step>;

    /// Whether an address may be called at all, as far as that can be told before it is.
    ///
    /// # Errors
    /// `Invalid`, with the reason.
    fn check(&self, endpoint: &Endpoint) -> Result<()>;
}

/// A handler as a list shows it. Secrets are not shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HandlerInfo {
    /// Its name.
    pub name: String,
    /// `local`, `push` or `pull`.
    pub kind: &'static str,
    /// Where it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether calls are signed.
    pub signed: bool,
    /// How long one call may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
}

/// Puts something around every step, for tests of steps.
#[cfg(any(test, feature = "test-util"))]
pub(crate) type Wrap = Arc<dyn Fn(Arc<dyn Step>) -> Arc<dyn Step> + Send + Sync>;

impl HandlerInfo {
    /// The same with no more of its address than the audit trail tells: without user and query, in
    /// which a key may stand.
    #[must_use]
    pub fn without_secrets(self) -> Self {
        HandlerInfo { url: self.url.as_deref().map(shown), ..self }
    }

    fn local(name: &str) -> Self {
        HandlerInfo {
            name: name.to_owned(),
            kind: "local",
            url: None,
            signed: false,
            timeout_seconds: None,
        }
    }

    /// What a list shows of a handler that is reached so.
    pub fn of(name: String, route: &Route) -> Self {
        match route {
            Route::Pull => {
                HandlerInfo { name, kind: "pull", url: None, signed: false, timeout_seconds: None }
            }
            Route::Push(endpoint) => HandlerInfo {
                name,
                kind: "push",
                url: Some(endpoint.url.clone()),
                signed: endpoint.secret.is_some(),
                timeout_seconds: endpoint
                    .timeout_us
                    .map(|us| Duration::from_micros(us).as_secs_f64()),
            },
        }
    }
}

/// Makes the step of a handler that polls.
pub(crate) type PullStep = Arc<dyn Fn(&str) -> Arc<dyn Step> + Send + Sync>;

/// What was read of a handler, and until when that is trusted.
type Remembered = (Tick, Option<Arc<dyn Step>>);

/// All handlers that an instance knows.
pub(crate) struct Handlers {
    store: Arc<dyn Store>,
    clock: Clock,
    local: RwLock<HashMap<String, Arc<dyn Step>>>,
    remembered: RwLock<HashMap<String, Remembered>>,
    caller: RwLock<Option<Arc<dyn Caller>>>,
    pull: PullStep,
    scribe: Scribe,
    /// Set once, so that a build with the kit in it does not pay for it.
    #[cfg(any(test, feature = "test-util"))]
    wrap: OnceLock<Wrap>,
}

impl Handlers {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Clock, pull: PullStep, scribe: Scribe) -> Self {
        Handlers {
            store,
            clock,
            local: RwLock::default(),
            remembered: RwLock::default(),
            caller: RwLock::default(),
            pull,
            scribe,
            #[cfg(any(test, feature = "test-util"))]
            wrap: OnceLock::new(),
        }
    }

    /// From now on, every step that is found is one that this makes of it. Said once at most.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn wrap(&self, wrap: Wrap) {
        assert!(self.wrap.set(wrap).is_ok(), "steps are wrapped once");
    }

    /// Who does the steps of this name, if anybody does.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Arc<dyn Step>>> {
        let found = self.look_up(name).await?;
        #[cfg(any(test, feature = "test-util"))]
        if let (Some(step), Some(wrap)) = (&found, self.wrap.get()) {
            return Ok(Some(wrap(Arc::clone(step))));
        }
        Ok(found)
    }

    pub(crate) fn register(&self, name: &str, step: Arc<dyn Step>) -> Result<()> {
        check_name("handler", name, 128)?;
        self.local.write().insert(name.to_owned(), step);
        Ok(())
    }

    pub(crate) fn call_with(&self, caller: Arc<dyn Caller>) {
        *self.caller.write() = Some(caller);
    }

    async fn look_up(&self, name: &str) -> Result<Option<Arc<dyn Step>>> {
        if let Some(step) = self.local.read().get(name) {
            return Ok(Some(Arc::clone(step)));
        }
        let now = self.clock.tick();
        if let Some((until, step)) = self.remembered.read().get(name)
            && now < *until
        {
            return Ok(step.clone());
        }
        let step = self.read(name).await?.and_then(|route| self.step(name, &route));
        let mut remembered = self.remembered.write();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        let fresh = if step.is_some() { FRESH } else { FRESH_NONE };
        remembered.insert(name.to_owned(), (now + fresh, step.clone()));
        Ok(step)
    }

    /// `None` for one that is called, where nobody said how.
    fn step(&self, name: &str, route: &Route) -> Option<Arc<dyn Step>> {
        match route {
            Route::Pull => Some((self.pull)(name)),
            Route::Push(endpoint) => {
                let caller = self.caller.read().clone()?;
                Some(caller.step(name, endpoint))
            }
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Route>> {
        let read = self.store.get(&[key(name)]).await?;
        read.records.into_iter().flatten().next().map(|record| decode(&record)).transpose()
    }

    /// Says how a handler is reached, for every instance. Instances that know it otherwise learn it
    /// within a second.
    pub(crate) async fn put(&self, name: &str, route: &Route) -> Result<()> {
        check_name("handler", name, 128)?;
        if self.local.read().contains_key(name) {
            let message = format!("handler {name:?} is built in and cannot be replaced");
            return Err(Error::new(ErrorKind::Refused, message));
        }
        if let Route::Push(endpoint) = route {
            check_name("url", &endpoint.url, MAX_URL_BYTES)?;
            if let Some(secret) = &endpoint.secret {
                check_name("secret", secret, MAX_SECRET_BYTES)
                    .map_err(|_| Error::invalid("a secret has 1 to 512 visible bytes"))?;
            }
            if let Some(timeout) = endpoint.timeout_us {
                check_time("the timeout of a handler", Duration::from_micros(timeout))?;
            }
            if let Some(caller) = self.caller.read().as_ref() {
                caller.check(endpoint)?;
            }
        }
        let commit = self.keep(name, "put", route, Vec::new())?;
        self.store.commit(&commit).await?;
        self.remembered.write().remove(name);
        Ok(())
    }

    /// Notes that somebody polls for steps of this name, unless it is known how they are reached.
    pub(crate) async fn polled(&self, name: &str) -> Result<()> {
        check_name("handler", name, 128)?;
        if self.find(name).await?.is_some() {
            return Ok(());
        }
        let commit = self.keep(name, "polled", &Route::Pull, vec![Guard::Absent(key(name))])?;
        self.store.commit(&commit).await?;
        self.remembered.write().remove(name);
        Ok(())
    }

    /// The commit that keeps how a handler is reached. The record holds a secret: it has no digest
    /// in the audit trail, by which it could be tried.
    fn keep(
        &self,
        name: &str,
        action: &'static str,
        route: &Route,
        guards: Vec<Guard>,
    ) -> Result<Commit> {
        let url = match route {
            Route::Pull => None,
            Route::Push(endpoint) => Some(shown(&endpoint.url)),
        };
        let entry = Entry::new("handler", name, action).with_some("url", url);
        let mut writes: Vec<Write> = self.scribe.enter(&entry).into_iter().collect();
        let key = key(name);
        let partition = key.partition;
        writes.push(Write::Put { key, value: encode(route)?, deadline: Deadline::Never });
        Commit::new(partition, guards, writes, Vec::new())
    }

    /// Forgets a handler that is not of this process.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        check_name("handler", name, 128)?;
        let key = key(name);
        let read = self.store.get(std::slice::from_ref(&key)).await?;
        // One that was put before a closure took its name goes as any other.
        let Some(record) = read.records.into_iter().flatten().next() else {
            return Err(if self.local.read().contains_key(name) {
                let message = format!("handler {name:?} is built in and cannot be deleted");
                Error::new(ErrorKind::Refused, message)
            } else {
                Error::new(ErrorKind::NotFound, format!("there is no handler {name:?}"))
            });
        };
        let guard = Guard::RevisionIs(key.clone(), record.revision);
        let partition = key.partition;
        let mut entry = Entry::new("handler", name, "deleted");
        entry.previous = Some(record.revision);
        let mut writes = vec![Write::Delete { key }];
        writes.extend(self.scribe.enter(&entry));
        let commit = Commit::new(partition, vec![guard], writes, Vec::new())?;
        let reply = self.store.commit(&commit).await?;
        self.remembered.write().remove(name);
        match reply {
            Reply::Committed { .. } => Ok(()),
            Reply::Conflict { .. } => {
                let message = format!("handler {name:?} was changed meanwhile; look at it first");
                Err(Error::new(ErrorKind::Held, message))
            }
        }
    }

    /// A page of all handlers, in the order of their names.
    pub(crate) async fn list(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<HandlerInfo>, Option<String>)> {
        let is_behind = |name: &&String| after.as_ref().is_none_or(|after| *name > after);
        let mut items: Vec<HandlerInfo> = {
            let local = self.local.read();
            let names = local.keys().filter(is_behind);
            names.map(|name| HandlerInfo::local(name)).collect()
        };
        let range = Range::new(Partition::FIRST, HANDLER, "").after(after.clone());
        let page = self.store.scan(&range, limit).await?;
        for record in &page.records {
            items.push(HandlerInfo::of(record.key.id.to_string(), &decode(record)?));
        }
        if let Some(last) = page.records.last().filter(|_| page.more) {
            // Those here that stand behind it come after what the next page holds.
            items.retain(|item| *item.name <= *last.key.id);
        }
        items.sort_by(|one, other| one.name.cmp(&other.name));
        let more = page.more || items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| last.name.clone());
        Ok((items, next))
    }

    /// How many handlers this process has registered.
    pub(crate) fn registered(&self) -> usize {
        self.local.read().len()
    }
}

/// An address without what may be secret in it: the name and password of a user, and the query.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/{path}")
}

fn key(name: &str) -> Key {
    Key::new(Partition::FIRST, HANDLER, name)
}
