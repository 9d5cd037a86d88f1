//! Which record an entry of the audit trail tells of: the one place where that is known.

use crate::ledger::POSTING;
use crate::saga::SAGA_LOG;
use crate::store::{Key, Partition};

/// The record that the digest of an entry is of, if that record stays as it was left.
pub(super) fn record_of(entity: &str, detail: &serde_json::Value) -> Option<Key> {
    let (kind, id) = entity.split_once('/')?;
    match kind {
        "posting" => Some(Key::new(Partition::of(id), POSTING, id)),
        "saga" => {
            let number = detail.get("entry")?.as_u64()?;
            Some(Key::new(Partition::of(id), SAGA_LOG, format!("{id}/{number:06x}")))
        }
        _ => None,
    }
}
