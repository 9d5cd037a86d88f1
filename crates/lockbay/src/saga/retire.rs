//! What of sagas may go: those that ended long ago, with all that is stored of them.
//!
//! They are found by the list, in which ended sagas stand by the time of their end. One that is
//! executed, or waits for a person, has not ended and stays. A saga whose records are too many for
//! one commit is first marked: from then on nobody reads it, whatever of its log is left, and its
//! place in the list stays until the last of it goes, so that whoever comes next goes on with it.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::Sagas;
use super::leftover::Leftovers;
use super::log::SagaStatus;
use super::record::{SAGA_LIST, SAGA_LOG, Saga, encode, log_key, saga_behind, saga_key};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::retire::{Ask, Doomed, Look, Next, Rest, Retire, Weight};
use crate::store::{Deadline, Guard, Key, Kind, MAX_PAGE, Partition, Range, Record, Store, Write};

/// Where ended sagas stand.
const ENDED: [SagaStatus; 3] =
    [SagaStatus::Completed, SagaStatus::Compensated, SagaStatus::Abandoned];
/// How many records of a saga go in one commit.
const AT_ONCE: usize = 400;
/// How many sagas are looked at in one go, and read at once: each may have a log of megabytes.
const LOOKED_AT: usize = 64;
const READ_AT_ONCE: usize = 8;

/// What stands in the place of a head while the rest of its saga is removed, and for ever where a
/// key named the saga: whoever comes with that key again must not start what others have seen.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marked {
    removed: bool,
    keyed: bool,
    saga_name: String,
}

/// Whether a head is only a mark that its saga was or is being removed.
pub(super) fn is_marked(head: &Record) -> bool {
    mark_of(head).is_some()
}

fn mark_of(head: &Record) -> Option<Marked> {
    serde_json::from_slice::<Marked>(&head.value).ok().filter(|mark| mark.removed)
}

impl Sagas {
    /// Sagas that ended longer ago than they are kept. What others keep under ids that begin with
    /// a saga's id and a slash goes with it, if it is of one of these kinds.
    pub(crate) fn forgotten(&self, kin: Vec<Kind>) -> Arc<dyn Retire> {
        Arc::new(Forgotten { store: Arc::clone(&self.0.store), kin })
    }

    /// What sagas have left behind.
    pub(crate) fn leftovers(&self) -> Arc<dyn Retire> {
        Arc::new(Leftovers(Arc::clone(&self.0.store)))
    }
}

struct Forgotten {
    store: Arc<dyn Store>,
    kin: Vec<Kind>,
}

#[async_trait]
impl Retire for Forgotten {
    async fn look(&self, ask: &Ask<'_>) -> Result<Look> {
        let after = match ask.place {
            Some(place) => place.to_owned(),
            None => ended_before(ENDED[0], ask.cutoff()),
        };
        let status = after.split('/').next().unwrap_or_default();
        let at = ENDED.iter().position(|ended| ended.name() == status).unwrap_or(0);
        let range = Range::new(Partition::FIRST, SAGA_LIST, format!("{}/-/", ENDED[at].name()));
        let limit = ask.limit.min(LOOKED_AT);
        let page = self.store.scan(&range.after(Some(after)), limit).await?;
        let judging: Vec<_> = page.records.iter().map(|place| self.judge(place)).collect();
        let judged: Vec<Result<Doomed>> =
            stream::iter(judging).buffered(READ_AT_ONCE).collect().await;
        let mut look = Look::new();
        for doomed in judged {
            look.scanned += 1;
            match doomed {
                Ok(doomed) => look.doomed.push(doomed),
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                Err(error) => look.broken.push(error.to_string()),
            }
        }
        look.next = match page.records.last() {
            Some(last) if page.more => Next::At(last.key.id.to_string()),
            _ => match ENDED.get(at + 1) {
                Some(next) => Next::At(ended_before(*next, ask.cutoff())),
                None => Next::End(None),
            },
        };
        Ok(look)
    }
}

impl Forgotten {
    /// All that is to be deleted of the saga behind a place in the list.
    async fn judge(&self, place: &Record) -> Result<Doomed> {
        let id = saga_behind(place);
        let head_key = saga_key(id)?;
        let read = self.store.get(std::slice::from_ref(&head_key)).await?;
        let Some(head) = read.records.into_iter().flatten().next() else {
            let delete = Write::Delete { key: place.key.clone() };
            let doomed = Doomed::new(vec![Guard::Absent(head_key)], vec![delete]);
            return Ok(Doomed { weight: Weight::Known(0), ..doomed });
        };
        let unchanged = Guard::RevisionIs(head_key.clone(), head.revision);
        if let Some(mark) = mark_of(&head) {
            let mut keys = self.keys(SAGA_LOG, id).await?;
            keys.extend(self.kin(id).await?);
            keys.push(place.key.clone());
            keys.extend((!mark.keyed).then(|| head_key.clone()));
            let mut commits = pieces(keys);
            let first = commits.remove(0);
            let mut doomed = Doomed::new(vec![unchanged], first).named(mark.saga_name);
            doomed.rest = rest(head_key, commits);
            return Ok(doomed);
        }
        let saga = Saga::load(&*self.store, id).await?;
        if !saga.status().is_terminal() || saga.listed() != place.key {
            let message = format!("saga {id} does not stand as it is listed: {}", place.key.id);
            return Err(Error::new(ErrorKind::Internal, message));
        }
        // Nothing was added to its log since it was read.
        let guards = vec![unchanged, Guard::Absent(log_key(id, saga.next))];
        let mut keys: Vec<Key> = (0..saga.next).map(|number| log_key(id, number)).collect();
        keys.extend(self.kin(id).await?);
        keys.push(place.key.clone());
        let keyed = saga.head.request.is_some();
        let saga_name = saga.head.definition.saga_name.clone();
        let value = encode(&Marked { removed: true, keyed, saga_name: saga_name.clone() })?;
        let mark = Write::Put { key: head_key.clone(), value, deadline: Deadline::Never };
        let mut measured = keys.clone();
        measured.push(head_key.clone());
        keys.extend((!keyed).then(|| head_key.clone()));
        let mut commits = pieces(keys);
        let mut doomed = match commits.len() {
            1 => {
                let mut writes = commits.remove(0);
                writes.extend(keyed.then_some(mark));
                Doomed::new(guards, writes)
            }
            _ => {
                let mut doomed = Doomed::new(guards, vec![mark]);
                doomed.rest = rest(head_key, commits);
                doomed
            }
        };
        doomed.weight = Weight::Measure(measured);
        Ok(doomed.named(saga_name))
    }

    /// What others keep of a saga.
    async fn kin(&self, id: &str) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        for kind in &self.kin {
            keys.extend(self.keys(*kind, id).await?);
        }
        Ok(keys)
    }

    /// The keys of a kind that begin with the saga's id.
    async fn keys(&self, kind: Kind, id: &str) -> Result<Vec<Key>> {
        let mut range = Range::new(Partition::of(id), kind, format!("{id}/"));
        let mut keys = Vec::new();
        loop {
            let page = self.store.scan(&range, MAX_PAGE).await?;
            range.after = page.records.last().map(|record| record.key.id.to_string());
            keys.extend(page.records.into_iter().map(|record| record.key));
            if !page.more {
                return Ok(keys);
            }
        }
    }
}

/// From where the list has the sagas that did not end later than this.
fn ended_before(status: SagaStatus, time: Timestamp) -> String {
    format!("{}/-/{:016x}", status.name(), u64::MAX - time.as_micros())
}

/// Deletions of these keys, in order, in as many commits as they need; one at least.
fn pieces(keys: Vec<Key>) -> Vec<Vec<Write>> {
    let writes: Vec<Write> = keys.into_iter().map(|key| Write::Delete { key }).collect();
    writes.chunks(AT_ONCE).map(<[Write]>::to_vec).collect()
}

fn rest(anchor: Key, commits: Vec<Vec<Write>>) -> Option<Rest> {
    (!commits.is_empty()).then_some(Rest { anchor, commits })
}
