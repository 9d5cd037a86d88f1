//! How many schedules that are driven here stand still because their expression or zone cannot be
//! read, as a gauge. It knows nothing of why.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::metrics::{Metric, Metrics};

/// All of them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stuck(Arc<(Mutex<i64>, Arc<Metrics>)>);

/// One schedule, for as long as it is driven here.
pub(super) struct Mark {
    all: Stuck,
    counted: bool,
}

impl Stuck {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Stuck(Arc::new((Mutex::new(0), metrics)))
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { all: self.clone(), counted: false }
    }

    fn add(&self, change: i64) {
        let mut count = self.0.0.lock();
        *count += change;
        self.0.1.set(Metric::SchedulesStuck, *count);
    }
}

impl Mark {
    pub(super) fn stands_still(&mut self) {
        if !self.counted {
            self.counted = true;
            self.all.add(1);
        }
    }

    pub(super) fn moves(&mut self) {
        if self.counted {
            self.counted = false;
            self.all.add(-1);
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.moves();
    }
}
