//! Sagas: their handlers in Python, starting them, looking at them, and deciding about them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockbay::clock::Clock;
use lockbay::ledger::Ledger;
use lockbay::saga::{
    Action, Decision, HandlerCheck, Probe, SagaFilter, SagaRequest, SagaStatus, Settled, Step,
    StepContext, StepError, StepOutput, StepSpec,
};
use lockbay::store::Effects;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::ask::{Arguments, Question, ask_until};
use crate::bay::{LockBay, Shared};
use crate::call::awaitable;
use crate::error::{Raise, invalid, step_error, told};
use crate::home::Home;
use crate::job::seconds;
use crate::json::{from_json, show, to_json, to_optional};
use crate::movement::{Answer, Ids};

/// How long sagas may be waited for in one call.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3_600);

/// Who does a step, undoes it, and finds out whether it was done.
#[derive(Clone)]
pub(crate) struct Handler {
    execute: Arc<Py<PyAny>>,
    compensate: Option<Arc<Py<PyAny>>>,
    probe: Option<Arc<Py<PyAny>>>,
    settle: Option<Arc<Py<PyAny>>>,
    calling: Calling,
}

#[derive(Clone, Copy)]
pub(crate) enum Calling {
    /// With one [`StepCall`].
    WithCall,
    /// With parameters and context, and the original result for a compensation.
    Spread,
}

impl Calling {
    pub(crate) fn spread(spread: bool) -> Self {
        if spread { Calling::Spread } else { Calling::WithCall }
    }
}

impl Handler {
    pub(crate) fn of(object: &Bound<'_, PyAny>, calling: Calling) -> PyResult<Self> {
        let py = object.py();
        let method = |name: &str| -> PyResult<Option<Arc<Py<PyAny>>>> {
            let method = object.getattr_opt(name)?.filter(|method| !method.is_none());
            Ok(method.map(|method| Arc::new(method.unbind())))
        };
        let Some(execute) = method("execute")? else {
            let shown = object.repr()?;
            return Err(invalid(py, format!("a handler has a method execute; {shown} has none")));
        };
        let (compensate, probe) = (method("compensate")?, method("probe")?);
        Ok(Handler { execute, compensate, probe, settle: method("settle")?, calling })
    }

    /// One whose functions take a [`StepCall`].
    pub(crate) fn of_functions(
        execute: Arc<Py<PyAny>>,
        compensate: Option<Arc<Py<PyAny>>>,
        probe: Option<Arc<Py<PyAny>>>,
        settle: Option<Arc<Py<PyAny>>>,
    ) -> Self {
        Handler { execute, compensate, probe, settle, calling: Calling::WithCall }
    }

    /// What it calls.
    pub(crate) fn functions(&self) -> impl Iterator<Item = &Py<PyAny>> {
        let optional = self.compensate.iter().chain(&self.probe).chain(&self.settle);
        std::iter::once(&self.execute).chain(optional).map(|function| &**function)
    }

    /// Has it do the steps of this name.
    pub(crate) fn register(
        &self,
        name: &str,
        bay: &lockbay::LockBay,
        home: &Home,
    ) -> lockbay::Result<()> {
        bay.sagas().register(name, self.step(home, bay.clock(), bay.ledger()))
    }

    /// The step that asks it.
    pub(crate) fn step(&self, home: &Home, clock: &Clock, ledger: &Ledger) -> impl Step + use<> {
        let (home, clock, ledger) = (home.clone(), clock.clone(), ledger.clone());
        PythonStep { handler: self.clone(), home, clock, ledger }
    }
}

struct PythonStep {
    handler: Handler,
    home: Home,
    clock: Clock,
    ledger: Ledger,
}

impl PythonStep {
    async fn ask<T: Send + 'static>(
        &self,
        function: Option<&Arc<Py<PyAny>>>,
        context: StepContext,
        read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    ) -> Result<T, StepError> {
        let Some(function) = function else {
            let action = context.action.name();
            return Err(StepError::missing(format!("step {:?} has no {action}", context.step)));
        };
        let unwanted = context.cancelled.clone();
        // Between two loops of the application it waits for the next, for as long as it may take.
        let home = unwanted.run_until_cancelled(self.home.open()).await.flatten();
        let home = home.ok_or_else(not_begun)?;
        let StepContext { action, step, saga_id, attempt, .. } = &context;
        let what =
            format!("{} of step {step:?} of saga {saga_id}, attempt {attempt},", action.name());
        let call = StepCall { context, clock: self.clock.clone() };
        let calling = self.handler.calling;
        let arguments = move |py: Python<'_>| call.arguments(py, calling);
        let question = Question { function: Arc::clone(function), context: None };
        let read = move |py: Python<'_>, answer: PyResult<Bound<'_, PyAny>>| match answer {
            // It has been done by now, so what cannot be read is not known.
            Ok(result) => read(&result).map_err(|error| StepError::unknown(told(py, &error))),
            Err(error) => Err(step_error(py, &error, &what)),
        };
        let answer = ask_until(&unwanted, &home, question, arguments, read).await;
        answer.unwrap_or_else(|| {
            Err(StepError::unknown("the attempt was given up, or the event loop has ended"))
        })
    }
}

/// An attempt that had no effect, because the function was not called.
fn not_begun() -> StepError {
    StepError::Failed { error: "the instance was closed before it began".into(), retryable: true }
}

/// By which keys a step names what it moves.
fn ids(context: &StepContext) -> Ids {
    Ids {
        key: context.idempotency_key.clone(),
        undo_key: context.undo_key(),
        goes_back: context.action == Action::Compensate,
        step: Some((context.saga_id.to_string(), context.step.clone())),
    }
}

#[async_trait]
impl Step for PythonStep {
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        let ids = ids(&context);
        let answer = self.ask(Some(&self.handler.execute), context, Answer::read).await?;
        answer.of_step(&self.ledger, &ids).await
    }

    async fn compensate(&self, context: StepContext) -> Result<StepOutput, StepError> {
        let ids = ids(&context);
        let answer = self.ask(self.handler.compensate.as_ref(), context, Answer::read).await?;
        answer.of_step(&self.ledger, &ids).await
    }

    /// What was found or said to be done moves what it would have moved, if the handler says what.
    async fn settle(&self, context: &StepContext, settled: Settled) -> Result<Effects, StepError> {
        let settle = self.handler.settle.as_ref().filter(|_| settled == Settled::Done);
        let Some(settle) = settle else { return Ok(Effects::default()) };
        let answer = self.ask(Some(settle), context.clone(), Answer::read).await?;
        Ok(answer.of_step(&self.ledger, &ids(context)).await?.effects)
    }

    async fn probe(&self, context: StepContext) -> Result<Probe, StepError> {
        let read = |result: &Bound<'_, PyAny>| {
            if result.is(not_done(result.py())?) {
                return Ok(Probe::NotDone);
            }
            to_json("what the probe found", result).map(Probe::Done)
        };
        self.ask(self.handler.probe.as_ref(), context, read).await
    }
}

/// What a probe returns for a step that was not done.
fn not_done(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static NOT_DONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    NOT_DONE.import(py, "lockbay._step", "NOT_DONE")
}

/// What a handler of a step gets.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct StepCall {
    context: StepContext,
    clock: Clock,
}

#[pymethods]
impl StepCall {
    /// `execute`, `compensate` or `probe`.
    #[getter]
    fn action(&self) -> &'static str {
        self.context.action.name()
    }

    #[getter]
    fn saga_id(&self) -> &str {
        &self.context.saga_id
    }

    #[getter]
    fn saga_name(&self) -> &str {
        self.context.saga_name()
    }

    #[getter]
    fn step(&self) -> &str {
        &self.context.step
    }

    #[getter]
    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        from_json(py, &self.context.parameters)
    }

    /// What the saga was given, with the result of each step that is done as `{step}_result`.
    #[getter]
    fn context<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        from_json(py, &self.context.context.to_json().or_raise(py)?)
    }

    /// Whether the execution is known to have completed, for a compensation.
    #[getter]
    fn is_completed(&self) -> bool {
        self.context.original_result.is_some()
    }

    /// What it returned then; `None` if that is not known.
    #[getter]
    fn original_result<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.context.original_result.as_ref().map(|result| from_json(py, result)).transpose()
    }

    /// Names the execution, the same over all attempts and actions.
    #[getter]
    fn idempotency_key(&self) -> &str {
        &self.context.idempotency_key
    }

    /// Names the compensation, the same over all its attempts.
    #[getter]
    fn undo_key(&self) -> String {
        self.context.undo_key()
    }

    /// The number of this attempt, from 1.
    #[getter]
    fn attempt(&self) -> u32 {
        self.context.attempt
    }

    /// Grows when another executor takes the saga over: hand it to what the step writes to.
    #[getter]
    fn fencing_token(&self) -> u64 {
        self.context.fencing_token.number()
    }

    /// When the attempt is cut off, as an RFC 3339 time by the store's clock.
    #[getter]
    fn deadline(&self) -> String {
        self.context.deadline_at.to_string()
    }

    /// How many seconds are left of this attempt.
    #[getter]
    fn time_left(&self) -> f64 {
        self.context.time_left(&self.clock).as_secs_f64()
    }

    /// Whether the outcome is no longer waited for. A coroutine is cancelled then; a plain function
    /// looks here.
    #[getter]
    fn cancelled(&self) -> bool {
        self.context.cancelled.is_cancelled()
    }

    fn __repr__(&self) -> String {
        let StepContext { action, step, saga_id, attempt, .. } = &self.context;
        format!("<StepCall {} {step:?} of saga {saga_id} attempt {attempt}>", action.name())
    }
}

impl StepCall {
    fn arguments(self, py: Python<'_>, calling: Calling) -> PyResult<Arguments> {
        static CONTEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let action = self.context.action;
        let call = Bound::new(py, self)?;
        let arguments = match calling {
            Calling::WithCall => vec![call.into_any()],
            Calling::Spread => {
                let given = call.get().context(py)?;
                let context = CONTEXT.import(py, "lockbay._step", "StepContext")?;
                let context = context.call1((given, &call))?;
                let mut arguments = vec![call.get().parameters(py)?, context];
                if action == Action::Compensate {
                    let original = call.get().original_result(py)?;
                    arguments.push(original.unwrap_or_else(|| py.None().into_bound(py)));
                }
                arguments
            }
        };
        Ok((PyTuple::new(py, arguments)?.unbind(), None))
    }
}

/// The sagas of a namespace.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Sagas(Arc<Shared>);

#[pymethods]
impl LockBay {
    /// Sagas.
    #[getter]
    fn sagas(&self) -> Sagas {
        Sagas(Arc::clone(&self.0))
    }

    /// Registers who does the steps of this name in this process: an object with `execute` and
    /// perhaps `compensate` and `probe`. With `spread` they are called with parameters and context,
    /// and a compensation with the original result; else with one `StepCall`.
    #[pyo3(signature = (name, handler, *, spread=false))]
    fn register_handler(
        &self,
        py: Python<'_>,
        name: String,
        handler: &Bound<'_, PyAny>,
        spread: bool,
    ) -> PyResult<()> {
        let handler = Handler::of(handler, Calling::spread(spread))?;
        self.0.put_handler(name, handler).or_raise(py)
    }

    /// Short for `sagas.start`.
    #[pyo3(signature = (
        saga_name, steps, context=None, *, metadata=None, timeout=None, idempotency_key=None,
        defer_handlers=false
    ))]
    #[allow(clippy::too_many_arguments)] // by keyword, most of them
    fn saga<'py>(
        &self,
        py: Python<'py>,
        saga_name: String,
        steps: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        metadata: Option<&Bound<'py, PyAny>>,
        timeout: Option<f64>,
        idempotency_key: Option<String>,
        defer_handlers: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let sagas = self.sagas();
        sagas.start(
            py,
            saga_name,
            steps,
            context,
            metadata,
            timeout,
            idempotency_key,
            defer_handlers,
        )
    }
}

#[pymethods]
impl Sagas {
    /// Starts a saga, durably, and gives its id. `steps` are dicts, `SagaStep`s, or what
    /// `LockBay.step` makes.
    #[pyo3(signature = (
        saga_name, steps, context=None, *, metadata=None, timeout=None, idempotency_key=None,
        defer_handlers=false
    ))]
    #[allow(clippy::too_many_arguments)] // by keyword, most of them
    fn start<'py>(
        &self,
        py: Python<'py>,
        saga_name: String,
        steps: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        metadata: Option<&Bound<'py, PyAny>>,
        timeout: Option<f64>,
        idempotency_key: Option<String>,
        defer_handlers: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let mut request = request(saga_name, steps, context)?;
        request.metadata = to_optional("metadata", metadata)?;
        request.timeout = seconds(py, "timeout", timeout)?;
        request.idempotency_key = idempotency_key;
        request.handlers =
            if defer_handlers { HandlerCheck::Deferred } else { HandlerCheck::AtStart };
        awaitable(py, async move { bay.sagas().start(request).await }, |py, started| {
            Ok(started.saga_id.into_pyobject(py)?.into_any().unbind())
        })
    }

    /// A saga as it stands, with every step.
    fn get<'py>(&self, py: Python<'py>, saga_id: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.sagas().show(&saga_id).await }, |py, saga| show(py, &saga))
    }

    /// Waits for the end of a saga, or until a person is needed or the time is over, and gives its
    /// status.
    #[pyo3(signature = (saga_id, timeout=None))]
    fn wait<'py>(
        &self,
        py: Python<'py>,
        saga_id: String,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let limit = seconds(py, "timeout", timeout)?.unwrap_or(LONGEST_WAIT);
        awaitable(py, async move { bay.sagas().wait(&saga_id, limit).await }, |py, status| {
            Ok(status.name().into_pyobject(py)?.into_any().unbind())
        })
    }

    /// A page of sagas: `(sagas, next_page)`.
    #[pyo3(signature = (
        *, status=None, saga_name=None, step=None, key=None, older_than=None, page_size=100,
        page=None
    ))]
    #[allow(clippy::too_many_arguments)] // by keyword, each of them
    fn list<'py>(
        &self,
        py: Python<'py>,
        status: Option<&str>,
        saga_name: Option<String>,
        step: Option<String>,
        key: Option<String>,
        older_than: Option<f64>,
        page_size: usize,
        page: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let filter = SagaFilter {
            status: status.map(SagaStatus::parse).transpose().or_raise(py)?,
            saga_name,
            step,
            key,
            older_than: seconds(py, "older_than", older_than)?,
            ..SagaFilter::default()
        };
        let call = async move { bay.sagas().list(&filter, page, page_size).await };
        awaitable(py, call, |py, page| {
            let sagas = show(py, &page.items)?;
            Ok((sagas, page.next).into_pyobject(py)?.into_any().unbind())
        })
    }

    /// What happened to a saga, oldest first: a page, `(entries, next_page)`.
    #[pyo3(signature = (saga_id, *, page_size=100, page=None))]
    fn history<'py>(
        &self,
        py: Python<'py>,
        saga_id: String,
        page_size: usize,
        page: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { bay.sagas().history(&saga_id, page.as_deref(), page_size).await };
        awaitable(py, call, |py, page| {
            let entries = show(py, &page.items)?;
            Ok((entries, page.next).into_pyobject(py)?.into_any().unbind())
        })
    }

    /// Carries out what a person decided about a saga, and gives its status: `cancel`, `resume`,
    /// `abandon`, or for a step `retry`, `skip`, `resolve_done` and `resolve_undone`.
    #[pyo3(signature = (saga_id, decision, reason, *, actor, step=None, parameters=None, result=None))]
    #[allow(clippy::too_many_arguments)] // by keyword, most of them
    fn operate<'py>(
        &self,
        py: Python<'py>,
        saga_id: String,
        decision: &str,
        reason: String,
        actor: String,
        step: Option<String>,
        parameters: Option<&Bound<'py, PyAny>>,
        result: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let named = || step.clone().ok_or_else(|| invalid(py, format!("{decision} names a step")));
        let decision = match decision {
            "cancel" => Decision::Cancel,
            "resume" => Decision::Resume,
            "abandon" => Decision::Abandon,
            "retry" => {
                let parameters = parameters.map(|it| to_json("parameters", it)).transpose()?;
                Decision::Retry { step: named()?, parameters }
            }
            "skip" => Decision::Skip { step: named()? },
            "resolve_done" => {
                Decision::ResolveDone { step: named()?, result: to_optional("result", result)? }
            }
            "resolve_undone" => Decision::ResolveUndone { step: named()? },
            other => {
                let known = "cancel, resume, abandon, retry, skip, resolve_done, resolve_undone";
                return Err(invalid(
                    py,
                    format!("there is no decision {other:?}; there are {known}"),
                ));
            }
        };
        let call = async move { bay.sagas().operate(&saga_id, &decision, &actor, &reason).await };
        awaitable(py, call, |py, operated| {
            Ok(operated.status.name().into_pyobject(py)?.into_any().unbind())
        })
    }
}

/// A saga as it was said.
pub(crate) fn request(
    saga_name: String,
    steps: &Bound<'_, PyAny>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<SagaRequest> {
    let specs = steps.try_iter()?.enumerate().map(|(place, step)| spec(place, &step?));
    let mut request = SagaRequest::new(saga_name, specs.collect::<PyResult<_>>()?);
    request.context = to_optional("context", context)?;
    Ok(request)
}

/// A step as it was said: a dict, an object with attributes of the same names, or one that is
/// written as functions.
fn spec(place: usize, step: &Bound<'_, PyAny>) -> PyResult<StepSpec> {
    let py = step.py();
    if let Ok(step) = step.cast::<crate::step::Step>() {
        return Ok(step.get().spec());
    }
    let fields = match step.cast::<PyDict>() {
        Ok(fields) => fields.clone(),
        Err(_) => step.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?,
    };
    let known = [
        "name",
        "handler",
        "compensation_handler",
        "parameters",
        "max_retries",
        "compensation_max_retries",
        "timeout",
        "timeout_seconds",
        "depends_on",
        "pivot",
        "idempotent",
    ];
    for name in fields.keys() {
        let name: String = name.extract()?;
        if !known.contains(&name.as_str()) {
            let known = known.join(", ");
            return Err(invalid(
                py,
                format!("steps[{place}] has no field {name:?}; it has {known}"),
            ));
        }
    }
    let field = |name: &str| -> PyResult<Option<Bound<'_, PyAny>>> {
        Ok(fields.get_item(name)?.filter(|value| !value.is_none()))
    };
    let text = |name: &str| -> PyResult<Option<String>> {
        field(name)?.map(|value| value.extract()).transpose()
    };
    let Some(name) = text("name")? else {
        return Err(invalid(py, format!("steps[{place}] has no name")));
    };
    let what = format!("steps[{place}].parameters");
    let parameters = to_optional(&what, field("parameters")?.as_ref())?;
    // A step is done by the handler of its own name, unless it says otherwise.
    let handler = text("handler")?.unwrap_or_else(|| name.clone());
    let mut spec = StepSpec::new(name, handler, parameters);
    spec.compensation_handler = text("compensation_handler")?;
    spec.max_retries = field("max_retries")?.map(|value| value.extract()).transpose()?;
    spec.compensation_max_retries =
        field("compensation_max_retries")?.map(|value| value.extract()).transpose()?;
    let timeout = field("timeout_seconds")?.or(field("timeout")?);
    let timeout = timeout.map(|value| value.extract()).transpose()?;
    spec.timeout = seconds(py, &format!("steps[{place}].timeout_seconds"), timeout)?;
    spec.depends_on = field("depends_on")?.map(|value| value.extract()).transpose()?;
    spec.pivot = field("pivot")?.map_or(Ok(false), |value| value.is_truthy())?;
    spec.idempotent = field("idempotent")?.map_or(Ok(true), |value| value.is_truthy())?;
    Ok(spec)
}
