//! What of jobs may go: results that are no longer shown, and jobs whose keys are forgotten.
//!
//! Both are found by the list, in which ended jobs stand by the time of their end. A job that is
//! claimed, or will be tried again, has not ended and stays. Neither goes before the time that its
//! own record promises, whatever is asked.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Jobs;
use super::decide::{JOB, JOB_LIST, JobRecord, JobStatus, PERIOD};
use super::end::unlist;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::retire::{Ask, Doomed, Look, Next, Retire, Weight};
use crate::store::{Deadline, Guard, Key, MAX_PAGE, Page, Partition, Range, Record, Store, Write};

/// Where ended jobs stand.
const ENDED: [JobStatus; 3] = [JobStatus::Completed, JobStatus::Failed, JobStatus::Cancelled];
/// How far the clocks of machines may be apart for a result to be found by its place in the list.
const SKEW: Duration = Duration::from_secs(60);
/// How many jobs are read at once: each may have parameters and a result of a megabyte.
const AT_ONCE: usize = 16;
/// How many bytes are rewritten in one look, about.
const BYTES: usize = 4 * 1024 * 1024;

impl Jobs {
    /// Jobs that ended longer ago than they are remembered.
    pub(crate) fn forgotten(&self) -> Arc<dyn Retire> {
        Arc::new(Forgotten(Arc::clone(&self.0.store)))
    }

    /// Results that are no longer shown.
    pub(crate) fn old_results(&self) -> Arc<dyn Retire> {
        Arc::new(OldResults(Arc::clone(&self.0.store)))
    }
}

struct Forgotten(Arc<dyn Store>);

#[async_trait]
impl Retire for Forgotten {
    async fn look(&self, ask: &Ask<'_>) -> Result<Look> {
        let after = match ask.place {
            Some(place) => place.to_owned(),
            None => ended_before(ENDED[0], ask.cutoff()),
        };
        let status = after.split('/').next().unwrap_or_default();
        let at = ENDED.iter().position(|ended| ended.name() == status).unwrap_or(0);
        let page = entries(&*self.0, ENDED[at], after, ask.limit).await?;
        let mut look = Look::new();
        read(&*self.0, &page.records, |place, record| {
            look.scanned += 1;
            let doomed = match record {
                None => Ok(stray(place)),
                Some(record) => JobRecord::decode(record)
                    .and_then(|job| forget(place, record, &job, ask).map_or_else(Err, Ok)),
            };
            match doomed {
                Ok(Judged::Goes(doomed)) => look.doomed.push(doomed),
                Ok(Judged::Stays(why)) => look.kept.push(why),
                Err(error) => look.broken.push(error.to_string()),
            }
            true
        })
        .await?;
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

enum Judged {
    Goes(Doomed),
    Stays(&'static str),
}

/// Whether a job may be forgotten.
fn forget(place: &Record, record: &Record, job: &JobRecord, ask: &Ask<'_>) -> Result<Judged> {
    if !job.has_ended() {
        return Ok(Judged::Stays("not ended"));
    }
    let kept = Duration::from_micros(job.horizon_us).max(ask.ttl).max(PERIOD * 2);
    if ask.now < job.ended_at(record) + kept {
        return Ok(Judged::Stays("remembered until its horizon"));
    }
    let key = record.key.clone();
    let mut writes = vec![Write::Delete { key: key.clone() }, unlist(&key, job)];
    if !writes.iter().any(|write| *write.key() == place.key) {
        // Listed twice, by some defect: it goes from both.
        writes.push(Write::Delete { key: place.key.clone() });
    }
    let mut doomed = Doomed::new(vec![Guard::RevisionIs(key.clone(), record.revision)], writes);
    doomed.weight = Weight::Measure(vec![key]);
    Ok(Judged::Goes(doomed.named(job.job_key.as_str())))
}

/// An entry of the list behind which there is no job.
fn stray(place: &Record) -> Judged {
    let guard = Guard::Absent(job_behind(place));
    let delete = Write::Delete { key: place.key.clone() };
    Judged::Goes(Doomed { weight: Weight::Known(0), ..Doomed::new(vec![guard], vec![delete]) })
}

struct OldResults(Arc<dyn Store>);

/// A pass over completed jobs: those that ended after `until` and not after `to` have not been
/// looked at yet, the newest first, and this one has come behind `after`.
struct Window {
    until: Timestamp,
    to: Timestamp,
    after: String,
}

impl Window {
    fn of(ask: &Ask<'_>) -> Self {
        let begin = |until| {
            let to = ask.cutoff();
            Window { until, to, after: ended_before(JobStatus::Completed, to) }
        };
        let Some(place) = ask.place else { return begin(Timestamp::default()) };
        let mut parts = place.splitn(3, ' ');
        let mut time = || parts.next().and_then(|part| part.parse().ok());
        match (time().map(Timestamp::from_micros), time().map(Timestamp::from_micros)) {
            (Some(until), Some(to)) => match parts.next() {
                Some(after) => Window { until, to, after: after.to_owned() },
                None => begin(to - SKEW),
            },
            // What another version remembers is no use to this one.
            _ => begin(Timestamp::default()),
        }
    }

    fn place(&self, after: &str) -> String {
        format!("{} {} {after}", self.until.as_micros(), self.to.as_micros())
    }

    /// The place at which the next pass may begin.
    fn over(&self) -> String {
        format!("{} {}", self.until.as_micros(), self.to.as_micros())
    }
}

#[async_trait]
impl Retire for OldResults {
    async fn look(&self, ask: &Ask<'_>) -> Result<Look> {
        let window = Window::of(ask);
        let mut look = Look::new();
        let mut page =
            entries(&*self.0, JobStatus::Completed, window.after.clone(), ask.limit).await?;
        let inside = page.records.iter().take_while(|place| ended(place) >= window.until).count();
        let over = inside < page.records.len() || !page.more;
        page.records.truncate(inside);
        let (mut bytes, mut last) = (0, None);
        read(&*self.0, &page.records, |place, record| {
            look.scanned += 1;
            last = Some(place.key.id.to_string());
            let Some(record) = record else {
                look.kept.push("gone meanwhile");
                return true;
            };
            match JobRecord::decode(record).and_then(|job| drop_result(record, job, ask)) {
                Ok(Judged::Goes(doomed)) => {
                    bytes += record.value.len();
                    look.doomed.push(doomed);
                }
                Ok(Judged::Stays(why)) => look.kept.push(why),
                Err(error) => look.broken.push(error.to_string()),
            }
            bytes < BYTES
        })
        .await?;
        let all = last.as_deref() == page.records.last().map(|place| &*place.key.id);
        look.next = match last {
            Some(last) if !over || !all => Next::At(window.place(&last)),
            _ => Next::End(Some(window.over())),
        };
        Ok(look)
    }
}

/// Whether a job's result may go, with which the job stays as it is otherwise.
fn drop_result(record: &Record, mut job: JobRecord, ask: &Ask<'_>) -> Result<Judged> {
    let ended = job.ended_at(record);
    let kept = Duration::from_micros(job.result_ttl_us).max(ask.ttl);
    if job.status != JobStatus::Completed || ask.now < ended + kept {
        return Ok(Judged::Stays("kept until its time"));
    }
    let Some(result) = job.result.take() else { return Ok(Judged::Stays("without a result")) };
    job.ended_us = Some(ended.as_micros());
    let (name, weight) = (job.job_key.clone(), Weight::Known(result.text().len() as u64));
    let key = record.key.clone();
    let guards = vec![Guard::RevisionIs(key.clone(), record.revision)];
    let put = Write::Put { key, value: job.encode()?, deadline: Deadline::Never };
    Ok(Judged::Goes(Doomed { weight, ..Doomed::new(guards, vec![put]).named(name) }))
}

/// From where the list has the jobs that did not end later than this.
fn ended_before(status: JobStatus, time: Timestamp) -> String {
    format!("{}/{:016x}", status.name(), u64::MAX - time.as_micros())
}

/// When the job behind an entry of ended jobs ended, by the clock of whoever ended it.
fn ended(place: &Record) -> Timestamp {
    let time = place.key.id.split('/').nth(1).and_then(|time| u64::from_str_radix(time, 16).ok());
    Timestamp::from_micros(u64::MAX - time.unwrap_or(u64::MAX))
}

fn job_behind(place: &Record) -> Key {
    let id = place.key.id.rsplit('/').next().unwrap_or(&place.key.id);
    Key::new(Partition::of(id), JOB, id)
}

async fn entries(
    store: &dyn Store,
    status: JobStatus,
    after: String,
    limit: usize,
) -> Result<Page> {
    let range = Range::new(Partition::FIRST, JOB_LIST, format!("{}/", status.name()));
    store.scan(&range.after(Some(after)), limit.min(MAX_PAGE)).await
}

/// Reads the jobs behind entries, few at a time, until `judge` says no.
async fn read(
    store: &dyn Store,
    places: &[Record],
    mut judge: impl FnMut(&Record, Option<&Record>) -> bool + Send,
) -> Result<()> {
    for now in places.chunks(AT_ONCE) {
        let keys: Vec<Key> = now.iter().map(job_behind).collect();
        let jobs = store.get(&keys).await?.records;
        for (place, job) in now.iter().zip(&jobs) {
            if !judge(place, job.as_ref()) {
                return Ok(());
            }
        }
    }
    Ok(())
}
