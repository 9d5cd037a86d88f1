//! Calls of the library that are awaited in Python: beside the loop, or begun on its own thread.
//!
//! The runtime sees most calls through, and the mailbox brings their answers. But waking a thread
//! takes longer than a job that does nothing. So a call that is short, and by itself, is polled where
//! it is awaited: first when it is made, and again when something on the loop's thread wakes it,
//! such as the end of its handler. What wakes it from elsewhere, such as a timer, a shutdown or a
//! store that answers from its own thread, hands it over to the runtime for good: nothing that the
//! library does waits for a loop that is busy, stopped or gone.
//!
//! What threads of the runtime have locked is free again at once, as they never wait for the
//! interpreter.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use lockbay::Result;
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::error::{Raise, raise, unknown};
use crate::mailbox::{Mailbox, Post, UnderWay, inside, moved};

/// Runs a call of the library on the runtime, and gives what Python can await. `show` makes its
/// answer a Python value, on the loop's thread. Cancelling what is awaited ends the call.
pub(crate) fn awaitable<'py, T: Send + 'static>(
    py: Python<'py>,
    call: impl Future<Output = Result<T>> + Send + 'static,
    show: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let (future, waiting) = Waiting::on(Mailbox::running(py)?.get(), py)?;
    let task = see_through(&crate::runtime::handle(py)?, call, show, waiting);
    Ender::give(&future, move || task.abort())?;
    Ok(future)
}

/// As [`awaitable`], for a call that often waits for nothing, or only for the loop. It is begun on
/// the loop's thread, unless others are under way: those that are many are better seen through
/// beside the loop.
pub(crate) fn awaitable_here<'py, T: Send + 'static>(
    mailbox: &Bound<'py, Mailbox>,
    call: impl Future<Output = Result<T>> + Send + 'static,
    show: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let py = mailbox.py();
    if !mailbox.get().may_begin_here() {
        return awaitable(py, call, show);
    }
    let (future, waiting) = Waiting::on(mailbox.get(), py)?;
    let call = Arc::new(Call {
        post: mailbox.get().post(),
        runtime: crate::runtime::handle(py)?,
        stage: Mutex::new(Stage::Here(Begun { call: Box::pin(call), show, waiting })),
        queued: AtomicBool::new(true),
        woken_elsewhere: AtomicBool::new(false),
        unwanted: AtomicBool::new(false),
    });
    inside(py, &call.post, || Arc::clone(&call).go_on(py));
    if !call.is_over() {
        let watched = Arc::clone(&call);
        Ender::give(&future, move || watched.end()).inspect_err(|_| call.end())?;
    }
    Ok(future)
}

/// Has the runtime see a call through, and answer with what comes of it.
fn see_through<T: Send + 'static>(
    runtime: &Handle,
    call: impl Future<Output = Result<T>> + Send + 'static,
    show: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    waiting: Waiting,
) -> AbortHandle {
    let task = runtime.spawn(async move {
        let answer = call.await;
        waiting.answer(move |py| answer.or_raise(py).and_then(|value| show(py, value)));
    });
    task.abort_handle()
}

/// A call that was begun on its loop's thread.
struct Call<F, S> {
    post: Post,
    runtime: Handle,
    stage: Mutex<Stage<F, S>>,
    /// Whether it will be polled on the loop's thread anyway.
    queued: AtomicBool,
    /// Whether it is to be handed over to the runtime.
    woken_elsewhere: AtomicBool,
    /// Whether nobody waits for its answer any more.
    unwanted: AtomicBool,
}

enum Stage<F, S> {
    /// It is polled on the loop's thread.
    Here(Begun<F, S>),
    /// It is being polled there, or on its way to the runtime.
    Taken,
    /// The runtime sees it through.
    Elsewhere(AbortHandle),
    Over,
}

struct Begun<F, S> {
    call: Pin<Box<F>>,
    show: S,
    waiting: Waiting,
}

impl<F, S> Call<F, S> {
    /// Takes it out, so that nothing is locked while it runs, moves or ends.
    fn take(&self) -> Option<Begun<F, S>> {
        let mut stage = self.stage.lock();
        match std::mem::replace(&mut *stage, Stage::Taken) {
            Stage::Here(begun) => Some(begun),
            other @ (Stage::Taken | Stage::Elsewhere(_) | Stage::Over) => {
                *stage = other;
                None
            }
        }
    }

    fn put(&self, now: Stage<F, S>) {
        *self.stage.lock() = now;
    }

    fn is_over(&self) -> bool {
        matches!(*self.stage.lock(), Stage::Over)
    }

    /// Ends it, because nobody waits for its answer.
    fn end(&self) {
        self.unwanted.store(true, Ordering::SeqCst);
        if let Some(begun) = self.take() {
            self.put(Stage::Over);
            if self.post.is_foreign() {
                // What a fork has copied may hold locks of threads that are not here.
                std::mem::forget(begun);
                return;
            }
            // It may have to reach the runtime to end.
            let _runtime = self.runtime.enter();
            drop(begun);
            return;
        }
        let task = match &*self.stage.lock() {
            Stage::Elsewhere(task) => Some(task.clone()),
            Stage::Here(_) | Stage::Taken | Stage::Over => None,
        };
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl<F, S, T> Call<F, S>
where
    F: Future<Output = Result<T>> + Send + 'static,
    S: FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    T: Send + 'static,
{
    /// Polls it on the loop's thread. What wakes it meanwhile has it polled again.
    fn go_on(self: Arc<Self>, py: Python<'_>) {
        self.queued.swap(false, Ordering::AcqRel);
        if self.post.is_foreign() {
            return;
        }
        let Some(mut begun) = self.take() else { return };
        moved();
        let waker = Waker::from(Arc::clone(&self));
        let mut context = Context::from_waker(&waker);
        let polled = {
            let _runtime = self.runtime.enter();
            catch_unwind(AssertUnwindSafe(|| begun.call.as_mut().poll(&mut context)))
        };
        let answer = match polled {
            Ok(Poll::Pending) => {
                self.put(Stage::Here(begun));
                if self.woken_elsewhere.load(Ordering::SeqCst) {
                    self.hand_over();
                }
                return;
            }
            Ok(Poll::Ready(answer)) => answer,
            Err(_) => Err(not_seen_through()),
        };
        self.put(Stage::Over);
        let Begun { call, show, waiting } = begun;
        drop(call);
        waiting.answer_here(py, |py| answer.or_raise(py).and_then(|value| show(py, value)));
    }

    /// Leaves it to the runtime, unless it is polled right now, or over.
    fn hand_over(&self) {
        let Some(Begun { call, show, waiting }) = self.take() else { return };
        let task = see_through(&self.runtime, call, show, waiting);
        self.put(Stage::Elsewhere(task.clone()));
        if self.unwanted.load(Ordering::SeqCst) {
            task.abort();
        }
    }
}

impl<F, S, T> Wake for Call<F, S>
where
    F: Future<Output = Result<T>> + Send + 'static,
    S: FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    T: Send + 'static,
{
    fn wake(self: Arc<Self>) {
        if self.post.is_inside() {
            if !self.queued.swap(true, Ordering::AcqRel) {
                let call = Arc::clone(&self);
                self.post.soon(move |py| call.go_on(py));
            }
            return;
        }
        // If it is being polled, whoever polls it sees this.
        self.woken_elsewhere.store(true, Ordering::SeqCst);
        self.hand_over();
    }
}

/// Ends a call when nobody waits for its answer any more.
#[pyclass(frozen)]
struct Ender(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Ender {
    fn give(future: &Bound<'_, PyAny>, end: impl FnOnce() + Send + 'static) -> PyResult<()> {
        let py = future.py();
        let ender = Bound::new(py, Ender(Mutex::new(Some(Box::new(end)))))?;
        future.setattr(intern!(py, "end"), ender)
    }
}

#[pymethods]
impl Ender {
    fn __call__(&self) {
        let end = self.0.lock().take();
        if let Some(end) = end {
            end();
        }
    }
}

/// A future that is waited for. It is answered also when the call panics.
struct Waiting {
    post: Post,
    awaited: Option<(UnderWay, Py<PyAny>)>,
}

impl Waiting {
    /// A new future of the running loop, and what answers it.
    fn on<'py>(mailbox: &Mailbox, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Self)> {
        static ANSWER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let future = ANSWER.import(py, "lockbay._loop", "Answer")?.call0()?;
        let post = mailbox.post();
        let awaited = Some((UnderWay::of(&post), future.clone().unbind()));
        Ok((future, Waiting { post, awaited }))
    }

    /// Answers it through the mailbox.
    fn answer(mut self, answer: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static) {
        self.post_answer(answer);
    }

    /// Answers it on the loop's thread.
    fn answer_here(
        mut self,
        py: Python<'_>,
        answer: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>>,
    ) {
        if let Some((under_way, future)) = self.awaited.take() {
            drop(under_way);
            settle(future.bind(py), answer);
        }
    }

    fn post_answer(
        &mut self,
        answer: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static,
    ) {
        if let Some((under_way, future)) = self.awaited.take() {
            drop(under_way);
            self.post.send(move |py| settle(future.bind(py), answer));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.post_answer(|py| Err(raise(py, &not_seen_through())));
    }
}

/// Answers a future, unless it was cancelled meanwhile: then nobody sees the answer.
fn settle(future: &Bound<'_, PyAny>, answer: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>>) {
    let py = future.py();
    let set = || -> PyResult<()> {
        if future.call_method0(intern!(py, "done"))?.is_truthy()? {
            return Ok(());
        }
        let shown = catch_unwind(AssertUnwindSafe(|| answer(py)));
        match shown.unwrap_or_else(|_| Err(raise(py, &not_seen_through()))) {
            Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
            Err(error) => future.call_method1(intern!(py, "set_exception"), (error,))?,
        };
        Ok(())
    };
    if let Err(error) = set() {
        error.write_unraisable(py, Some(future));
    }
}

fn not_seen_through() -> lockbay::Error {
    unknown("it was not seen through")
}
