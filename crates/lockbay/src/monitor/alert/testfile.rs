//! Tests of alert rules in a file: series in, firings and states out, judged by the same rounds as
//! the leader goes.
//!
//! `docs/alerts.md` describes the format. Everything happens in this process; no store, no clock
//! and no network is needed.

mod samples;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::builtin;
use super::decide::Phase;
use super::judge::Tracks;
use super::round::{Kept, go_round};
use super::rule::Rule;
use super::{Transition, Turn};
use crate::clock::Timestamp;
use crate::config::Span;
use crate::error::{Error, Result as Known};
use crate::monitor::series::Track;

/// The largest test file.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;
/// The most evaluations of one test: a week at ten seconds.
const MOST_STEPS: usize = 70_000;
/// When every test begins: 2026-01-01.
const BEGIN: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    interval: Option<Span>,
    /// Names of built-in rules to judge.
    #[serde(default)]
    builtin: Vec<String>,
    #[serde(default)]
    rule: Vec<Rule>,
    #[serde(default)]
    test: Vec<Test>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    name: String,
    #[serde(default)]
    series: Vec<Series>,
    /// `60s 180s`: nothing is judged between.
    #[serde(default)]
    pauses: Vec<String>,
    /// `90s fired x`: all of them, in order.
    moves: Option<Vec<String>>,
    /// `90s pending x`: where an alert is then.
    #[serde(default)]
    states: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Series {
    metric_path: String,
    #[serde(default)]
    instance: Option<String>,
    #[serde(default)]
    born_minutes_before: u32,
    samples: String,
}

/// What a test came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// What was otherwise than expected, a line each: `-` what was missing, `+` what was there
    /// instead. Empty if it passed.
    pub differences: Vec<String>,
}

/// Runs the tests of a file.
///
/// # Errors
/// `Invalid` for what cannot be read, with the test and the word.
pub fn run(text: &str) -> Known<Vec<Outcome>> {
    if text.len() > MAX_FILE_BYTES {
        return Err(Error::invalid(format!("a test file has {MAX_FILE_BYTES} bytes at most")));
    }
    let file: File = toml::from_str(text)
        .map_err(|error| Error::invalid(format!("this is no test file: {}", error.message())))?;
    let interval = file.interval.map_or(Duration::from_secs(10), |Span(interval)| interval);
    if interval < Duration::from_secs(1) {
        return Err(Error::invalid(format!("interval is a second or more, not {interval:?}")));
    }
    let rules = rules(&file)?;
    if file.test.is_empty() {
        return Err(Error::invalid("there is no [[test]] in this file"));
    }
    let outcome = |test: &Test| {
        run_one(test, &rules, interval)
            .map_err(|error| Error::invalid(format!("test {:?}: {error}", test.name)))
    };
    file.test.iter().map(outcome).collect()
}

fn rules(file: &File) -> Known<Vec<Rule>> {
    let known = builtin::rules();
    let mut rules = file.rule.clone();
    for name in &file.builtin {
        let rule = known.iter().find(|rule| rule.name == *name);
        let missing = || Error::invalid(format!("there is no built-in rule {name:?}"));
        rules.push(rule.ok_or_else(missing)?.clone());
    }
    for (at, rule) in rules.iter().enumerate() {
        rule.check().map_err(|error| Error::invalid(format!("rule {:?}: {error}", rule.name)))?;
        if rules[..at].iter().any(|other| other.name == rule.name) {
            return Err(Error::invalid(format!("there are two rules {:?}", rule.name)));
        }
    }
    Ok(rules)
}

/// Tracks of all series of a test.
struct Synthetic {
    tracks: BTreeMap<String, Vec<Track>>,
    stale: Duration,
}

impl Tracks for Synthetic {
    fn of(&self, path: &str, _: Duration) -> Result<&[Track], String> {
        Ok(self.tracks.get(path).map_or(&[], Vec::as_slice))
    }

    fn stale(&self, _: Duration) -> Duration {
        self.stale
    }
}

fn run_one(test: &Test, rules: &[Rule], interval: Duration) -> Known<Outcome> {
    let mut tracks: BTreeMap<String, Vec<Track>> = BTreeMap::new();
    let mut steps = 0;
    for series in &test.series {
        let born = Duration::from_secs(u64::from(series.born_minutes_before) * 60);
        let instance = series.instance.as_deref().unwrap_or("a");
        let path = &series.metric_path;
        let read = samples::read(path, instance, &series.samples, (BEGIN, born, interval))?;
        steps = steps.max(read.steps);
        tracks.entry(read.path.to_owned()).or_default().extend(read.tracks);
    }
    if steps > MOST_STEPS {
        return Err(Error::invalid(format!("a test has {MOST_STEPS} steps at most, not {steps}")));
    }
    if test.moves.is_none() && test.states.is_empty() {
        let name = &test.name;
        return Err(Error::invalid(format!("a test expects moves or states, {name:?} nothing")));
    }
    let pauses = test.pauses.iter().map(|text| pause(text)).collect::<Known<Vec<_>>>()?;
    let mut states =
        test.states.iter().map(|text| state(text, rules)).collect::<Known<Vec<_>>>()?;
    states.sort_by_key(|(at, ..)| *at);
    // As history has it: two and a half intervals.
    let tracks = Synthetic { tracks, stale: interval * 5 / 2 };
    let (mut kept, mut moves, mut differences) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut expected = states.into_iter().peekable();
    for step in 0..u32::try_from(steps).unwrap_or(u32::MAX) {
        let passed = interval * step;
        if !pauses.iter().any(|(from, to)| (*from..*to).contains(&passed)) {
            let round = go_round(rules, &kept, &tracks, BEGIN + passed, interval);
            kept = round.kept;
            moves.extend(round.moves);
        }
        while let Some((_, phase, rule)) = expected.next_if(|(at, ..)| *at < passed + interval) {
            compare(&kept, &rule, phase, passed, &mut differences);
        }
    }
    differences.extend(expected.map(|(at, phase, rule)| {
        format!("- {}s {} {rule}: the series end before", at.as_secs(), phase.name())
    }));
    if let Some(wanted) = &test.moves {
        differ(wanted, &moves, &mut differences)?;
    }
    Ok(Outcome { name: test.name.clone(), differences })
}

fn compare(
    kept: &BTreeMap<String, Kept>,
    rule: &str,
    wanted: Phase,
    passed: Duration,
    differences: &mut Vec<String>,
) {
    let standing = kept.get(rule).map(|kept| &kept.standing);
    let phase = standing.map_or(Phase::Inactive, |standing| standing.phase);
    if phase == wanted {
        return;
    }
    let at = passed.as_secs();
    let value = standing.and_then(|s| s.value).map_or("nothing".into(), |value| value.to_string());
    differences.push(format!("- {at}s {} {rule}", wanted.name()));
    differences.push(format!("+ {at}s {} {rule}, value {value}", phase.name()));
}

/// Lines of both, where they are not the same: the longest common part is left out.
fn differ(wanted: &[String], moves: &[Transition], differences: &mut Vec<String>) -> Known<()> {
    let mut expected = Vec::with_capacity(wanted.len());
    for text in wanted {
        let [at, turn, rule] = words(text)?;
        let turn = match turn {
            "fired" => Turn::Fired,
            "resolved" => Turn::Resolved,
            other => {
                return Err(Error::invalid(format!("an alert fired or resolved, not {other:?}")));
            }
        };
        expected.push((moment(at)?, turn, rule.to_owned()));
    }
    let found: Vec<_> = moves.iter().map(|m| (m.at.since(BEGIN), m.turn, m.rule.clone())).collect();
    let line = |(at, turn, rule): &(Duration, Turn, String)| {
        let turn = if *turn == Turn::Fired { "fired" } else { "resolved" };
        format!("{}s {turn} {rule}", at.as_secs())
    };
    for missing in expected.iter().filter(|one| !found.contains(one)) {
        differences.push(format!("- {}", line(missing)));
    }
    for (one, moved) in found.iter().zip(moves).filter(|(one, _)| !expected.contains(one)) {
        differences.push(format!("+ {}: {}", line(one), moved.summary));
    }
    let is_sorted = expected.is_sorted_by_key(|(at, ..)| *at);
    if differences.is_empty() && (!is_sorted || expected.len() != found.len()) {
        differences.push("- the moves in this order, each once".into());
        differences.extend(found.iter().map(|one| format!("+ {}", line(one))));
    }
    Ok(())
}

fn state(text: &str, rules: &[Rule]) -> Known<(Duration, Phase, String)> {
    let [at, phase, rule] = words(text)?;
    let known = Phase::ALL.into_iter().find(|known| known.name() == phase);
    let phase = known.ok_or_else(|| Error::invalid(format!("there is no state {phase:?}")))?;
    if !rules.iter().any(|known| known.name == rule) {
        return Err(Error::invalid(format!("there is no rule {rule:?} in this file")));
    }
    Ok((moment(at)?, phase, rule.to_owned()))
}

fn pause(text: &str) -> Known<(Duration, Duration)> {
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        [from, to] => Ok((moment(from)?, moment(to)?)),
        _ => Err(Error::invalid(format!("a pause is like \"60s 180s\", not {text:?}"))),
    }
}

fn words(text: &str) -> Known<[&str; 3]> {
    let mut words = text.splitn(3, char::is_whitespace).map(str::trim);
    match (words.next(), words.next(), words.next()) {
        (Some(at), Some(what), Some(rule)) if !rule.is_empty() => Ok([at, what, rule]),
        _ => {
            Err(Error::invalid(format!("an expectation is like \"90s fired NAME\", not {text:?}")))
        }
    }
}

fn moment(text: &str) -> Known<Duration> {
    text.parse::<Span>().map(|Span(moment)| moment)
}
