//! `LockBay`: one instance, as Python holds it.
//!
//! It owns what the instance is to be told when it opens, which may be said before that. Whether it
//! is open, and in which process, is in `life.rs`. It knows nothing of the guide's modules, which
//! are written in Python on top of it.
//!
//! No lock is held while Python code runs; see `mailbox.rs`. Where two are taken, that of the
//! registry comes first.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit};

use crate::call::awaitable;
use crate::callback::Callback;
use crate::error::{Raise, invalid, raise, unavailable, unknown};
use crate::home::Home;
use crate::json::show;
use crate::life::{Begun, Owned, Standing, note};
use crate::mailbox::Mailbox;
use crate::payout::Provider;
use crate::saga::Handler;
use crate::schedule::TickHandler;
use crate::settings::{Given, settings_of};
use crate::stepped::Footing;

/// An instance: opened by `async with` or `await`, closed by leaving that or by `close()`.
#[pyclass(frozen, module = "lockbay", name = "LockBay", subclass)]
pub(crate) struct LockBay(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) given: Mutex<Given>,
    /// What it stands on instead of the store that is given and the time of this machine.
    pub(crate) footing: Option<Footing>,
    pub(crate) slot: Mutex<Owned>,
    pub(crate) registry: Mutex<Registry>,
}

/// What an instance is to know whenever it is open, and what was said before it was.
#[derive(Default)]
pub(crate) struct Registry {
    /// Handlers of sagas by name.
    pub(crate) handlers: BTreeMap<String, Handler>,
    /// Handlers of schedules by name.
    pub(crate) tick_handlers: BTreeMap<String, TickHandler>,
    /// Who pays out, if the settings do not say so.
    pub(crate) provider: Option<Provider>,
    pub(crate) callbacks: Vec<Callback>,
    /// What is to be done, by what it is about, in the order in which it was first said.
    pub(crate) wishes: Vec<(String, Wish)>,
    /// How often something was wished.
    pub(crate) wished: u64,
}

/// Something that an instance is to be told.
pub(crate) type Wish = Arc<dyn Fn(lockbay::LockBay) -> Told + Send + Sync>;
pub(crate) type Told = Pin<Box<dyn Future<Output = lockbay::Result<()>> + Send>>;

#[pymethods]
impl LockBay {
    /// An instance on this store that is opened when it is awaited or entered.
    #[classmethod]
    #[pyo3(signature = (store=None, *, config_file=None, **settings))]
    fn open<'py>(
        class: &Bound<'py, pyo3::types::PyType>,
        store: Option<String>,
        config_file: Option<PathBuf>,
        settings: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        class.call((store, config_file), settings)
    }

    #[new]
    #[pyo3(signature = (store=None, config_file=None, **settings))]
    fn new(
        py: Python<'_>,
        store: Option<String>,
        config_file: Option<PathBuf>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let given = Given { file: config_file, ..Given::default() };
        let is_said = store.is_some() || given.file.is_some() || settings.is_some();
        let bay = LockBay(Shared::new(given, Owned::nothing(), None));
        if is_said {
            // So that a mistake is found where it was made.
            bay.configure(py, store, settings)?;
        }
        Ok(bay)
    }

    /// Takes settings for the next time it is opened, beside those that it was given.
    #[pyo3(signature = (store=None, **settings))]
    fn configure(
        &self,
        py: Python<'_>,
        store: Option<String>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let mut given = self.0.given.lock().clone();
        if let Some(settings) = settings {
            given.take(settings)?;
        }
        if let Some(store) = store {
            given.settings.insert("store", store);
        }
        given.config().or_raise(py)?;
        *self.0.given.lock() = given;
        Ok(())
    }

    /// Takes the settings that an application's configuration has under their names in the
    /// environment, such as `REDIS_JOB_CLAIM_TTL`: an object, a class, a module or a dict.
    fn configure_from(&self, config: &Bound<'_, PyAny>) -> PyResult<()> {
        let settings = settings_of(config)?;
        let mut given = self.0.given.lock().clone();
        given.settings.extend(settings);
        given.config().or_raise(config.py())?;
        *self.0.given.lock() = given;
        Ok(())
    }

    /// Takes the same where neither the environment nor anything else says otherwise, in place of
    /// what was taken so before.
    fn default_to(&self, config: &Bound<'_, PyAny>) -> PyResult<()> {
        let defaults = settings_of(config)?;
        let given = Given { defaults, ..self.0.given.lock().clone() };
        given.config().or_raise(config.py())?;
        *self.0.given.lock() = given;
        Ok(())
    }

    /// Opens the store and starts the instance. Called again while it is open, it does nothing, and
    /// while it is being opened, it waits for that.
    ///
    /// With `take_part=False` it only looks and can be asked: it runs for no leadership, takes over
    /// no saga and begins no tick.
    #[pyo3(signature = (*, take_part=true))]
    fn start<'py>(slf: Bound<'py, Self>, take_part: bool) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let shared = Arc::clone(&slf.get().0);
        let home = Mailbox::running(py)?.get().post();
        let runtime = crate::runtime::handle(py)?;
        let this = slf.unbind();
        let begun = shared.begin().or_raise(py)?;
        let call = async move {
            match begun {
                Begun::Already => Ok(()),
                Begun::ByAnother(done) => {
                    done.cancelled().await;
                    shared.opened_by_another()
                }
                Begun::Now(config, opening) => {
                    if take_part {
                        crate::payout::check(&shared.registry.lock(), &config)?;
                    }
                    let bay = match &shared.footing {
                        Some(footing) => footing.open(*config),
                        None => lockbay::LockBay::open(*config).await?,
                    };
                    opening.opened(bay.clone(), home, runtime).await?;
                    if take_part {
                        bay.start();
                    }
                    Ok(())
                }
            }
        };
        awaitable(py, call, move |_, ()| Ok(this.into_any()))
    }

    /// Ends in order: takes nothing new, resigns, lets handlers finish for `shutdown_grace`, and
    /// closes the store. Once begun, it is seen through, whether or not it is waited for. Called
    /// again, it waits for that; called while it is being opened, it waits for that, and then closes.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let runtime = crate::runtime::handle(py)?;
        let closed = self.0.close(&runtime);
        let call = async move {
            if let Some(closed) = closed {
                closed.cancelled().await;
            }
            Ok(())
        };
        awaitable(py, call, |py, ()| Ok(py.None()))
    }

    fn __aenter__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::start(slf, true)
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        _exception: &Bound<'py, pyo3::types::PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.close(py)
    }

    fn __await__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::start(slf, true)?.call_method0("__await__")
    }

    /// Whether it is open, in this process.
    #[getter]
    fn is_open(&self) -> bool {
        self.0.bay_now().is_some()
    }

    /// Whether this instance may believe that it leads. Never true when it may not.
    fn is_leader(&self) -> bool {
        self.0.bay_now().is_some_and(|bay| bay.is_leader())
    }

    /// The random identity of this instance.
    #[getter]
    fn instance_id(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.0.bay(py)?.instance_id().to_owned())
    }

    /// The settings that it runs with, by name. Secrets are not shown.
    #[getter]
    fn settings(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        show(py, self.0.bay(py)?.config())
    }

    /// Health, judged by what happened: `overall_healthy`, `issues` and the rest.
    fn health<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { Ok(bay.health().await) }, |py, health| show(py, &health))
    }

    /// Everything that this instance counts and measures.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { Ok(bay.overview().await) }, |py, metrics| show(py, &metrics))
    }

    /// What this instance has counted and measured of one group, such as `saga_metrics`, without
    /// asking the store.
    fn counted(&self, py: Python<'_>, group: &str) -> PyResult<Py<PyAny>> {
        let bay = self.0.bay(py)?;
        let Some(counted) = bay.counted(group) else {
            return Err(invalid(py, format!("there is no group of metrics {group:?}")));
        };
        show(py, &counted)
    }

    /// What a person at night should know, over the last hours.
    #[pyo3(signature = (hours=24))]
    fn report<'py>(&self, py: Python<'py>, hours: u32) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.report(hours).await }, |py, report| show(py, &report))
    }

    /// Calls a function on every event of this name, in order; see `lockbay.EVENTS`.
    fn on(&self, py: Python<'_>, event: &str, callback: Py<PyAny>) -> PyResult<()> {
        if !lockbay::event::Event::NAMES.contains(&event) {
            let names = lockbay::event::Event::NAMES.join(", ");
            return Err(invalid(py, format!("there is no event {event:?}; there are {names}")));
        }
        let callback = Callback::new(py, event, callback)?;
        let _inside = crate::runtime::handle(py)?.enter();
        let mut registry = self.0.registry.lock();
        if let Some((bay, home)) = self.0.at_home() {
            callback.listen(&bay, &home);
        }
        registry.callbacks.push(callback);
        Ok(())
    }

    /// Handlers often hold the instance that they are registered with.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever else holds what this holds is not seen by the collector.
        if Arc::strong_count(&self.0) > 1 {
            return Ok(());
        }
        self.0.registry.try_lock().map_or(Ok(()), |registry| registry.visit(&visit))
    }

    fn __clear__(&self) {
        let registry = std::mem::take(&mut *self.0.registry.lock());
        self.0.let_go();
        drop(registry);
    }
}

impl Registry {
    /// Shows the collector what it holds.
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let handlers = self.handlers.values().flat_map(Handler::functions);
        let tick_handlers = self.tick_handlers.values().map(TickHandler::function);
        let callbacks = self.callbacks.iter().map(Callback::function);
        let provider = self.provider.iter().map(Provider::function);
        let mut functions = handlers.chain(tick_handlers).chain(callbacks).chain(provider);
        functions.try_for_each(|function| visit.call(function))
    }

    fn wish(&mut self, about: String, wish: Wish) {
        self.wished += 1;
        match self.wishes.iter_mut().find(|(other, _)| *other == about) {
            Some((_, before)) => *before = wish,
            None => self.wishes.push((about, wish)),
        }
    }
}

impl LockBay {
    /// An instance that is open and stays so, whatever becomes of this.
    pub(crate) fn lent(
        py: Python<'_>,
        bay: lockbay::LockBay,
        home: Home,
    ) -> PyResult<Bound<'_, Self>> {
        let shared = Shared::new(Given::default(), Owned::lent(bay, home), None);
        Bound::new(py, LockBay(shared))
    }

    /// An instance that is opened on this.
    pub(crate) fn standing_on<'py>(
        py: Python<'py>,
        footing: Footing,
        settings: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Self>> {
        let bay = LockBay(Shared::new(Given::default(), Owned::nothing(), Some(footing)));
        bay.configure(py, Some("memory:".into()), settings)?;
        Bound::new(py, bay)
    }
}

impl Shared {
    fn new(given: Given, owned: Owned, footing: Option<Footing>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            given: Mutex::new(given),
            footing,
            slot: Mutex::new(owned),
            registry: Mutex::default(),
        });
        note(&shared);
        shared
    }

    /// The instance; an error if it is not open here. A call from a loop makes that its home, if
    /// the one before has ended.
    pub(crate) fn bay(&self, py: Python<'_>) -> PyResult<lockbay::LockBay> {
        let message = match self.standing() {
            Standing::Here(bay, home) => {
                // Asked for first, because that finds out which loops have ended.
                let mailbox = Mailbox::running(py);
                if !home.is_open()
                    && let Ok(mailbox) = mailbox
                {
                    home.move_to(mailbox.get().post());
                }
                return Ok(bay);
            }
            Standing::Elsewhere(pid) => format!(
                "this LockBay was opened by process {pid}, and this is its child {}: open it here \
                 as well, with start()",
                crate::runtime::pid()
            ),
            Standing::Nowhere => {
                "this LockBay is not open: use `async with`, or await start() first".to_owned()
            }
        };
        Err(raise(py, &unavailable(message)))
    }

    fn bay_now(&self) -> Option<lockbay::LockBay> {
        self.at_home().map(|(bay, _)| bay)
    }

    /// The instance, and where its handlers run.
    pub(crate) fn at_home(&self) -> Option<(lockbay::LockBay, Home)> {
        match self.standing() {
            Standing::Here(bay, home) => Some((bay, home)),
            Standing::Elsewhere(_) | Standing::Nowhere => None,
        }
    }

    /// Registers who does the steps of a name, now and whenever it is opened.
    pub(crate) fn put_handler(&self, name: String, handler: Handler) -> lockbay::Result<()> {
        let mut registry = self.registry.lock();
        if let Some((bay, home)) = self.at_home() {
            handler.register(&name, &bay, &home)?;
        }
        let before = registry.handlers.insert(name, handler);
        drop(registry);
        drop(before);
        Ok(())
    }

    /// Registers who does the ticks of a name, now and whenever it is opened.
    pub(crate) fn put_tick_handler(
        &self,
        name: String,
        handler: TickHandler,
    ) -> lockbay::Result<()> {
        let mut registry = self.registry.lock();
        if let Some((bay, home)) = self.at_home() {
            handler.register(&name, &bay, &home)?;
        }
        let before = registry.tick_handlers.insert(name, handler);
        drop(registry);
        drop(before);
        Ok(())
    }

    /// Has the instance told something now, if it is open, and whenever it is opened, in place of
    /// what it was to be told about the same. What is given back can be awaited, and need not be.
    pub(crate) fn wish<'py>(
        &self,
        py: Python<'py>,
        about: String,
        wish: Wish,
    ) -> PyResult<Bound<'py, PyAny>> {
        let runtime = crate::runtime::handle(py)?;
        let mut registry = self.registry.lock();
        registry.wish(about, Arc::clone(&wish));
        let bay = self.bay_now();
        drop(registry);
        let Some(bay) = bay else {
            return Bound::new(py, Wished(None)).map(Bound::into_any);
        };
        let begun = runtime.spawn(wish(bay));
        let call = async move { begun.await.unwrap_or_else(|error| Err(failed(error))) };
        let future = match Mailbox::running(py) {
            Ok(_) => Some(awaitable(py, call, |py, ()| {
                Ok(true.into_pyobject(py)?.to_owned().into_any().unbind())
            })?),
            // Called without a loop, it is waited for, so that nothing that fails is missed.
            Err(_) => {
                py.detach(|| runtime.block_on(call)).or_raise(py)?;
                None
            }
        };
        Bound::new(py, Wished(future.map(Bound::unbind))).map(Bound::into_any)
    }
}

/// A wish that was taken. Awaited, it says whether it was carried out; one of an instance that is
/// not open yet is carried out when it is.
#[pyclass(frozen)]
struct Wished(Option<Py<PyAny>>);

#[pymethods]
impl Wished {
    fn __await__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.0 {
            Some(future) => future.bind(py).call_method0("__await__"),
            None => {
                py.import("lockbay._loop")?.getattr("nothing")?.call0()?.call_method0("__await__")
            }
        }
    }

    fn __bool__(&self) -> bool {
        true
    }
}

fn failed(error: tokio::task::JoinError) -> lockbay::Error {
    unknown("it was not seen through").with_source(error)
}
