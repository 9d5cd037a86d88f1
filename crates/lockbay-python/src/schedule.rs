//! Schedules, and the Python functions that do their ticks.

use std::sync::Arc;

use lockbay::Json;
use lockbay::job::JobFailure;
use lockbay::schedule::{
    Misfire, Overlap, Resume, ScheduleFilter, ScheduleRequest, Tick, TickPlace,
};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::ask::{Question, ask};
use crate::bay::{LockBay, Shared};
use crate::call::awaitable;
use crate::error::{Raise, invalid, job_failure, told};
use crate::home::Home;
use crate::job::{seconds, until};
use crate::json::{from_json, show, to_json, to_optional};

/// Who does the ticks of a name, and what it gets.
#[derive(Clone)]
pub(crate) struct TickHandler {
    function: Arc<Py<PyAny>>,
    takes_tick: bool,
}

impl TickHandler {
    /// What it calls.
    pub(crate) fn function(&self) -> &Py<PyAny> {
        &self.function
    }

    /// Registers it with an instance.
    pub(crate) fn register(
        &self,
        name: &str,
        bay: &lockbay::LockBay,
        home: &Home,
    ) -> lockbay::Result<()> {
        let (handler, home) = (self.clone(), home.clone());
        bay.schedules().register(name, move |tick| handler.clone().tick(home.clone(), tick))
    }

    async fn tick(self, home: Home, tick: Tick) -> Result<Json, JobFailure> {
        let lost = tick.cancelled.clone();
        // Between two loops of the application it waits for the next.
        let home = until(&lost, home.open()).await;
        let home = home.ok_or_else(|| JobFailure::retryable("the instance was closed"))?;
        let what =
            format!("attempt {} of {}, due {},", tick.attempt, tick.schedule, tick.scheduled_time);
        let takes_tick = self.takes_tick;
        let arguments = move |py: Python<'_>| {
            let call = if takes_tick { vec![Bound::new(py, ScheduledTick(tick))?] } else { vec![] };
            Ok((PyTuple::new(py, call)?.unbind(), None))
        };
        let question = Question { function: self.function, context: None };
        let read = move |py: Python<'_>, answer: PyResult<Bound<'_, PyAny>>| match answer {
            Ok(result) => to_json("the result", &result)
                .map_err(|error| JobFailure::permanent(told(py, &error))),
            Err(error) => Err(job_failure(py, &error, &what)),
        };
        until(&lost, ask(&home, question, arguments, read)).await.unwrap_or_else(|| {
            Err(JobFailure::retryable("the tick was taken away, or the event loop has ended"))
        })
    }
}

/// What the handler of a schedule gets.
#[pyclass(frozen, module = "lockbay", name = "Tick")]
pub(crate) struct ScheduledTick(Tick);

#[pymethods]
impl ScheduledTick {
    #[getter]
    fn schedule(&self) -> &str {
        &self.0.schedule
    }

    #[getter]
    fn job_type(&self) -> &str {
        &self.0.job_type
    }

    #[getter]
    fn job_id(&self) -> &str {
        &self.0.job_id
    }

    /// When it was due, as an RFC 3339 time.
    #[getter]
    fn scheduled_time(&self) -> String {
        self.0.scheduled_time.to_string()
    }

    #[getter]
    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        from_json(py, &self.0.parameters)
    }

    /// The same for all attempts at this tick: hand it to whoever can refuse duplicates.
    #[getter]
    fn idempotency_token(&self) -> &str {
        &self.0.idempotency_token
    }

    /// The number of this attempt, from 1.
    #[getter]
    fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Grows with every attempt: hand it to what the tick writes to.
    #[getter]
    fn fencing_token(&self) -> u64 {
        self.0.fencing_token.number()
    }

    /// Whether the claim or the leadership is lost. A coroutine is cancelled then; a plain function
    /// looks here.
    #[getter]
    fn cancelled(&self) -> bool {
        self.0.cancelled.is_cancelled()
    }

    fn __repr__(&self) -> String {
        format!(
            "<Tick of {} due {} attempt {}>",
            self.0.schedule, self.0.scheduled_time, self.0.attempt
        )
    }
}

/// Work that is due at times, begun by the leader.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Schedules(Arc<Shared>);

#[pymethods]
impl LockBay {
    /// Work that is due at times, begun by the leader.
    #[getter]
    fn schedules(&self) -> Schedules {
        Schedules(Arc::clone(&self.0))
    }
}

#[pymethods]
impl Schedules {
    /// Registers who does the ticks of schedules that name this handler, in this process. Register
    /// on every instance: any of them may lead.
    fn register(&self, py: Python<'_>, name: String, handler: Py<PyAny>) -> PyResult<()> {
        let takes = py.import("lockbay._loop")?.getattr("takes_an_argument")?.call1((&handler,))?;
        let handler = TickHandler { function: Arc::new(handler), takes_tick: takes.is_truthy()? };
        self.0.put_tick_handler(name, handler).or_raise(py)
    }

    /// Creates a schedule, or replaces its definition; the same again changes nothing. Gives it as
    /// it stands.
    #[pyo3(signature = (
        job_id, schedule_expression, handler, *, job_type=None, parameters=None, time_zone="UTC",
        leader_only=true, misfire="run_once", misfire_grace=None, overlap="queue", jitter=None,
        max_retries=None, timeout=None
    ))]
    #[allow(clippy::too_many_arguments)] // by keyword, most of them
    fn put<'py>(
        &self,
        py: Python<'py>,
        job_id: String,
        schedule_expression: String,
        handler: String,
        job_type: Option<String>,
        parameters: Option<&Bound<'py, PyAny>>,
        time_zone: &str,
        leader_only: bool,
        misfire: &str,
        misfire_grace: Option<f64>,
        overlap: &str,
        jitter: Option<f64>,
        max_retries: Option<u32>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let job_type = job_type.unwrap_or_else(|| job_id.clone());
        let mut request = ScheduleRequest::new(job_id, job_type, schedule_expression, handler);
        request.parameters = to_optional("parameters", parameters)?;
        request.time_zone = time_zone.to_owned();
        request.place = if leader_only { TickPlace::LeaderOnly } else { TickPlace::WhereBegun };
        request.misfire = match misfire {
            "run_once" => Misfire::RunOnce,
            "run_all" => Misfire::RunAll,
            "skip" => Misfire::Skip,
            other => {
                let message = format!("misfire is run_once, run_all or skip, not {other:?}");
                return Err(invalid(py, message));
            }
        };
        if let Some(grace) = seconds(py, "misfire_grace", misfire_grace)? {
            request.misfire_grace = grace;
        }
        request.overlap = match overlap {
            "queue" => Overlap::Queue,
            "skip" => Overlap::Skip,
            "allow" => Overlap::Allow,
            other => {
                let message = format!("overlap is queue, skip or allow, not {other:?}");
                return Err(invalid(py, message));
            }
        };
        request.jitter = seconds(py, "jitter", jitter)?.unwrap_or_default();
        request.max_retries = max_retries;
        request.timeout = seconds(py, "timeout", timeout)?;
        let call = async move { Ok(bay.schedules().put(&request).await?.schedule) };
        awaitable(py, call, |py, schedule| show(py, &schedule))
    }

    /// A schedule as it stands.
    fn get<'py>(&self, py: Python<'py>, job_id: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.schedules().show(&job_id).await }, |py, it| show(py, &it))
    }

    /// A page of schedules: `(schedules, next_page)`.
    #[pyo3(signature = (*, page_size=100, page=None))]
    fn list<'py>(
        &self,
        py: Python<'py>,
        page_size: usize,
        page: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let filter = ScheduleFilter::default();
        let call = async move { bay.schedules().list(&filter, page, page_size).await };
        awaitable(py, call, |py, page| {
            let schedules = show(py, &page.items)?;
            Ok((schedules, page.next).into_pyobject(py)?.into_any().unbind())
        })
    }

    /// Begins no ticks until it is resumed.
    fn pause<'py>(&self, py: Python<'py>, job_id: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.schedules().pause(&job_id).await }, |py, it| show(py, &it))
    }

    /// Goes on; with `catch_up`, what was due meanwhile is late and not lost.
    #[pyo3(signature = (job_id, *, catch_up=false))]
    fn resume<'py>(
        &self,
        py: Python<'py>,
        job_id: String,
        catch_up: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let how = if catch_up { Resume::CatchUp } else { Resume::FromNow };
        let call = async move { bay.schedules().resume(&job_id, how).await };
        awaitable(py, call, |py, it| show(py, &it))
    }

    /// Runs it now, besides its times; gives the key of the job.
    fn run<'py>(&self, py: Python<'py>, job_id: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { Ok(bay.schedules().run_now(&job_id, None).await?.job_key) };
        awaitable(py, call, |py, key| Ok(key.into_pyobject(py)?.into_any().unbind()))
    }

    /// Deletes it. Ticks that run go on.
    fn delete<'py>(&self, py: Python<'py>, job_id: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.schedules().delete(&job_id).await }, |py, ()| Ok(py.None()))
    }
}
