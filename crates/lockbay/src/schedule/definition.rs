//! What a schedule is asked to be, checked once and kept with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decide::{Misfire, Overlap, Rules};
use super::expression::Expression;
use crate::clock::{Timestamp, micros};
use crate::config::MAX_RETRIES;
use crate::error::{Error, Result};
use crate::json::Json;
use crate::name::check_name;

/// The largest parameters of a schedule, in bytes.
pub const MAX_PARAMETERS_BYTES: usize = 64 * 1024;
/// The longest misfire grace, jitter, and time of an attempt.
pub const MAX_TICK_TIME: Duration = Duration::from_secs(7 * 86_400);
/// How late a tick may be and still run as if it were not, unless a schedule says otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(60);

/// Where the ticks of a schedule run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TickPlace {
    /// On the leader alone: claimed and completed under its fence, cut off when it leads no more.
    #[default]
    LeaderOnly,
    /// Begun by the leader, and finished where it was begun although another leads by then.
    WhereBegun,
}

/// A wish for a schedule.
#[derive(Debug, Clone)]
pub struct ScheduleRequest {
    /// Its name. 1 to 128 bytes, no control characters, no `@`.
    pub job_id: String,
    /// The type of its jobs.
    pub job_type: String,
    /// When it is due; see [`Expression::parse`].
    pub schedule_expression: String,
    /// An IANA name, such as `Europe/Berlin`.
    pub time_zone: String,
    /// What the handler gets, at most 64 KiB.
    pub parameters: Json,
    /// Who does it: a name registered here, or a handler that is called or polls.
    pub handler: String,
    /// Where ticks run.
    pub place: TickPlace,
    /// What becomes of ticks that are late by more than the grace.
    pub misfire: Misfire,
    /// How late a tick may be and still run as if it were not; at least a second with
    /// [`Misfire::Skip`].
    pub misfire_grace: Duration,
    /// By how much a tick may begin after it is due, drawn once for each tick; shorter than the time
    /// between two of them.
    pub jitter: Duration,
    /// What becomes of a tick that is due while the one before it still runs.
    pub overlap: Overlap,
    /// How often a failed attempt of a tick is repeated; as jobs do if it is not said.
    pub max_retries: Option<u32>,
    /// How long one attempt may take; as steps of sagas if it is not said.
    pub timeout: Option<Duration>,
}

impl ScheduleRequest {
    /// A wish with default policies, in UTC, without parameters.
    pub fn new(
        job_id: impl Into<String>,
        job_type: impl Into<String>,
        schedule_expression: impl Into<String>,
        handler: impl Into<String>,
    ) -> Self {
        ScheduleRequest {
            job_id: job_id.into(),
            job_type: job_type.into(),
            schedule_expression: schedule_expression.into(),
            time_zone: "UTC".into(),
            parameters: Json::null(),
            handler: handler.into(),
            place: TickPlace::default(),
            misfire: Misfire::default(),
            misfire_grace: DEFAULT_GRACE,
            jitter: Duration::ZERO,
            overlap: Overlap::default(),
            max_retries: None,
            timeout: None,
        }
    }
}

/// Between how many of the next ticks jitter has to fit.
const GAPS_CHECKED: usize = 16;
/// The shortest grace of a schedule that skips what is late.
const MIN_SKIP_GRACE: Duration = Duration::from_secs(1);

/// What is kept of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    pub(super) job_type: String,
    pub(super) schedule_expression: String,
    pub(super) time_zone: String,
    pub(super) parameters: Json,
    pub(super) handler: String,
    pub(super) place: TickPlace,
    pub(super) misfire: Misfire,
    pub(super) misfire_grace_us: u64,
    pub(super) jitter_us: u64,
    pub(super) overlap: Overlap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_retries: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timeout_us: Option<u64>,
}

impl Definition {
    /// Checks a request.
    ///
    /// # Errors
    /// `Invalid`, naming what is outside which limit.
    pub(super) fn of(request: &ScheduleRequest) -> Result<(Definition, Expression)> {
        check_job_id(&request.job_id)?;
        check_name("job_type", &request.job_type, 128)?;
        check_name("handler", &request.handler, 128)?;
        let expression = Expression::parse(&request.schedule_expression, &request.time_zone)?;
        let bytes = request.parameters.text().len();
        if bytes > MAX_PARAMETERS_BYTES {
            return Err(Error::invalid(format!(
                "the parameters of a schedule have at most {MAX_PARAMETERS_BYTES} bytes, these \
                 have {bytes}"
            )));
        }
        // Refuses what readers would disagree about, which no job takes.
        request.parameters.digest()?;
        check_time("misfire_grace", request.misfire_grace)?;
        check_time("jitter", request.jitter)?;
        if request.misfire == Misfire::Skip && request.misfire_grace < MIN_SKIP_GRACE {
            return Err(Error::invalid(format!(
                "with misfire skip, misfire_grace is at least {MIN_SKIP_GRACE:?}, not {:?}: every \
                 tick begins some milliseconds after it is due, and would be passed over",
                request.misfire_grace
            )));
        }
        if let Some(timeout) = request.timeout {
            check_time("timeout", timeout)?;
            if timeout < Duration::from_millis(1) {
                return Err(Error::invalid("the timeout of a schedule is at least 1 ms"));
            }
        }
        if request.max_retries.is_some_and(|retries| retries > MAX_RETRIES) {
            return Err(Error::invalid(format!("max_retries is at most {MAX_RETRIES}")));
        }
        let definition = Definition {
            job_type: request.job_type.clone(),
            schedule_expression: request.schedule_expression.clone(),
            time_zone: request.time_zone.clone(),
            parameters: request.parameters.clone(),
            handler: request.handler.clone(),
            place: request.place,
            misfire: request.misfire,
            misfire_grace_us: micros(request.misfire_grace),
            jitter_us: micros(request.jitter),
            overlap: request.overlap,
            max_retries: request.max_retries,
            timeout_us: request.timeout.map(micros),
        };
        Ok((definition, expression))
    }

    /// When it is due.
    ///
    /// # Errors
    /// `Invalid` if this version, or the time zones of this machine, do not know it any more.
    pub(super) fn expression(&self) -> Result<Expression> {
        Expression::parse(&self.schedule_expression, &self.time_zone)
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            misfire: self.misfire,
            grace: Duration::from_micros(self.misfire_grace_us),
            overlap: self.overlap,
        }
    }
}

/// Checks the name of a schedule.
pub(super) fn check_job_id(job_id: &str) -> Result<()> {
    check_name("job_id", job_id, 128)?;
    if job_id.contains('@') {
        // Behind it stands the due time in the keys of jobs.
        return Err(Error::invalid(format!("a job_id has no @ in it: {job_id:?}")));
    }
    Ok(())
}

/// Checks that a tick has begun before the next is due, as far as the next few tell.
pub(super) fn check_jitter(
    expression: &Expression,
    jitter: Duration,
    now: Timestamp,
) -> Result<()> {
    let due = expression.upcoming(now, GAPS_CHECKED + 1);
    let gaps = due.iter().zip(due.iter().skip(1)).map(|(due, next)| next.since(*due));
    match gaps.min().filter(|gap| jitter >= *gap) {
        None => Ok(()),
        Some(gap) => Err(Error::invalid(format!(
            "jitter is shorter than the time between two ticks, which is {gap:?} here, not \
             {jitter:?}"
        ))),
    }
}

fn check_time(what: &str, time: Duration) -> Result<()> {
    if time <= MAX_TICK_TIME {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} is at most {MAX_TICK_TIME:?}, not {time:?}")))
}
