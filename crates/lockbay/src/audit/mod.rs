//! The audit trail: one log of what was changed, in the order of commits, sealed by the leader.
//!
//! Services append entries in the commits of their changes ([`crate::scribe`]). This room reads
//! them, seals them into a chain of signed checkpoints, verifies, proves, exports, and lets go of
//! what is old enough. It refuses to know what an entry means. Its state is the checkpoints, the
//! head that names the newest, and the key if no other was given; an instance also remembers the
//! newest checkpoint that it has seen.
//!
//! # What holds
//! Whatever is changed, dropped, inserted or moved among sealed entries is found by
//! [`verify`](Audit::verify), by whoever has the public key.
//!
//! # What does not
//! Entries of the last seconds are not sealed yet. Whoever has the key can seal something else. A
//! store that is set back as a whole is consistent: only who kept a later checkpoint can tell.

mod check;
mod checkpoint;
mod entry;
mod export;
mod key;
mod merkle;
mod proof;
mod read;
mod retire;
mod seal;
mod standing;
mod verify;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Bus, Event};
use crate::leader::Leadership;
use crate::metrics::{Metric, Metrics};
use crate::store::{Key, Kind, MAX_PAGE, Partition, Range, Record, Store};

pub use check::Problem;
pub use checkpoint::{Checkpoint, Trimmed, hash_of};
pub use entry::AuditEntry;
pub use export::{Export, FileCheck, FileVerdict};
pub use key::PublicKey;
pub use merkle::Hash;
pub use proof::{Proof, Proved};
pub use read::{AuditPage, AuditQuery};
pub use verify::{Thoroughness, Verdict};

pub(crate) use key::Keys;

use checkpoint::{CHECKPOINT, Head, checkpoint_key, head_key};
use key::Signer;

/// The key that signs, if it was made here, and the public key in use.
pub(crate) const KEY: Kind = Kind::new("audit-key");

/// How the audit trail of an instance works.
#[derive(Debug, Clone)]
pub(crate) struct AuditSettings {
    /// Time between two seals.
    pub(crate) interval: Duration,
    /// How long entries are kept.
    pub(crate) retention: Duration,
    pub(crate) keys: Keys,
    /// In whose name the log enters what it does itself.
    pub(crate) instance: String,
}

/// The record that an entry with a digest tells of, by its entity and detail.
pub(crate) type RecordOf = fn(&str, &serde_json::Value) -> Option<Key>;

/// The audit trail, as one instance sees it. Cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    bus: Bus,
    leadership: Leadership,
    settings: AuditSettings,
    record_of: RecordOf,
    /// One seals at a time.
    sealing: tokio::sync::Mutex<()>,
    /// The newest checkpoint that this instance has seen.
    seen: Mutex<Option<Head>>,
    /// What is wrong, as far as this instance knows.
    broken: Mutex<Broken>,
}

/// What is wrong, by who found it.
#[derive(Debug, Default)]
struct Broken {
    /// While sealing or watching: stays until a verification finds nothing.
    noticed: BTreeSet<String>,
    /// In the last verification.
    verified: u64,
}

/// A checkpoint as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Its number by its key.
    pub number: u64,
    /// To the byte as it is stored.
    pub text: Vec<u8>,
}

impl Audit {
    pub(crate) fn new(
        (store, clock): (Arc<dyn Store>, Clock),
        (metrics, bus): (Arc<Metrics>, Bus),
        leadership: Leadership,
        settings: AuditSettings,
        record_of: RecordOf,
    ) -> Self {
        Audit(Arc::new(Inner {
            store,
            clock,
            metrics,
            bus,
            leadership,
            settings,
            record_of,
            sealing: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
            broken: Mutex::default(),
        }))
    }

    /// A page of checkpoints behind this number, in their order, and whether there are more.
    pub async fn checkpoints(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<StoredCheckpoint>, bool)> {
        let range = Range::new(Partition::FIRST, CHECKPOINT, "");
        let range = range.after((after > 0).then(|| checkpoint_key(after).id.into()));
        let page = self.0.store.scan(&range, limit.min(MAX_PAGE)).await?;
        let listed = page.records.into_iter().map(|record| StoredCheckpoint {
            number: checkpoint::number_of(&record.key).unwrap_or(0),
            text: record.value,
        });
        Ok((listed.collect(), page.more))
    }

    /// The newest checkpoint, as the head names it; nothing if there is none or it is damaged.
    pub async fn newest(&self) -> Result<Option<Checkpoint>> {
        let Some(head) = self.record(head_key()).await? else { return Ok(None) };
        let Some(head) = Head::decode(&head.value) else { return Ok(None) };
        self.checkpoint(head.number).await
    }

    /// The public key in use, if anything was sealed or a key was given.
    pub async fn public_key(&self) -> Result<Option<PublicKey>> {
        if let Some(signer) = self.0.settings.keys.given() {
            return Ok(Some(signer.public()));
        }
        Ok(self.made_key().await?.map(|signer| signer.public()))
    }

    /// Whether the key is one that the store does not know.
    pub fn has_a_key_of_its_own(&self) -> bool {
        self.0.settings.keys.given().is_some()
    }

    /// What is wrong with the trail, as far as this instance knows.
    pub(crate) fn examine(&self) -> Vec<String> {
        let broken = self.0.broken.lock();
        let mut issues: Vec<String> =
            broken.noticed.iter().map(|why| format!("audit: {why}")).collect();
        if broken.verified > 0 {
            let count = broken.verified;
            issues.push(format!("audit: {count} problems; see `lockbay audit verify`"));
        }
        issues
    }

    /// Tells that the trail is damaged.
    fn notice(&self, reason: String) {
        let inner = &self.0;
        let fresh = {
            let mut broken = inner.broken.lock();
            // Bounded: what is noticed is about the newest checkpoint and the head alone.
            broken.noticed.len() < 100 && broken.noticed.insert(reason.clone())
        };
        if fresh {
            tracing::error!(reason, "audit_broken");
            inner.bus.tell(inner.clock.now(), Event::AuditBroken { reason });
        }
        self.show();
    }

    /// Takes note of what a verification came to.
    fn verified(&self, problems: u64, first: Option<String>) {
        let inner = &self.0;
        let before = {
            let mut broken = inner.broken.lock();
            if problems == 0 {
                broken.noticed.clear();
            }
            std::mem::replace(&mut broken.verified, problems)
        };
        if let Some(reason) = first.filter(|_| before == 0) {
            tracing::error!(problems, reason, "audit_broken");
            inner.bus.tell(inner.clock.now(), Event::AuditBroken { reason });
        }
        self.show();
    }

    fn show(&self) {
        let broken = self.0.broken.lock();
        let count = broken.noticed.len() as u64 + broken.verified;
        self.0.metrics.set(Metric::AuditBroken, i64::try_from(count).unwrap_or(i64::MAX));
    }

    async fn record(&self, key: Key) -> Result<Option<Record>> {
        let read = self.0.store.get(std::slice::from_ref(&key)).await?;
        Ok(read.records.into_iter().flatten().next())
    }

    async fn checkpoint(&self, number: u64) -> Result<Option<Checkpoint>> {
        let record = self.record(checkpoint_key(number)).await?;
        Ok(record.and_then(|record| Checkpoint::decode(&record.value).ok()))
    }

    /// The key that was made here, if one was.
    async fn made_key(&self) -> Result<Option<Signer>> {
        let Some(record) = self.record(made_key()).await? else { return Ok(None) };
        let read = Signer::stored(&record.value);
        read.map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the key of the audit trail in the store is damaged")
        })
    }

    /// What the sweeper may delete of it.
    pub(crate) fn beginning(&self) -> Arc<dyn crate::retire::Retire> {
        Arc::new(retire::Beginning(self.clone()))
    }

    async fn store_time(&self) -> Result<Timestamp> {
        Ok(self.0.store.get(&[head_key()]).await?.now)
    }
}

fn made_key() -> Key {
    Key::new(Partition::FIRST, KEY, "made")
}

/// The public key in use. That there is one means that something was sealed.
fn used_key() -> Key {
    Key::new(Partition::FIRST, KEY, "used")
}
