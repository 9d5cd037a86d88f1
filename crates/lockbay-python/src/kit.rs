//! The saga kit for handlers in Python: runs a saga under every fault that it must survive.
//!
//! The runs happen on a thread of their own, in stores in memory, on a clock that stands still while
//! anything is asked in Python. What is asked there is asked on the loop that called the kit. It
//! knows nothing of what a saga is for; what the faults are is the library's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lockbay::clock::Clock;
use lockbay::ledger::Ledger;
use lockbay::saga::{
    Probe, SagaRequest, SagaStatus, Settled, Started, Step, StepContext, StepError, StepOutput,
};
use lockbay::store::Effects;
use lockbay::testing::{Report, SagaKit, SagaWorld};
use lockbay::{Error, ErrorKind};
use parking_lot::Mutex;
use pyo3::exceptions::PyAssertionError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tokio::sync::Notify;

use crate::ask::{Question, ask};
use crate::bay::LockBay;
use crate::call::awaitable;
use crate::error::told;
use crate::home::Home;
use crate::job::seconds;
use crate::mailbox::{Mailbox, Post};
use crate::saga::{Calling, Handler, request};

/// How the names of the library's own handlers begin.
const OWN: &str = "finance.";

/// What the kit was told, for all runs.
struct Told {
    post: Post,
    home: Home,
    request: SagaRequest,
    calling: Calling,
    /// Makes the world of a run.
    begin: Arc<Py<PyAny>>,
    prepare: Option<Arc<Py<PyAny>>>,
    observe: Option<Arc<Py<PyAny>>>,
    invariant: Option<Arc<Py<PyAny>>>,
    /// How long Python may take to answer before the clock goes on without it.
    patience: Duration,
    /// Whether it took longer once. Then no other run is begun, as each would wait for as long.
    given_up: AtomicBool,
}

impl Told {
    fn not_given_up(&self) -> Result<(), String> {
        if self.given_up.load(Ordering::Acquire) {
            let patience = self.patience;
            return Err(format!(
                "a handler or a function of the test took longer than {patience:?}"
            ));
        }
        Ok(())
    }
}

/// The world of one run.
struct World {
    told: Arc<Told>,
    made: Arc<Mutex<Option<Made>>>,
    asked: Arc<Asked>,
}

/// What Python makes of it, when it is prepared.
#[derive(Clone)]
struct Made {
    world: Arc<Py<PyAny>>,
    handlers: Arc<HashMap<String, Handler>>,
}

impl Made {
    fn read(world: &Bound<'_, PyAny>, calling: Calling) -> PyResult<Self> {
        let mut handlers = HashMap::new();
        for pair in world.getattr("handlers")?.call_method0("items")?.try_iter()? {
            let (name, handler): (String, Bound<'_, PyAny>) = pair?.extract()?;
            handlers.insert(name, Handler::of(&handler, calling)?);
        }
        Ok(Made { world: Arc::new(world.clone().unbind()), handlers: Arc::new(handlers) })
    }
}

/// How many questions Python has not answered yet.
#[derive(Default)]
struct Asked {
    open: AtomicUsize,
    answered: Notify,
}

/// One of them.
struct Open(Arc<Asked>);

impl Asked {
    fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::AcqRel);
        Open(Arc::clone(self))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.answered.notify_one();
    }
}

impl World {
    /// Asks a function of the caller's, and reads what it returns; the error says what it raised.
    async fn ask<T: Send + 'static>(
        &self,
        function: &Arc<Py<PyAny>>,
        arguments: impl FnOnce(Python<'_>) -> PyResult<Py<PyTuple>> + Send + 'static,
        read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    ) -> Result<T, String> {
        let _open = self.asked.begin();
        let question = Question { function: Arc::clone(function), context: None };
        let arguments = move |py: Python<'_>| Ok((arguments(py)?, None));
        let read = |py: Python<'_>, answer: PyResult<Bound<'_, PyAny>>| {
            answer.and_then(|answer| read(&answer)).map_err(|error| told(py, &error))
        };
        let answer = ask(&self.told.post, question, arguments, read).await;
        answer.unwrap_or_else(|| Err("the event loop has ended".into()))
    }

    /// Asks one with the world and the instance, and what else there is.
    async fn ask_of_world<T: Send + 'static>(
        &self,
        function: &Arc<Py<PyAny>>,
        bay: &lockbay::LockBay,
        end: Option<SagaStatus>,
        read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    ) -> Result<T, String> {
        let Some(Made { world, .. }) = self.made.lock().clone() else {
            return Err("the handlers were not made".into());
        };
        let (bay, home) = (bay.clone(), self.told.home.clone());
        let arguments = move |py: Python<'_>| {
            let world = world.bind(py).call_method1("on", (LockBay::lent(py, bay, home)?,))?;
            let mut arguments = vec![world];
            if let Some(end) = end {
                arguments.push(end.name().into_pyobject(py)?.into_any());
            }
            Ok(PyTuple::new(py, arguments)?.unbind())
        };
        self.ask(function, arguments, read).await
    }
}

fn unlucky(what: &str, error: String) -> lockbay::Error {
    lockbay::Error::invalid(format!("{what}: {error}"))
}

#[async_trait]
impl SagaWorld for World {
    fn register(&self, bay: &lockbay::LockBay) -> lockbay::Result<()> {
        let steps = self.told.request.steps.iter();
        let named =
            steps.flat_map(|step| [Some(&step.handler), step.compensation_handler.as_ref()]);
        for name in named.flatten().filter(|name| !name.starts_with(OWN)) {
            let step = KitStep {
                name: name.clone(),
                home: self.told.home.clone(),
                made: Arc::clone(&self.made),
                asked: Arc::clone(&self.asked),
                clock: bay.clock().clone(),
                ledger: bay.ledger().clone(),
            };
            bay.sagas().register(name, step)?;
        }
        Ok(())
    }

    async fn prepare(&self, bay: &lockbay::LockBay) -> lockbay::Result<()> {
        self.told.not_given_up().map_err(Error::invalid)?;
        let calling = self.told.calling;
        let nothing = |py: Python<'_>| Ok(PyTuple::empty(py).unbind());
        let read = move |world: &Bound<'_, PyAny>| Made::read(world, calling);
        let made = self.ask(&self.told.begin, nothing, read).await;
        let made = made.map_err(|error| unlucky("the handlers cannot be made", error))?;
        *self.made.lock() = Some(made);
        let Some(prepare) = &self.told.prepare else { return Ok(()) };
        let prepared = self.ask_of_world(prepare, bay, None, |_| Ok(())).await;
        prepared.map_err(|error| unlucky("prepare", error))
    }

    async fn start(&self, bay: &lockbay::LockBay) -> lockbay::Result<Started> {
        bay.sagas().start(self.told.request.clone()).await
    }

    async fn observe(&self, bay: &lockbay::LockBay) -> lockbay::Result<String> {
        let Some(observe) = &self.told.observe else { return Ok(String::new()) };
        let seen = self.ask_of_world(observe, bay, None, |seen| Ok(seen.repr()?.to_string())).await;
        seen.map_err(|error| unlucky("observe", error))
    }

    async fn answered(&self) -> bool {
        let mut waited = false;
        while self.asked.open.load(Ordering::Acquire) > 0 {
            if self.told.given_up.load(Ordering::Acquire) {
                return false;
            }
            waited = true;
            let answered = self.asked.answered.notified();
            if Clock::system().timeout(self.told.patience, answered).await.is_none() {
                self.told.given_up.store(true, Ordering::Release);
            }
        }
        waited
    }

    async fn check(&self, bay: &lockbay::LockBay, end: SagaStatus) -> Result<(), String> {
        self.told.not_given_up()?;
        let Some(invariant) = &self.told.invariant else { return Ok(()) };
        let read = |answer: &Bound<'_, PyAny>| Ok(answer.is_none() || answer.is_truthy()?);
        match self.ask_of_world(invariant, bay, Some(end), read).await? {
            true => Ok(()),
            false => Err("the invariant does not hold".into()),
        }
    }
}

/// A step of a run: the handler of its name, once the world is made.
struct KitStep {
    name: String,
    home: Home,
    made: Arc<Mutex<Option<Made>>>,
    asked: Arc<Asked>,
    clock: Clock,
    ledger: Ledger,
}

impl KitStep {
    fn step(&self) -> Result<impl Step + use<>, StepError> {
        let handlers = self.made.lock().as_ref().map(|made| Arc::clone(&made.handlers));
        let handler = handlers.and_then(|handlers| handlers.get(&self.name).cloned());
        let missing = || StepError::missing(format!("there is no handler {:?}", self.name));
        let handler = handler.ok_or_else(missing)?;
        Ok(handler.step(&self.home, &self.clock, &self.ledger))
    }
}

#[async_trait]
impl Step for KitStep {
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        let _open = self.asked.begin();
        self.step()?.execute(context).await
    }

    async fn compensate(&self, context: StepContext) -> Result<StepOutput, StepError> {
        let _open = self.asked.begin();
        self.step()?.compensate(context).await
    }

    async fn settle(&self, context: &StepContext, settled: Settled) -> Result<Effects, StepError> {
        let _open = self.asked.begin();
        self.step()?.settle(context, settled).await
    }

    async fn probe(&self, context: StepContext) -> Result<Probe, StepError> {
        let _open = self.asked.begin();
        self.step()?.probe(context).await
    }
}

/// Runs a saga without a fault, then once under each. `begin` makes the world of a run.
#[pyfunction]
#[pyo3(signature = (begin, steps, context, *, prepare, observe, invariant, spread, patience))]
#[allow(clippy::too_many_arguments)] // by keyword, most of them
pub(crate) fn run_kit<'py>(
    py: Python<'py>,
    begin: Py<PyAny>,
    steps: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    prepare: Option<Py<PyAny>>,
    observe: Option<Py<PyAny>>,
    invariant: Option<Py<PyAny>>,
    spread: bool,
    patience: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let post = Mailbox::running(py)?.get().post();
    let told = Arc::new(Told {
        home: Home::new(post.clone()),
        post,
        request: request("on_trial".into(), steps, context)?,
        calling: Calling::spread(spread),
        begin: Arc::new(begin),
        prepare: prepare.map(Arc::new),
        observe: observe.map(Arc::new),
        invariant: invariant.map(Arc::new),
        patience: seconds(py, "patience", Some(patience))?.unwrap_or_default(),
        given_up: AtomicBool::new(false),
    });
    let kit = SagaKit::new(move || World {
        told: Arc::clone(&told),
        made: Arc::default(),
        asked: Arc::default(),
    });
    let call = async move {
        let ran = tokio::task::spawn_blocking(move || kit.run()).await;
        ran.map_err(|error| Error::new(ErrorKind::Internal, "the kit failed").with_source(error))
    };
    awaitable(py, call, |py, report| {
        Ok(Bound::new(py, KitReport::of(&report))?.into_any().unbind())
    })
}

/// What came of one run: what went wrong in it on purpose, what each step was asked, where the saga
/// stood at the end and why, and what it did against its promises.
#[pyclass(frozen, get_all, module = "lockbay.testing", name = "SagaRun")]
#[derive(Clone)]
pub(crate) struct KitRun {
    fault: String,
    trace: Vec<String>,
    status: Option<&'static str>,
    reason: Option<String>,
    violations: Vec<String>,
}

/// What came of all runs; as text, for whoever wrote the saga.
#[pyclass(frozen, module = "lockbay.testing", name = "SagaReport")]
pub(crate) struct KitReport {
    #[pyo3(get)]
    runs: Vec<KitRun>,
    text: String,
}

impl KitReport {
    fn of(report: &Report) -> Self {
        let run = |run: &lockbay::testing::Run| KitRun {
            fault: run.fault.to_string(),
            trace: run.trace.iter().map(ToString::to_string).collect(),
            status: run.status.map(SagaStatus::name),
            reason: run.reason.clone(),
            violations: run.violations.clone(),
        };
        KitReport { runs: report.runs.iter().map(run).collect(), text: report.to_string() }
    }
}

#[pymethods]
impl KitReport {
    /// Whether the saga holds under every fault.
    #[getter]
    fn is_ok(&self) -> bool {
        self.runs.iter().all(|run| run.violations.is_empty())
    }

    /// Every violation, with the fault under which it came up.
    #[getter]
    fn violations(&self) -> Vec<(String, String)> {
        let told = |run: &KitRun| {
            let fault = run.fault.clone();
            run.violations.clone().into_iter().map(move |text| (fault.clone(), text))
        };
        self.runs.iter().flat_map(told).collect()
    }

    /// Fails the test that calls it if anything is wrong, and says what.
    fn assert_ok(&self) -> PyResult<()> {
        if self.is_ok() { Ok(()) } else { Err(PyAssertionError::new_err(self.text.clone())) }
    }

    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        let wrong = self.runs.iter().filter(|run| !run.violations.is_empty()).count();
        format!("<SagaReport of {} runs, {wrong} of them wrong>", self.runs.len())
    }
}
