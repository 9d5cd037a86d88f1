//! Asking Python: a function is called on its loop, and what it says is read there.
//!
//! A coroutine function runs as a task of the loop. What drives it tells its answer from within
//! that task, because what is called when a task has ended waits for another turn of the loop.
//!
//! It knows nothing of jobs, sagas or whoever else asks, and, as in `mailbox.rs`, runs no Python
//! code while it holds a lock.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{
    PyAttributeError, PyException, PyGeneratorExit, PyRuntimeError, PyStopIteration, PyValueError,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::iterator::PySendResult;
use pyo3::types::{PyBool, PyDict, PyIterator, PyTuple};
use pyo3::{PyTraverseError, PyVisit};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::mailbox::{Post, inside, running_loop};

/// What is to be called, and how.
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
/// function that runs on a thread cannot be.
pub(crate) async fn ask<T: Send + 'static>(
    post: &Post,
    question: Question,
    arguments: impl FnOnce(Python<'_>) -> PyResult<Arguments> + Send + 'static,
    read: impl FnOnce(Python<'_>, PyResult<Bound<'_, PyAny>>) -> T + Send + 'static,
) -> Option<T> {
    let (asked, answer) = put(post, question, arguments, read)?;
    let answer = answer.await;
    asked.over();
    answer.ok()
}

/// As [`ask`]. When the answer is `unwanted`, the task is cancelled, and what it then answers is
/// waited for: it may still know what came of it.
pub(crate) async fn ask_until<T: Send + 'static>(
    unwanted: &CancellationToken,
    post: &Post,
    question: Question,
    arguments: impl FnOnce(Python<'_>) -> PyResult<Arguments> + Send + 'static,
    read: impl FnOnce(Python<'_>, PyResult<Bound<'_, PyAny>>) -> T + Send + 'static,
) -> Option<T> {
    let (asked, mut answer) = put(post, question, arguments, read)?;
    let in_time = unwanted.run_until_cancelled(&mut answer).await;
    let answer = match in_time {
        Some(answer) => answer,
        None => {
            asked.cancel();
            answer.await
        }
    };
    asked.over();
    answer.ok()
}

/// Puts a question to a loop; `None` if that has ended.
fn put<T: Send + 'static>(
    post: &Post,
    question: Question,
    arguments: impl FnOnce(Python<'_>) -> PyResult<Arguments> + Send + 'static,
    read: impl FnOnce(Python<'_>, PyResult<Bound<'_, PyAny>>) -> T + Send + 'static,
) -> Option<(Asked, oneshot::Receiver<T>)> {
    let (reply, answer) = oneshot::channel();
    let asked = Asked { post: post.clone(), stage: Arc::default() };
    let (stage, asker) = (Arc::clone(&asked.stage), post.clone());
    let sent = post.soon(move |py| {
        if matches!(*stage.lock(), Stage::Over) {
            return;
        }
        let then = move |py: Python<'_>, answer: PyResult<Bound<'_, PyAny>>| {
            // Nobody is left to hear it if the question was dropped.
            let _ = reply.send(read(py, answer));
        };
        let arguments = match arguments(py) {
            Ok(arguments) => arguments,
            Err(error) => return then(py, Err(error)),
        };
        let Question { function, context } = question;
        let call = Handling {
            post: asker,
            then: Mutex::new(Some(Box::new(then))),
            course: Mutex::new(Course::Fresh(function, arguments)),
        };
        let call = match Bound::new(py, call) {
            Ok(call) => call,
            Err(error) => return error.write_unraisable(py, None),
        };
        match begin(&call, context.as_deref()) {
            Ok(task) => began(&stage, &task),
            Err(error) => call.get().tell(py, Err(error)),
        }
    });
    sent.then_some((asked, answer))
}

/// Begins a call as a task of the running loop.
fn begin<'py>(
    call: &Bound<'py, Handling>,
    context: Option<&Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = call.py();
    let options = PyDict::new(py);
    options.set_item(intern!(py, "context"), context)?;
    let create_task = intern!(py, "create_task");
    let task = running_loop(py)?.call_method(create_task, (call,), Some(&options))?;
    if call.get().has_told() {
        return Ok(task); // It was begun at once, and needed no second turn.
    }
    // Whoever wraps it may end before it was begun, and would not tell it.
    let drives_it = || -> PyResult<bool> {
        Ok(!task.call_method0(intern!(py, "done"))?.is_truthy()?
            && task.call_method0(intern!(py, "get_coro"))?.is(call))
    };
    if !drives_it().unwrap_or(false) {
        task.call_method1(intern!(py, "add_done_callback"), (call,))?;
    }
    Ok(task)
}

/// Notes that a question runs, or ends it if nobody asks any more.
fn began(stage: &Mutex<Stage>, task: &Bound<'_, PyAny>) {
    let mut now = stage.lock();
    if matches!(*now, Stage::Waiting) {
        *now = Stage::Running(task.clone().unbind());
        return;
    }
    drop(now);
    cancel(task);
}

fn cancel(task: &Bound<'_, PyAny>) {
    if let Err(error) = task.call_method0(intern!(task.py(), "cancel")) {
        error.write_unraisable(task.py(), Some(task));
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
    stage: Arc<Mutex<Stage>>,
}

impl Asked {
    /// What is asked is not begun any more, or is cancelled.
    fn cancel(&self) {
        if let Stage::Running(task) = self.over() {
            self.post.send(move |py| cancel(task.bind(py)));
        }
    }

    fn over(&self) -> Stage {
        std::mem::replace(&mut *self.stage.lock(), Stage::Over)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.cancel();
    }
}

type Then = Box<dyn FnOnce(Python<'_>, PyResult<Bound<'_, PyAny>>) + Send>;

/// A call under way: a coroutine that a task drives, around the one of the function.
///
/// Cancelled before its first turn, a task throws into what it has not begun; so that is heard of
/// too, which a coroutine of Python would not be told.
#[pyclass(frozen, module = "lockbay")]
struct Handling {
    post: Post,
    then: Mutex<Option<Then>>,
    course: Mutex<Course>,
}

enum Course {
    /// Nothing was called yet: this function is.
    Fresh(Arc<Py<PyAny>>, Arguments),
    /// It waits for its next turn: the coroutine of the function, and what drives that.
    Waiting(Py<PyAny>, Py<PyIterator>),
    /// A turn is under way, of this coroutine if it was called.
    Running(Option<Py<PyAny>>),
    Ended,
}

impl Handling {
    fn has_told(&self) -> bool {
        self.then.lock().is_none()
    }

    fn tell(&self, py: Python<'_>, answer: PyResult<Bound<'_, PyAny>>) {
        let then = self.then.lock().take();
        if self.post.is_foreign() {
            // It answers a thread that is not here.
            std::mem::forget(then);
        } else if let Some(then) = then {
            inside(py, &self.post, || then(py, answer));
        }
    }

    fn put(&self, course: Course) -> Course {
        std::mem::replace(&mut *self.course.lock(), course)
    }

    /// One turn: what is waited for next, or nothing if it has ended.
    fn turn<'py>(
        slf: &Bound<'py, Self>,
        drive: impl FnOnce(&Bound<'py, PyIterator>) -> PyResult<PySendResult<'py>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, this) = (slf.py(), slf.get());
        let begun = match this.put(Course::Running(None)) {
            Course::Fresh(function, arguments) => called(function.bind(py), arguments),
            Course::Waiting(coroutine, driver) => Ok((coroutine, driver)),
            running @ Course::Running(_) => {
                drop(this.put(running));
                return Err(PyValueError::new_err("it is running"));
            }
            Course::Ended => {
                drop(this.put(Course::Ended));
                let error = PyValueError::new_err("it has ended");
                // Closed before it began, it has told nobody.
                this.tell(py, Err(error.clone_ref(py)));
                return Err(error);
            }
        };
        let turn = begun.and_then(|(coroutine, driver)| {
            this.put(Course::Running(Some(coroutine.clone_ref(py))));
            Ok((drive(driver.bind(py))?, Course::Waiting(coroutine, driver)))
        });
        let answer = match turn {
            Ok((PySendResult::Next(awaited), waiting)) => {
                drop(this.put(waiting));
                return Ok(Some(awaited));
            }
            Ok((PySendResult::Return(result), _)) => Ok(result),
            Err(error) => Err(error),
        };
        Self::end(slf, answer)
    }

    /// Tells the answer. What is no error, such as a cancellation, is for the task too.
    fn end<'py>(
        slf: &Bound<'py, Self>,
        answer: PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, this) = (slf.py(), slf.get());
        drop(this.put(Course::Ended));
        let ends_the_task = match &answer {
            Err(error) if !error.is_instance_of::<PyException>(py) => Some(error.clone_ref(py)),
            Ok(_) | Err(_) => None,
        };
        this.tell(py, answer);
        let Some(error) = ends_the_task else { return Ok(None) };
        // It was told, so the task is not to complain that nobody looked at it.
        let current_task = py.import("asyncio")?.getattr(intern!(py, "current_task"))?;
        if let Ok(task) = current_task.call0()
            && !task.is_none()
        {
            task.call_method1(intern!(py, "add_done_callback"), (slf,))?;
        }
        Err(error)
    }
}

/// The coroutine of a function that is called now, and what drives it.
fn called(
    function: &Bound<'_, PyAny>,
    (positional, keywords): Arguments,
) -> PyResult<(Py<PyAny>, Py<PyIterator>)> {
    static IS_ASYNC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static COROUTINE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = function.py();
    let is_async = IS_ASYNC.import(py, "lockbay._loop", "is_async")?.call1((function,))?;
    let mut coroutine = if is_async.is_truthy()? {
        function.call(positional, keywords.as_ref().map(|keywords| keywords.bind(py)))?
    } else {
        let on_a_thread = py.import("lockbay._loop")?.getattr("on_a_thread")?;
        on_a_thread.call1((function, positional, keywords))?
    };
    if !coroutine.get_type().is(COROUTINE.import(py, "types", "CoroutineType")?) {
        coroutine = py.import("lockbay._loop")?.getattr("awaited")?.call1((coroutine,))?;
    }
    let driver = coroutine.call_method0(intern!(py, "__await__"))?.cast_into::<PyIterator>()?;
    Ok((coroutine.unbind(), driver.unbind()))
}

#[pymethods]
impl Handling {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let nothing = slf.py().None().into_bound(slf.py());
        Self::turn(slf, |driver| driver.send(&nothing))
    }

    fn send<'py>(slf: &Bound<'py, Self>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Self::turn(slf, |driver| driver.send(&value))?.ok_or_else(|| returned(slf.py()))
    }

    #[pyo3(signature = (*exception))]
    fn throw<'py>(
        slf: &Bound<'py, Self>,
        exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let is_fresh = matches!(&*slf.get().course.lock(), Course::Fresh(..));
        let turn = if is_fresh {
            Self::end(slf, Err(thrown(exception)))
        } else {
            Self::turn(slf, |driver| match driver.call_method1(intern!(py, "throw"), exception) {
                Ok(awaited) => Ok(PySendResult::Next(awaited)),
                Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                    error.value(py).getattr(intern!(py, "value")).map(PySendResult::Return)
                }
                Err(error) => Err(error),
            })
        };
        turn?.ok_or_else(|| returned(py))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.put(Course::Ended) {
            Course::Waiting(_, driver) => {
                let closed = driver.bind(py).call_method0(intern!(py, "close")).map(drop);
                // What it waited for may never wake its task.
                self.tell(py, Err(PyGeneratorExit::new_err("its coroutine was closed")));
                closed
            }
            running @ Course::Running(_) => {
                drop(self.put(running));
                Err(PyValueError::new_err("it is running"))
            }
            Course::Fresh(..) | Course::Ended => Ok(()),
        }
    }

    /// The task has ended that drives this, or something around it. If nothing was answered by
    /// then, it ended before this began; one that ended in order was made of something else, and
    /// nothing is known.
    fn __call__(&self, task: &Bound<'_, PyAny>) {
        match task.call_method0(intern!(task.py(), "result")) {
            Err(error) => self.tell(task.py(), Err(error)),
            Ok(_) => drop(self.then.lock().take()),
        }
    }

    /// What debuggers ask of coroutines: it is told of the one of the function.
    fn __getattr__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let no_answer = match name {
            "cr_running" | "cr_suspended" => PyBool::new(py, false).to_owned().into_any(),
            "cr_frame" | "cr_code" | "cr_await" | "cr_origin" | "__name__" | "__qualname__" => {
                py.None().into_bound(py)
            }
            _ => return Err(PyAttributeError::new_err(name.to_owned())),
        };
        let asked = match &*self.course.lock() {
            Course::Fresh(function, _) => Some(function.bind(py).clone()),
            Course::Waiting(coroutine, _) | Course::Running(Some(coroutine)) => {
                Some(coroutine.bind(py).clone())
            }
            Course::Running(None) | Course::Ended => None,
        };
        Ok(asked.and_then(|asked| asked.getattr(name).ok()).unwrap_or(no_answer))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // One that is locked is in use.
        let Some(course) = self.course.try_lock() else { return Ok(()) };
        match &*course {
            // The function is not its own alone.
            Course::Fresh(_, (positional, keywords)) => {
                visit.call(positional)?;
                visit.call(keywords)
            }
            Course::Waiting(coroutine, driver) => {
                visit.call(coroutine)?;
                visit.call(driver)
            }
            Course::Running(coroutine) => visit.call(coroutine),
            Course::Ended => Ok(()),
        }
    }

    fn __clear__(&self) {
        drop(self.put(Course::Ended));
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        if self.post.is_foreign() {
            std::mem::forget(self.then.get_mut().take());
        }
    }
}

fn returned(py: Python<'_>) -> PyErr {
    PyStopIteration::new_err(py.None())
}

/// The error of what was thrown: an exception, or a type and perhaps its value.
fn thrown(exception: &Bound<'_, PyTuple>) -> PyErr {
    let given = |at: usize| exception.get_item(at).ok().filter(|given| !given.is_none());
    match (given(0), given(1)) {
        (_, Some(value)) | (Some(value), None) => PyErr::from_value(value),
        (None, None) => PyRuntimeError::new_err("nothing was thrown"),
    }
}
