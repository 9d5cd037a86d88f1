//! The way from the runtime's threads to an event loop, and back.
//!
//! Each event loop has one mailbox. A thread of the runtime posts what is to be done there and wakes
//! the loop through a descriptor that the loop watches; the loop empties the mailbox in one go. So
//! no thread of the runtime ever waits for the interpreter, and many answers cost one wake-up.
//!
//! A mailbox is closed when its loop ends. What was posted and not done by then is dropped, and
//! whoever waits for it learns so.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use crate::error::Raise;

/// Something to be done on the loop's thread.
type Letter = Box<dyn FnOnce(Python<'_>) + Send>;

/// The side of the runtime. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Post(Arc<Shared>);

struct Shared {
    /// `None` once the loop has ended.
    letters: Mutex<Option<Vec<Letter>>>,
    bell: OwnedFd,
}

impl Post {
    /// Has the loop do this soon; false if it has ended, and then nothing is done.
    pub(crate) fn send(&self, letter: impl FnOnce(Python<'_>) + Send + 'static) -> bool {
        let mut letters = self.0.letters.lock();
        let Some(waiting) = letters.as_mut() else { return false };
        waiting.push(Box::new(letter));
        let first = waiting.len() == 1;
        drop(letters);
        if first {
            // A counter that is full has rung long ago.
            let _ = rustix::io::write(&self.0.bell, &1_u64.to_ne_bytes());
        }
        true
    }

    /// Whether its loop is still there.
    pub(crate) fn is_open(&self) -> bool {
        self.0.letters.lock().is_some()
    }
}

/// The side of the loop.
#[pyclass(frozen, module = "lockbay._lockbay")]
pub(crate) struct Mailbox {
    post: Post,
    /// Weak: mailboxes are kept by their loops.
    event_loop: Py<PyAny>,
    /// What closes this when the loop ends. It holds the loop, so it goes when it has done so.
    until_end: Mutex<Option<Py<PyAny>>>,
}

#[pymethods]
impl Mailbox {
    /// Does what was posted.
    fn __call__(&self, py: Python<'_>) {
        let mut count = [0_u8; 8];
        // Nothing to read is what a bell says that was heard before.
        let _ = rustix::io::read(&self.post.0.bell, &mut count);
        let letters = self.post.0.letters.lock().as_mut().map(std::mem::take);
        for letter in letters.into_iter().flatten() {
            letter(py);
        }
    }

    /// Takes nothing more, and drops what was not done.
    fn close(&self) {
        let letters = self.post.0.letters.lock().take();
        drop(letters);
        self.until_end.lock().take();
    }
}

impl Mailbox {
    /// That of the loop that runs on this thread.
    pub(crate) fn running(py: Python<'_>) -> PyResult<Bound<'_, Mailbox>> {
        static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static MAILBOXES: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let event_loop = RUNNING.import(py, "asyncio", "get_running_loop")?.call0()?;
        let mailboxes = MAILBOXES.get_or_try_init(py, || {
            let kind = py.import("weakref")?.getattr("WeakKeyDictionary")?;
            kind.call0().map(Bound::unbind)
        })?;
        let known = mailboxes.bind(py).call_method1(intern!(py, "get"), (&event_loop,))?;
        if let Ok(mailbox) = known.cast_into::<Mailbox>() {
            if mailbox.get().post.is_open() {
                return Ok(mailbox);
            }
            return Err(PyRuntimeError::new_err("this event loop is ending"));
        }
        let mailbox = Mailbox::open(py, &event_loop)?;
        mailboxes.bind(py).set_item(&event_loop, &mailbox)?;
        Ok(mailbox)
    }

    fn open<'py>(py: Python<'py>, event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| PyRuntimeError::new_err(format!("no descriptor is left: {error}")))?;
        let descriptor = bell.as_raw_fd();
        let post = Post(Arc::new(Shared { letters: Mutex::new(Some(Vec::new())), bell }));
        let weakly = py.import("weakref")?.getattr("ref")?.call1((event_loop,))?.unbind();
        let mailbox = Mailbox { post, event_loop: weakly, until_end: Mutex::default() };
        let mailbox = Bound::new(py, mailbox)?;
        event_loop.call_method1(intern!(py, "add_reader"), (descriptor, &mailbox))?;
        // A loop that ends closes its asynchronous generators.
        let until_end = py.import("lockbay._loop")?.getattr("until_end")?;
        *mailbox.get().until_end.lock() = Some(until_end.call1((&mailbox,))?.unbind());
        Ok(mailbox)
    }

    /// The side of the runtime.
    pub(crate) fn post(&self) -> Post {
        self.post.clone()
    }

    /// The loop.
    pub(crate) fn event_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.event_loop.bind(py).call0()
    }
}

/// Ends a call of the runtime when nobody waits for its answer any more.
#[pyclass(frozen)]
struct Watcher(Mutex<Option<tokio::task::AbortHandle>>);

#[pymethods]
impl Watcher {
    fn __call__(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        let task = self.0.lock().take();
        if future.call_method0(intern!(future.py(), "cancelled"))?.is_truthy()?
            && let Some(task) = task
        {
            task.abort();
        }
        Ok(())
    }
}

/// Runs a call of the library on the runtime, and gives what Python can await. `show` makes its
/// answer a Python value, on the loop's thread. Cancelling what is awaited ends the call.
pub(crate) fn awaitable<'py, T: Send + 'static>(
    py: Python<'py>,
    call: impl Future<Output = lockbay::Result<T>> + Send + 'static,
    show: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let mailbox = Mailbox::running(py)?;
    let mailbox = mailbox.get();
    let future = mailbox.event_loop(py)?.call_method0(intern!(py, "create_future"))?;
    let (waiting, post) = (future.clone().unbind(), mailbox.post());
    let task = crate::runtime::handle(py)?.spawn(async move {
        let answer = call.await;
        post.send(move |py| {
            let answer = answer.or_raise(py).and_then(|value| show(py, value));
            settle(waiting.bind(py), answer);
        });
    });
    let watcher = Watcher(Mutex::new(Some(task.abort_handle())));
    future.call_method1(intern!(py, "add_done_callback"), (Bound::new(py, watcher)?,))?;
    Ok(future)
}

/// Answers a future, unless it was cancelled meanwhile.
pub(crate) fn settle(future: &Bound<'_, PyAny>, answer: PyResult<Py<PyAny>>) {
    let py = future.py();
    let set = || -> PyResult<()> {
        if future.call_method0(intern!(py, "done"))?.is_truthy()? {
            return Ok(());
        }
        match answer {
            Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
            Err(error) => future.call_method1(intern!(py, "set_exception"), (error,))?,
        };
        Ok(())
    };
    if let Err(error) = set() {
        error.write_unraisable(py, Some(future));
    }
}

/// What is to be called, on which loop and how it goes on from there.
pub(crate) struct Question {
    /// A function, coroutine function or any other callable.
    pub(crate) function: Arc<Py<PyAny>>,
    /// The context variables it sees; those of the loop if nothing is said.
    pub(crate) context: Option<Arc<Py<PyAny>>>,
}

/// Positional and keyword arguments.
pub(crate) type Arguments = (Py<PyTuple>, Option<Py<PyDict>>);

/// Calls a Python function on a loop and reads what it returns; nothing, if the loop has ended.
///
/// A coroutine function runs as a task of the loop. Any other runs on a thread of the loop's
/// executor, so that it holds nobody up. Dropped before it has answered, the task is cancelled; a
/// thread cannot be.
pub(crate) async fn ask<T: Send + 'static>(
    post: &Post,
    question: Question,
    arguments: impl FnOnce(Python<'_>) -> PyResult<Arguments> + Send + 'static,
    read: impl FnOnce(Python<'_>, PyResult<Bound<'_, PyAny>>) -> T + Send + 'static,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    let asked = Asked { post: post.clone(), task: Arc::default() };
    let task = Arc::clone(&asked.task);
    let sent = post.send(move |py| {
        let mut stage = task.lock();
        if matches!(*stage, Stage::Over) {
            return;
        }
        let then = move |py: Python<'_>, answer: PyResult<Bound<'_, PyAny>>| {
            // Nobody is left to hear it if the question was dropped.
            let _ = reply.send(read(py, answer));
        };
        match arguments(py).and_then(|arguments| question.begin(py, arguments)) {
            Err(error) => then(py, Err(error)),
            Ok(running) => match listen(&running, then) {
                Ok(()) => *stage = Stage::Running(running.unbind()),
                Err(error) => error.write_unraisable(py, Some(&running)),
            },
        }
    });
    if !sent {
        return None;
    }
    let answer = answer.await.ok();
    *asked.task.lock() = Stage::Over;
    answer
}

impl Question {
    fn begin<'py>(&self, py: Python<'py>, arguments: Arguments) -> PyResult<Bound<'py, PyAny>> {
        static BEGIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let begin = BEGIN.import(py, "lockbay._loop", "begin")?;
        let (positional, keywords) = arguments;
        begin.call1((&*self.function, self.context.as_deref(), positional, keywords))
    }
}

/// How far a question has come.
#[derive(Default)]
enum Stage {
    #[default]
    Waiting,
    Running(Py<PyAny>),
    Over,
}

struct Asked {
    post: Post,
    task: Arc<Mutex<Stage>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut *self.task.lock(), Stage::Over);
        if let Stage::Running(task) = stage {
            self.post.send(move |py| {
                if let Err(error) = task.call_method0(py, intern!(py, "cancel")) {
                    error.write_unraisable(py, Some(task.bind(py)));
                }
            });
        }
    }
}

type Then = Box<dyn FnOnce(Python<'_>, PyResult<Bound<'_, PyAny>>) + Send>;

/// Hears that a task has ended.
#[pyclass(frozen)]
struct Listener(Mutex<Option<Then>>);

#[pymethods]
impl Listener {
    fn __call__(&self, task: &Bound<'_, PyAny>) {
        let then = self.0.lock().take();
        if let Some(then) = then {
            then(task.py(), task.call_method0(intern!(task.py(), "result")));
        }
    }
}

fn listen(
    task: &Bound<'_, PyAny>,
    then: impl FnOnce(Python<'_>, PyResult<Bound<'_, PyAny>>) + Send + 'static,
) -> PyResult<()> {
    let listener = Bound::new(task.py(), Listener(Mutex::new(Some(Box::new(then)))))?;
    task.call_method1(intern!(task.py(), "add_done_callback"), (listener,)).map(drop)
}
