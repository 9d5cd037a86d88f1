//! Silences: what is not told for a while, because somebody said so, and why.
//!
//! A silence that comes again and again is a maintenance window: it has an expression and a length,
//! and covers only what fires within one of its times. All silences are in one record, so that they
//! are read together with what was told, as they are at one moment. A silence ends by itself; one
//! that has ended stays listed for a while.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::notice::cut;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::glob::Glob;
use crate::hex::hex;
use crate::monitor::alert::{Firing, Severity};
use crate::name::check_name;
use crate::schedule::Expression;

/// The most silences that have not ended.
pub const MAX_SILENCES: usize = 200;
/// The longest time that one silence can last.
pub const MAX_SILENCE: Duration = Duration::from_secs(366 * 86_400);
/// The longest that one time of a maintenance window can last.
pub const MAX_WINDOW: Duration = Duration::from_secs(7 * 86_400);
/// How long a silence stays listed after its end, and how many of them.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
const MAX_KEPT: usize = 100;
/// The longest name of an actor, and reason, in bytes.
const MAX_ACTOR_BYTES: usize = 255;
const MAX_REASON_BYTES: usize = 1_024;

/// What shall not be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceRequest {
    /// Which rules, as a glob: `*` for all.
    pub rules: String,
    /// Only alerts of these severities; all if it is empty.
    #[serde(default)]
    pub severities: Vec<Severity>,
    /// From when on; from now on if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Until when. A maintenance window may be without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// In place of `until`: for how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Duration>,
    /// Only at these times in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Who says so.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Times that come again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// When each begins; see [`Expression`].
    pub schedule_expression: String,
    /// The time zone of the expression.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// How long each lasts.
    pub duration_seconds: u64,
}

fn utc() -> String {
    "UTC".into()
}

/// A silence as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// What names it.
    pub id: String,
    /// Which rules.
    pub rules: String,
    /// Only of these severities; all if it is empty.
    pub severities: Vec<Severity>,
    /// From when on.
    pub from: Timestamp,
    /// Until when; a maintenance window may be without end.
    pub until: Option<Timestamp>,
    /// Only at these times in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Who said so.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When that was.
    pub created_at: Timestamp,
    /// Who ended it before its time, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    /// The fingerprint of what was asked for, if that had a key; for the shelf alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fingerprint: Option<String>,
}

/// How a silence stands at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SilenceState {
    /// It begins later, or waits for its next time.
    Waiting,
    /// What it covers is not told.
    Active,
    /// It is over.
    Ended,
}

impl SilenceRequest {
    /// What makes two requests the same one, as asked: before anything is counted from now on.
    ///
    /// # Errors
    /// `Internal` if it cannot be written down.
    pub(super) fn fingerprint(&self) -> Result<String> {
        let mut asked = self.clone();
        in_order(&mut asked.severities);
        let asked = serde_json::to_vec(&asked).map_err(|error| {
            Error::new(ErrorKind::Internal, "this request has no JSON form").with_source(error)
        })?;
        Ok(hex(&Sha256::digest(asked)))
    }

    /// The silence that is asked for, at this moment.
    ///
    /// # Errors
    /// `Invalid` with the field and its value.
    pub(super) fn into_silence(self, id: String, now: Timestamp) -> Result<Silence> {
        Glob::parse(&self.rules)?;
        check_name("actor of a silence", &self.actor, MAX_ACTOR_BYTES)?;
        check_name("reason of a silence", &self.reason, MAX_REASON_BYTES)?;
        for (what, text) in [("actor", &self.actor), ("reason", &self.reason)] {
            if text.trim().is_empty() {
                return Err(Error::invalid(format!("the {what} of a silence is more than spaces")));
            }
        }
        if let Some(window) = &self.window {
            window.check()?;
        }
        let from = self.from.unwrap_or(now);
        let until = self.end(from, now)?;
        let mut severities = self.severities;
        in_order(&mut severities);
        Ok(Silence {
            id,
            rules: self.rules,
            severities,
            from,
            until,
            window: self.window,
            actor: self.actor,
            reason: self.reason,
            created_at: now,
            ended_by: None,
            fingerprint: None,
        })
    }

    fn end(&self, from: Timestamp, now: Timestamp) -> Result<Option<Timestamp>> {
        let until = match (self.until, self.lasts) {
            (Some(_), Some(_)) => {
                let message = "a silence says until when or for how long, not both";
                return Err(Error::invalid(message));
            }
            (until, None) => until,
            (None, Some(lasts)) if lasts.is_zero() || lasts > MAX_SILENCE => {
                return Err(Error::invalid(format!(
                    "a silence lasts for more than 0 and at most {} seconds, not {}",
                    MAX_SILENCE.as_secs(),
                    lasts.as_secs_f64()
                )));
            }
            (None, Some(lasts)) => Some(from + lasts),
        };
        match until {
            None if self.window.is_none() => {
                Err(Error::invalid("a silence says until when, or is a window that recurs"))
            }
            Some(until) if until <= now || until <= from => Err(Error::invalid(format!(
                "a silence ends after it begins and later than now ({now}), not at {until}"
            ))),
            Some(until) if until.since(from) > MAX_SILENCE => Err(Error::invalid(format!(
                "a silence lasts for a year at most; this ends at {until}"
            ))),
            until => Ok(until),
        }
    }
}

fn in_order(severities: &mut Vec<Severity>) {
    severities.sort_unstable();
    severities.dedup();
}

impl Window {
    fn check(&self) -> Result<()> {
        Expression::parse(&self.schedule_expression, &self.time_zone)?;
        let longest = MAX_WINDOW.as_secs();
        if self.duration_seconds == 0 || self.duration_seconds > longest {
            let duration = self.duration_seconds;
            return Err(Error::invalid(format!(
                "duration_seconds of a maintenance window is 1 to {longest}, not {duration}"
            )));
        }
        Ok(())
    }

    /// Whether a time that has begun is not over.
    fn is_open(&self, at: Timestamp) -> bool {
        let Ok(expression) = Expression::parse(&self.schedule_expression, &self.time_zone) else {
            return false; // it was checked; what cannot be read any more silences nothing
        };
        let soon = at + Duration::from_micros(1);
        let began = expression.last_before(soon);
        began.is_some_and(|began| at.since(began).as_secs() < self.duration_seconds)
    }
}

impl Silence {
    /// How it stands.
    pub fn state(&self, at: Timestamp) -> SilenceState {
        if self.until.is_some_and(|until| until <= at) {
            SilenceState::Ended
        } else if at < self.from || self.window.as_ref().is_some_and(|window| !window.is_open(at)) {
            SilenceState::Waiting
        } else {
            SilenceState::Active
        }
    }

    /// Whether it keeps this alert from being told.
    pub(super) fn covers(&self, alert: &Firing) -> bool {
        let severe = self.severities.is_empty() || self.severities.contains(&alert.severity);
        severe && Glob::parse(&self.rules).is_ok_and(|glob| glob.matches(&alert.rule))
    }
}

/// All silences of a store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Shelf {
    pub(super) silences: Vec<Silence>,
}

impl Shelf {
    /// Adds one, and lets those go that ended long ago.
    ///
    /// # Errors
    /// `Busy` if there are as many as there may be.
    pub(super) fn add(&mut self, silence: Silence, now: Timestamp) -> Result<()> {
        self.tidy(now);
        let open = |silence: &&Silence| silence.state(now) != SilenceState::Ended;
        if self.silences.iter().filter(open).count() >= MAX_SILENCES {
            let message = format!("there are {MAX_SILENCES} silences, which is the most; end some");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        self.silences.push(silence);
        Ok(())
    }

    /// Ends one now; gives it, and whether that changed anything.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name.
    pub(super) fn end(&mut self, id: &str, actor: &str, now: Timestamp) -> Result<(Silence, bool)> {
        let found = self.silences.iter_mut().find(|silence| silence.id == id);
        let Some(silence) = found else { return Err(no_silence(id)) };
        let over = silence.state(now) == SilenceState::Ended;
        if !over {
            silence.until = Some(now);
            silence.from = silence.from.min(now);
            let mut actor = actor.to_owned();
            cut(&mut actor, MAX_ACTOR_BYTES);
            silence.ended_by = Some(actor);
        }
        Ok((silence.clone(), !over))
    }

    fn tidy(&mut self, now: Timestamp) {
        self.silences.retain(|silence| silence.until.is_none_or(|until| now.since(until) < KEPT));
        let ended = |silence: &Silence| silence.state(now) == SilenceState::Ended;
        let mut surplus =
            self.silences.iter().filter(|silence| ended(silence)).count().saturating_sub(MAX_KEPT);
        // The oldest stand first.
        self.silences.retain(|silence| {
            let goes = surplus > 0 && ended(silence);
            surplus -= usize::from(goes);
            !goes
        });
    }
}

pub(super) fn no_silence(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no silence {id:?}"))
}
