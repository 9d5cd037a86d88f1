//! Looking sagas up: one with all its steps, its history, and many by status, name, step and age.
//!
//! A list is read from the index, a page at a time, and tells of each saga what its records say.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Sagas;
use super::log::{Entry, Moment, SagaStatus, StepState, StepStatus, Verb};
use super::record::{Logged, SAGA_LIST, Saga, log_page, not_found, saga_behind, saga_key};
use super::retire::is_marked;
use super::start::id_of;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::store::{Key, MAX_PAGE, Order, Partition, Range, Record, Revision};

/// How many list entries one call looks at before it returns what it has.
const MAX_LOOKED_AT: usize = 5 * MAX_PAGE;
/// How many heads are read at once.
const READ_AT_ONCE: usize = 100;
/// About the most bytes of a page.
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Which sagas to list.
#[derive(Debug, Clone, Default)]
pub struct SagaFilter {
    /// Only with this status.
    pub status: Option<SagaStatus>,
    /// Only of this name.
    pub saga_name: Option<String>,
    /// Only those where this step is running, being compensated, in doubt or parked.
    pub step: Option<String>,
    /// Only those started at least so long ago.
    pub older_than: Option<Duration>,
    /// Only those started at this moment or later.
    pub created_after: Option<Timestamp>,
    /// Only those started before this moment.
    pub created_before: Option<Timestamp>,
    /// Only the one that this idempotency key started, and those with this text as `key` in their
    /// metadata.
    pub key: Option<String>,
    /// From which end the list is gone through.
    pub order: Order,
}

/// A saga as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // the names say it; see SagaRequest
pub struct SagaInfo {
    pub saga_id: String,
    pub saga_name: String,
    pub status: SagaStatus,
    /// Why it stands so: what failed, timed out, was cancelled, or needs a person.
    pub reason: Option<String>,
    pub steps: Vec<StepInfo>,
    pub context: Json,
    pub metadata: Json,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// When it is rolled back unless it is done.
    pub deadline: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Of its present executor, as a string because it passes 2^53.
    pub fencing_token: String,
    /// The session under which it is executed.
    pub session: String,
}

impl SagaInfo {
    /// Its business key: the text `key` of its metadata, if there is one.
    pub fn key(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Keyed {
            key: Option<String>,
        }
        // Whatever else metadata may be, there is no key in it then.
        serde_json::from_str::<Keyed>(self.metadata.text()).ok().and_then(|keyed| keyed.key)
    }

    fn has_key(&self, key: &str) -> bool {
        id_of(key).is_ok_and(|id| id == self.saga_id) || self.key().is_some_and(|own| own == key)
    }
}

/// A step as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // the names say it; see StepSpec
pub struct StepInfo {
    pub name: String,
    pub handler: String,
    pub compensation_handler: Option<String>,
    pub status: StepStatus,
    pub depends_on: Vec<String>,
    pub parameters: Json,
    /// Attempts that ended.
    pub attempts: u32,
    pub compensation_attempts: u32,
    pub max_retries: u32,
    pub compensation_max_retries: u32,
    pub timeout_seconds: f64,
    pub pivot: bool,
    pub idempotent: bool,
    pub idempotency_key: String,
    pub result: Option<Json>,
    pub compensation_result: Option<Json>,
    /// Whether an attempt may have had an effect of which nothing is known.
    pub in_doubt: bool,
    /// The last error, forward or back.
    pub error: Option<String>,
    pub next_retry_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
}

/// Sagas that wait for somebody.
pub(crate) struct Waiting {
    /// For how long sagas have had no executor, if there are any: the longest.
    pub(crate) orphaned: Option<Duration>,
    /// How many wait for a person, counted up to the size of a page.
    pub(crate) parked: usize,
    /// Whether there are more than were counted.
    pub(crate) more_parked: bool,
}

/// A page of sagas.
#[derive(Debug, Clone, PartialEq)]
pub struct SagaPage {
    /// The sagas.
    pub items: Vec<SagaInfo>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

/// Something that happened to a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// Its number, from 1: the start is 0 and is not listed.
    pub number: u64,
    /// When, by the store's clock as its executor knew it.
    pub at: Timestamp,
    /// The commit that entered it.
    pub revision: String,
    /// What happened.
    pub event: &'static str,
    /// To which step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What it returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_retry_at: Option<Timestamp>,
    /// Who decided, or who took over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A page of a saga's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// The entries.
    pub items: Vec<HistoryEntry>,
    /// Where to go on, if there are more.
    pub next: Option<String>,
}

impl Sagas {
    /// A saga as it stands, with all its steps.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn show(&self, id: &str) -> Result<SagaInfo> {
        let saga = Saga::load(&*self.0.store, id).await?;
        Ok(self.info(&saga))
    }

    /// What happened to a saga, in order, going on after `next` of an earlier page.
    ///
    /// # Errors
    /// `NotFound` if there is no such saga, `Invalid` for a `next` that was never handed out.
    pub async fn history(&self, id: &str, next: Option<&str>, limit: usize) -> Result<HistoryPage> {
        let read = self.0.store.get(&[saga_key(id)?]).await?;
        let head = read.records.into_iter().flatten().next();
        let head = head.filter(|head| !is_marked(head)).ok_or_else(|| not_found(id))?;
        let head: super::record::Head = super::record::decode(&head)?;
        let from: u64 = next.unwrap_or("0").parse().map_err(|_| {
            Error::invalid("this page token does not belong to the history of a saga")
        })?;
        let limit = limit.clamp(1, MAX_PAGE);
        let (logged, more) = log_page(&*self.0.store, id, from, limit).await?;
        let name = |step: usize| head.definition.steps.get(step).map(|step| step.name.clone());
        // A number is taken only where there is an entry: it may be the last that there is.
        let items: Vec<HistoryEntry> = logged
            .into_iter()
            .zip(from..)
            .map(|((logged, revision), number)| told(number + 1, logged, revision, name))
            .collect();
        let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
        Ok(HistoryPage { items, next: more.then(|| from.saturating_add(count).to_string()) })
    }

    /// Sagas that match, at most `limit` of them, going on after `next` of an earlier page. What is
    /// unfinished comes with the oldest of each executor first, what has ended with the newest.
    ///
    /// A page may hold fewer than there are, with `next` set.
    ///
    /// # Errors
    /// `Invalid` for a `next` that was never handed out.
    pub async fn list(
        &self,
        filter: &SagaFilter,
        next: Option<String>,
        limit: usize,
    ) -> Result<SagaPage> {
        let limit = limit.clamp(1, MAX_PAGE);
        let range = listed(filter);
        if next.as_ref().is_some_and(|next| !next.starts_with(&range.prefix) || next.len() > 256) {
            return Err(Error::invalid("this page token does not belong to this list"));
        }
        let (mut items, mut after) = (Vec::new(), next);
        let (mut looked_at, mut bytes) = (0, 0);
        loop {
            let page = self.0.store.scan(&range.clone().after(after), limit.max(100)).await?;
            looked_at += page.records.len();
            for (at, place) in page.records.iter().enumerate() {
                if !may_match(filter, place, page.now) {
                    continue;
                }
                let Some(saga) = self.found(filter, place, page.now).await? else { continue };
                bytes += saga.context.text().len() + saga.metadata.text().len();
                bytes += saga.steps.iter().map(|step| step.parameters.text().len()).sum::<usize>();
                items.push(saga);
                if items.len() == limit || bytes > MAX_PAGE_BYTES {
                    let more = page.more || at + 1 < page.records.len();
                    return Ok(SagaPage { items, next: more.then(|| place.key.id.to_string()) });
                }
            }
            after = page.records.last().map(|record| record.key.id.to_string());
            if !page.more || looked_at >= MAX_LOOKED_AT {
                return Ok(SagaPage { items, next: after.filter(|_| page.more) });
            }
        }
    }

    /// The sagas of these ids as they were when they started, of those that are there and can be
    /// read. Their logs are not.
    pub(crate) async fn as_started(&self, ids: &[&str]) -> Result<Vec<Option<SagaInfo>>> {
        let keys: Vec<Key> = ids.iter().map(|id| saga_key(id)).collect::<Result<_>>()?;
        let mut found = Vec::with_capacity(keys.len());
        for keys in keys.chunks(READ_AT_ONCE) {
            for record in self.0.store.get(keys).await?.records {
                let head = record.filter(|record| !is_marked(record));
                let info = head.map(|head| {
                    let saga = Saga::new(Arc::from(&*head.key.id), super::record::decode(&head)?);
                    Ok::<_, Error>(self.info(&saga))
                });
                found.push(info.transpose().unwrap_or_else(|error| {
                    tracing::warn!(%error, "a saga is passed over");
                    None
                }));
            }
        }
        Ok(found)
    }

    /// The saga behind a list entry, if it is still there and matches.
    async fn found(
        &self,
        filter: &SagaFilter,
        place: &Record,
        now: Timestamp,
    ) -> Result<Option<SagaInfo>> {
        let saga = match Saga::load(&*self.0.store, saga_behind(place)).await {
            Ok(saga) => saga,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let info = self.info(&saga);
        Ok(matches(filter, &info, now).then_some(info))
    }

    pub(super) fn info(&self, saga: &Saga) -> SagaInfo {
        let (definition, state) = (&saga.head.definition, &saga.state);
        let status = self.seen(&saga.id, saga.status());
        let created_at = Timestamp::from_micros(saga.head.created_us);
        let steps = (0..definition.steps.len()).map(|at| step_info(saga, at)).collect();
        SagaInfo {
            saga_id: saga.id.to_string(),
            saga_name: definition.saga_name.clone(),
            status,
            reason: state.reason(definition),
            steps,
            context: definition.context.clone(),
            metadata: definition.metadata.clone(),
            created_at,
            updated_at: state.changed,
            deadline: created_at + Duration::from_micros(definition.timeout_us),
            ended_at: status.is_terminal().then_some(state.changed),
            fencing_token: saga.token.to_string(),
            session: saga.session().to_owned(),
        }
    }
}

fn step_info(saga: &Saga, at: usize) -> StepInfo {
    let definition = &saga.head.definition;
    let (step, state): (_, &StepState) = (&definition.steps[at], &saga.state.steps[at]);
    let names = step.after.iter().map(|before| definition.steps[*before].name.clone());
    StepInfo {
        name: step.name.clone(),
        handler: step.handler.clone(),
        compensation_handler: step.undo_handler.clone(),
        status: saga.state.step_status(definition, at),
        depends_on: names.collect(),
        parameters: state.parameters.as_ref().map_or(&step.parameters, |given| &given.0).clone(),
        attempts: state.attempts,
        compensation_attempts: state.undo_attempts,
        max_retries: step.retries,
        compensation_max_retries: step.undo_retries,
        timeout_seconds: step.timeout().as_secs_f64(),
        pivot: step.pivot,
        idempotent: !step.once,
        idempotency_key: format!("{}/{}", saga.id, step.name),
        result: state.result.as_ref().map(|result| result.0.clone()),
        compensation_result: state.undo_result.as_ref().map(|result| result.0.clone()),
        in_doubt: state.doubt,
        error: state.error.clone(),
        next_retry_at: state.retry_at.map(Timestamp::from),
        updated_at: state.changed_at.map(Timestamp::from),
    }
}

impl Sagas {
    /// Sagas that wait for somebody, in two round trips, whatever there is.
    pub(crate) async fn waiting(&self) -> Result<Waiting> {
        let orphaned = self.0.sessions.oldest_lapse().await?;
        let filter = SagaFilter { status: Some(SagaStatus::Parked), ..SagaFilter::default() };
        let parked = self.0.store.scan(&listed(&filter), MAX_PAGE).await?;
        Ok(Waiting { orphaned, parked: parked.records.len(), more_parked: parked.more })
    }
}

/// The part of the list in which matching sagas stand. Pending ones stand with those that run.
fn listed(filter: &SagaFilter) -> Range {
    let prefix = match filter.status {
        None => String::new(),
        Some(SagaStatus::Pending) => format!("{}/", SagaStatus::Running.name()),
        Some(status) => format!("{}/", status.name()),
    };
    Range { order: filter.order, ..Range::new(Partition::FIRST, SAGA_LIST, prefix) }
}

/// Whether a saga may be of the age asked for, as far as its list entry tells without being read:
/// those that have ended are listed by their end.
fn may_match(filter: &SagaFilter, place: &Record, now: Timestamp) -> bool {
    let mut parts = place.key.id.split('/');
    let ended = parts.next().and_then(|name| SagaStatus::parse(name).ok());
    if ended.is_none_or(SagaStatus::is_terminal) {
        return true;
    }
    let began = parts.nth(1).and_then(|time| u64::from_str_radix(time, 16).ok());
    began.is_none_or(|began| is_of_the_time(filter, Timestamp::from_micros(began), now))
}

fn is_of_the_time(filter: &SagaFilter, created: Timestamp, now: Timestamp) -> bool {
    filter.older_than.is_none_or(|wanted| now.since(created) >= wanted)
        && filter.created_after.is_none_or(|after| created >= after)
        && filter.created_before.is_none_or(|before| created < before)
}

/// Whether a saga is one of those asked for.
pub(crate) fn matches(filter: &SagaFilter, saga: &SagaInfo, now: Timestamp) -> bool {
    let busy = |status| match status {
        StepStatus::Running
        | StepStatus::Unknown
        | StepStatus::Compensating
        | StepStatus::Parked => true,
        StepStatus::Pending
        | StepStatus::Completed
        | StepStatus::Failed
        | StepStatus::Compensated
        | StepStatus::Skipped => false,
    };
    let at_step = |name: &String| {
        saga.steps.iter().any(|step| step.name == *name && (busy(step.status) || step.in_doubt))
    };
    filter.status.is_none_or(|status| status == saga.status)
        && filter.saga_name.as_ref().is_none_or(|name| *name == saga.saga_name)
        && filter.step.as_ref().is_none_or(at_step)
        && filter.key.as_ref().is_none_or(|key| saga.has_key(key))
        && is_of_the_time(filter, saga.created_at, now)
}

/// An entry in the words of the API.
fn told(
    number: u64,
    logged: Logged,
    revision: Revision,
    name: impl Fn(usize) -> Option<String>,
) -> HistoryEntry {
    let at = Timestamp::from_micros(logged.at_us);
    let step = logged.entry.step().and_then(name);
    let mut told = HistoryEntry {
        number,
        at,
        revision: revision.to_string(),
        event: event(&logged.entry),
        step,
        result: None,
        error: None,
        next_retry_at: None,
        actor: None,
        reason: None,
    };
    let again = |at: Option<Moment>| at.map(Timestamp::from);
    match logged.entry {
        Entry::Began { .. } | Entry::TimedOut => {}
        Entry::Done { result, .. } | Entry::Undone { result, .. } => told.result = Some(result),
        Entry::Failed { error, retry_at, .. }
        | Entry::Unknown { error, retry_at, .. }
        | Entry::UndoFailed { error, retry_at, .. } => {
            told.error = Some(error);
            told.next_retry_at = again(retry_at);
        }
        Entry::TakenOver { by } => told.actor = Some(by),
        Entry::Stuck { why, .. } => told.error = Some(why),
        Entry::Operated { verb, actor, reason, .. } => {
            if let Verb::ResolveDone { result, .. } = verb {
                told.result = Some(result);
            }
            (told.actor, told.reason) = (Some(actor), Some(reason));
        }
    }
    told
}

/// What an entry of the log says, in the past tense.
pub(super) fn event(entry: &Entry) -> &'static str {
    match entry {
        Entry::Began { .. } => "step_began",
        Entry::Done { .. } => "step_completed",
        Entry::Failed { .. } => "step_failed",
        Entry::Unknown { .. } => "step_unknown",
        Entry::Undone { .. } => "step_compensated",
        Entry::UndoFailed { .. } => "compensation_failed",
        Entry::TakenOver { .. } => "taken_over",
        Entry::TimedOut => "timed_out",
        Entry::Stuck { .. } => "parked",
        Entry::Operated { verb, .. } => match verb {
            Verb::Cancel => "cancelled",
            Verb::Resume => "resumed",
            Verb::Retry { .. } => "step_retried",
            Verb::Skip { .. } => "step_skipped",
            Verb::ResolveDone { .. } => "step_resolved_done",
            Verb::ResolveUndone { .. } => "step_resolved_undone",
            Verb::Abandon => "abandoned",
        },
    }
}
