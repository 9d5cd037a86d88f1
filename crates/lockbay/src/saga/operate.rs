//! What a person may decide about a saga: cancel, resume, retry, skip, resolve, abandon.
//!
//! A decision is an entry in the saga's log like any other, with who decided and why. Whether it
//! may be taken now is the log's to say. A parked saga that goes on by it is executed by the
//! instance that was asked.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::driver::Driver;
use super::list::{SagaFilter, SagaInfo};
use super::log::{Entry, SagaStatus, Verb};
use super::record::{Addition, Saga};
use super::session::Session;
use super::step::{Action, Settled, StepError};
use super::tell::Before;
use super::{Sagas, shutting_down};
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::name::check_name;
use crate::scribe::Caller;
use crate::store::{Effects, Reply};

/// How often a decision is tried again because the saga moved meanwhile.
const TRIES: usize = 32;
/// The longest name of an actor, and the longest reason.
const MAX_ACTOR_BYTES: usize = 256;
const MAX_REASON_BYTES: usize = 1_024;
/// How many of many sagas are decided upon at once.
const AT_ONCE: usize = 16;

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The saga goes back.
    Cancel,
    /// What is stuck is tried again, with fresh budgets.
    Resume,
    /// One step is tried again, perhaps with other parameters.
    Retry {
        /// Which.
        step: String,
        /// What it gets from now on.
        parameters: Option<Json>,
    },
    /// The saga goes on without a step that is parked, forward or back.
    Skip {
        /// Which.
        step: String,
    },
    /// The effect of a parked step is there.
    ResolveDone {
        /// Which.
        step: String,
        /// What it would have returned.
        result: Json,
    },
    /// The effect of a parked step is not there.
    ResolveUndone {
        /// Which.
        step: String,
    },
    /// Nothing more is done.
    Abandon,
}

/// What a decision led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operated {
    /// Which saga.
    pub saga_id: String,
    /// Where it stands now.
    pub status: SagaStatus,
}

/// What one decision led to for many sagas.
#[derive(Debug)]
pub struct OperatedPage {
    /// Each saga that was found, and what came of the decision.
    pub items: Vec<(String, Result<Operated>)>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

impl Sagas {
    /// Carries out what a person decided, and enters who and why in the saga's log.
    ///
    /// # Errors
    /// `NotFound` if there is no such saga or step. `Refused` if the saga does not stand so that
    /// this can be done; the message says what can. `Invalid` without actor or reason. `Busy` if
    /// a parked saga would go on and this instance has no room for it.
    pub async fn operate(
        &self,
        id: &str,
        decision: &Decision,
        actor: &str,
        reason: &str,
    ) -> Result<Operated> {
        check_name("actor", actor, MAX_ACTOR_BYTES)?;
        check_name("reason", reason.trim(), MAX_REASON_BYTES)?;
        self.learn_the_time().await?;
        // What is settled with it, such as a movement, is entered in the same name.
        let caller = Caller { actor: Some(actor.to_owned()), ..Caller::current() };
        let tried = caller.scope(async {
            for _ in 0..TRIES {
                if let Some(operated) = self.try_to_operate(id, decision, actor, reason).await? {
                    return Ok(operated);
                }
            }
            Err(Error::new(ErrorKind::Busy, "the saga moves faster than it can be decided upon"))
        });
        tried.await
    }

    async fn try_to_operate(
        &self,
        id: &str,
        decision: &Decision,
        actor: &str,
        reason: &str,
    ) -> Result<Option<Operated>> {
        let mut saga = Saga::load(&*self.0.store, id).await?;
        let verb = verb(&saga, decision)?;
        let executor = self.executor_of(saga.status(), &verb)?;
        let session = match &executor {
            Some(_) => Some(self.0.sessions.own().await?),
            None => None,
        };
        let effects = self.effects_of(&saga, &verb).await?;
        let entry = Entry::Operated {
            verb,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            session: session.as_ref().map(|session| session.id.to_string()),
        };
        let before = Before::of(&saga);
        // Until it is executed here, what was written may be executed by nobody.
        let sight = executor.as_ref().map(|_| Sight { sagas: self, kept: false });
        let addition = Addition {
            entry: &entry,
            at: self.0.time.now().max(saga.state.changed),
            effects,
            executor: session.as_ref().map(Session::guard),
        };
        let adding = saga.add(addition, &self.0.scribe)?;
        let asked = self.0.clock.tick();
        let reply = match self.0.store.commit(&adding.commit).await {
            Err(error) if error.kind() != ErrorKind::Unknown => {
                sight.into_iter().for_each(Sight::keep);
                return Err(error);
            }
            other => other?,
        };
        match reply {
            Reply::Conflict { guard, .. } => {
                sight.into_iter().for_each(Sight::keep);
                if let Some(session) = session.filter(|_| guard == 0) {
                    self.0.sessions.lost(&session);
                }
                Ok(None)
            }
            Reply::Committed { revision, now } => {
                self.0.time.told(now, asked);
                saga.added(&entry, revision);
                self.tell(&saga, &entry, &before);
                let status = saga.status();
                tracing::info!(
                    saga = id,
                    actor,
                    reason,
                    decision = decision.name(),
                    "saga_operated"
                );
                match executor.zip(session) {
                    Some((place, session)) => self.execute(saga, session, place),
                    None => drop(self.nudge(id)),
                }
                sight.into_iter().for_each(Sight::keep);
                Ok(Some(Operated { saga_id: id.to_owned(), status }))
            }
        }
    }

    /// What is to be written with a decision that settles the execution of a step: its handler
    /// knows. Where there is no handler, nothing is.
    async fn effects_of(&self, saga: &Saga, verb: &Verb) -> Result<Effects> {
        let definition = &saga.head.definition;
        let (step, settled) = match verb {
            Verb::ResolveDone { step, .. } => (*step, Settled::Done),
            Verb::Skip { step } => (*step, Settled::Skipped),
            Verb::Cancel
            | Verb::Resume
            | Verb::Retry { .. }
            | Verb::ResolveUndone { .. }
            | Verb::Abandon => return Ok(Effects::default()),
        };
        if saga.state.goes_back(definition) {
            return Ok(Effects::default());
        }
        let Some(handler) = self.0.handlers.find(&definition.steps[step].handler).await? else {
            return Ok(Effects::default());
        };
        let context = self.context_of(saga, step, Action::Execute, CancellationToken::new());
        handler.settle(&context, settled).await.map_err(|error| match error {
            StepError::Failed { error, retryable: false } => Error::new(ErrorKind::Refused, error),
            StepError::Failed { error, retryable: true }
            | StepError::Unknown { error }
            | StepError::Missing { what: error } => Error::new(ErrorKind::Unavailable, error),
        })
    }

    /// A place to execute a saga that goes on by this decision. Nobody executes a parked saga:
    /// whoever lets it go on does.
    fn executor_of(&self, status: SagaStatus, verb: &Verb) -> Result<Option<OwnedSemaphorePermit>> {
        match status {
            SagaStatus::Parked if *verb != Verb::Abandon => {}
            SagaStatus::Parked
            | SagaStatus::Pending
            | SagaStatus::Running
            | SagaStatus::Compensating
            | SagaStatus::Completed
            | SagaStatus::Compensated
            | SagaStatus::Abandoned => return Ok(None),
        }
        if self.0.closing.is_cancelled() {
            return Err(shutting_down());
        }
        let place = Arc::clone(&self.0.places).try_acquire_owned().map_err(|_| {
            let message = "this instance has as many sagas as it may: ask another, or later";
            Error::new(ErrorKind::Busy, message)
        })?;
        Ok(Some(place))
    }

    /// Goes on with a saga that was parked until now.
    fn execute(&self, saga: Saga, session: Session, place: OwnedSemaphorePermit) {
        // Its last driver may still be here; it looks at the log again before it lets go.
        while !self.nudge(&saga.id) {
            if let Some(entrance) = self.enter(&saga.id) {
                return Driver::start(self, entrance.pass(), session, place, saga);
            }
        }
    }

    /// Carries out one decision for at most `limit` sagas that a filter matches, going on after
    /// `next` of an earlier call, and says for each what came of it. All are found before the first
    /// is decided upon.
    ///
    /// # Errors
    /// `Invalid` without actor or reason, and for a `next` that was never handed out.
    pub async fn operate_all(
        &self,
        filter: &SagaFilter,
        next: Option<String>,
        limit: usize,
        decision: &Decision,
        actor: &str,
        reason: &str,
    ) -> Result<OperatedPage> {
        check_name("actor", actor, MAX_ACTOR_BYTES)?;
        check_name("reason", reason.trim(), MAX_REASON_BYTES)?;
        let found = self.list(filter, next, limit).await?;
        let operate = |saga: SagaInfo| async move {
            let operated = self.operate(&saga.saga_id, decision, actor, reason).await;
            (saga.saga_id, operated)
        };
        let items = stream::iter(found.items).map(operate).buffered(AT_ONCE).collect().await;
        Ok(OperatedPage { items, next: found.next })
    }
}

/// A saga that may be written under our session before it is executed here. Unless that is settled,
/// as when the caller goes away, it is looked for.
struct Sight<'a> {
    sagas: &'a Sagas,
    kept: bool,
}

impl Sight<'_> {
    /// It is executed here, or nothing was written.
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Sight<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.sagas.look_for_lost();
        }
    }
}

impl Decision {
    /// Its name, as in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Decision::Cancel => "cancel",
            Decision::Resume => "resume",
            Decision::Retry { .. } => "retry",
            Decision::Skip { .. } => "skip",
            Decision::ResolveDone { .. } | Decision::ResolveUndone { .. } => "resolve",
            Decision::Abandon => "abandon",
        }
    }
}

/// The decision, with the place of its step.
fn verb(saga: &Saga, decision: &Decision) -> Result<Verb> {
    let place = |step: &str| {
        saga.head.definition.place(step).ok_or_else(|| {
            let message = format!("saga {} has no step {step:?}", saga.id);
            Error::new(ErrorKind::NotFound, message)
        })
    };
    Ok(match decision {
        Decision::Cancel => Verb::Cancel,
        Decision::Resume => Verb::Resume,
        Decision::Abandon => Verb::Abandon,
        Decision::Skip { step } => Verb::Skip { step: place(step)? },
        Decision::ResolveUndone { step } => Verb::ResolveUndone { step: place(step)? },
        Decision::ResolveDone { step, result } => {
            Verb::ResolveDone { step: place(step)?, result: result.clone() }
        }
        Decision::Retry { step, parameters } => {
            Verb::Retry { step: place(step)?, parameters: parameters.clone() }
        }
    })
}
