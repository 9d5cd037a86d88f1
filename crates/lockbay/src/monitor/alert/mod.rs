//! Alerts: rules over what was measured, judged by the leader, told once.
//!
//! A rule is judged by a pure function; its state is stored, and moves in commits under the
//! leader's fence. What is to be told of a move is written in the same commit, so that each is told
//! once, whoever leads then.

pub mod backtest;
pub mod builtin;
mod burn;
pub mod decide;
pub mod evaluator;
pub(in crate::monitor) mod invariant;
pub mod judge;
pub(crate) mod record;
pub mod round;
pub mod rule;
pub(crate) mod service;
mod teller;
pub mod testfile;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

pub use service::{Alert, Alerts};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look, in working hours.
    Warning,
    /// Somebody should look today.
    Error,
    /// Somebody must act now.
    Critical,
}

impl Severity {
    /// All of them, the least severe first.
    pub const ALL: [Severity; 4] =
        [Severity::Info, Severity::Warning, Severity::Error, Severity::Critical];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
            Severity::Critical => "critical",
        }
    }
}

/// What has become of an alert, in the eyes of those who are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// It has begun to fire.
    Fired,
    /// It fires no longer.
    Resolved,
}

/// A move of an alert that somebody may be told of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// Which rule.
    pub rule: String,
    /// Its severity at that moment.
    pub severity: Severity,
    /// What happened.
    pub turn: Turn,
    /// Grows with each firing of the rule; the same for a firing and its end.
    pub episode: u64,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// The value that was judged, if there was one.
    pub value: Option<f64>,
    /// In words: what is wrong with which value, or that it is over.
    pub summary: String,
}

/// An alert that fires now: its rule has passed its threshold for long enough, and is not over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Firing {
    /// Which rule.
    pub rule: String,
    /// Its severity.
    pub severity: Severity,
    /// Words about it for whoever is told. `group` names what it is told together with, and
    /// `runbook` where to read what to do; an alert without the label `group` is told alone.
    pub labels: std::collections::BTreeMap<String, String>,
    /// When it began to fire, by the store's clock.
    pub since: Timestamp,
    /// As in the [`Transition`] by which it began.
    pub episode: u64,
    /// The value that was judged last, if there was one.
    pub value: Option<f64>,
    /// In words: what is wrong with which value.
    pub summary: String,
}
