//! Several instances on one memory store, under one clock that the test steps.

#![allow(dead_code)] // every test binary uses its own part of it

use std::sync::Arc;
use std::time::Duration;

use lockbay::LockBay;
use lockbay::clock::Clock;
use lockbay::config::{Config, Span};
use lockbay::store::faulty::Faulty;
use lockbay::store::memory::Memory;

/// A world whose time stands still until it is stepped.
pub struct World {
    pub clock: Clock,
    pub memory: Arc<Memory>,
}

/// One instance and the store behind which its faults are.
pub struct Instance {
    pub bay: LockBay,
    pub store: Arc<Faulty>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let clock = Clock::manual(seed);
        World { memory: Memory::new(clock.clone()), clock }
    }

    /// An instance that is not started: no elections and no renewals.
    pub fn instance(&self) -> Instance {
        self.instance_with(Config::default())
    }

    pub fn instance_with(&self, config: Config) -> Instance {
        let store = Arc::new(Faulty::new(Arc::new(self.memory.client()), self.clock.clone()));
        let bay = LockBay::with_store(config, store.clone(), self.clock.clone());
        Instance { bay, store }
    }

    /// Lets everything run that can, without time passing.
    pub async fn settle(&self) {
        for _ in 0..60 {
            tokio::task::yield_now().await;
        }
    }

    /// Steps time in small steps, letting everything run in between.
    pub async fn pass(&self, duration: Duration) {
        self.pass_by(Duration::from_millis(5), duration).await;
    }

    /// Steps time by this much at once.
    pub async fn pass_by(&self, step: Duration, duration: Duration) {
        let mut left = duration;
        self.settle().await;
        while !left.is_zero() {
            let by = step.min(left);
            self.clock.advance(by);
            left -= by;
            self.settle().await;
        }
    }
}

#[allow(dead_code)] // not every test binary sets times
pub fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}
