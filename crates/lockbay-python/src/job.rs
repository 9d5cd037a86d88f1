//! Jobs: a Python function that is run once, wherever and however often it is asked for.

use std::sync::Arc;
use std::time::Duration;

use lockbay::Placement;
use lockbay::clock::{Clock, Tick, Timestamp};
use lockbay::job::{
    ClaimRequest, Identity, JobContext, JobFailure, JobFilter, JobOutcome, JobStatus, JobSuccess,
    OnFailed, OnInProgress, RunOptions,
};
use lockbay::ledger::Ledger;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tokio_util::sync::CancellationToken;

use crate::ask::{Question, ask};
use crate::bay::{LockBay, Shared};
use crate::call::{awaitable, awaitable_here};
use crate::error::{Raise, invalid, job_failure, told, unknown};
use crate::json::{from_json, show, to_optional};
use crate::mailbox::{Mailbox, Post};
use crate::movement::{Answer, Ids};

/// What a handler gets.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Job {
    context: JobContext,
    clock: Clock,
    given: Option<Arc<Py<PyAny>>>,
}

#[pymethods]
impl Job {
    /// As they were given.
    #[getter]
    fn parameters(&self, py: Python<'_>) -> Py<PyAny> {
        self.given.as_ref().map_or_else(|| py.None(), |given| given.clone_ref(py))
    }

    #[getter]
    fn job_id(&self) -> &str {
        &self.context.job_id
    }

    /// The same for all attempts: hand it to whoever can refuse duplicates.
    #[getter]
    fn idempotency_token(&self) -> &str {
        &self.context.idempotency_token
    }

    /// The number of this attempt, from 1.
    #[getter]
    fn attempt(&self) -> u32 {
        self.context.attempt
    }

    /// Grows with every claim: hand it to what the job writes to.
    #[getter]
    fn fencing_token(&self) -> u64 {
        self.context.fencing_token.number()
    }

    /// Whether the claim is lost. A coroutine is cancelled then; a plain function looks here.
    #[getter]
    fn cancelled(&self) -> bool {
        self.context.cancelled.is_cancelled()
    }

    /// How many seconds are left of this attempt, if it was given a timeout.
    #[getter]
    fn time_left(&self) -> Option<f64> {
        left(&self.clock, self.context.deadline?)
    }

    fn __repr__(&self) -> String {
        format!("<Job {} attempt {}>", self.context.job_id, self.context.attempt)
    }
}

fn left(clock: &Clock, deadline: Tick) -> Option<f64> {
    Some(deadline.since(clock.tick()).as_secs_f64())
}

/// How a run ended.
#[pyclass(frozen, get_all, module = "lockbay", name = "JobOutcome")]
pub(crate) struct Outcome {
    /// `completed`, `failed`, `cancelled` or `in_progress`.
    status: &'static str,
    /// Whether it had ended before, here or elsewhere.
    replayed: bool,
    /// What the handler returned, as it was recorded.
    result: Py<PyAny>,
    /// Whether the result is still kept.
    result_kept: bool,
    /// Why it failed or was cancelled.
    error: Option<String>,
    job_id: Option<String>,
    attempt: Option<u32>,
    /// Who runs it.
    holder: Option<String>,
    /// In how many seconds it makes sense to ask again.
    retry_after: Option<f64>,
}

#[pymethods]
impl Outcome {
    /// `(success, result, error)`.
    fn as_tuple(&self, py: Python<'_>) -> (bool, Py<PyAny>, Option<String>) {
        let error = match (self.status, &self.error) {
            ("completed", _) => None,
            ("in_progress", _) => {
                let holder = self.holder.as_deref().unwrap_or("somebody");
                Some(format!("in progress: {holder} runs it"))
            }
            (_, Some(error)) => Some(error.clone()),
            (status, None) => Some(status.to_owned()),
        };
        (self.status == "completed", self.result.clone_ref(py), error)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let result = self.result.bind(py).repr()?;
        let Outcome { status, replayed, error, .. } = self;
        Ok(format!("<JobOutcome {status} replayed={replayed} result={result} error={error:?}>"))
    }
}

impl Outcome {
    pub(crate) fn show(py: Python<'_>, outcome: &JobOutcome) -> PyResult<Outcome> {
        let plain = |status, error| Outcome {
            status,
            replayed: false,
            result: py.None(),
            result_kept: true,
            error,
            job_id: None,
            attempt: None,
            holder: None,
            retry_after: None,
        };
        Ok(match outcome {
            JobOutcome::Completed(result) => {
                Outcome { result: from_json(py, result)?.unbind(), ..plain("completed", None) }
            }
            JobOutcome::Failed(error) => plain("failed", Some(error.clone())),
            JobOutcome::InProgress(progress) => Outcome {
                job_id: Some(progress.job_id.clone()),
                attempt: Some(progress.attempt),
                holder: Some(progress.holder.clone()),
                retry_after: Some(progress.retry_after.as_secs_f64()),
                ..plain("in_progress", None)
            },
            JobOutcome::Replayed(replayed) => Outcome {
                replayed: true,
                result: match &replayed.result {
                    Some(result) => from_json(py, result)?.unbind(),
                    None => py.None(),
                },
                result_kept: replayed.result_kept,
                job_id: Some(replayed.job_id.clone()),
                attempt: Some(replayed.attempt),
                ..plain(replayed.status.name(), replayed.error.clone())
            },
        })
    }
}

/// How the handler of a job is called.
#[derive(Clone, Copy)]
enum Calling {
    /// With one [`Job`].
    WithJob,
    /// With the parameters by name, and of the job what it names beyond them.
    ByName,
}

#[pymethods]
impl LockBay {
    /// Jobs, as they stand.
    #[getter]
    fn jobs(&self) -> Jobs {
        Jobs(Arc::clone(&self.0))
    }

    /// Runs a job once, wherever and however often this is called. A duplicate gets its outcome.
    ///
    /// `handler` is called with a `Job`; with `by_name=True`, with the parameters by name. It may
    /// be a coroutine function, or a plain one, which then runs on a thread.
    #[pyo3(signature = (
        job_type, job_key, handler, parameters=None, *, by_name=false, leader_only=false,
        identity="fingerprint", wait_seconds=None, on_failed="rerun", max_retries=None,
        claim_ttl=None, timeout=None, holder=None, scheduled_time=None
    ))]
    #[allow(clippy::too_many_arguments)] // by keyword, each of them
    fn run_job<'py>(
        &self,
        py: Python<'py>,
        job_type: String,
        job_key: String,
        handler: Py<PyAny>,
        parameters: Option<Bound<'py, PyAny>>,
        by_name: bool,
        leader_only: bool,
        identity: &str,
        wait_seconds: Option<f64>,
        on_failed: &str,
        max_retries: Option<u32>,
        claim_ttl: Option<f64>,
        timeout: Option<f64>,
        holder: Option<String>,
        scheduled_time: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let json = to_optional("parameters", parameters.as_ref())?;
        let calling = if by_name { Calling::ByName } else { Calling::WithJob };
        if by_name
            && let Some(given) = parameters.as_ref().filter(|it| !it.is_instance_of::<PyDict>())
        {
            let shown = given.repr()?;
            return Err(invalid(py, format!("parameters given by name are a dict, not {shown}")));
        }
        let mut request = ClaimRequest::new(job_type, job_key, json);
        request.identity = identity_of(py, identity)?;
        request.on_failed = when_failed(py, on_failed)?;
        if let Some(wait) = seconds(py, "wait_seconds", wait_seconds)? {
            request.on_in_progress = OnInProgress::Wait(wait);
        }
        request.max_retries = max_retries;
        request.claim_ttl = seconds(py, "claim_ttl", claim_ttl)?;
        request.holder = holder;
        request.scheduled_time =
            scheduled_time.map(str::parse::<Timestamp>).transpose().or_raise(py)?;
        let options = RunOptions { timeout: seconds(py, "timeout", timeout)? };
        let placement = if leader_only { Placement::LeaderOnly } else { Placement::Anywhere };

        let mailbox = Mailbox::running(py)?;
        let asked = Asked {
            post: mailbox.get().post(),
            function: Arc::new(handler),
            context: Arc::new(copy_context(py)?),
            given: parameters.map(|given| Arc::new(given.unbind())),
            calling,
            clock: bay.clock().clone(),
            ledger: bay.ledger().clone(),
        };
        let call = async move {
            let post = asked.post.clone();
            let handler = |context| asked.clone().answer(context);
            let ran = bay.run_job_with_effects(request, placement, options, handler);
            tokio::select! {
                outcome = ran => outcome,
                // Nobody can hear of it, and nobody can run it: the claim lapses.
                () = post.ended() => Err(unknown("the event loop ended before the job did")),
            }
        };
        awaitable_here(&mailbox, call, |py, outcome| {
            Ok(Bound::new(py, Outcome::show(py, &outcome)?)?.into_any().unbind())
        })
    }
}

fn identity_of(py: Python<'_>, name: &str) -> PyResult<Identity> {
    match name {
        "fingerprint" => Ok(Identity::Fingerprint),
        "key" => Ok(Identity::Key),
        other => Err(invalid(py, format!("identity is fingerprint or key, not {other:?}"))),
    }
}

fn when_failed(py: Python<'_>, name: &str) -> PyResult<OnFailed> {
    match name {
        "rerun" => Ok(OnFailed::Rerun),
        "replay" => Ok(OnFailed::Replay),
        other => Err(invalid(py, format!("on_failed is rerun or replay, not {other:?}"))),
    }
}

/// The jobs of a namespace, as they stand.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Jobs(Arc<Shared>);

#[pymethods]
impl Jobs {
    /// A job as it stands.
    fn get<'py>(&self, py: Python<'py>, job_id: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.jobs().show(&job_id).await }, |py, job| show(py, &job))
    }

    /// A page of jobs: `(jobs, next_page)`.
    #[pyo3(signature = (*, status=None, job_type=None, job_key=None, page_size=100, page=None))]
    #[allow(clippy::too_many_arguments)] // by keyword, each of them
    fn list<'py>(
        &self,
        py: Python<'py>,
        status: Option<&str>,
        job_type: Option<String>,
        job_key: Option<String>,
        page_size: usize,
        page: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let status = status.map(JobStatus::parse).transpose().or_raise(py)?;
        let filter = JobFilter { status, job_type, job_key, ..JobFilter::default() };
        let call = async move { bay.jobs().list(&filter, page, page_size).await };
        awaitable(py, call, |py, page| {
            let jobs = show(py, &page.items)?;
            Ok((jobs, page.next).into_pyobject(py)?.into_any().unbind())
        })
    }

    /// Ends a job that has not ended; its handler is told, and duplicates learn the reason.
    fn cancel<'py>(
        &self,
        py: Python<'py>,
        job_id: String,
        reason: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { bay.jobs().cancel(&job_id, &reason).await };
        awaitable(py, call, |py, ()| Ok(py.None()))
    }

    /// Lets a job that failed or was cancelled run again.
    fn retry<'py>(
        &self,
        py: Python<'py>,
        job_id: String,
        reason: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { bay.jobs().retry(&job_id, &reason).await };
        awaitable(py, call, |py, ()| Ok(py.None()))
    }
}

/// A handler, and what is needed to call it.
#[derive(Clone)]
struct Asked {
    post: Post,
    function: Arc<Py<PyAny>>,
    context: Arc<Py<PyAny>>,
    given: Option<Arc<Py<PyAny>>>,
    calling: Calling,
    clock: Clock,
    ledger: Ledger,
}

impl Asked {
    async fn answer(self, context: JobContext) -> Result<JobSuccess, JobFailure> {
        let Asked { post, function, context: variables, given, calling, clock, ledger } = self;
        let lost = context.cancelled.clone();
        let ids = Ids::of_job(&context.idempotency_token);
        let what = format!("attempt {} of job {}", context.attempt, context.job_id);
        let question = Question { function: Arc::clone(&function), context: Some(variables) };
        let arguments = move |py: Python<'_>| {
            let job = Bound::new(py, Job { context, clock, given: given.clone() })?;
            match calling {
                Calling::WithJob => Ok((PyTuple::new(py, [job])?.unbind(), None)),
                Calling::ByName => {
                    let named = by_name(py, &function, given.as_deref(), &job)?;
                    Ok((PyTuple::empty(py).unbind(), Some(named)))
                }
            }
        };
        let read = move |py: Python<'_>, answer: PyResult<Bound<'_, PyAny>>| match answer {
            Ok(result) => {
                Answer::read(&result).map_err(|error| JobFailure::permanent(told(py, &error)))
            }
            Err(error) => Err(job_failure(py, &error, &what)),
        };
        let answer = until(&lost, ask(&post, question, arguments, read)).await;
        let answer = answer.unwrap_or_else(|| {
            Err(JobFailure::retryable("the claim was lost, or the event loop of the job ended"))
        });
        answer?.of_job(&ledger, &ids).await
    }
}

/// What is answered, unless the right to it is lost first; then whoever was asked is cancelled.
pub(crate) async fn until<T>(
    lost: &CancellationToken,
    answer: impl Future<Output = Option<T>>,
) -> Option<T> {
    lost.run_until_cancelled(answer).await.flatten()
}

/// The parameters by name, and of the job what the function names beyond them.
fn by_name(
    py: Python<'_>,
    function: &Py<PyAny>,
    given: Option<&Py<PyAny>>,
    job: &Bound<'_, Job>,
) -> PyResult<Py<PyDict>> {
    let named = match given {
        None => PyDict::new(py),
        Some(given) => given.bind(py).cast::<PyDict>().map_err(PyErr::from)?.copy()?,
    };
    let names = py.import("lockbay._loop")?.getattr("named_parameters")?.call1((function,))?;
    for name in ["idempotency_token", "fencing_token", "attempt", "job"] {
        if names.contains(name)? && !named.contains(name)? {
            let value = if name == "job" { job.clone().into_any() } else { job.getattr(name)? };
            named.set_item(name, value)?;
        }
    }
    Ok(named.unbind())
}

fn copy_context(py: Python<'_>) -> PyResult<Py<PyAny>> {
    use pyo3::sync::PyOnceLock;
    static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    COPY.import(py, "contextvars", "copy_context")?.call0().map(Bound::unbind)
}

/// A time in seconds.
pub(crate) fn seconds(
    py: Python<'_>,
    what: &str,
    value: Option<f64>,
) -> PyResult<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    let time = Duration::try_from_secs_f64(value);
    let time =
        time.map_err(|_| invalid(py, format!("{what} is a time in seconds, not {value}")))?;
    Ok(Some(time))
}
