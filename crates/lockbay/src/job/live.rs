//! Claims granted through this process, at hand so that ending one takes a single round trip.
//!
//! A claim that is not here can be ended all the same: its record is read first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::decide::JobRecord;
use crate::clock::Tick;
use crate::store::Revision;

/// How many bytes of claims are kept at hand.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What a claim weighs besides its parameters.
const OVERHEAD: usize = 1_024;

/// A claim and the record that was written for it.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) job: JobRecord,
    pub(super) revision: Revision,
    /// When the call that claimed it began.
    pub(super) since: Tick,
    /// When it was last renewed through [`Jobs::heartbeat`](super::Jobs::heartbeat).
    pub(super) renewed: Tick,
}

impl Live {
    fn bytes(&self) -> usize {
        self.job.parameters.text().len() + OVERHEAD
    }
}

/// See the file's first paragraph.
#[derive(Debug, Default)]
pub(super) struct LiveClaims {
    claims: HashMap<Box<str>, Arc<Live>>,
    bytes: usize,
    /// When lapsed claims were last looked for: it takes a walk over all of them.
    purged: Tick,
}

/// How often lapsed claims are looked for, at most.
const PURGE: Duration = Duration::from_secs(1);

impl LiveClaims {
    pub(super) fn get(&self, job_id: &str) -> Option<Arc<Live>> {
        self.claims.get(job_id).cloned()
    }

    /// Keeps a claim, if there is room; those that have lapsed make it.
    pub(super) fn insert(&mut self, job_id: &str, claim: Live, now: Tick) {
        self.remove(job_id);
        if self.bytes + claim.bytes() > MAX_BYTES && now.since(self.purged) >= PURGE {
            self.purged = now;
            self.claims.retain(|_, live| {
                now.since(live.renewed) < Duration::from_micros(live.job.claim_ttl_us)
            });
            self.bytes = self.claims.values().map(|live| live.bytes()).sum();
        }
        if self.bytes + claim.bytes() <= MAX_BYTES {
            self.bytes += claim.bytes();
            self.claims.insert(job_id.into(), Arc::new(claim));
        }
    }

    pub(super) fn renewed(&mut self, job_id: &str, now: Tick) {
        if let Some(live) = self.claims.get_mut(job_id) {
            Arc::make_mut(live).renewed = now;
        }
    }

    pub(super) fn remove(&mut self, job_id: &str) {
        if let Some(live) = self.claims.remove(job_id) {
            self.bytes -= live.bytes();
        }
    }
}
