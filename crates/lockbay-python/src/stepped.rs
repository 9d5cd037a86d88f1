//! A clock that is stepped, and instances that go by it, for tests of applications.
//!
//! It owns the clock and the store in memory that its instances share. When time goes on, and for
//! how long what is due may run before it does, is decided by who holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockbay::Config;
use lockbay::clock::{Clock, Tick};
use lockbay::store::memory::Memory;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::runtime::Handle;

use crate::bay::LockBay;
use crate::job::seconds;
use crate::mailbox::moves;

/// Time goes on by at least this much at a time.
const SHORTEST_STEP: Duration = Duration::from_millis(10);

/// How long what is due may run while an instance on a stepped clock closes.
const BREATH: Duration = Duration::from_millis(5);

/// A store in memory, and the clock that it goes by.
#[derive(Clone)]
pub(crate) struct Footing {
    clock: Clock,
    memory: Arc<Memory>,
}

impl Footing {
    pub(crate) fn open(&self, config: Config) -> lockbay::LockBay {
        let store = Arc::new(self.memory.client());
        lockbay::LockBay::with_store(config, store, self.clock.clone())
    }

    /// Moves time on while an instance closes, since nobody else can meanwhile.
    pub(crate) async fn see_through(&self, end: impl Future<Output = ()>) {
        let time_goes_on = async {
            loop {
                Clock::system().sleep(BREATH).await;
                if let Some(due) = self.clock.next_due() {
                    self.clock.advance(due);
                }
            }
        };
        tokio::select! {
            () = end => {}
            () = time_goes_on => {}
        }
    }
}

/// A clock that stands still by itself.
#[pyclass(frozen, module = "lockbay.testing")]
pub(crate) struct SteppedClock {
    clock: Clock,
    memory: Arc<Memory>,
    /// How often something had moved when that was looked at last.
    moves_before: AtomicUsize,
}

#[pymethods]
impl SteppedClock {
    #[new]
    fn new(seed: u64) -> Self {
        let clock = Clock::manual(seed);
        SteppedClock {
            memory: Memory::new(clock.clone()),
            clock,
            moves_before: AtomicUsize::new(0),
        }
    }

    /// An instance on the store of this clock, not open yet.
    #[pyo3(signature = (**settings))]
    fn open<'py>(
        &self,
        py: Python<'py>,
        settings: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, LockBay>> {
        let footing = Footing { clock: self.clock.clone(), memory: Arc::clone(&self.memory) };
        LockBay::standing_on(py, footing, settings)
    }

    /// The time it shows, as RFC 3339.
    #[getter]
    fn now(&self) -> String {
        self.clock.now().to_string()
    }

    /// The moment that lies this many seconds ahead, in nanoseconds.
    fn ahead(&self, py: Python<'_>, by: f64) -> PyResult<u64> {
        let by = seconds(py, "time", Some(by))?.unwrap_or_default();
        Ok((self.clock.tick() + by).as_nanos())
    }

    /// Moves time on to when something is due, by `shortest` seconds at least, and no further than
    /// to this moment. False if it is there.
    fn step_towards(&self, py: Python<'_>, moment: u64, shortest: f64) -> PyResult<bool> {
        let left = Tick::from_nanos(moment).since(self.clock.tick());
        if left.is_zero() {
            return Ok(false);
        }
        let shortest = seconds(py, "a step", Some(shortest))?.unwrap_or_default();
        let due = self.clock.next_due().unwrap_or(left);
        self.clock.advance(due.max(shortest).max(SHORTEST_STEP).min(left));
        Ok(true)
    }

    /// Whether nothing is running that does not wait for time or for Python.
    fn is_quiet(&self, py: Python<'_>) -> PyResult<bool> {
        // Looked at first: what a worker does is seen by what it has moved, or by its being awake.
        let quiet = is_quiet(&crate::runtime::handle(py)?);
        let moves = moves();
        let nothing_moved = self.moves_before.swap(moves, Ordering::Relaxed) == moves;
        Ok(quiet && nothing_moved)
    }
}

/// Whether all workers sleep, and nothing waits for one.
fn is_quiet(runtime: &Handle) -> bool {
    let metrics = runtime.metrics();
    // Odd while it sleeps.
    let sleeps = |worker| metrics.worker_park_unpark_count(worker) % 2 == 1;
    (0..metrics.num_workers()).all(sleeps) && metrics.global_queue_depth() == 0
}
