//! The Tokio runtime of this process.
//!
//! Threads do not survive a fork, so the runtime belongs to a process and not to the module: in a
//! child it is made anew, and what is left of the parent's is never touched. The lock is taken only
//! by threads that are attached to the interpreter, and only the one that forks is attached while
//! it does, so a child never finds it taken.

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

/// Two do the work of an instance: one to commit, one to answer. More only compete with Python.
const WORKERS: usize = 2;

struct Owned {
    pid: u32,
    runtime: Runtime,
}

static RUNTIME: Mutex<Option<Owned>> = Mutex::new(None);

/// The runtime, as of this process.
pub(crate) fn handle(_: Python<'_>) -> PyResult<Handle> {
    let pid = std::process::id();
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
    let pid = std::process::id();
    match RUNTIME.lock().take() {
        Some(owned) if owned.pid == pid => owned.runtime.shutdown_background(),
        other => std::mem::forget(other),
    }
}
