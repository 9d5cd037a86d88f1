//! The state machine of alerts: handovers, pauses, clocks that jump, rules that change; every small
//! case of it, and random runs with restarts against runs without.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;
use std::time::Duration;

use lockbay::clock::{Clock, Timestamp};
use lockbay::monitor::alert::decide::{MAX_GAP, Phase, Reason, Seen, Standing, Terms, decide, end};
use lockbay::monitor::alert::judge::Tracks;
use lockbay::monitor::alert::round::{Kept, go_round};
use lockbay::monitor::alert::rule::{OnNoData, Operator, Rule};
use lockbay::monitor::alert::{Severity, Transition, Turn};
use lockbay::monitor::series::{Samples, Track};

const INTERVAL: Duration = Duration::from_secs(10);
const BEGIN: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
const RUNNING: &str = "saga_metrics.running_sagas";

/// One gauge of one instance, which can be read up to any moment.
struct Gauge(Vec<Track>);

impl Tracks for Gauge {
    fn of(&self, _: &str, _: Duration) -> Result<&[Track], String> {
        Ok(&self.0)
    }

    fn stale(&self, _: Duration) -> Duration {
        INTERVAL * 5 / 2
    }
}

/// What cannot be read.
struct Broken;

impl Tracks for Broken {
    fn of(&self, _: &str, _: Duration) -> Result<&[Track], String> {
        Err("the store does not answer".into())
    }

    fn stale(&self, _: Duration) -> Duration {
        INTERVAL
    }
}

fn gauge(at: Timestamp, value: f64) -> Gauge {
    let samples = Samples::Gauge(vec![(at, value)]);
    Gauge(vec![Track { instance: "a".into(), born: BEGIN, samples }])
}

fn rule(name: &str) -> Rule {
    Rule::new(name, RUNNING, (Operator::Above, 5.0), 1, Severity::Error)
}

/// An evaluator that remembers what a store would.
#[derive(Default)]
struct World {
    kept: BTreeMap<String, Kept>,
    stored: BTreeMap<String, String>,
    moves: Vec<Transition>,
    writes: usize,
    now: Duration,
}

impl World {
    /// Judges after some time.
    fn after(&mut self, seconds: u64, rules: &[Rule], value: f64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self.judge(rules, &gauge(BEGIN + self.now, value))
    }

    fn judge(&mut self, rules: &[Rule], tracks: &dyn Tracks) -> &mut Self {
        let round = go_round(rules, &self.kept, tracks, BEGIN + self.now, INTERVAL);
        for (name, kept) in &round.kept {
            let stored = self.stored.get(name).map(|text| serde_json::from_str(text).unwrap());
            if kept.must_be_written(stored.as_ref(), INTERVAL * 6) {
                self.writes += 1;
                self.stored.insert(name.clone(), serde_json::to_string(kept).unwrap());
            }
        }
        self.stored.retain(|name, _| round.kept.contains_key(name));
        self.moves.extend(round.moves);
        self.kept = round.kept;
        self
    }

    /// Another leads from now on, and knows what is stored.
    fn hand_over(&mut self) -> &mut Self {
        let read =
            |(name, text): (&String, &String)| (name.clone(), serde_json::from_str(text).unwrap());
        self.kept = self.stored.iter().map(read).collect();
        self
    }

    fn phase(&self, rule: &str) -> Phase {
        self.kept.get(rule).map_or(Phase::Inactive, |kept| kept.standing.phase)
    }

    fn turns(&self) -> Vec<(u64, Turn)> {
        self.moves.iter().map(|m| (m.at.since(BEGIN).as_secs(), m.turn)).collect()
    }
}

fn with_for(seconds: u32) -> Vec<Rule> {
    vec![Rule { for_seconds: seconds, ..rule("r") }]
}

#[test]
fn a_restart_in_the_middle_of_for_goes_on_from_what_is_stored() {
    let (rules, mut world) = (with_for(40), World::default());
    world.after(0, &rules, 6.0).after(10, &rules, 6.0).after(10, &rules, 6.0);
    world.hand_over().after(10, &rules, 6.0).after(10, &rules, 6.0);
    assert_eq!(world.turns(), [(40, Turn::Fired)]);
}

#[test]
fn a_handover_that_takes_some_seconds_delays_for_and_does_not_begin_it_anew() {
    let (rules, mut world) = (with_for(60), World::default());
    world.after(0, &rules, 6.0).after(10, &rules, 6.0).hand_over();
    // 35 s pass, of which two intervals count: 10 + 20, and 30 more are needed.
    world.after(35, &rules, 6.0).after(10, &rules, 6.0).after(10, &rules, 6.0);
    assert!(world.moves.is_empty());
    world.after(10, &rules, 6.0);
    assert_eq!(world.turns(), [(75, Turn::Fired)]);
}

#[test]
fn a_handover_while_it_fires_tells_nothing() {
    let (rules, mut world) = (with_for(0), World::default());
    world.after(0, &rules, 6.0).hand_over().after(10, &rules, 6.0).hand_over();
    world.after(10, &rules, 6.0);
    assert_eq!(world.turns(), [(0, Turn::Fired)]);
}

#[test]
fn what_ended_during_a_handover_resolves_once() {
    let (rules, mut world) = (with_for(0), World::default());
    world.after(0, &rules, 6.0).hand_over().after(40, &rules, 0.0).hand_over();
    world.after(10, &rules, 0.0);
    assert_eq!(world.turns(), [(0, Turn::Fired), (40, Turn::Resolved)]);
}

#[test]
fn a_pause_of_the_evaluator_begins_for_anew() {
    let (rules, mut world) = (with_for(30), World::default());
    world.after(0, &rules, 6.0).after(600, &rules, 6.0).after(10, &rules, 6.0);
    assert!(world.moves.is_empty(), "nobody saw whether it held");
    world.after(10, &rules, 6.0).after(10, &rules, 6.0);
    assert_eq!(world.turns(), [(630, Turn::Fired)]);
}

#[test]
fn a_clock_that_jumps_forward_does_not_fire_early() {
    let (rules, mut world) = (with_for(60), World::default());
    world.after(0, &rules, 6.0).after(86_400, &rules, 6.0);
    assert_eq!((world.phase("r"), world.moves.len()), (Phase::Pending, 0));
}

#[test]
fn a_clock_that_goes_back_adds_nothing_to_for() {
    let (rules, mut world) = (with_for(30), World::default());
    world.after(1_000, &rules, 6.0).after(10, &rules, 6.0);
    world.now -= Duration::from_secs(500);
    world.after(0, &rules, 6.0).after(10, &rules, 6.0);
    assert!(world.moves.is_empty());
    world.after(10, &rules, 6.0);
    assert_eq!(world.turns(), [(530, Turn::Fired)]);
}

#[test]
fn a_pause_of_the_evaluator_does_not_resolve_early() {
    let rules = vec![Rule { keep_firing_for_seconds: 30, ..rule("r") }];
    let mut world = World::default();
    world.after(0, &rules, 6.0).after(10, &rules, 0.0).after(600, &rules, 0.0);
    assert_eq!(world.phase("r"), Phase::Recovering);
    world.after(10, &rules, 0.0).after(10, &rules, 0.0).after(10, &rules, 0.0);
    assert_eq!(world.turns(), [(0, Turn::Fired), (640, Turn::Resolved)]);
}

#[test]
fn a_rule_whose_threshold_is_raised_while_it_fires_resolves() {
    let mut world = World::default();
    world.after(0, &[rule("r")], 6.0);
    let raised = Rule { threshold: 7.0, ..rule("r") };
    world.after(10, &[raised], 6.0);
    assert_eq!(world.turns(), [(0, Turn::Fired), (10, Turn::Resolved)]);
}

#[test]
fn a_rule_that_is_changed_while_it_fires_and_still_holds_goes_on_firing() {
    let mut world = World::default();
    world.after(0, &[rule("r")], 6.0);
    let changed =
        Rule { threshold: 1.0, for_seconds: 600, severity: Severity::Critical, ..rule("r") };
    world.after(10, std::slice::from_ref(&changed), 6.0).after(10, &[changed], 0.0);
    assert_eq!(world.turns(), [(0, Turn::Fired), (20, Turn::Resolved)]);
    assert_eq!(world.moves[0].severity, Severity::Error);
    assert_eq!(world.moves[1].severity, Severity::Critical);
}

#[test]
fn a_pending_alert_whose_condition_is_changed_begins_anew() {
    let mut world = World::default();
    world.after(0, &with_for(30), 6.0).after(10, &with_for(30), 6.0).after(10, &with_for(30), 6.0);
    let changed = vec![Rule { threshold: 4.0, ..with_for(30).remove(0) }];
    world.after(10, &changed, 6.0).after(10, &changed, 6.0).after(10, &changed, 6.0);
    assert!(world.moves.is_empty());
    world.after(10, &changed, 6.0);
    assert_eq!(world.turns(), [(60, Turn::Fired)]);
}

#[test]
fn a_rule_that_is_deleted_while_it_fires_resolves_and_is_told_once() {
    let mut world = World::default();
    world.after(0, &[rule("r")], 6.0).after(10, &[], 6.0).hand_over().after(10, &[], 6.0);
    assert_eq!(world.turns(), [(0, Turn::Fired), (10, Turn::Resolved)]);
    assert!(world.moves[1].summary.contains("deleted"), "{}", world.moves[1].summary);
    assert!(world.stored.is_empty());
}

#[test]
fn a_rule_that_is_deleted_while_it_waits_is_told_of_never() {
    let mut world = World::default();
    world.after(0, &with_for(60), 6.0).after(10, &[], 6.0);
    assert!(world.moves.is_empty() && world.stored.is_empty());
}

#[test]
fn episodes_grow_though_a_rule_was_deleted_between() {
    let mut world = World::default();
    world.after(0, &[rule("r")], 6.0).after(10, &[], 6.0).after(10, &[rule("r")], 6.0);
    let episodes: Vec<u64> = world.moves.iter().map(|moved| moved.episode).collect();
    assert!(episodes[0] == episodes[1] && episodes[1] < episodes[2], "{episodes:?}");
}

#[test]
fn a_rule_that_is_disabled_while_it_fires_resolves_once_and_says_why() {
    let (mut world, disabled) = (World::default(), Rule { enabled: false, ..rule("r") });
    let rules = [disabled];
    world.after(0, &[rule("r")], 6.0).after(10, &rules, 6.0).after(10, &rules, 6.0);
    assert_eq!(world.turns(), [(0, Turn::Fired), (10, Turn::Resolved)]);
    assert_eq!(world.kept["r"].standing.reason, Some(Reason::Disabled));
    world.after(600, &rules, 6.0);
    assert_eq!(world.phase("r"), Phase::Inactive);
}

#[test]
fn what_cannot_be_read_changes_nothing_and_says_why() {
    let (rules, mut world) = (with_for(0), World::default());
    world.after(0, &rules, 6.0);
    world.now += INTERVAL;
    world.judge(&rules, &Broken);
    assert_eq!(world.phase("r"), Phase::Firing);
    assert!(
        matches!(&world.kept["r"].standing.reason, Some(Reason::Error(why)) if why.contains("store"))
    );
    world.after(10, &rules, 6.0);
    assert_eq!(world.turns(), [(0, Turn::Fired)]);
}

#[test]
fn rules_are_judged_each_for_itself() {
    let rules = [rule("a"), Rule { threshold: 7.0, ..rule("b") }];
    let mut world = World::default();
    world.after(0, &rules, 6.0).after(10, &rules, 8.0).after(10, &rules, 6.0);
    let told: Vec<(&str, Turn)> = world.moves.iter().map(|m| (m.rule.as_str(), m.turn)).collect();
    assert_eq!(told, [("a", Turn::Fired), ("b", Turn::Fired), ("b", Turn::Resolved)]);
}

#[test]
fn a_system_at_rest_writes_nothing() {
    let rules: Vec<Rule> = (0..30).map(|at| rule(&format!("r{at}"))).collect();
    let mut world = World::default();
    for step in 0..1_000 {
        world.after(10, &rules, f64::from(step % 5));
    }
    assert_eq!(world.writes, 0);
}

#[test]
fn an_alert_that_fires_steadily_is_written_once() {
    let (rules, mut world) = (with_for(0), World::default());
    for _ in 0..100 {
        world.after(10, &rules, 6.0);
    }
    assert_eq!(world.writes, 1);
}

/// Every state, condition, wait and time, in all small combinations.
#[test]
fn every_small_case_is_legal() {
    let at = BEGIN + Duration::from_secs(100_000);
    let waits = [0, 10, 30].map(Duration::from_secs);
    let elapsed = [0, 1, 10, 20, 60, 61, 100_000].map(Duration::from_secs);
    let seen = [
        Seen::Holds(6.0),
        Seen::Fails(Some(1.0)),
        Seen::Fails(None),
        Seen::Missing,
        Seen::Failed("no".into()),
    ];
    let data = [OnNoData::Ignore, OnNoData::Fire, OnNoData::Resolve, OnNoData::Keep];
    let mut cases = 0;
    for phase in Phase::ALL {
        for counted in waits {
            for passed in elapsed {
                for over in [None, Some(-7_200), Some(5), Some(25), Some(1_000)] {
                    for (hold_for, keep_firing_for) in
                        waits.iter().flat_map(|a| waits.iter().map(move |b| (*a, *b)))
                    {
                        for cooldown in waits {
                            for on_no_data in data {
                                let before = Standing {
                                    phase,
                                    since: at - passed - counted,
                                    evaluated_at: at - passed,
                                    counted,
                                    episode: 7,
                                    fired_at: over.map(|_| BEGIN),
                                    resolved_at: over.map(|ago| ago_of(at, ago)),
                                    value: None,
                                    reason: None,
                                };
                                let interval = INTERVAL;
                                let terms = Terms {
                                    hold_for,
                                    keep_firing_for,
                                    cooldown,
                                    on_no_data,
                                    interval,
                                };
                                for seen in &seen {
                                    check(&before, &terms, seen, at);
                                    cases += 1;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(cases, 5 * 3 * 7 * 5 * 9 * 3 * 4 * 5);
}

/// A moment so many seconds before another; behind it, if they are negative.
fn ago_of(at: Timestamp, seconds: i64) -> Timestamp {
    let apart = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { at + apart } else { at - apart }
}

fn check(before: &Standing, terms: &Terms, seen: &Seen, at: Timestamp) {
    let (after, turn) = decide(before, terms, seen, at);
    let case = format!("{before:?} {terms:?} {seen:?} -> {after:?} {turn:?}");
    let (was, is) = (before.phase.fires(), after.phase.fires());
    // What is told is what others see change.
    assert_eq!(turn == Some(Turn::Fired), !was && is, "{case}");
    assert_eq!(turn == Some(Turn::Resolved), was && !is, "{case}");
    assert_eq!(after.episode > before.episode, turn == Some(Turn::Fired), "{case}");
    assert_eq!(after.evaluated_at, at, "{case}");
    let passed = at.since(before.evaluated_at);
    let paused = passed > INTERVAL * MAX_GAP;
    if turn == Some(Turn::Fired) {
        let waited =
            if before.phase == Phase::Pending { before.counted + passed } else { Duration::ZERO };
        assert!(waited >= terms.hold_for, "fired early: {case}");
        assert!(!paused || terms.hold_for.is_zero(), "fired over a pause: {case}");
        // A clock that went back does not keep anything from firing.
        let over = before.resolved_at.filter(|over| *over <= at);
        let cool = over.is_none_or(|over| at.since(over) >= terms.cooldown);
        assert!(cool, "fired in the cooldown: {case}");
        assert_eq!(after.fired_at, Some(at), "{case}");
    }
    let set_back = before.resolved_at.is_some_and(|over| over > at);
    if set_back && before.phase == Phase::Pending && matches!(seen, Seen::Holds(_)) {
        let waited = !paused && before.counted + passed.min(INTERVAL * 2) >= terms.hold_for;
        assert_eq!(turn.is_some(), waited || terms.hold_for.is_zero(), "kept back: {case}");
    }
    if turn == Some(Turn::Resolved) {
        let waited = if before.phase == Phase::Recovering {
            before.counted + passed
        } else {
            Duration::ZERO
        };
        assert!(waited >= terms.keep_firing_for, "resolved early: {case}");
        assert!(!paused || terms.keep_firing_for.is_zero(), "resolved over a pause: {case}");
        assert_eq!(after.resolved_at, Some(at), "{case}");
    }
    if matches!(seen, Seen::Failed(_))
        || (*seen == Seen::Missing && terms.on_no_data == OnNoData::Keep)
    {
        assert_eq!(after.phase, before.phase, "{case}");
        assert_eq!(after.counted, before.counted, "{case}");
    }
    if after.phase != before.phase && after.phase != Phase::Firing {
        assert_eq!(after.since, at, "{case}");
    }
    // Said twice at one moment, nothing more happens.
    let (again, told) = decide(&after, terms, seen, at);
    assert_eq!((again.phase, told), (after.phase, None), "not settled: {case}");
    let (ended, turn) = end(before, at, None);
    assert!(!ended.phase.fires() && (turn == Some(Turn::Resolved)) == was, "{case}");
}

/// Random series, rules and handovers: what is told is the same as without handovers, firings and
/// ends alternate, and episodes grow.
#[test]
fn random_restarts_change_nothing_that_is_told() {
    for seed in 0..300 {
        let clock = Clock::manual(seed);
        let pick = |below: u64| clock.random() % below;
        let choices = [0, 10, 25, 40];
        let choice = |at: u64| choices[usize::try_from(at).unwrap()];
        let rules: Vec<Rule> = (0..4)
            .map(|at| Rule {
                for_seconds: choice(pick(4)),
                keep_firing_for_seconds: choice(pick(4)),
                cooldown_minutes: u32::try_from(pick(3)).unwrap(),
                on_no_data: [OnNoData::Ignore, OnNoData::Fire, OnNoData::Resolve, OnNoData::Keep]
                    [usize::try_from(pick(4)).unwrap()],
                ..rule(&format!("r{at}"))
            })
            .collect();
        let (mut steady, mut restarted) = (World::default(), World::default());
        let mut value = 0.0;
        for _ in 0..300 {
            if pick(4) == 0 {
                value = if pick(2) == 0 { 6.0 } else { 0.0 };
            }
            let seconds = if pick(12) == 0 { 5 + pick(90) } else { 10 };
            let there: Vec<Rule> = rules.iter().filter(|_| pick(200) != 0).cloned().collect();
            if pick(10) == 0 {
                for world in [&mut steady, &mut restarted] {
                    world.now += Duration::from_secs(seconds);
                    world.judge(&there, &Gauge(Vec::new()));
                }
            } else {
                steady.after(seconds, &there, value);
                restarted.after(seconds, &there, value);
            }
            if pick(3) == 0 {
                restarted.hand_over();
            }
        }
        assert_eq!(steady.moves, restarted.moves, "seed {seed}");
        for rule in &rules {
            let mut last: Option<&Transition> = None;
            for moved in steady.moves.iter().filter(|moved| moved.rule == rule.name) {
                let legal = match (last.map(|last| last.turn), moved.turn) {
                    (None | Some(Turn::Resolved), Turn::Fired) => {
                        last.is_none_or(|last| last.episode < moved.episode)
                    }
                    (Some(Turn::Fired), Turn::Resolved) => {
                        last.is_some_and(|last| last.episode == moved.episode)
                    }
                    (None | Some(Turn::Resolved), Turn::Resolved)
                    | (Some(Turn::Fired), Turn::Fired) => false,
                };
                assert!(legal, "seed {seed}: {last:?} then {moved:?}");
                last = Some(moved);
            }
        }
    }
}

#[test]
fn an_unknown_path_is_refused_with_its_neighbours() {
    let wrong = Rule { metric_path: "saga_metrics.saga_failed".into(), ..rule("r") };
    let error = wrong.check().unwrap_err().to_string();
    assert!(error.contains("saga_metrics.sagas_failed"), "{error}");
}

#[test]
fn rules_that_cannot_be_meant_are_refused_by_field() {
    let counter = || Rule { metric_path: "saga_metrics.sagas_failed".into(), ..rule("r") };
    let last = lockbay::monitor::alert::rule::Aggregation::Last;
    let cases: Vec<(Rule, &str)> = vec![
        (Rule { name: String::new(), ..rule("r") }, "rule name"),
        (Rule { threshold: f64::NAN, ..rule("r") }, "threshold"),
        (Rule { threshold: f64::INFINITY, ..rule("r") }, "threshold"),
        (Rule { window_minutes: 0, ..rule("r") }, "window_minutes"),
        (Rule { window_minutes: 10_081, ..rule("r") }, "window_minutes"),
        (Rule { for_seconds: u32::MAX, ..rule("r") }, "for_seconds"),
        (Rule { cooldown_minutes: u32::MAX, ..rule("r") }, "cooldown_minutes"),
        (Rule { quantile: Some(0.5), ..rule("r") }, "quantile"),
        (Rule { confirm_window_minutes: Some(1), ..rule("r") }, "confirm_window_minutes"),
        (Rule { aggregation: Some(last), ..counter() }, "increase or rate"),
    ];
    for (wrong, field) in cases {
        let error = wrong.check().unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}
