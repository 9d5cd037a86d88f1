//! What is due when, and what is refused.

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
