//! The Tokio runtime of this process.
//!
//! Threads do not survive a fork, so the runtime belongs to a process and not to the module: in a
//! child it is made anew, and what is left of the parent's is never touched. Locks that its threads
//! hold while the process forks would stay locked in the child for ever, so they are held still
//! meanwhile, at a place where they hold none. The lock in here is taken only by threads that are
//! attached to the interpreter, and only the one that forks is attached while it does.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, PoisonError};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

/// Two do the work of an instance: one to commit, one to answer. More only compete with Python.
const WORKERS: usize = 2;

/// How long a fork waits for a thread that is at work. It takes microseconds where none is stuck.
const UNTIL_STILL: Duration = Duration::from_millis(200);

struct Owned {
    pid: u32,
    runtime: Runtime,
}

static RUNTIME: Mutex<Option<Owned>> = Mutex::new(None);

/// The id of this process, or 0 if it was not asked for yet.
static PID: AtomicU32 = AtomicU32::new(0);

/// The id of this process. It is asked for many times a call, and the kernel once.
pub(crate) fn pid() -> u32 {
    match PID.load(Ordering::Relaxed) {
        0 => {
            forked();
            PID.load(Ordering::Relaxed)
        }
        pid => pid,
    }
}

/// This process is the child of a fork.
#[pyfunction]
pub(crate) fn forked() {
    PID.store(std::process::id(), Ordering::Relaxed);
}

/// The runtime, as of this process.
pub(crate) fn handle(_: Python<'_>) -> PyResult<Handle> {
    let pid = pid();
    let mut slot = RUNTIME.lock();
    if let Some(owned) = slot.as_ref().filter(|owned| owned.pid == pid) {
        return Ok(owned.runtime.handle().clone());
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("lockbay")
        .enable_all()
        .build()
        .map_err(|error| PyRuntimeError::new_err(format!("no threads can be started: {error}")))?;
    let handle = runtime.handle().clone();
    // Dropping the parent's would wait for threads that are not here.
    std::mem::forget(slot.replace(Owned { pid, runtime }));
    Ok(handle)
}

/// Ends it, without waiting for what still runs.
pub(crate) fn end(_: Python<'_>) {
    let pid = pid();
    // Not locked any more when what it ran is dropped.
    let owned = RUNTIME.lock().take();
    match owned {
        Some(owned) if owned.pid == pid => owned.runtime.shutdown_background(),
        other => std::mem::forget(other),
    }
}

/// Where the threads of the runtime are held while the process forks.
#[derive(Default)]
struct Stillness {
    now: std::sync::Mutex<Still>,
    changed: Condvar,
}

#[derive(Default)]
struct Still {
    held: usize,
    over: Over,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Over {
    #[default]
    NotYet,
    Yes,
}

impl Stillness {
    /// Holds the thread that calls this.
    fn hold(&self) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.held += 1;
        self.changed.notify_all();
        let over = self.changed.wait_while(now, |now| now.over == Over::NotYet);
        drop(over.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until this many are held, or for long enough.
    fn wait_for(&self, threads: usize) {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.changed.wait_timeout_while(now, UNTIL_STILL, |now| now.held < threads);
        drop(held.unwrap_or_else(PoisonError::into_inner));
    }

    fn end(&self) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).over = Over::Yes;
        self.changed.notify_all();
    }
}

thread_local! {
    /// What the fork that this thread makes has to end.
    static STILL: RefCell<Option<Arc<Stillness>>> = const { RefCell::new(None) };
}

/// Holds the threads of the runtime still, because this thread forks the process now.
#[pyfunction]
pub(crate) fn hold_still(py: Python<'_>) {
    let pid = pid();
    let ours = |owned: &&Owned| owned.pid == pid;
    // Not locked any more when others attach.
    let runtime = RUNTIME.lock().as_ref().filter(ours).map(|owned| owned.runtime.handle().clone());
    let Some(runtime) = runtime else { return };
    let stillness = Arc::<Stillness>::default();
    for _ in 0..WORKERS {
        let stillness = Arc::clone(&stillness);
        runtime.spawn(async move { stillness.hold() });
    }
    py.detach(|| stillness.wait_for(WORKERS));
    STILL.set(Some(stillness));
}

/// Lets them go on, in the process that forked. In its child there are none.
#[pyfunction]
pub(crate) fn go_on() {
    if let Some(stillness) = STILL.take() {
        stillness.end();
    }
}
