//! When a schedule is due: cron expressions in a time zone, and intervals.
//!
//! Everything here is a pure function of the expression, the zone and a moment. What it owns is the
//! reading of text, and what happens when clocks are changed: croner finds matching times, and this
//! file decides which of them are *times of day*, which exist once a day whatever the clocks do.
//!
//! An expression whose minutes and hours are listed, without `*` or a step, means times of day: in
//! the hour that is left out in spring it is due when that hour would have been over, and in the
//! hour that comes twice in autumn it is due the first time. Any other runs as the clock on the wall
//! goes: not in an hour that is left out, and twice in an hour that comes twice.

use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Zoned;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::clock::{Timestamp, micros};
use crate::config::Span;
use crate::error::{Error, Result};

/// The longest expression, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 256;
/// The shortest interval.
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval.
pub const MAX_INTERVAL: Duration = Duration::from_secs(366 * 86_400);

/// How many times of day an expression may list before it counts as one that goes by the wall.
const MAX_TIMES_OF_DAY: usize = 288;
/// No repetition of a clock that was set back is longer, in hours.
const LONGEST_REPETITION: i64 = 3;
/// How far ahead an expression must be due at least once, in years: February 29 on a given weekday
/// comes within forty.
const MUST_COME_WITHIN: i16 = 50;

/// What is put in place of a nickname.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// What an error shows to follow.
const EXAMPLES: &str = "examples are \"*/15 * * * *\" (minute, hour, day of month, month, day of \
                        week), \"0 30 2 * * *\" (with seconds in front), \"@hourly\", \"every 30s\"";

/// When a schedule is due, in its time zone.
#[derive(Debug, Clone)]
pub struct Expression {
    rule: Rule,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
enum Rule {
    /// At multiples of so many microseconds since 1970.
    Every(u64),
    /// At times of day.
    Daily(Box<Cron>),
    /// Whenever the clock on the wall shows it.
    ByTheWall(Box<Cron>),
}

impl Expression {
    /// Reads an expression: five fields of cron or six with seconds, a nickname such as `@hourly`,
    /// or an interval such as `every 30s`, `@every 5m`, `30s` or `PT30S`. The zone is a name of the
    /// IANA database, such as `Europe/Berlin`.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong and what would be right; also for an expression that is
    /// never due.
    pub fn parse(text: &str, time_zone: &str) -> Result<Self> {
        let zone = zone(time_zone)?;
        if text.len() > MAX_EXPRESSION_BYTES {
            let length = text.len();
            return Err(Error::invalid(format!(
                "a schedule_expression has at most {MAX_EXPRESSION_BYTES} bytes, this has {length}; \
                 {EXAMPLES}"
            )));
        }
        if text.chars().any(char::is_control) {
            let what = "a schedule_expression has no control characters";
            return Err(Error::invalid(format!("{what}; {EXAMPLES}")));
        }
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::invalid(format!("a schedule_expression is not empty; {EXAMPLES}")));
        }
        let rule = match interval(text)? {
            Some(every) => Rule::Every(every),
            None => cron(text)?,
        };
        Ok(Expression { rule, zone })
    }

    /// The first moment after this one at which it is due; `None` if it is never due again within
    /// fifty years.
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let next = match &self.rule {
            Rule::Every(every) => {
                let next = (moment.as_micros() / every + 1).checked_mul(*every)?;
                return Some(Timestamp::from_micros(next));
            }
            Rule::Daily(cron) => self.next_daily(cron, moment)?,
            Rule::ByTheWall(cron) => {
                let from = self.zoned(moment)?;
                stamp(cron.find_next_occurrence(&from, false).ok()?.timestamp())?
            }
        };
        let years = next.since(moment).as_secs() / (366 * 86_400);
        (years < MUST_COME_WITHIN.unsigned_abs().into()).then_some(next)
    }

    /// The last moment before this one at which it was due, if there was one since 1970.
    pub fn last_before(&self, moment: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(every) => {
                let last = moment.as_micros().checked_sub(1)? / every * every;
                Some(Timestamp::from_micros(last))
            }
            Rule::Daily(cron) => self.last_daily(cron, moment),
            Rule::ByTheWall(cron) => {
                let whole = moment.as_micros().is_multiple_of(1_000_000);
                let from = self.zoned(moment)?;
                // Within a second, the beginning of that second lies before.
                stamp(cron.find_previous_occurrence(&from, !whole).ok()?.timestamp())
                    .filter(|last| *last < moment)
            }
        }
    }

    fn zoned(&self, moment: Timestamp) -> Option<Zoned> {
        let seconds = i64::try_from(moment.as_micros() / 1_000_000).ok()?;
        let moment = jiff::Timestamp::from_second(seconds).ok()?;
        Some(moment.to_zoned(self.zone.clone()))
    }

    /// The moment at which a time of day comes: in a gap its end, in a repetition the first.
    fn comes(&self, time: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_zoned(time);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
                stamp(ambiguous.earlier().ok()?.timestamp())
            }
            AmbiguousOffset::Gap { .. } => {
                // Counted on with the offset before, it lies at or behind the change of clocks.
                let behind = ambiguous.later().ok()?.timestamp();
                let behind = behind.checked_add(jiff::SignedDuration::from_secs(1)).ok()?;
                stamp(self.zone.preceding(behind).next()?.timestamp())
            }
        }
    }

    fn next_daily(&self, cron: &Cron, moment: Timestamp) -> Option<Timestamp> {
        // Cron on a wall without changes of clocks, and each time then put on ours.
        let mut wall = self.zoned(moment)?.datetime().to_zoned(TimeZone::UTC).ok()?;
        for _ in 0..2 * MAX_TIMES_OF_DAY {
            wall = cron.find_next_occurrence(&wall, false).ok()?;
            let comes = self.comes(wall.datetime())?;
            if comes > moment {
                return Some(comes);
            }
        }
        None
    }

    fn last_daily(&self, cron: &Cron, moment: Timestamp) -> Option<Timestamp> {
        let wall = self.zoned(moment)?.datetime().to_zoned(TimeZone::UTC).ok()?;
        let mut wall =
            wall.checked_add(jiff::SignedDuration::from_hours(LONGEST_REPETITION)).ok()?;
        for _ in 0..2 * MAX_TIMES_OF_DAY {
            wall = cron.find_previous_occurrence(&wall, false).ok()?;
            let comes = self.comes(wall.datetime())?;
            if comes < moment {
                return Some(comes);
            }
        }
        None
    }
}

fn stamp(moment: jiff::Timestamp) -> Option<Timestamp> {
    u64::try_from(moment.as_second())
        .ok()
        .and_then(|seconds| seconds.checked_mul(1_000_000))
        .map(Timestamp::from_micros)
}

/// A time zone by its name.
fn zone(name: &str) -> Result<TimeZone> {
    let unknown = || {
        let shown: String = name.chars().take(64).collect();
        Error::invalid(format!(
            "there is no time_zone {shown:?}; one is like UTC, Europe/Berlin or America/New_York"
        ))
    };
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(unknown());
    }
    TimeZone::get(name).map_err(|_| unknown())
}

/// The microseconds of an interval, if this is one.
fn interval(text: &str) -> Result<Option<u64>> {
    let lower = text.to_ascii_lowercase();
    let said = lower.strip_prefix("@every").or_else(|| lower.strip_prefix("every"));
    let length = said.unwrap_or(&lower).trim();
    if said.is_none() && (lower.starts_with('@') || lower.contains(['*', ' ', ','])) {
        return Ok(None);
    }
    let has_unit = length.ends_with(|c: char| c.is_ascii_alphabetic());
    let read = length.parse::<Span>().ok().filter(|_| has_unit).map(|Span(length)| length);
    let read = read.or_else(|| {
        let signed = jiff::SignedDuration::from_str(length).ok()?;
        Duration::try_from(signed).ok()
    });
    match read {
        Some(length) if (MIN_INTERVAL..=MAX_INTERVAL).contains(&length) => Ok(Some(micros(length))),
        Some(length) => Err(Error::invalid(format!(
            "an interval lasts from 1s to 366d, {text:?} lasts {length:?}"
        ))),
        None if said.is_none() && !lower.starts_with(|c: char| c.is_ascii_digit()) => Ok(None),
        None => Err(Error::invalid(format!(
            "cannot read the interval {text:?}: it is like \"every 30s\", \"@every 5m\", \"2h\" or \
             \"PT30S\"; {EXAMPLES}"
        ))),
    }
}

fn cron(text: &str) -> Result<Rule> {
    let refused = |why: String| {
        Error::invalid(format!("cannot read the schedule_expression {text:?}: {why}; {EXAMPLES}"))
    };
    let fields = if text.starts_with('@') {
        let nickname = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let names = NICKNAMES.map(|(name, _)| name).join(", ");
        nickname
            .map(|(_, fields)| *fields)
            .ok_or_else(|| refused(format!("the nicknames are {names}, and @every 5m")))?
    } else {
        text
    };
    let count = fields.split_whitespace().count();
    if !(5..=6).contains(&count) {
        return Err(refused(format!("it has {count} fields, cron has 5, or 6 with seconds")));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let cron = parser.parse(fields).map_err(|error| refused(told(&error)))?;
    let rule = match is_daily(&cron) {
        true => Rule::Daily(Box::new(cron)),
        false => Rule::ByTheWall(Box::new(cron)),
    };
    let probe = Expression { rule, zone: TimeZone::UTC };
    // Any moment will do: what comes at all comes within the limit from everywhere.
    if probe.next_after(Timestamp::from_micros(1_767_225_600_000_000)).is_none() {
        return Err(refused("no day fits it, so it would never be due".into()));
    }
    Ok(probe.rule)
}

/// Whether it lists times of day.
fn is_daily(cron: &Cron) -> bool {
    let parts = [&cron.pattern.seconds, &cron.pattern.minutes, &cron.pattern.hours];
    let listed = parts[1..].iter().all(|part| !part.from_wildcard && part.step <= 1);
    let times = parts.iter().map(|part| part.values().len()).product::<usize>();
    listed && times <= MAX_TIMES_OF_DAY
}

/// What croner says, without its names for things.
fn told(error: &CronError) -> String {
    match error {
        CronError::EmptyPattern => "it is empty".into(),
        CronError::InvalidDate | CronError::InvalidTime | CronError::TimeSearchLimitExceeded => {
            "it is never due".into()
        }
        CronError::InvalidPattern(why)
        | CronError::IllegalCharacters(why)
        | CronError::ComponentError(why) => {
            why.trim_end_matches('.').replace("CronPattern contains", "there is an").to_lowercase()
        }
    }
}

#[cfg(test)]
mod tests;
