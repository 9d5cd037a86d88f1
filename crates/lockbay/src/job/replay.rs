//! Outcomes at hand: a bounded cache of completed jobs, so that a duplicate costs no round trip.
//!
//! Only completed jobs are kept. They never change while they are remembered, so nothing has to be
//! invalidated; an entry ends with its result's time to live.

use std::sync::Arc;

use moka::sync::Cache;

use super::Replayed;
use super::fingerprint::ParameterDigest;
use crate::clock::Tick;

/// How many bytes of outcomes are kept at hand.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// What an entry weighs besides its result.
const OVERHEAD: usize = 400;

pub(super) struct Replays(Cache<String, Arc<Entry>>);

struct Entry {
    digest: Option<ParameterDigest>,
    replayed: Replayed,
    until: Tick,
}

impl Replays {
    pub(super) fn new() -> Self {
        let weigh = |_: &String, entry: &Arc<Entry>| {
            let result = entry.replayed.result.as_ref().map_or(0, |result| result.text().len());
            u32::try_from(result + OVERHEAD).unwrap_or(u32::MAX)
        };
        Replays(Cache::builder().max_capacity(MAX_BYTES).weigher(weigh).build())
    }

    pub(super) fn get(
        &self,
        job_id: &str,
        now: Tick,
    ) -> Option<(Option<ParameterDigest>, Replayed)> {
        let entry = self.0.get(job_id).filter(|entry| now < entry.until)?;
        Some((entry.digest.clone(), entry.replayed.clone()))
    }

    pub(super) fn put(
        &self,
        job_id: &str,
        digest: &Option<ParameterDigest>,
        replayed: Replayed,
        until: Tick,
    ) {
        let entry = Entry { digest: digest.clone(), replayed, until };
        self.0.insert(job_id.into(), Arc::new(entry));
    }
}
