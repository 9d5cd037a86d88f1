//! Reading when a schedule is due, and how many of those that are driven here stand still because
//! that cannot be read, as a gauge. It knows nothing of ticks.

use std::sync::Arc;

use parking_lot::Mutex;

use super::definition::Definition;
use super::expression::Expression;
use crate::error::Result;
use crate::metrics::{Metric, Metrics};

/// All of them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stuck(Arc<(Mutex<i64>, Arc<Metrics>)>);

/// When one schedule is due, for as long as it is driven here.
pub(super) struct Due {
    all: Stuck,
    counted: bool,
    /// The expression that was read last, with what it was read from and in which zone.
    read: Option<((String, String), Expression)>,
}

impl Stuck {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Stuck(Arc::new((Mutex::new(0), metrics)))
    }

    pub(super) fn due(&self) -> Due {
        Due { all: self.clone(), counted: false, read: None }
    }

    fn add(&self, change: i64) {
        let mut count = self.0.0.lock();
        *count += change;
        self.0.1.set(Metric::SchedulesStuck, *count);
    }
}

impl Due {
    /// When it is due, read once for each expression and zone. Versions do not tell them apart: one
    /// that was deleted and put again counts from the beginning.
    pub(super) fn read(&mut self, definition: &Definition) -> Result<Expression> {
        if let Some(((text, zone), known)) = &self.read
            && *text == definition.schedule_expression
            && *zone == definition.time_zone
        {
            return Ok(known.clone());
        }
        self.read = None;
        let expression = definition.expression().inspect_err(|_| self.stands_still())?;
        let of = (definition.schedule_expression.clone(), definition.time_zone.clone());
        self.read = Some((of, expression.clone()));
        self.moves();
        Ok(expression)
    }

    /// Whether it could be read.
    pub(super) fn is_read(&self) -> bool {
        self.read.is_some()
    }

    fn stands_still(&mut self) {
        if !self.counted {
            self.counted = true;
            self.all.add(1);
        }
    }

    fn moves(&mut self) {
        if self.counted {
            self.counted = false;
            self.all.add(-1);
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        self.moves();
    }
}
