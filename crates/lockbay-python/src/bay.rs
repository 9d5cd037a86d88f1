//! `LockBay`: one instance, as Python holds it.
//!
//! It owns the instance of the library, once it is open, and the loop on which handlers of sagas,
//! schedules and events run: the one that opened it, or, when that has ended, the one that asked it
//! last. Handlers may be registered before it is open. It knows nothing of the guide's modules,
//! which are written in Python on top of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lockbay::Config;
use lockbay::config::SETTINGS;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::callback::Callback;
use crate::error::{Raise, invalid, raise, unavailable};
use crate::json::show;
use crate::mailbox::{Mailbox, Post, awaitable};
use crate::saga::Handler;
use crate::schedule::TickHandler;

/// How long a closing instance waits for callbacks that hear of its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// An instance: opened by `async with` or `await`, closed by leaving that or by `close()`.
#[pyclass(frozen, module = "lockbay", name = "LockBay", subclass)]
pub(crate) struct LockBay(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    given: Mutex<Given>,
    slot: Mutex<Slot>,
    /// Handlers of sagas by name, also before it is open.
    pub(crate) handlers: Mutex<BTreeMap<String, Handler>>,
    /// Handlers of schedules by name, also before it is open.
    pub(crate) tick_handlers: Mutex<BTreeMap<String, TickHandler>>,
    callbacks: Mutex<Vec<Callback>>,
    /// What is to be done whenever it is opened, in this order.
    wishes: Mutex<Vec<Wish>>,
    /// Who listens to events; they end with the instance.
    listeners: TaskTracker,
}

/// Settings that were given, by name, and in which file.
#[derive(Clone, Default)]
struct Given {
    settings: BTreeMap<&'static str, String>,
    file: Option<PathBuf>,
}

impl Given {
    fn config(&self) -> lockbay::Result<Config> {
        Config::load(self.file.as_deref(), &self.settings)
    }
}

/// Something that an instance is to be told.
pub(crate) type Wish = Arc<dyn Fn(lockbay::LockBay) -> Told + Send + Sync>;
pub(crate) type Told = Pin<Box<dyn Future<Output = lockbay::Result<()>> + Send>>;

enum Slot {
    /// Not open, or not any more.
    Closed,
    Opening,
    Open(Opened),
}

struct Opened {
    /// The process that opened it. Nothing of it works in any other.
    pid: u32,
    bay: lockbay::LockBay,
    home: Post,
    runtime: Handle,
}

/// Every instance that may be open in this process, so that none outlives the interpreter.
static ALL: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

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
        let shared = Arc::new(Shared {
            given: Mutex::new(given),
            slot: Mutex::new(Slot::Closed),
            handlers: Mutex::default(),
            tick_handlers: Mutex::default(),
            callbacks: Mutex::default(),
            wishes: Mutex::default(),
            listeners: TaskTracker::new(),
        });
        let mut all = ALL.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&shared));
        drop(all);
        let bay = LockBay(shared);
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
        for (name, value) in settings.into_iter().flatten() {
            let name: String = name.extract()?;
            let known = SETTINGS.iter().find(|setting| setting.name == name);
            let known = known.ok_or_else(|| invalid(py, unknown_setting(&name)))?;
            if !value.is_none() {
                given.settings.insert(known.name, setting_text(&value)?);
            }
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
        let py = config.py();
        let mut given = self.0.given.lock().clone();
        for setting in SETTINGS {
            let value = match config.cast::<PyDict>() {
                Ok(members) => members.get_item(setting.env)?,
                Err(_) => config.getattr_opt(setting.env)?,
            };
            if let Some(value) = value.filter(|value| !value.is_none()) {
                given.settings.insert(setting.name, setting_text(&value)?);
            }
        }
        given.config().or_raise(py)?;
        *self.0.given.lock() = given;
        Ok(())
    }

    /// Opens the store and starts the instance. Called again while it is open, it does nothing.
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
        let begin = shared.begin(py)?;
        let call = async move {
            let Some((config, opening)) = begin else { return Ok(()) };
            let bay = lockbay::LockBay::open(config).await?;
            opening.opened(bay.clone(), home, runtime).await?;
            if take_part {
                bay.start();
            }
            Ok(())
        };
        awaitable(py, call, move |_, ()| Ok(this.into_any()))
    }

    /// Ends in order: takes nothing new, resigns, lets handlers finish for `shutdown_grace`, and
    /// closes the store. Called again, it does nothing.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (shared, open) = (Arc::clone(&self.0), self.0.take());
        let call = async move {
            if let Some(bay) = open {
                bay.shutdown().await;
                let clock = bay.clock().clone();
                drop(bay);
                // Callbacks hear of the end, unless they take too long.
                shared.listeners.close();
                let _ = clock.timeout(LAST_WORDS, shared.listeners.wait()).await;
                shared.listeners.reopen();
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
        if let Some(bay) = self.0.bay_now() {
            let _inside = crate::runtime::handle(py)?.enter();
            self.0.listen(&bay, &callback);
        }
        self.0.callbacks.lock().push(callback);
        Ok(())
    }
}

impl Shared {
    /// The instance; an error if it is not open here. A call from another loop than the one that
    /// opened it makes that its home, if the first has ended.
    pub(crate) fn bay(&self, py: Python<'_>) -> PyResult<lockbay::LockBay> {
        let mut slot = self.slot.lock();
        match &mut *slot {
            Slot::Open(opened) if opened.pid == std::process::id() => {
                if !opened.home.is_open()
                    && let Ok(mailbox) = Mailbox::running(py)
                {
                    opened.home = mailbox.get().post();
                }
                Ok(opened.bay.clone())
            }
            Slot::Open(opened) => {
                let message = format!(
                    "this LockBay was opened by process {}, and this is its child {}: open it here \
                     as well, with start()",
                    opened.pid,
                    std::process::id()
                );
                Err(raise(py, &unavailable(message)))
            }
            Slot::Opening | Slot::Closed => {
                let message = "this LockBay is not open: use `async with`, or await start() first";
                Err(raise(py, &unavailable(message)))
            }
        }
    }

    fn bay_now(&self) -> Option<lockbay::LockBay> {
        self.at_home().map(|(bay, _)| bay)
    }

    /// The instance, and where its handlers run.
    pub(crate) fn at_home(&self) -> Option<(lockbay::LockBay, Post)> {
        match &*self.slot.lock() {
            Slot::Open(opened) if opened.pid == std::process::id() => {
                Some((opened.bay.clone(), opened.home.clone()))
            }
            Slot::Open(_) | Slot::Opening | Slot::Closed => None,
        }
    }

    /// Where its handlers run.
    pub(crate) fn home(&self) -> Option<Post> {
        self.at_home().map(|(_, home)| home)
    }

    /// Whether it is to be opened now, and with which settings.
    fn begin(self: &Arc<Self>, py: Python<'_>) -> PyResult<Option<(Config, Opening)>> {
        let config = self.given.lock().config().or_raise(py)?;
        let mut slot = self.slot.lock();
        match &*slot {
            Slot::Open(opened) if opened.pid == std::process::id() => return Ok(None),
            Slot::Open(_) if config.store.starts_with("sqlite:") => {
                let message = "SQLite files cannot be carried over a fork: open this one after it \
                               (in gunicorn, in post_fork or in the application's startup)";
                return Err(raise(py, &unavailable(message)));
            }
            Slot::Opening => {
                return Err(raise(py, &unavailable("this LockBay is being opened already")));
            }
            Slot::Open(_) | Slot::Closed => {}
        }
        // What the parent of this process opened has no threads here, and is left alone.
        std::mem::forget(std::mem::replace(&mut *slot, Slot::Opening));
        Ok(Some((config, Opening(Arc::clone(self)))))
    }

    /// Calls back on events of this instance, until it ends.
    fn listen(self: &Arc<Self>, bay: &lockbay::LockBay, callback: &Callback) {
        self.listeners.spawn(callback.clone().listen(bay, Arc::downgrade(self)));
    }

    /// Has the instance told something now, if it is open, and whenever it is opened. What is given
    /// back can be awaited, and need not be.
    pub(crate) fn wish<'py>(self: &Arc<Self>, py: Python<'py>, wish: Wish) -> PyResult<Bound<'py, PyAny>> {
        self.wishes.lock().push(Arc::clone(&wish));
        let begun = self.at_home().map(|(bay, _)| crate::runtime::handle(py).map(|it| it.spawn(wish(bay))));
        let Some(begun) = begun.transpose()? else {
            return Bound::new(py, Wished(None)).map(Bound::into_any);
        };
        let call = async move { begun.await.unwrap_or_else(|error| Err(failed(error))) };
        let future = match Mailbox::running(py) {
            Ok(_) => Some(awaitable(py, call, |py, ()| Ok(true.into_pyobject(py)?.to_owned().into_any().unbind()))?.unbind()),
            Err(_) => None,
        };
        Bound::new(py, Wished(future)).map(Bound::into_any)
    }

    /// The instance if it is open here; from then on it is not.
    fn take(&self) -> Option<lockbay::LockBay> {
        let mut slot = self.slot.lock();
        match &*slot {
            Slot::Open(opened) if opened.pid == std::process::id() => {
                let bay = opened.bay.clone();
                *slot = Slot::Closed;
                Some(bay)
            }
            Slot::Open(_) | Slot::Opening | Slot::Closed => None,
        }
    }
}

/// An instance that is being opened; dropped before it is, it is closed again.
struct Opening(Arc<Shared>);

impl Opening {
    /// Takes what was opened, and tells it of every handler, callback and wish.
    async fn opened(
        self,
        bay: lockbay::LockBay,
        home: Post,
        runtime: Handle,
    ) -> lockbay::Result<()> {
        let told = self.tell(&bay).await;
        if let Err(error) = told {
            bay.shutdown().await;
            return Err(error);
        }
        let pid = std::process::id();
        let shared = &self.0;
        *shared.slot.lock() = Slot::Open(Opened { pid, bay: bay.clone(), home, runtime });
        for callback in shared.callbacks.lock().iter() {
            shared.listen(&bay, callback);
        }
        Ok(())
    }

    async fn tell(&self, bay: &lockbay::LockBay) -> lockbay::Result<()> {
        let shared = &self.0;
        for (name, handler) in shared.handlers.lock().iter() {
            bay.sagas().register(name, handler.step(shared))?;
        }
        for (name, handler) in shared.tick_handlers.lock().iter() {
            handler.register(name, bay, shared)?;
        }
        let wishes = shared.wishes.lock().clone();
        for wish in wishes {
            wish(bay.clone()).await?;
        }
        Ok(())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut slot = self.0.slot.lock();
        if matches!(*slot, Slot::Opening) {
            *slot = Slot::Closed;
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        match std::mem::replace(self.slot.get_mut(), Slot::Closed) {
            Slot::Open(opened) if opened.pid == std::process::id() => {
                opened.runtime.spawn(async move { opened.bay.shutdown().await });
            }
            other => std::mem::forget(other),
        }
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
            None => py.import("lockbay._loop")?.getattr("nothing")?.call0()?.call_method0("__await__"),
        }
    }

    fn __bool__(&self) -> bool {
        true
    }
}

fn failed(error: tokio::task::JoinError) -> lockbay::Error {
    lockbay::Error::new(lockbay::ErrorKind::Unknown, "it was not seen through").with_source(error)
}

/// Closes everything that is open, for the end of the interpreter.
#[pyfunction]
pub(crate) fn end(py: Python<'_>) -> PyResult<()> {
    let all = std::mem::take(&mut *ALL.lock());
    let open: Vec<_> =
        all.iter().filter_map(Weak::upgrade).filter_map(|shared| shared.take()).collect();
    if !open.is_empty() {
        let runtime = crate::runtime::handle(py)?;
        py.detach(|| {
            runtime.block_on(async {
                let ends = open.iter().map(|bay| {
                    let bay = bay.clone();
                    tokio::spawn(async move { bay.shutdown().await })
                });
                for end in ends.collect::<Vec<_>>() {
                    // One that panicked has nothing left to close.
                    drop(end.await);
                }
            });
        });
    }
    crate::runtime::end(py);
    Ok(())
}

fn unknown_setting(name: &str) -> String {
    let names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    format!("there is no setting {name:?}; there are {}", names.join(", "))
}

/// How a setting is written in the environment.
fn setting_text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(yes) = value.cast_exact::<pyo3::types::PyBool>() {
        return Ok(if yes.is_true() { "true" } else { "false" }.to_owned());
    }
    Ok(value.str()?.to_string())
}
