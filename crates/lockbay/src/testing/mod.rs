//! A kit that tries a user's own saga under every fault that it must survive.
//!
//! [`SagaKit`] runs a saga again and again in worlds of its own, each with one fault: a step that
//! fails, does not know, panics or is repeated, a compensation that does, and an executor that dies
//! at any boundary and is taken over from. It compares what can be observed of the world, and says
//! which step is not idempotent or not undone. It owns the clock and the store of each run; it
//! knows nothing of what a saga is for. Its state lives as long as a run.
//!
//! # A saga that holds
//! ```
//! use std::collections::BTreeSet;
//! use std::sync::{Arc, Mutex};
//!
//! use lockbay::saga::{SagaRequest, Started, StepContext, StepOutput, StepSpec, step_fn};
//! use lockbay::testing::{SagaKit, SagaWorld};
//! use lockbay::{Json, LockBay, Result};
//!
//! /// Seats that are booked, each under a key.
//! #[derive(Clone, Default)]
//! struct Seats(Arc<Mutex<BTreeSet<String>>>);
//!
//! #[async_trait::async_trait]
//! impl SagaWorld for Seats {
//!     fn register(&self, bay: &LockBay) -> Result<()> {
//!         let (forward, back) = (self.clone(), self.clone());
//!         let book = step_fn(
//!             move |context: StepContext| {
//!                 forward.0.lock().unwrap().insert(context.idempotency_key);
//!                 async { Ok(StepOutput::default()) }
//!             },
//!             move |context: StepContext| {
//!                 back.0.lock().unwrap().remove(&context.idempotency_key);
//!                 async { Ok(StepOutput::default()) }
//!             },
//!         );
//!         bay.sagas().register("book", book)
//!     }
//!
//!     async fn start(&self, bay: &LockBay) -> Result<Started> {
//!         let step = |name: &str| StepSpec::new(name, "book", Json::null());
//!         bay.sagas().start(SagaRequest::new("journey", vec![step("train"), step("hotel")])).await
//!     }
//!
//!     async fn observe(&self, _: &LockBay) -> Result<String> {
//!         Ok(format!("{} seats", self.0.lock().unwrap().len()))
//!     }
//! }
//!
//! SagaKit::new(Seats::default).run().assert_ok();
//! ```
//!
//! # What the kit needs
//! A run happens on one thread, on a clock that the kit steps: steps that wait must wait by
//! [`LockBay::clock`], and what they share must live in their [`SagaWorld`] or in the store. A world
//! whose steps are done elsewhere says when they have [answered](SagaWorld::answered).

mod inject;
mod judge;
mod report;
mod run;

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::lockbay::LockBay;
use crate::saga::{SagaStatus, Started};

pub use inject::{Boundary, Call, Fault};
pub use report::{Report, Run};

/// The world in which a saga is tried: its handlers, and what it starts from.
#[async_trait]
pub trait SagaWorld: Send + Sync + 'static {
    /// Registers the handlers on an instance. Called for every instance of a run: what their steps
    /// change must be the same world for all of them.
    fn register(&self, bay: &LockBay) -> Result<()>;

    /// Makes what the saga starts from, such as deposits. Called once in a run, before it starts.
    async fn prepare(&self, bay: &LockBay) -> Result<()> {
        let _ = bay;
        Ok(())
    }

    /// Starts the saga. Called once in a run.
    async fn start(&self, bay: &LockBay) -> Result<Started>;

    /// What can be seen of the world, as text that is equal exactly when the world is: after a saga
    /// that was compensated it must be as before the start, and after every one that was completed
    /// as after one without faults. Ids and times that differ from run to run do not belong in it.
    async fn observe(&self, bay: &LockBay) -> Result<String> {
        let _ = bay;
        Ok(String::new())
    }

    /// Waits until whatever steps are asked outside of the kit's thread has answered, and says
    /// whether there was anything to wait for. The clock stands still meanwhile; it goes on
    /// without those that are still not done when this returns.
    async fn answered(&self) -> bool {
        false
    }

    /// Says what is wrong with the world after a saga that ended so, if anything is.
    async fn check(&self, bay: &LockBay, end: SagaStatus) -> Result<(), String> {
        let _ = (bay, end);
        Ok(())
    }
}

type Build = Arc<dyn Fn() -> Arc<dyn SagaWorld> + Send + Sync>;

/// Tries a saga under every fault.
pub struct SagaKit {
    build: Build,
}

impl SagaKit {
    /// A kit whose runs each happen in a new world that this builds.
    pub fn new<W: SagaWorld>(build: impl Fn() -> W + Send + Sync + 'static) -> Self {
        SagaKit { build: Arc::new(move || Arc::new(build())) }
    }

    /// Runs the saga without a fault, then once under each. If it does not complete without one,
    /// that is all that the report says.
    ///
    /// Takes about a second for a saga of a few steps, unoptimised. May be called from anywhere, also from
    /// asynchronous code, which it blocks.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn run(&self) -> Report {
        let build = Arc::clone(&self.build);
        // A runtime of its own thread can be started where another one runs already.
        let all = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a thread without a runtime can have one").block_on(run::all(&build))
        });
        all.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
