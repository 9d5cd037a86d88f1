//! Starting a saga, and waiting for its end.
//!
//! A saga is acknowledged when its head is durable. From before that commit on it has a place in
//! this process, so that there is never one that is durable and forgotten: should the caller go
//! away, or the answer of the store be lost, what was written is looked for and executed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::definition::{Definition, SagaRequest};
use super::driver::Driver;
use super::log::SagaStatus;
use super::record::{Head, SAGA, Saga, decode, saga_key};
use super::retire::is_marked;
use super::session::Session;
use super::{Live, Sagas, shutting_down};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::hex::hex;
use crate::json::Json;
use crate::metrics::Metric;
use crate::name::check_name;
use crate::store::{Commit, Hints, Partition, Range, Reply};

/// How often a start is tried again because its session or its place was lost meanwhile.
const TRIES: usize = 8;
/// How often a commit without a clear answer is sent again.
const RESENDS: u32 = 4;
/// The longest idempotency key: that of a request over HTTP, and a name of its kind before it.
const MAX_KEY_BYTES: usize = 255 + 32;
/// How often one that waits looks without having got a hint.
const POLL: Duration = Duration::from_millis(500);

/// A saga that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Which.
    pub saga_id: String,
    /// Where it stands.
    pub status: SagaStatus,
    /// Whether the same request had started it before.
    pub replayed: bool,
}

/// What a request consists of, as far as two with the same key must agree.
#[derive(Serialize)]
struct Asked<'a> {
    saga_name: &'a str,
    steps: Vec<AskedStep<'a>>,
    context: &'a Json,
    metadata: &'a Json,
    timeout_us: Option<u128>,
    deadline: Option<Timestamp>,
}

#[derive(Serialize)]
struct AskedStep<'a> {
    name: &'a str,
    handler: &'a str,
    compensation_handler: &'a Option<String>,
    parameters: &'a Json,
    max_retries: Option<u32>,
    compensation_max_retries: Option<u32>,
    timeout_us: Option<u128>,
    depends_on: &'a Option<Vec<String>>,
    pivot: bool,
    idempotent: bool,
}

impl Sagas {
    /// Accepts a saga, durably, and executes it. One round trip.
    ///
    /// Said again with the same `idempotency_key`, the same request gives the same saga.
    ///
    /// # Errors
    /// `Invalid` for a definition outside the limits, with a circle, with a handler that nobody
    /// knows, or with a deadline that has passed. `KeyReused` if the key started another saga.
    /// `Busy` if this instance has as many sagas as it may; nothing was written. `Unknown` if the
    /// store's answer was lost; the saga runs if it was written, so read or repeat it with its key.
    pub async fn start(&self, request: SagaRequest) -> Result<Started> {
        self.learn_the_time().await?;
        let Some(key) = &request.idempotency_key else {
            return self.start_new(self.new_id().into(), request, None).await;
        };
        let (id, digest): (Arc<str>, _) = (id_of(key)?.into(), digest(&request)?);
        match self.start_new(Arc::clone(&id), request, Some(digest.clone())).await {
            // It may have been fine when it was accepted: since then its deadline has passed, a
            // handler has gone, or this instance is full.
            Err(error) if was_refused(&error) => {
                self.started_before(&id, Some(&digest)).await.or(Err(error))
            }
            other => other,
        }
    }

    async fn start_new(
        &self,
        id: Arc<str>,
        mut request: SagaRequest,
        digest: Option<String>,
    ) -> Result<Started> {
        let now = self.0.time.now();
        request.begin_at(now)?;
        let definition = Arc::new(Definition::of(&request, self.0.policies)?);
        if !definition.deferred {
            self.check_handlers(&definition).await?;
        }
        if self.0.closing.is_cancelled() {
            return Err(shutting_down());
        }
        let place = Arc::clone(&self.0.places).try_acquire_owned().map_err(|_| {
            let message = "this instance has as many sagas as it may; nothing was written";
            Error::new(ErrorKind::Busy, message)
        })?;
        let head = Head {
            session: String::new(),
            created_us: now.as_micros(),
            request: digest,
            definition,
        };
        self.start_as(id, head, place).await
    }

    async fn start_as(
        &self,
        id: Arc<str>,
        mut head: Head,
        place: OwnedSemaphorePermit,
    ) -> Result<Started> {
        let request = head.request.clone();
        for _ in 0..TRIES {
            let session = self.0.sessions.own().await?;
            let Some(entrance) = self.enter(&id) else {
                // The same request is being started here right now, or was.
                self.0.clock.sleep(Duration::from_millis(5)).await;
                match self.started_before(&id, request.as_ref()).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    other => return other,
                }
            };
            head.session = session.id.to_string();
            let mut saga = Saga::new(Arc::clone(&id), head.clone());
            let commit = saga.start(session.guard(), &self.0.scribe)?;
            let asked = self.0.clock.tick();
            let (revision, now) = match self.commit_start(&commit).await {
                Ok(Reply::Committed { revision, now }) => (revision, now),
                Ok(Reply::Conflict { guard: 0, .. }) => {
                    entrance.leave();
                    self.0.sessions.lost(&session);
                    continue;
                }
                Ok(Reply::Conflict { .. }) => {
                    entrance.leave();
                    return self.started_before(&id, request.as_ref()).await;
                }
                // Dropping the entrance has it looked for.
                Err(error) if error.kind() == ErrorKind::Unknown => return Err(error),
                Err(error) => {
                    entrance.leave();
                    return Err(error);
                }
            };
            self.0.time.told(now, asked);
            saga.started(revision);
            return Ok(self.accepted(entrance, saga, session, place));
        }
        Err(Error::new(ErrorKind::Unavailable, "this instance cannot keep a session: try another"))
    }

    fn accepted(
        &self,
        entrance: Entrance,
        saga: Saga,
        session: Session,
        place: OwnedSemaphorePermit,
    ) -> Started {
        self.0.metrics.count(Metric::SagasStarted);
        let waits = self.0.turns.available_permits() == 0;
        let status = if waits { SagaStatus::Pending } else { SagaStatus::Running };
        let saga_id = saga.id.to_string();
        Driver::start(self, entrance.pass(), session, place, saga);
        Started { saga_id, status, replayed: false }
    }

    /// The same commit again, as long as it is not clear what became of it. What was unclear once
    /// stays so, though the store is not reached at all later.
    async fn commit_start(&self, commit: &Commit) -> Result<Reply> {
        let mut pause = Duration::from_millis(20);
        let mut unknown = None;
        for resends in 0..=RESENDS {
            if resends > 0 {
                self.0.clock.sleep(pause).await;
                pause *= 2;
            }
            match self.0.store.commit(commit).await {
                Err(error) if error.kind() == ErrorKind::Unknown => unknown = Some(error),
                Err(error) if unknown.is_none() => return Err(error),
                Err(_) => {}
                Ok(reply) => return Ok(reply),
            }
        }
        Err(unknown.expect("whoever sends again did not know"))
    }

    /// Takes a saga's place among those that are executed here, if it has none.
    pub(super) fn enter(&self, id: &Arc<str>) -> Option<Entrance> {
        let live = Live::new();
        {
            let mut all = self.0.live.lock();
            if all.contains_key(id) {
                return None;
            }
            all.insert(Arc::clone(id), Arc::clone(&live));
        }
        Some(Entrance { sagas: self.clone(), id: Arc::clone(id), live, open: true })
    }

    async fn started_before(&self, id: &str, request: Option<&String>) -> Result<Started> {
        let read = self.0.store.get(&[saga_key(id)?]).await?;
        let found = read.records.into_iter().flatten().next();
        if found.as_ref().is_some_and(is_marked) {
            let message = format!(
                "this idempotency key started a saga that ended and was removed since; use a new \
                 key: {id}"
            );
            return Err(Error::new(ErrorKind::KeyReused, message));
        }
        let head: Head = decode(&found.ok_or_else(|| super::record::not_found(id))?)?;
        if head.request.as_ref() != request {
            let message = format!("this idempotency key started another saga: {id}");
            return Err(Error::new(ErrorKind::KeyReused, message));
        }
        let status = self.status(id).await?;
        Ok(Started { saga_id: id.to_owned(), status, replayed: true })
    }

    /// The saga that this very request has started before, if its key names one.
    ///
    /// # Errors
    /// `KeyReused` if the key started another saga.
    pub async fn started_with(&self, request: &SagaRequest) -> Result<Option<Started>> {
        let Some(key) = &request.idempotency_key else { return Ok(None) };
        match self.started_before(&id_of(key)?, Some(&digest(request)?)).await {
            Ok(started) => Ok(Some(started)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn check_handlers(&self, definition: &Definition) -> Result<()> {
        for name in definition.handlers() {
            if self.0.handlers.find(name).await?.is_none() {
                return Err(Error::invalid(format!(
                    "nobody is known to handle {name:?}: register it, put it, or poll for it first"
                )));
            }
        }
        Ok(())
    }

    /// An id that begins with the time, so that sagas lie in the store as they come.
    fn new_id(&self) -> String {
        let random = self.0.clock.random_id();
        format!("{:014x}{}", self.0.time.now().as_micros(), &random[..18])
    }

    /// Where a saga stands.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn status(&self, id: &str) -> Result<SagaStatus> {
        let saga = Saga::load(&*self.0.store, id).await?;
        Ok(self.seen(id, saga.status()))
    }

    /// A running saga that waits for its first turn is pending; only its executor knows.
    pub(super) fn seen(&self, id: &str, status: SagaStatus) -> SagaStatus {
        let waits = self.live(id).is_some_and(|live| !live.has_begun());
        if waits && status == SagaStatus::Running { SagaStatus::Pending } else { status }
    }

    /// Waits until a saga has ended or needs a person, at most for `limit`, and says where it
    /// stands.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn wait(&self, id: &str, limit: Duration) -> Result<SagaStatus> {
        let until = self.0.clock.tick() + limit;
        let mut hints = None;
        loop {
            let left = until.since(self.0.clock.tick());
            if let Some(live) = self.live(id)
                && let Some(status) = self.0.clock.timeout(left, live.ended()).await
                && has_come_to_rest(status)
            {
                return Ok(status);
            }
            let status = self.status(id).await?;
            let left = until.since(self.0.clock.tick());
            if has_come_to_rest(status) || left.is_zero() {
                return Ok(status);
            }
            if hints.is_none() {
                let range = Range::new(Partition::of(id), SAGA, id);
                hints = self.0.store.watch(&range).await.ok();
                continue;
            }
            self.hinted(&mut hints, left.min(POLL)).await;
        }
    }

    /// Waits for a hint, or for this long.
    async fn hinted(&self, hints: &mut Option<Hints>, pause: Duration) {
        let Some(hints) = hints else { return self.0.clock.sleep(pause).await };
        let hint = self.0.clock.timeout(pause, hints.next());
        if hint.await == Some(crate::store::Hint::Anything) {
            // Most likely something else has changed.
            self.0.clock.sleep(self.0.clock.jitter(Duration::from_millis(30))).await;
        }
    }

    /// Starts a saga and waits for its end, or until it needs a person.
    ///
    /// # Errors
    /// As [`start`](Sagas::start). Once it was accepted it goes on, whatever becomes of the caller.
    pub async fn run(&self, request: SagaRequest) -> Result<(String, SagaStatus)> {
        let Started { saga_id, .. } = self.start(request).await?;
        loop {
            let status = match self.live(&saga_id) {
                Some(live) => live.ended().await,
                None => self.wait(&saga_id, Duration::from_secs(3_600)).await?,
            };
            if has_come_to_rest(status) {
                return Ok((saga_id, status));
            }
        }
    }
}

/// Whether nothing was written because the request, or the moment, was wrong.
fn was_refused(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Busy | ErrorKind::Unavailable)
}

fn has_come_to_rest(status: SagaStatus) -> bool {
    status.is_terminal() || status == SagaStatus::Parked
}

/// The id of the saga that this idempotency key names.
pub(crate) fn id_of(key: &str) -> Result<String> {
    check_name("idempotency key", key, MAX_KEY_BYTES)?;
    let digest: [u8; 32] = Sha256::digest(format!("lockbay saga 1\0{key}").as_bytes()).into();
    Ok(hex(&digest[..16]))
}

fn digest(request: &SagaRequest) -> Result<String> {
    let time = |time: Option<Duration>| time.map(|time| time.as_micros());
    let steps = request.steps.iter().map(|step| AskedStep {
        name: &step.name,
        handler: &step.handler,
        compensation_handler: &step.compensation_handler,
        parameters: &step.parameters,
        max_retries: step.max_retries,
        compensation_max_retries: step.compensation_max_retries,
        timeout_us: time(step.timeout),
        depends_on: &step.depends_on,
        pivot: step.pivot,
        idempotent: step.idempotent,
    });
    let asked = Asked {
        saga_name: &request.saga_name,
        steps: steps.collect(),
        context: &request.context,
        metadata: &request.metadata,
        timeout_us: time(request.timeout),
        deadline: request.deadline,
    };
    Ok(hex(&Json::from_value(&asked)?.digest()?))
}

/// A saga's place among those that are executed here, until its driver has it.
pub(super) struct Entrance {
    sagas: Sagas,
    id: Arc<str>,
    live: Arc<Live>,
    open: bool,
}

impl Entrance {
    /// There is no such saga after all.
    pub(super) fn leave(mut self) {
        self.open = false;
        self.sagas.0.live.lock().remove(&self.id);
        self.live.end(SagaStatus::Pending);
    }

    /// The driver has it.
    pub(super) fn pass(mut self) -> Arc<Live> {
        self.open = false;
        Arc::clone(&self.live)
    }
}

impl Drop for Entrance {
    /// The caller has gone, or does not know what became of its commit.
    fn drop(&mut self) {
        if self.open {
            self.sagas.0.live.lock().remove(&self.id);
            self.live.end(SagaStatus::Pending);
            self.sagas.look_for_lost();
        }
    }
}

impl Live {
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
    }
}
