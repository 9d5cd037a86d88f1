//! Letting go of the beginning of the log, after a signed checkpoint said that it may be gone.

use async_trait::async_trait;

use super::Audit;
use super::checkpoint::{CHECKPOINT, Trimmed, checkpoint_key, number_of};
use crate::error::Result;
use crate::retire::{Ask, Doomed, Look, Next, Retire};
use crate::scribe::audit_log;
use crate::store::{Guard, Partition, Range, Record, Revision, Write, log};

/// Lines go first, then the checkpoints that sealed them: a place in either begins with one of
/// these.
const LINES: &str = "lines:";
const CHECKPOINTS: &str = "checkpoints:";
/// Records of lines looked at once: they may be large.
const LOOKED_AT: usize = 50;

/// What may be gone of the log.
pub(crate) struct Beginning(pub(crate) Audit);

#[async_trait]
impl Retire for Beginning {
    async fn look(&self, ask: &Ask<'_>) -> Result<Look> {
        let mut look = Look::new();
        let newest = self.0.newest().await?;
        let Some(newest) = newest.filter(super::Checkpoint::is_signed) else { return Ok(look) };
        let Some(trimmed) = newest.trimmed else { return Ok(look) };
        let place = ask.place.unwrap_or(LINES);
        let (part, after) = match place.strip_prefix(CHECKPOINTS) {
            Some(after) => (CHECKPOINTS, after),
            None => (LINES, place.strip_prefix(LINES).unwrap_or_default()),
        };
        let range = match part {
            LINES => log::range(&audit_log(Partition::FIRST), Revision::ZERO),
            _ => Range::new(Partition::FIRST, CHECKPOINT, ""),
        };
        let range = range.after((!after.is_empty()).then(|| after.to_owned()));
        let page = self.0.0.store.scan(&range, ask.limit.min(LOOKED_AT)).await?;
        let mut last = None;
        let mut through = !page.more;
        for record in page.records {
            let goes = match part {
                LINES => record.revision <= trimmed.last && record.revision.time() <= ask.cutoff(),
                _ => is_trimmed(&record, &trimmed) && record.revision.time() <= ask.cutoff(),
            };
            if !goes {
                through = true;
                break;
            }
            look.scanned += 1;
            last = Some(record.key.id.to_string());
            let guard = Guard::RevisionIs(record.key.clone(), record.revision);
            let delete = Write::Delete { key: record.key };
            look.doomed.push(Doomed::new(vec![guard], vec![delete]));
        }
        look.next = match (part, through, last) {
            (LINES, true, _) => Next::At(CHECKPOINTS.into()),
            (_, false, Some(last)) => Next::At(format!("{part}{last}")),
            (_, true, _) | (_, false, None) => Next::End(None),
        };
        Ok(look)
    }
}

fn is_trimmed(record: &Record, trimmed: &Trimmed) -> bool {
    number_of(&record.key).is_some_and(|number| number <= trimmed.number)
        && record.key.id <= checkpoint_key(trimmed.number).id
}
