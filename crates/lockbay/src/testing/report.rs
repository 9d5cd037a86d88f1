//! What came of all runs, in words for whoever wrote the saga.

use std::fmt;

use super::inject::{Call, Fault};
use crate::saga::SagaStatus;

/// What came of one run.
#[derive(Debug, Clone)]
pub struct Run {
    /// What went wrong in it, on purpose.
    pub fault: Fault,
    /// What each step was asked, in order, and what came of it.
    pub trace: Vec<Call>,
    /// Where the saga stood at the end; `None` if it was never started.
    pub status: Option<SagaStatus>,
    /// Why it stood so, as the saga says.
    pub reason: Option<String>,
    /// What it did against its promises, if anything, each with the step named.
    pub violations: Vec<String>,
}

/// What came of all runs.
#[derive(Debug, Clone)]
pub struct Report {
    /// The runs, in order; the first is the one without a fault.
    pub runs: Vec<Run>,
}

impl Report {
    /// Whether the saga holds under every fault.
    pub fn is_ok(&self) -> bool {
        self.runs.iter().all(|run| run.violations.is_empty())
    }

    /// Every violation, with the fault under which it came up.
    pub fn violations(&self) -> impl Iterator<Item = (&Fault, &str)> {
        self.runs.iter().flat_map(Run::told)
    }

    /// Fails the test that called it if anything is wrong, and says what, with the trace of each
    /// such run.
    ///
    /// # Panics
    /// If there is a violation.
    #[track_caller]
    pub fn assert_ok(&self) {
        assert!(self.is_ok(), "{self}");
    }
}

impl Run {
    fn told(&self) -> impl Iterator<Item = (&Fault, &str)> {
        self.violations.iter().map(|text| (&self.fault, text.as_str()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong: Vec<&Run> = self.runs.iter().filter(|run| !run.violations.is_empty()).collect();
        if wrong.is_empty() {
            return write!(f, "the saga holds in all of {} runs", self.runs.len());
        }
        writeln!(f, "the saga does not hold in {} of {} runs", wrong.len(), self.runs.len())?;
        for run in wrong {
            write!(f, "\n{run}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "when {}:", self.fault)?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        let status = self.status.map_or("not started", SagaStatus::name);
        writeln!(f, "  the saga was {status}: {}", self.reason.as_deref().unwrap_or("no reason"))?;
        for (at, call) in self.trace.iter().enumerate() {
            writeln!(f, "    {}. {call}", at + 1)?;
        }
        Ok(())
    }
}
