//! Search: jobs and sagas by the words in them.
//!
//! The room owns an index of words, which the leader keeps beside everything else: it follows the
//! audit log and reads what its lines tell of, so that no commit of a job or a saga has anything
//! more to do. It refuses to decide what a record says: whatever the index leads to is read and held
//! against the query as it is now. Its state is one head and the segments that it names.
//!
//! The way through the files: [`index`] follows the log and writes segments with [`pen`]; [`merge`]
//! keeps them few and drops what is gone; [`renew`] writes them anew after a change of what is
//! masked; [`find`] looks into them with [`read`]. [`words`] says
//! what a word is, [`document`] what of a record is read, [`query`] what matches, [`segment`] how
//! words and numbers are bytes; these four decide, and touch nothing.
//!
//! # What holds
//! What was entered up to `indexed_until` is found, and nothing is shown that does not match when it
//! is read. Each line of the log is indexed once, whenever leadership moves. What is asked for by
//! its id, or by its key to the letter, is found at once.
//!
//! # What does not
//! Other words of the last second or so are not found yet. Without the audit log nothing is indexed.

mod document;
mod find;
mod head;
mod index;
mod merge;
mod pen;
mod query;
mod read;
mod renew;
mod segment;
mod words;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{JobFilter, JobInfo, Jobs};
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::saga::{SagaFilter, SagaInfo, Sagas};
use crate::store::Store;

/// Time between two looks at the audit log.
const INTERVAL: Duration = Duration::from_secs(1);
/// After so long a segment is looked through for records that are gone.
const RECHECK: Duration = Duration::from_secs(86_400);

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub enum Look {
    /// Jobs and sagas.
    #[default]
    Any,
    /// Jobs that this filter takes, too. Its order is of no matter.
    Jobs(JobFilter),
    /// Sagas that this filter takes, too. Its order is of no matter.
    Sagas(SagaFilter),
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A job.
    Job(Box<JobInfo>),
    /// A saga.
    Saga(Box<SagaInfo>),
}

/// Something that was found, and where in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// As it stands.
    pub found: Found,
    /// The names of the values that hold words of the query, such as `parameters.user_id`.
    pub matched: Vec<String>,
}

impl Hit {
    /// The business key of a job; of a saga the text `key` of its metadata.
    pub fn key(&self) -> Option<String> {
        match &self.found {
            Found::Job(job) => Some(job.job_key.clone()),
            Found::Saga(saga) => saga.key(),
        }
    }
}

/// Which of the two was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundKind {
    /// A job.
    Job,
    /// A saga.
    Saga,
}

/// Something that was found, as far as a list of both shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Brief {
    /// What it is.
    pub kind: FoundKind,
    /// Of the job or the saga.
    pub id: String,
    /// The type of a job, the name of a saga.
    pub name: String,
    /// As in [`Hit::key`].
    pub key: Option<String>,
    /// How it stands, in the words of the API.
    pub status: &'static str,
    /// When it was first claimed, or started.
    pub created_at: Timestamp,
    /// As in [`Hit`].
    pub matched: Vec<String>,
}

impl From<Hit> for Brief {
    fn from(hit: Hit) -> Self {
        let key = hit.key();
        let (kind, id, name, status, created_at) = match hit.found {
            Found::Job(job) => {
                (FoundKind::Job, job.job_id, job.job_type, job.status.name(), job.created_at)
            }
            Found::Saga(saga) => {
                let status = saga.status.name();
                (FoundKind::Saga, saga.saga_id, saga.saga_name, status, saga.created_at)
            }
        };
        Brief { kind, id, name, key, status, created_at, matched: hit.matched }
    }
}

/// A page of what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchPage<T = Hit> {
    /// The newest first, behind what has the id or key that was asked for.
    pub items: Vec<T>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
    /// Whether a beginning of words began so many that not all of them were looked up.
    pub truncated: bool,
    /// What was entered up to this moment was looked through.
    pub indexed_until: Timestamp,
}

/// Why nothing is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nobody wants it.
    Off,
    /// There is no audit log to follow.
    NoAudit,
}

/// How search works in an instance.
#[derive(Debug, Clone)]
pub(crate) struct SearchSettings {
    pub(crate) refusal: Option<Refusal>,
    /// Names of values that are not indexed.
    pub(crate) masked: Vec<String>,
}

/// Search, as one instance sees it. Cheap to clone.
#[derive(Clone)]
pub struct Search(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    leadership: Leadership,
    jobs: Jobs,
    sagas: Sagas,
    refusal: Option<Refusal>,
    masked: Vec<String>,
    /// By which rule records are read; it follows from what is masked.
    rule: String,
    /// One indexes at a time.
    indexing: tokio::sync::Mutex<()>,
}

impl Search {
    pub(crate) fn new(
        (store, clock, metrics): (Arc<dyn Store>, Clock, Arc<Metrics>),
        leadership: Leadership,
        (jobs, sagas): (Jobs, Sagas),
        SearchSettings { refusal, masked }: SearchSettings,
    ) -> Self {
        let indexing = tokio::sync::Mutex::default();
        let rule = document::rule(&masked);
        Search(Arc::new(Inner {
            store,
            clock,
            metrics,
            leadership,
            jobs,
            sagas,
            refusal,
            masked,
            rule,
            indexing,
        }))
    }
}

impl Inner {
    fn check_on(&self) -> Result<()> {
        let why = match self.refusal {
            None => return Ok(()),
            Some(Refusal::Off) => "search is off: set search = true",
            Some(Refusal::NoAudit) => {
                "search follows the audit log, and audit is off: set audit = true"
            }
        };
        Err(Error::new(ErrorKind::Refused, why))
    }
}
