//! Who does the ticks of a schedule: closures of this process, and whoever else is known.
//!
//! A name is looked for among the closures that were registered here, and then asked for through
//! [`TickHandlers`], behind which others keep theirs. What such a handler is, this part does not
//! know.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Timestamp};
use crate::error::Result;
use crate::job::{JobFailure, JobSuccess};
use crate::json::Json;
use crate::name::check_name;
use crate::store::Revision;

/// One attempt at one tick, as its handler gets it.
#[derive(Debug, Clone)]
pub struct Tick {
    /// Of which schedule.
    pub schedule: String,
    /// The type of its job.
    pub job_type: String,
    /// Its job.
    pub job_id: String,
    /// When it was due, jitter not counted; when it was asked for, if somebody asked for it.
    pub scheduled_time: Timestamp,
    /// What the schedule was given.
    pub parameters: Json,
    /// The same for all attempts at this tick, on whichever instance: hand it to whoever can refuse
    /// duplicates.
    pub idempotency_token: String,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Grows with every attempt: hand it to what the tick writes to.
    pub fencing_token: Revision,
    /// When the attempt is cut off, on this process's monotonic clock.
    pub deadline: clock::Tick,
    /// How long the attempt may take.
    pub limit: Duration,
    /// Fires when the claim or the leadership is lost. Stop then: another instance may have the
    /// tick, and what this one returns is not recorded.
    pub cancelled: CancellationToken,
}

/// One attempt that a handler was found for.
#[async_trait]
pub(crate) trait TickAttempt: Send + Sync + 'static {
    /// Makes it.
    async fn make(&self) -> Result<JobSuccess, JobFailure>;

    /// Hears that its outcome is recorded.
    async fn recorded(&self);
}

/// Knows handlers that were not registered here.
#[async_trait]
pub(crate) trait TickHandlers: Send + Sync + 'static {
    /// The attempt at a tick by the handler of this name; `None` if nobody is known to be it.
    async fn find(&self, name: &str, tick: Tick) -> Result<Option<Arc<dyn TickAttempt>>>;

    /// Whether somebody is known to be the handler of this name.
    async fn knows(&self, name: &str) -> Result<bool>;
}

type Answer = Pin<Box<dyn Future<Output = Result<JobSuccess, JobFailure>> + Send>>;
type Closure = Arc<dyn Fn(Tick) -> Answer + Send + Sync>;

struct Local(Closure, Tick);

#[async_trait]
impl TickAttempt for Local {
    async fn make(&self) -> Result<JobSuccess, JobFailure> {
        (self.0)(self.1.clone()).await
    }

    async fn recorded(&self) {}
}

/// All handlers that an instance knows.
pub(super) struct Handlers {
    local: RwLock<HashMap<String, Closure>>,
    others: Arc<dyn TickHandlers>,
}

impl Handlers {
    pub(super) fn new(others: Arc<dyn TickHandlers>) -> Self {
        Handlers { local: RwLock::default(), others }
    }

    pub(super) fn register<F, A, T>(&self, name: &str, handler: F) -> Result<()>
    where
        F: Fn(Tick) -> A + Send + Sync + 'static,
        A: Future<Output = Result<T, JobFailure>> + Send + 'static,
        T: Into<JobSuccess>,
    {
        check_name("handler", name, 128)?;
        let closure = move |tick: Tick| -> Answer {
            let answer = handler(tick);
            Box::pin(async move { answer.await.map(Into::into) })
        };
        self.local.write().insert(name.to_owned(), Arc::new(closure));
        Ok(())
    }

    pub(super) async fn knows(&self, name: &str) -> Result<bool> {
        let is_local = self.local.read().contains_key(name);
        Ok(is_local || self.others.knows(name).await?)
    }

    pub(super) async fn find(
        &self,
        name: &str,
        tick: Tick,
    ) -> crate::error::Result<Option<Arc<dyn TickAttempt>>> {
        let local = self.local.read().get(name).cloned();
        match local {
            Some(closure) => Ok(Some(Arc::new(Local(closure, tick)))),
            None => self.others.find(name, tick).await,
        }
    }
}
