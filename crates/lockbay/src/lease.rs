//! Named leases: a lock for any purpose, with a deadline and a fencing token.
//!
//! Whoever is granted a lease gets a token that only grows. The holder hands the token to what it
//! writes to, and that refuses lower ones; a lease never proves that the old holder has stopped.
//! The holder's name is for people: only the token renews or releases.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::keeper::{Keeper, Right};
use crate::metrics::{Metric, Metrics};
use crate::name::check_name;
use crate::scribe::{Entry, Scribe};
use crate::store::{
    Commit, Deadline, Fence, Guard, Key, Kind, Partition, Range, Record, Reply, Revision, Store,
    Write,
};

/// A named lease. Key: its name.
pub(crate) const LEASE: Kind = Kind::new("lease");

/// The shortest lease that is granted.
pub const MIN_TTL: Duration = Duration::from_millis(100);
/// The longest lease that is granted.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseRecord {
    holder: String,
    /// The idempotency key of the request that was granted it, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// A lease as the store says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseInfo {
    /// Its name.
    pub name: String,
    /// Who holds it, by its own word.
    pub holder: String,
    /// The token, as a string because it passes 2^53.
    pub fencing_token: String,
    /// When it lapses unless it is renewed, by the store's clock.
    pub expires_at: Timestamp,
}

/// The answer to a wish for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// It is yours until `expires_at`.
    Granted(LeaseInfo),
    /// It was granted to this very request before, and is still yours.
    Replayed(LeaseInfo),
    /// Somebody has it.
    Held {
        /// Who, by its own word.
        holder: String,
        /// How long it has left if it is not renewed.
        retry_after: Duration,
    },
}

/// All named leases of a namespace. Cheap to clone.
#[derive(Clone)]
pub struct Leases {
    store: Arc<dyn Store>,
    clock: Clock,
    keeper: Keeper,
    metrics: Arc<Metrics>,
    scribe: Scribe,
}

impl Leases {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        keeper: Keeper,
        metrics: Arc<Metrics>,
        scribe: Scribe,
    ) -> Self {
        Leases { store, clock, keeper, metrics, scribe }
    }

    /// Takes the lease if nobody holds it, else says who does. One round trip.
    ///
    /// Called twice by the same holder, the second is `Held`: a name is no proof of identity.
    ///
    /// # Errors
    /// `Invalid` for a name or holder that is empty, too long or has control characters, and for a
    /// TTL outside 100 ms to 24 h.
    pub async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Acquired> {
        self.acquire_once(name, holder, ttl, None).await
    }

    /// As [`acquire`](Leases::acquire), for a request that can be repeated after a lost reply:
    /// repeated with the same key and holder while the lease is held, it gets that lease again.
    ///
    /// # Errors
    /// As [`acquire`](Leases::acquire).
    pub async fn acquire_once(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
        idempotency_key: Option<&str>,
    ) -> Result<Acquired> {
        check_name("lease name", name, 256)?;
        check_name("holder", holder, 256)?;
        check_ttl(ttl)?;
        let content =
            LeaseRecord { holder: holder.into(), key: idempotency_key.map(str::to_owned) };
        let key = key(name);
        let value = encode(&content)?;
        let mut entry = Entry::new("lease", name, "granted")
            .with("holder", holder)
            .with("ttl_ms", u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        entry.worker = Some(holder);
        let mut writes: Vec<Write> = self.scribe.enter(&entry).into_iter().collect();
        writes.push(Write::Put { key: key.clone(), value, deadline: Deadline::After(ttl) });
        let guards = vec![Guard::Lapsed(key.clone())];
        let commit = Commit::new(key.partition, guards, writes, Vec::new())?;
        match self.store.commit(&commit).await? {
            Reply::Committed { revision, now } => {
                self.metrics.count(Metric::LeasesGranted);
                Ok(Acquired::Granted(LeaseInfo {
                    name: name.into(),
                    holder: holder.into(),
                    fencing_token: revision.to_string(),
                    expires_at: now + ttl,
                }))
            }
            Reply::Conflict { found, now, .. } => Ok(self.held(found.as_ref(), &content, now)),
        }
    }

    /// What a request is answered for whose lease is held.
    fn held(&self, found: Option<&Record>, wanted: &LeaseRecord, now: Timestamp) -> Acquired {
        let held = found.map(content_of).unwrap_or_default();
        if wanted.key.is_some()
            && held == *wanted
            && let Some(info) = found.and_then(info)
        {
            return Acquired::Replayed(info);
        }
        self.metrics.count(Metric::LeaseConflicts);
        let left = found.and_then(|record| record.deadline).map(|end| end.since(now));
        Acquired::Held { holder: held.holder, retry_after: left.unwrap_or_default() }
    }

    /// Takes the lease and keeps it renewed for as long as the returned [`HeldLease`] lives.
    ///
    /// # Errors
    /// As [`acquire`](Leases::acquire), and `Held` if somebody has it.
    pub async fn hold(&self, name: &str, holder: &str, ttl: Duration) -> Result<HeldLease> {
        let attempt = self.clock.tick();
        match self.acquire(name, holder, ttl).await? {
            Acquired::Granted(info) | Acquired::Replayed(info) => {
                let token = parse_token(&info.fencing_token)?;
                let right = self.keeper.keep(Fence { key: key(name), token }, ttl, attempt);
                Ok(HeldLease { leases: self.clone(), right })
            }
            Acquired::Held { holder, retry_after } => {
                let message = format!("lease {name:?} is held by {holder:?}");
                Err(Error::new(ErrorKind::Held, message).with_retry_after(retry_after))
            }
        }
    }

    /// Extends a lease that is still held under this token to `ttl` from now. One round trip.
    ///
    /// The token alone decides; `holder` is given back as it was given.
    ///
    /// # Errors
    /// `Fenced` if it has lapsed, was released, or is held under another token.
    pub async fn renew(
        &self,
        name: &str,
        holder: &str,
        token: Revision,
        ttl: Duration,
    ) -> Result<LeaseInfo> {
        check_name("lease name", name, 256)?;
        check_name("holder", holder, 256)?;
        check_ttl(ttl)?;
        let fence = Fence { key: key(name), token };
        let touch = Write::Touch { key: fence.key.clone(), ttl };
        let guards = vec![Guard::Held(fence.clone())];
        let commit = Commit::new(fence.key.partition, guards, vec![touch], Vec::new())?;
        match self.store.commit(&commit).await? {
            Reply::Committed { now, .. } => Ok(LeaseInfo {
                name: name.into(),
                holder: holder.into(),
                fencing_token: token.to_string(),
                expires_at: now + ttl,
            }),
            Reply::Conflict { .. } => Err(fenced(name, token)),
        }
    }

    /// Frees a lease that is held under this token. One round trip.
    ///
    /// # Errors
    /// `Fenced` if it is not held under it.
    pub async fn release(&self, name: &str, token: Revision) -> Result<()> {
        check_name("lease name", name, 256)?;
        let fence = Fence { key: key(name), token };
        let mut writes = vec![Write::Delete { key: fence.key.clone() }];
        let mut entry = Entry::new("lease", name, "released");
        entry.previous = Some(token);
        writes.extend(self.scribe.enter(&entry));
        let hints = vec![fence.key.clone()];
        let guards = vec![Guard::Held(fence.clone())];
        let commit = Commit::new(fence.key.partition, guards, writes, hints)?;
        match self.store.commit(&commit).await? {
            Reply::Committed { .. } => Ok(()),
            Reply::Conflict { .. } => Err(fenced(name, token)),
        }
    }

    /// A lease, if somebody holds it.
    pub async fn show(&self, name: &str) -> Result<Option<LeaseInfo>> {
        check_name("lease name", name, 256)?;
        let read = self.store.get(&[key(name)]).await?;
        let record = read.records.first().and_then(Option::as_ref);
        Ok(record.filter(|record| !record.lapsed(read.now)).and_then(info))
    }

    /// The leases that are held, by name, after `after`; and whether there are more.
    pub async fn list(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<LeaseInfo>, Option<String>)> {
        let range = Range::new(Partition::FIRST, LEASE, "").after(after);
        let page = self.store.scan(&range, limit).await?;
        let next = page.records.last().filter(|_| page.more).map(|last| last.key.id.to_string());
        let held = page.records.iter().filter(|record| !record.lapsed(page.now));
        Ok((held.filter_map(info).collect(), next))
    }
}

/// A lease that this process holds and renews. Dropped, it is renewed no more and lapses;
/// [released](HeldLease::release), it is free at once.
pub struct HeldLease {
    leases: Leases,
    right: Right,
}

impl HeldLease {
    /// The right itself: whether it is held, its fence, and what fires when it is lost.
    pub fn right(&self) -> &Right {
        &self.right
    }

    /// Frees the lease. Nothing to do if it was lost before.
    pub async fn release(self) -> Result<()> {
        if !self.leases.keeper.let_go(&self.right) {
            return Ok(());
        }
        let fence = self.right.fence();
        self.leases.release(&fence.key.id, fence.token).await
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.leases.keeper.let_go(&self.right);
    }
}

fn key(name: &str) -> Key {
    Key::new(Partition::of(name), LEASE, name)
}

fn info(record: &Record) -> Option<LeaseInfo> {
    Some(LeaseInfo {
        name: record.key.id.to_string(),
        holder: content_of(record).holder,
        fencing_token: record.revision.to_string(),
        expires_at: record.deadline?,
    })
}

fn content_of(record: &Record) -> LeaseRecord {
    serde_json::from_slice(&record.value).unwrap_or_default()
}

fn encode(content: &LeaseRecord) -> Result<Vec<u8>> {
    serde_json::to_vec(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "a lease record has no JSON form").with_source(error)
    })
}

fn fenced(name: &str, token: Revision) -> Error {
    Error::new(ErrorKind::Fenced, format!("lease {name:?} is not held under token {token}"))
}

/// Reads a fencing token as it was handed out.
///
/// # Errors
/// `Invalid` if it is not a number.
pub fn parse_token(text: &str) -> Result<Revision> {
    text.parse()
        .map(Revision::new)
        .map_err(|_| Error::invalid(format!("a fencing token is a number in quotes, not {text:?}")))
}

fn check_ttl(ttl: Duration) -> Result<()> {
    if (MIN_TTL..=MAX_TTL).contains(&ttl) {
        return Ok(());
    }
    Err(Error::invalid(format!("a lease lasts from {MIN_TTL:?} to {MAX_TTL:?}, not {ttl:?}")))
}
