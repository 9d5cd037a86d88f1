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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn read(expression: &str, zone: &str) -> Expression {
        Expression::parse(expression, zone).unwrap()
    }

    /// The due times after a moment.
    fn due(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let due = read(expression, zone).upcoming(at(after), count);
        due.iter().map(|due| due.to_string().replace(".000000", "")).collect()
    }

    #[test]
    fn expressions_are_due_when_they_say() {
        for (expression, expected) in [
            ("*/15 * * * *", ["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]),
            ("0 30 2 * * *", ["2026-01-01T02:30:00Z", "2026-01-02T02:30:00Z"]),
            ("*/20 * * * * *", ["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]),
            ("0 9 * * MON-FRI", ["2026-01-01T09:00:00Z", "2026-01-02T09:00:00Z"]),
            ("0 0 L * *", ["2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"]),
            ("0 0 29 2 *", ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
            ("@hourly", ["2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"]),
            ("@Daily", ["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]),
            ("@weekly", ["2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z"]),
            ("@monthly", ["2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"]),
            ("@yearly", ["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
            ("every 30s", ["2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"]),
            ("@every 5m", ["2026-01-01T00:05:00Z", "2026-01-01T00:10:00Z"]),
            ("2h", ["2026-01-01T02:00:00Z", "2026-01-01T04:00:00Z"]),
            ("PT90S", ["2026-01-01T00:01:30Z", "2026-01-01T00:03:00Z"]),
            ("every 1h30m", ["2026-01-01T01:30:00Z", "2026-01-01T03:00:00Z"]),
        ] {
            assert_eq!(due(expression, "UTC", "2026-01-01T00:00:00Z", 2), expected, "{expression}");
        }
    }

    #[test]
    fn intervals_tick_at_multiples_since_1970_whenever_they_are_put() {
        for after in ["2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:06.999999Z"] {
            assert_eq!(due("every 7s", "UTC", after, 1).len(), 1);
            let next = read("every 7s", "UTC").next_after(at(after)).unwrap();
            assert_eq!(next.as_micros() % 7_000_000, 0, "{next}");
        }
        // A zone changes nothing about them.
        assert_eq!(
            due("every 1h", "Asia/Kolkata", "2026-01-01T00:00:00Z", 1),
            ["2026-01-01T01:00:00Z"]
        );
    }

    /// In Berlin clocks go from 02:00 to 03:00 on 2026-03-29, and from 03:00 to 02:00 on 2026-10-25.
    #[test]
    fn a_time_of_day_that_is_left_out_in_spring_comes_when_its_hour_would_have_been_over() {
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        // Several in the hour that is left out come once.
        assert_eq!(
            due("0,15,30,45 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3),
            ["2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z", "2026-03-29T01:30:00Z"]
        );
        // At midnight in Cairo; a whole day in Apia.
        assert_eq!(
            due("@daily", "Africa/Cairo", "2023-04-27T12:00:00Z", 2),
            ["2023-04-27T22:00:00Z", "2023-04-28T21:00:00Z"]
        );
        assert_eq!(
            due("0 9 * * *", "Pacific/Apia", "2011-12-29T20:00:00Z", 2),
            ["2011-12-30T10:00:00Z", "2011-12-30T19:00:00Z"]
        );
    }

    #[test]
    fn a_time_of_day_that_comes_twice_in_autumn_comes_once() {
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            due("0 2,14 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", 3),
            ["2026-10-25T00:00:00Z", "2026-10-25T13:00:00Z", "2026-10-26T01:00:00Z"]
        );
    }

    #[test]
    fn what_is_not_a_time_of_day_goes_by_the_wall() {
        // Every half hour is every half hour, whatever the clocks do.
        assert_eq!(
            due("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 5),
            [
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z"
            ]
        );
        assert_eq!(
            due("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 2),
            ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"]
        );
    }

    #[test]
    fn nonsense_is_refused_with_an_example_of_what_is_right() {
        let long = "* ".repeat(5_000);
        for (expression, word) in [
            ("", "not empty"),
            ("   ", "not empty"),
            ("61 * * * *", "61"),
            ("* * * *", "4 fields"),
            ("* * * * * * *", "7 fields"),
            ("a b c d e", "character"),
            ("0 0 30 2 *", "never be due"),
            ("0 0 31 4,6 *", "never be due"),
            ("*/0 * * * *", "cannot read"),
            ("5-1 * * * *", "cannot read"),
            ("-1 * * * *", "cannot read"),
            ("@reboot", "nicknames"),
            ("@every", "interval"),
            ("every", "interval"),
            ("every 5 parsecs", "interval"),
            ("every 0s", "1s to 366d"),
            ("every 999ms", "1s to 366d"),
            ("every 400d", "1s to 366d"),
            ("30", "interval"),
            ("1e9s", "interval"),
            ("0 0 1 1 *\n* * * * *", "control"),
            (&long, "256"),
            ("ß ß ß ß ß", "character"),
        ] {
            let error = Expression::parse(expression, "UTC").unwrap_err();
            let message = error.message().to_owned();
            assert!(message.contains(word), "{expression:?}: {message}");
            assert!(message.contains("every 30s") || message.contains("366d"), "{message}");
            assert!(message.len() < 1_000, "{message}");
        }
        for zone in ["", "Mars/Olympus", "../../etc/passwd", "UTC\0", &"x".repeat(9_999)] {
            let error = Expression::parse("@hourly", zone).unwrap_err();
            assert!(error.message().contains("Europe/Berlin"), "{error}");
        }
    }

    const EXPRESSIONS: [&str; 16] = [
        "* * * * *",
        "* * * * * *",
        "30 2 * * *",
        "0,15,30,45 1,2,3 * * *",
        "*/7 * * * *",
        "0 */2 * * *",
        "0 0 * * *",
        "0 0 1 * *",
        "0 0 29 2 *",
        "15 2 * * 0",
        "0 0 12 * * MON#1",
        "10,20 5 0,1,2,23 * * *",
        "every 1s",
        "every 97m",
        "@hourly",
        "59 59 23 L * *",
    ];
    const ZONES: [&str; 7] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kolkata",
        "Africa/Cairo",
        "America/Santiago",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_500))]

        /// Forwards and backwards tell of the same due times, and none lies between two of them.
        #[test]
        fn forwards_and_backwards_agree(
            expression in 0..EXPRESSIONS.len(),
            zone in 0..ZONES.len(),
            year in 2020u64..2040,
            near_change in any::<bool>(),
            within in 0u64..366 * 86_400_000_000,
        ) {
            let expression = read(EXPRESSIONS[expression], ZONES[zone]);
            let begin = at(&format!("{year}-01-01T00:00:00Z"));
            let mut moment = begin + Duration::from_micros(within);
            if near_change
                && let Some(change) = expression.zone.following(
                    jiff::Timestamp::from_microsecond(i64::try_from(moment.as_micros()).unwrap()).unwrap()
                ).next()
            {
                let change = stamp(change.timestamp()).unwrap();
                moment = change - Duration::from_secs(7_200) + Duration::from_micros(within % 14_400_000_000);
            }
            let next = expression.next_after(moment).unwrap();
            prop_assert!(next > moment);
            let tiny = Duration::from_micros(1);
            prop_assert_eq!(expression.next_after(next - tiny), Some(next));
            prop_assert_eq!(expression.last_before(next + tiny), Some(next));
            let last = expression.last_before(next).unwrap();
            prop_assert!(last <= moment, "{} lies between {} and {}", last, moment, next);
            prop_assert_eq!(expression.next_after(last), Some(next));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}", fields in "[-*/,0-9LW#?+A-Z@ ]{0,40}") {
            let _ = Expression::parse(&text, "UTC");
            if let Ok(expression) = Expression::parse(&fields, "Europe/Berlin") {
                prop_assert!(expression.next_after(at("2026-03-29T00:30:00Z")).is_some());
            }
        }
    }
}
