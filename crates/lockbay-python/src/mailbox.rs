//! The way from the runtime's threads to an event loop, and back.
//!
//! Each event loop has one mailbox. A thread of the runtime posts what is to be done there and
//! wakes the loop through a descriptor that the loop watches; the loop empties the mailbox in one
//! go. So no thread of the runtime ever waits for the interpreter, and many answers cost one
//! wake-up.
//!
//! A mailbox is closed when its loop ends. What was posted and not done by then is dropped, and
//! whoever waits for it learns so. A mailbox belongs to a process: what a fork has copied of it is
//! left alone, because the descriptor and what watches it are still those of the parent.
//!
//! Nothing here runs Python code while it holds a lock. Such code may hand the interpreter to
//! another thread, and that could wait for the lock without ever giving the interpreter back.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rustix::event::{EventfdFlags, eventfd};
use tokio_util::sync::CancellationToken;

/// Of so many calls that are begun on the loop's thread, one is not.
const AT_ONCE: usize = 64;
/// How often what was done on the loop's thread may bring up more to be done at once.
const MAX_ROUNDS: usize = 16;

/// How often something was put into a mailbox, taken out of one, or polled on a loop's thread.
static MOVES: AtomicUsize = AtomicUsize::new(0);

/// Tells that something has moved between the runtime and loops, or on the thread of one.
pub(crate) fn moved() {
    MOVES.fetch_add(1, Ordering::Relaxed);
}

/// How often something has, in this process. That nothing has since the last look proves little by
/// itself: what is ready on a loop moves in its next turn.
pub(crate) fn moves() -> usize {
    MOVES.load(Ordering::Relaxed)
}

/// Something to be done on the loop's thread.
type Letter = Box<dyn FnOnce(Python<'_>) + Send>;

/// The side of the runtime. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Post(Arc<Shared>);

struct Shared {
    /// The process whose loop it is.
    pid: u32,
    /// `None` once the loop has ended.
    letters: Mutex<Option<Vec<Letter>>>,
    bell: OwnedFd,
    ended: CancellationToken,
    /// Calls whose answers are waited for.
    under_way: AtomicUsize,
    /// How often a call was begun on the loop's thread, or nearly.
    begun_here: AtomicUsize,
}

impl Post {
    /// Has the loop do this soon; false if it has ended, and then nothing is done.
    pub(crate) fn send(&self, letter: impl FnOnce(Python<'_>) + Send + 'static) -> bool {
        let mut letters = self.0.letters.lock();
        let Some(waiting) = letters.as_mut() else { return false };
        waiting.push(Box::new(letter));
        moved();
        let first = waiting.len() == 1;
        drop(letters);
        if first {
            // A counter that is full has rung long ago.
            let _ = rustix::io::write(&self.0.bell, &1_u64.to_ne_bytes());
        }
        true
    }

    /// The same, and sooner if this thread [`is_inside`](Post::is_inside): before it returns to
    /// Python.
    pub(crate) fn soon(&self, letter: impl FnOnce(Python<'_>) + Send + 'static) -> bool {
        if !self.is_inside() {
            return self.send(letter);
        }
        INSIDE.with_borrow_mut(|inside| {
            if let Some(inside) = inside {
                inside.letters.push(Box::new(letter));
            }
        });
        true
    }

    /// Whether this thread is that of the loop, and does what is to be done there.
    pub(crate) fn is_inside(&self) -> bool {
        let is_ours = |inside: &Inside| Arc::ptr_eq(&inside.post.0, &self.0);
        INSIDE.with_borrow(|inside| inside.as_ref().is_some_and(is_ours))
    }

    /// Whether it was copied by a fork.
    pub(crate) fn is_foreign(&self) -> bool {
        self.0.pid != crate::runtime::pid()
    }

    /// Whether its loop is still there.
    pub(crate) fn is_open(&self) -> bool {
        self.0.letters.lock().is_some()
    }

    /// Waits until its loop has ended.
    pub(crate) async fn ended(&self) {
        self.0.ended.cancelled().await;
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

thread_local! {
    /// The mailbox that was asked for last on this thread, which is nearly always the one asked
    /// for next.
    static LATEST: RefCell<Option<Py<Mailbox>>> = const { RefCell::new(None) };
    /// What this thread does itself before it returns to Python.
    static INSIDE: RefCell<Option<Inside>> = const { RefCell::new(None) };
}

/// What comes up on a loop's thread while that is in here.
struct Inside {
    post: Post,
    letters: Vec<Letter>,
}

/// Does something on a loop's thread, and then what comes of it [`soon`](Post::soon), as far as that
/// comes to an end: who wakes itself again and again is left to the mailbox.
pub(crate) fn inside<T>(py: Python<'_>, post: &Post, act: impl FnOnce() -> T) -> T {
    let outermost = INSIDE.with_borrow_mut(|inside| {
        let none = inside.is_none();
        if none {
            *inside = Some(Inside { post: post.clone(), letters: Vec::new() });
        }
        none
    });
    let _leave = outermost.then_some(Leave);
    let did = act();
    for _ in 0..MAX_ROUNDS {
        if !post.is_inside() {
            break; // another loop is, around this one
        }
        let letters = INSIDE.with_borrow_mut(|inside| {
            inside.as_mut().map(|inside| std::mem::take(&mut inside.letters)).unwrap_or_default()
        });
        if letters.is_empty() {
            break;
        }
        open_all(py, letters);
    }
    did
}

/// Does what letters say. One that panics, which is told on stderr, leaves the others as they are.
fn open_all(py: Python<'_>, letters: Vec<Letter>) {
    for letter in letters {
        moved();
        drop(catch_unwind(AssertUnwindSafe(|| letter(py))));
    }
}

/// Leaves to the mailbox what was not done.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        let Some(Inside { post, letters }) = INSIDE.take() else { return };
        for letter in letters {
            post.send(letter);
        }
    }
}

#[pymethods]
impl Mailbox {
    /// Does what was posted.
    fn __call__(&self, py: Python<'_>) {
        if self.is_foreign() {
            return;
        }
        let mut count = [0_u8; 8];
        // Nothing to read is what a bell says that was heard before.
        let _ = rustix::io::read(&self.post.0.bell, &mut count);
        let letters = self.post.0.letters.lock().as_mut().map(std::mem::take);
        inside(py, &self.post, || open_all(py, letters.unwrap_or_default()));
    }

    /// Takes nothing more, and drops what was not done.
    fn close(&self, py: Python<'_>) {
        if self.is_foreign() {
            return;
        }
        let letters = self.post.0.letters.lock().take();
        let until_end = self.until_end.lock().take();
        self.post.0.ended.cancel();
        if let Ok(event_loop) = self.event_loop(py) {
            // A loop that is closed watches nothing, and may say so.
            let _ = event_loop.call_method1(intern!(py, "remove_reader"), (self.descriptor(),));
        }
        drop((letters, until_end));
    }
}

impl Mailbox {
    /// That of the loop that runs on this thread.
    pub(crate) fn running(py: Python<'_>) -> PyResult<Bound<'_, Mailbox>> {
        let event_loop = running_loop(py)?;
        let latest = LATEST.with_borrow(|latest| latest.as_ref().map(|it| it.clone_ref(py)));
        if let Some(latest) = latest.map(|latest| latest.into_bound(py))
            && latest.get().event_loop(py)?.is(&event_loop)
            && latest.get().post.is_open()
            && !latest.get().is_foreign()
        {
            return Ok(latest);
        }
        let mailbox = Mailbox::of(py, &event_loop)?;
        // What was there before is dropped when nothing is borrowed.
        drop(LATEST.replace(Some(mailbox.clone().unbind())));
        crate::log::read_on(py, &mailbox.get().post);
        Ok(mailbox)
    }

    fn of<'py>(py: Python<'py>, event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Mailbox>> {
        static MAILBOXES: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let mailboxes = MAILBOXES.get_or_try_init(py, || {
            let kind = py.import("weakref")?.getattr("WeakKeyDictionary")?;
            kind.call0().map(Bound::unbind)
        })?;
        let mailboxes = mailboxes.bind(py);
        let known = mailboxes.call_method1(intern!(py, "get"), (event_loop,))?;
        if let Ok(mailbox) = known.cast_into::<Mailbox>()
            && !mailbox.get().is_foreign()
        {
            if mailbox.get().post.is_open() {
                return Ok(mailbox);
            }
            return Err(PyRuntimeError::new_err("this event loop is ending"));
        }
        Mailbox::close_ended(mailboxes)?;
        let mailbox = Mailbox::open(py, event_loop)?;
        mailboxes.set_item(event_loop, &mailbox)?;
        Ok(mailbox)
    }

    /// Closes the mailboxes of loops that were closed without ending their asynchronous generators,
    /// which is how a mailbox hears of the end.
    fn close_ended(mailboxes: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = mailboxes.py();
        let known = mailboxes.call_method0(intern!(py, "items"))?.try_iter()?;
        for pair in known.collect::<PyResult<Vec<_>>>()? {
            let (event_loop, mailbox): (Bound<'_, PyAny>, Bound<'_, Mailbox>) = pair.extract()?;
            if event_loop.call_method0(intern!(py, "is_closed"))?.is_truthy()? {
                mailbox.get().close(py);
            }
        }
        Ok(())
    }

    fn open<'py>(py: Python<'py>, event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| PyRuntimeError::new_err(format!("no descriptor is left: {error}")))?;
        let letters = Mutex::new(Some(Vec::new()));
        let post = Post(Arc::new(Shared {
            pid: crate::runtime::pid(),
            letters,
            bell,
            ended: CancellationToken::new(),
            under_way: AtomicUsize::new(0),
            begun_here: AtomicUsize::new(0),
        }));
        let weakly = py.import("weakref")?.getattr("ref")?.call1((event_loop,))?.unbind();
        let mailbox = Mailbox { post, event_loop: weakly, until_end: Mutex::default() };
        let mailbox = Bound::new(py, mailbox)?;
        // Watched in no context: what is done here is done for many callers.
        let watch = event_loop.getattr(intern!(py, "add_reader"))?;
        let context = py.import("contextvars")?.getattr("Context")?.call0()?;
        let descriptor = mailbox.get().descriptor();
        context.call_method1(intern!(py, "run"), (watch, descriptor, &mailbox))?;
        // A loop that ends closes its asynchronous generators.
        let until_end = py.import("lockbay._loop")?.getattr("until_end")?.call1((&mailbox,))?;
        let before = mailbox.get().until_end.lock().replace(until_end.unbind());
        debug_assert!(before.is_none(), "it is opened once");
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

    /// Whether no call is under way. What is answered at once suspends nobody, so now and then this
    /// says no: whoever asks again and again lets others have the loop.
    pub(crate) fn may_begin_here(&self) -> bool {
        let Shared { under_way, begun_here, .. } = &*self.post.0;
        under_way.load(Ordering::Relaxed) == 0
            && begun_here.fetch_add(1, Ordering::Relaxed) % AT_ONCE != AT_ONCE - 1
    }

    fn descriptor(&self) -> RawFd {
        self.post.0.bell.as_raw_fd()
    }

    /// Whether it was copied by a fork.
    fn is_foreign(&self) -> bool {
        self.post.is_foreign()
    }
}

/// A call whose answer is waited for, as long as this lives.
pub(crate) struct UnderWay(Post);

impl UnderWay {
    pub(crate) fn of(post: &Post) -> Self {
        post.0.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(post.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The loop that runs on this thread.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    RUNNING.import(py, "asyncio", "get_running_loop")?.call0().map_err(|_| {
        PyRuntimeError::new_err(
            "no running event loop: call it in a coroutine, such as `async def main()` of \
             `asyncio.run(main())`",
        )
    })
}
