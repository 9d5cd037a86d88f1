//! The checks one by one, and since when each is as it is.
//!
//! A check is bad from the first look that found it so. Only looks of this instance count, and the
//! times are those of its clock; how long a bad state lasts is taken from the monotonic one.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::clock::{Clock, Tick, Timestamp};

/// One part, judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Which: `store`, `leader_election`, `job_coordination`, `saga_coordination`, `cleanup`,
    /// `schedules`, `clock`, `disk`, `history`, `alerts`.
    pub name: &'static str,
    /// How it stands.
    pub status: Status,
    /// Why it is not well, each with what to do where that is known.
    pub reasons: Vec<String>,
    /// When it was last found well; none if it never was.
    pub last_good: Option<Timestamp>,
    /// Since when it has not been well, if it is not.
    pub since: Option<Timestamp>,
    /// How long that is by now.
    pub bad_for_seconds: Option<f64>,
}

/// How something stands, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Well.
    Healthy,
    /// It works, and a person should look: a promise is weaker than it could be, or something waits
    /// or comes near a limit.
    Degraded,
    /// It does not do what it is there for.
    Unhealthy,
}

impl Status {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Unhealthy => "unhealthy",
        }
    }
}

/// What was found about one part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finding {
    /// What is wrong.
    pub(crate) issues: Vec<String>,
    /// What breaks no promise now.
    pub(crate) warnings: Vec<String>,
}

impl Finding {
    pub(crate) fn issue(text: String) -> Finding {
        Finding { issues: vec![text], warnings: Vec::new() }
    }

    pub(crate) fn warning(text: String) -> Finding {
        Finding { issues: Vec::new(), warnings: vec![text] }
    }

    fn status(&self) -> Status {
        match (self.issues.is_empty(), self.warnings.is_empty()) {
            (false, _) => Status::Unhealthy,
            (true, false) => Status::Degraded,
            (true, true) => Status::Healthy,
        }
    }
}

/// What earlier looks found.
#[derive(Debug, Default)]
pub(crate) struct Past {
    parts: BTreeMap<&'static str, Part>,
    /// When schedules were last looked at, which is not done with every look.
    pub(super) schedules: Option<(Tick, Finding)>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    status: Status,
    last_good: Option<Timestamp>,
    since: (Tick, Timestamp),
}

impl Past {
    /// The check of a part that was just looked at.
    pub(super) fn follow(&mut self, name: &'static str, found: &Finding, clock: &Clock) -> Check {
        let status = found.status();
        let (tick, now) = (clock.tick(), clock.now());
        let before = self.parts.get(name).copied();
        let well = status == Status::Healthy;
        let last_good = if well { Some(now) } else { before.and_then(|before| before.last_good) };
        // One that turns from bad to worse has been bad for as long.
        let goes_on = before.filter(|before| (before.status == Status::Healthy) == well);
        let since = goes_on.map_or((tick, now), |before| before.since);
        self.parts.insert(name, Part { status, last_good, since });
        let bad = (!well).then_some(since);
        Check {
            name,
            status,
            reasons: found.issues.iter().chain(&found.warnings).cloned().collect(),
            last_good,
            since: bad.map(|(_, since)| since),
            bad_for_seconds: bad.map(|(since, _)| tick.since(since).as_secs_f64()),
        }
    }
}
