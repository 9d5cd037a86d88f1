//! Trends of series whose truth is known: a thousand kinds of change that must be called by their
//! name, and thousands of pure noise that must not be called anything.
//!
//! Every series comes from a seed; a failure prints it with what was said. The tables show what was
//! called what, and from which strength on a drift is seen.

// A test fails by panicking, and shows its tables; its numbers are small.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::type_complexity
)]

use std::collections::BTreeMap;
use std::time::Duration;

use lockbay::clock::{Clock, Timestamp};
use lockbay::monitor::trend::{Goodness, Label, Point, Question, Trend, judge};

/// Dice from a seed.
struct Dice(Clock);

impl Dice {
    fn of(seed: u64) -> Dice {
        Dice(Clock::manual(seed))
    }

    /// From 0 up to 1.
    fn share(&self) -> f64 {
        (self.0.random() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.share()
    }

    fn count(&self, low: usize, high: usize) -> usize {
        low + usize::try_from(self.0.random()).unwrap_or(0) % (high - low + 1)
    }

    /// Normal, by the sum of two turns (Box and Muller 1958).
    fn normal(&self) -> f64 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.share()).cos()
    }

    /// Student's t with two degrees of freedom: its variance has no end.
    fn heavy(&self) -> f64 {
        let (a, b) = (self.normal(), self.normal());
        self.normal() / f64::midpoint(a * a, b * b).sqrt().max(1e-9)
    }

    fn poisson(&self, mean: f64) -> f64 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.share(), 0.0);
        while product > limit {
            product *= self.share();
            count += 1.0;
        }
        count
    }
}

/// Noise of one kind, with a variance of one where it has one.
#[derive(Debug, Clone, Copy)]
enum Noise {
    White,
    Ar(f64),
    Heavy,
    Skewed,
}

fn noise(dice: &Dice, kind: Noise, n: usize) -> Vec<f64> {
    let mut last = dice.normal();
    (0..n)
        .map(|_| match kind {
            Noise::White => dice.normal(),
            Noise::Ar(phi) => {
                last = phi * last + (1.0 - phi * phi).sqrt() * dice.normal();
                last
            }
            Noise::Heavy => dice.heavy(),
            Noise::Skewed => (dice.normal() * 0.8).exp(),
        })
        .collect()
}

const BEGIN: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// Points at even distances.
fn points(values: &[f64], step: Duration) -> Vec<Point> {
    let step = u32::try_from(step.as_secs()).unwrap();
    (0_u32..)
        .zip(values)
        .map(|(n, value)| (BEGIN + Duration::from_secs(u64::from(step) * u64::from(n)), *value))
        .collect()
}

fn asked(points: &[Point], goodness: Goodness) -> Trend {
    let (from, to) = (points[0].0, points[points.len() - 1].0);
    judge(points, &Question { from, to, goodness, limit: None, floor: 0.0 })
}

const STEP: Duration = Duration::from_secs(300);

/// A kind of series: its name, how it is made, what it must be called.
type Kind = (&'static str, fn(&Dice) -> Vec<Point>, Goodness, Label);

fn drift(dice: &Dice, kind: Noise, total: f64) -> Vec<Point> {
    let n = dice.count(120, 600);
    let values: Vec<f64> = noise(dice, kind, n)
        .iter()
        .enumerate()
        .map(|(at, noise)| 10.0 + noise + total * at as f64 / n as f64)
        .collect();
    points(&values, STEP)
}

fn step(dice: &Dice, kind: Noise, size: f64) -> Vec<Point> {
    let n = dice.count(120, 600);
    let at = (n as f64 * dice.between(0.25, 0.75)) as usize;
    let values: Vec<f64> = noise(dice, kind, n)
        .iter()
        .enumerate()
        .map(|(here, noise)| 20.0 + noise + if here < at { 0.0 } else { size })
        .collect();
    points(&values, STEP)
}

/// Days that rise at noon and weekends that rest, hour by hour over some weeks.
fn weeks(dice: &Dice, total: f64) -> Vec<Point> {
    let n = dice.count(3, 5) * 168;
    let values: Vec<f64> = noise(dice, Noise::White, n)
        .iter()
        .enumerate()
        .map(|(hour, noise)| {
            let day = 10.0 * ((hour % 24) as f64 / 24.0 * std::f64::consts::TAU).sin();
            let rest = if hour / 24 % 7 >= 5 { -8.0 } else { 0.0 };
            50.0 + day + rest + noise + total * hour as f64 / n as f64
        })
        .collect();
    points(&values, Duration::from_secs(3_600))
}

/// Loses some of the points, and a stretch of them.
fn lose(dice: &Dice, points: Vec<Point>) -> Vec<Point> {
    let (share, gap) = (dice.between(0.1, 0.5), dice.between(0.1, 0.7));
    let hole = |at: usize| (at as f64 / points.len() as f64 - gap).abs() < 0.08;
    let last = points.len() - 1;
    let kept = |at: usize| at == 0 || at == last || (!hole(at) && dice.share() > share);
    let kept: Vec<bool> = (0..points.len()).map(kept).collect();
    points.into_iter().zip(kept).filter_map(|(point, kept)| kept.then_some(point)).collect()
}

fn flat(dice: &Dice, kind: Noise) -> Vec<Point> {
    let n = dice.count(60, 900);
    points(&noise(dice, kind, n).iter().map(|noise| 10.0 + noise).collect::<Vec<_>>(), STEP)
}

fn counts(dice: &Dice, mean: f64) -> Vec<Point> {
    let n = dice.count(60, 900);
    points(&(0..n).map(|_| dice.poisson(mean)).collect::<Vec<_>>(), STEP)
}

const LOWER: Goodness = Goodness::LowerIsBetter;
const HIGHER: Goodness = Goodness::HigherIsBetter;

const KINDS: &[Kind] = &[
    ("zero", |_| points(&[0.0; 300], STEP), LOWER, Label::Stable),
    ("constant", |dice| points(&vec![dice.share(); 200], STEP), HIGHER, Label::Stable),
    ("white noise", |dice| flat(dice, Noise::White), LOWER, Label::Stable),
    (
        "noise with a memory",
        |dice| flat(dice, Noise::Ar(dice.between(0.2, 0.7))),
        LOWER,
        Label::Stable,
    ),
    ("heavy-tailed noise", |dice| flat(dice, Noise::Heavy), LOWER, Label::Stable),
    ("counts", |dice| counts(dice, dice.between(0.2, 20.0)), LOWER, Label::Stable),
    ("drift up, 1.5 deviations", |dice| drift(dice, Noise::White, 1.5), LOWER, Label::Degrading),
    ("drift up, 2 deviations", |dice| drift(dice, Noise::White, 2.0), LOWER, Label::Degrading),
    ("drift up, 3 deviations", |dice| drift(dice, Noise::White, 3.0), LOWER, Label::Degrading),
    ("drift up, 6 deviations", |dice| drift(dice, Noise::White, 6.0), HIGHER, Label::Improving),
    ("drift down, 2 deviations", |dice| drift(dice, Noise::White, -2.0), LOWER, Label::Improving),
    ("drift down, 4 deviations", |dice| drift(dice, Noise::White, -4.0), HIGHER, Label::Degrading),
    ("drift up, memory 0.5", |dice| drift(dice, Noise::Ar(0.5), 4.0), LOWER, Label::Degrading),
    ("drift up, heavy tails", |dice| drift(dice, Noise::Heavy, 4.0), LOWER, Label::Degrading),
    ("step up, 1.5 deviations", |dice| step(dice, Noise::White, 1.5), LOWER, Label::Degrading),
    ("step up, 2 deviations", |dice| step(dice, Noise::White, 2.0), LOWER, Label::Degrading),
    ("step down, 3 deviations", |dice| step(dice, Noise::White, -3.0), LOWER, Label::Improving),
    ("step up, memory 0.4", |dice| step(dice, Noise::Ar(0.4), 4.0), LOWER, Label::Degrading),
    ("step down, heavy tails", |dice| step(dice, Noise::Heavy, -5.0), HIGHER, Label::Degrading),
    ("weekly season", |dice| weeks(dice, 0.0), LOWER, Label::Stable),
    ("weekly season and drift", |dice| weeks(dice, 5.0), LOWER, Label::Degrading),
    ("holes in noise", |dice| lose(dice, flat(dice, Noise::White)), LOWER, Label::Stable),
    (
        "holes in a drift",
        |dice| lose(dice, drift(dice, Noise::White, 5.0)),
        LOWER,
        Label::Degrading,
    ),
    ("holes in a step", |dice| lose(dice, step(dice, Noise::White, 4.0)), HIGHER, Label::Improving),
    (
        "too few points",
        |dice| points(&noise(dice, Noise::White, 20), STEP),
        LOWER,
        Label::InsufficientData,
    ),
];

#[test]
fn a_thousand_series_are_called_what_they_are() {
    const EACH: u64 = 44;
    const LABELS: [Label; 4] =
        [Label::Improving, Label::Stable, Label::Degrading, Label::InsufficientData];
    let (mut right, mut all) = (0_u64, 0_u64);
    println!("{:<26} improving  stable  degrading  insufficient", "series");
    for (nth, (name, make, goodness, truth)) in KINDS.iter().enumerate() {
        let mut said: BTreeMap<&str, u64> = BTreeMap::new();
        for seed in 0..EACH {
            let seed = nth as u64 * 1_000 + seed;
            let trend = asked(&make(&Dice::of(seed)), *goodness);
            *said.entry(trend.label.name()).or_default() += 1;
            if trend.label == *truth {
                right += 1;
            } else {
                println!("  seed {seed}: {:?} p={:.4} {trend:?}", trend.label, trend.p_value);
            }
            all += 1;
        }
        let of = |label: Label| said.get(label.name()).copied().unwrap_or_default();
        let [a, b, c, d] = LABELS.map(of);
        println!("{name:<26} {a:>9} {b:>7} {c:>10} {d:>13}");
        let hits = of(*truth);
        assert!(hits * 10 >= EACH * 8, "{name}: only {hits} of {EACH} are right");
    }
    println!("right: {right} of {all}");
    assert!(all >= 1_000 && right * 100 >= all * 95, "{right} of {all}");
}

/// A series that is called anything but stable, or to which a change is ascribed, is an alarm.
fn alarms(name: &str, count: u64, make: impl Fn(&Dice) -> Vec<Point>) -> u64 {
    let mut alarms = 0;
    for seed in 0..count {
        let trend = asked(&make(&Dice::of(0xa1a2 + seed)), LOWER);
        if trend.label != Label::Stable || !trend.change_points.is_empty() {
            alarms += 1;
            println!("  {name}, seed {seed}: {trend:?}");
        }
    }
    println!("{name:<24} {alarms:>3} alarms in {count} series");
    alarms
}

#[test]
fn pure_noise_raises_no_alarm() {
    const EACH: u64 = 160;
    let of = |kind: Noise| move |dice: &Dice| flat(dice, kind);
    let kinds: [(&str, Box<dyn Fn(&Dice) -> Vec<Point>>); 10] = [
        ("white", Box::new(of(Noise::White))),
        ("memory 0.3", Box::new(of(Noise::Ar(0.3)))),
        ("memory 0.5", Box::new(of(Noise::Ar(0.5)))),
        ("memory 0.7", Box::new(of(Noise::Ar(0.7)))),
        ("heavy tails", Box::new(of(Noise::Heavy))),
        ("skewed", Box::new(of(Noise::Skewed))),
        ("counts of 0.05", Box::new(|dice: &Dice| counts(dice, 0.05))),
        ("counts of 1", Box::new(|dice: &Dice| counts(dice, 1.0))),
        ("counts of 15", Box::new(|dice: &Dice| counts(dice, 15.0))),
        (
            "hours of 3 weeks",
            Box::new(|dice: &Dice| {
                let noise = noise(dice, Noise::Ar(0.4), 504);
                points(&noise, Duration::from_secs(3_600))
            }),
        ),
    ];
    let mut total = 0;
    for (name, make) in &kinds {
        let found = alarms(name, EACH, make);
        total += found;
        assert!(found * 100 <= EACH * 2, "{name}: {found} alarms in {EACH}");
    }
    let all = EACH * kinds.len() as u64;
    println!("{total} alarms in {all} series of pure noise");
    assert!(total * 100 <= all, "{total} alarms in {all}");
}

/// From which strength on a drift is seen, for the document: nobody is promised the weaker ones.
#[test]
fn a_stronger_drift_is_never_seen_less_often() {
    const EACH: u64 = 40;
    println!(
        "{:<24} {:>5} {:>5} {:>5} {:>5} {:>5}",
        "drift in deviations", 0.5, 1.0, 1.5, 2.0, 4.0
    );
    let kinds =
        [("white", Noise::White), ("memory 0.5", Noise::Ar(0.5)), ("memory 0.7", Noise::Ar(0.7))];
    for (name, kind) in kinds {
        let seen = [0.5, 1.0, 1.5, 2.0, 4.0].map(|total| {
            let degrades =
                |seed| asked(&drift(&Dice::of(seed), kind, total), LOWER).label == Label::Degrading;
            (0..EACH).filter(|seed| degrades(*seed)).count() * 100 / EACH as usize
        });
        println!(
            "{name:<24} {:>4}% {:>4}% {:>4}% {:>4}% {:>4}%",
            seen[0], seen[1], seen[2], seen[3], seen[4]
        );
        assert!(seen[0] <= seen[2] && seen[2] <= seen[4], "{name}: {seen:?}");
    }
}

#[test]
fn a_series_that_stands_still_is_not_said_to_reach_its_limit() {
    let drift: Vec<f64> = (0..300).map(|n| 100.0 + f64::from(n) * 0.02).collect();
    let points = points(&drift, STEP);
    let (from, to) = (points[0].0, points[points.len() - 1].0);
    let ask = |floor, goodness| {
        judge(&points, &Question { from, to, goodness, limit: Some(120.0), floor })
    };
    assert_eq!(ask(0.0, LOWER).label, Label::Degrading);
    assert!(ask(0.0, LOWER).time_to_limit.is_some());
    assert_eq!(ask(10.0, LOWER).label, Label::Stable);
    assert_eq!(ask(10.0, LOWER).time_to_limit, None, "it moves by 6, which does not matter");
}

#[test]
fn an_hour_as_any_other_is_not_unusual_because_its_last_minute_was() {
    let dice = Dice::of(9);
    let from = BEGIN + Duration::from_secs(4 * 7 * 86_400);
    let hourly: Vec<f64> = (0..4 * 168).map(|_| 100.0 + dice.normal()).collect();
    let mut all = points(&hourly, Duration::from_secs(3_600));
    for n in 0..288_u32 {
        // Twelve pieces waver more than their average does.
        let noise = if n % 2 == 0 { 20.0 } else { -20.0 };
        all.push((from + STEP * n, 100.0 + noise));
    }
    let to = all[all.len() - 1].0;
    let question = Question { from, to, goodness: LOWER, limit: None, floor: 0.0 };
    let usual = judge(&all, &question).baseline.unwrap();
    assert!(!usual.unusual && (usual.value - 100.0).abs() < 5.0, "{usual:?}");
    for (_, value) in all.iter_mut().rev().take(12) {
        *value += 50.0;
    }
    let usual = judge(&all, &question).baseline.unwrap();
    assert!(usual.unusual && (usual.value - 150.0).abs() < 5.0, "{usual:?}");
}
