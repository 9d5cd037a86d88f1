//! Small-model tests of the plan: every sequence of a few things that can happen, against what
//! must hold of whatever is told.

use super::*;

/// What can happen between two evaluations.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Happens {
    /// A critical alert of the group begins or ends.
    Critical,
    /// A warning of the same group does.
    Warning,
    /// A warning of its own does, twice, within one evaluation.
    Flap,
    /// All are silenced, or no longer.
    Silence,
    /// Time passes.
    Time,
    /// The moves of the next evaluation are lost.
    Loss,
}

const ALL: [Happens; 6] = [
    Happens::Critical,
    Happens::Warning,
    Happens::Flap,
    Happens::Silence,
    Happens::Time,
    Happens::Loss,
];
const DEPTH: u32 = 6;

struct World {
    at: Timestamp,
    book: Book,
    firing: Vec<Firing>,
    episodes: u64,
    silence: Silence,
    lose: bool,
    /// What was told: rule, episode, and what of it, in order.
    told: Vec<(String, u64, Status)>,
    orders: Vec<u64>,
    /// Firings that could be told at some evaluation.
    audible: std::collections::BTreeSet<(String, u64)>,
    wait: Duration,
}

fn silence() -> Silence {
    Silence {
        id: "s".into(),
        rules: "*".into(),
        severities: Vec::new(),
        from: Timestamp::default(),
        until: Some(Timestamp::default()),
        window: None,
        actor: "a".into(),
        reason: "r".into(),
        created_at: Timestamp::default(),
        ended_by: None,
        fingerprint: None,
    }
}

impl World {
    fn new(wait: Duration) -> Self {
        World {
            at: Timestamp::from_micros(1_000_000_000),
            book: Book::default(),
            firing: Vec::new(),
            episodes: 0,
            silence: silence(),
            lose: false,
            told: Vec::new(),
            orders: Vec::new(),
            audible: std::collections::BTreeSet::new(),
            wait,
        }
    }

    fn turn(&mut self, rule: &str, severity: Severity, grouped: bool) -> Transition {
        let before = self.firing.iter().position(|alert| alert.rule == rule);
        let (turn, episode) = match before {
            Some(place) => (Turn::Resolved, self.firing.remove(place).episode),
            None => {
                self.episodes += 1;
                let labels = grouped.then(|| (GROUP.to_owned(), "g".to_owned()));
                self.firing.push(Firing {
                    rule: rule.into(),
                    severity,
                    labels: labels.into_iter().collect(),
                    since: self.at,
                    episode: self.episodes,
                    value: None,
                    summary: "s".into(),
                });
                (Turn::Fired, self.episodes)
            }
        };
        let (rule, at, value) = (rule.to_owned(), self.at, None);
        Transition { rule, severity, turn, episode, at, value, summary: "s".into() }
    }

    fn happen(&mut self, what: Happens) {
        self.at = self.at + Duration::from_secs(1);
        let moves = match what {
            Happens::Critical => vec![self.turn("c", Severity::Critical, true)],
            Happens::Warning => vec![self.turn("w", Severity::Warning, true)],
            Happens::Flap => {
                vec![
                    self.turn("f", Severity::Warning, false),
                    self.turn("f", Severity::Warning, false),
                ]
            }
            Happens::Silence => {
                let active = self.silence.until.is_none();
                self.silence.until = active.then_some(self.at);
                Vec::new()
            }
            Happens::Time => {
                self.at = self.at + Duration::from_secs(60);
                Vec::new()
            }
            Happens::Loss => {
                self.lose = true;
                return;
            }
        };
        self.evaluate(&moves);
    }

    fn evaluate(&mut self, moves: &[Transition]) {
        let moves = if std::mem::take(&mut self.lose) { &[] } else { moves };
        let silences = std::slice::from_ref(&self.silence);
        let policy = Policy { silences, least: Severity::Info, group_wait: self.wait };
        let plan = plan(&self.book, moves, &self.firing, &policy, self.at);
        if self.silence.state(self.at) != SilenceState::Active {
            let began = moves.iter().filter(|step| step.turn == Turn::Fired);
            self.audible.extend(began.map(|step| (step.rule.clone(), step.episode)));
            let fires = self.firing.iter().map(|alert| (alert.rule.clone(), alert.episode));
            self.audible.extend(fires);
        }
        // Asked again with the same, nothing more is to be told.
        let again = super::plan(&plan.book, &[], &self.firing, &policy, self.at);
        assert!(again.drafts.is_empty() && again.book == plan.book, "{again:?}");
        for draft in plan.drafts {
            assert!(!draft.alerts.is_empty() && draft.alerts.len() <= MAX_ALERTS);
            self.orders.push(draft.order);
            let alerts = draft.alerts.iter();
            self.told.extend(alerts.map(|alert| (alert.rule.clone(), alert.episode, alert.state)));
        }
        self.book = plan.book;
    }

    /// What must hold of whatever was told.
    fn check(&self, path: &[Happens]) {
        assert!(self.orders.is_sorted_by(|a, b| a < b), "{path:?}: {:?}", self.orders);
        for (place, told) in self.told.iter().enumerate() {
            assert!(!self.told[..place].contains(told), "{path:?}: twice {told:?}");
            let (rule, episode, state) = told;
            if *state == Status::Resolved {
                let fire = (rule.clone(), *episode, Status::Firing);
                assert!(self.told[..place].contains(&fire), "{path:?}: no firing of {told:?}");
            }
            assert!(
                self.audible.contains(&(rule.clone(), *episode)),
                "{path:?}: silenced {told:?}"
            );
        }
    }

    /// When nothing is silenced and time has passed, what is told comes to what fires.
    fn calm_down(&mut self, path: &[Happens]) {
        self.silence.until = Some(self.at);
        for _ in 0..2 {
            self.at = self.at + Duration::from_secs(60);
            self.evaluate(&[]);
        }
        self.check(path);
        let critical = self.firing.iter().any(|alert| alert.rule == "c");
        for alert in &self.firing {
            let told = (alert.rule.clone(), alert.episode, Status::Firing);
            let held = critical && alert.rule == "w";
            assert!(held || self.told.contains(&told), "{path:?}: not told {told:?}");
            assert_eq!(self.book.held.contains_key(&alert.rule), !self.told.contains(&told));
        }
        let open = self.told.iter().filter(|(_, _, state)| *state == Status::Firing);
        for (rule, episode, _) in open {
            let fires = self.firing.iter().any(|a| a.rule == *rule && a.episode == *episode);
            let over = self.told.contains(&(rule.clone(), *episode, Status::Resolved));
            assert_eq!(fires, !over, "{path:?}: {rule} {episode}");
        }
    }
}

#[test]
fn whatever_happens_each_firing_is_told_once_and_its_end_once_behind_it() {
    let mut told = 0;
    for wait in [Duration::ZERO, Duration::from_secs(3)] {
        for code in 0..ALL.len().pow(DEPTH) {
            let mut rest = code;
            let path: Vec<Happens> = (0..DEPTH)
                .map(|_| {
                    let what = ALL[rest % ALL.len()];
                    rest /= ALL.len();
                    what
                })
                .collect();
            let mut world = World::new(wait);
            for what in &path {
                world.happen(*what);
            }
            world.check(&path);
            world.calm_down(&path);
            told += world.told.len();
        }
    }
    assert!(told > 100_000, "{told}");
}

fn run(world: &mut World, path: &[Happens]) -> Vec<String> {
    path.iter().for_each(|what| world.happen(*what));
    let told = world.told.drain(..);
    told.map(|(rule, _, state)| format!("{rule} {}", state.name())).collect()
}

#[test]
fn a_silenced_firing_that_still_fires_is_told_when_the_silence_ends_and_once() {
    let mut world = World::new(Duration::ZERO);
    assert!(run(&mut world, &[Happens::Silence, Happens::Warning, Happens::Time]).is_empty());
    assert_eq!(world.book.held["w"].why, Why::Silence("s".into()));
    assert_eq!(run(&mut world, &[Happens::Silence]), ["w firing"]);
    assert!(run(&mut world, &[Happens::Time, Happens::Silence, Happens::Silence]).is_empty());
    assert_eq!(run(&mut world, &[Happens::Warning]), ["w resolved"]);
}

#[test]
fn the_end_of_what_was_never_told_is_not_told_and_of_what_was_told_is_despite_a_silence() {
    let mut world = World::new(Duration::ZERO);
    let untold = [Happens::Silence, Happens::Warning, Happens::Warning, Happens::Silence];
    assert!(run(&mut world, &untold).is_empty());
    assert!(run(&mut world, &[Happens::Time]).is_empty());
    assert_eq!(run(&mut world, &[Happens::Warning]), ["w firing"]);
    assert_eq!(run(&mut world, &[Happens::Silence, Happens::Warning]), ["w resolved"]);
}

#[test]
fn what_was_held_back_is_told_if_it_still_fires_after_what_held_it_back() {
    let mut world = World::new(Duration::ZERO);
    assert_eq!(run(&mut world, &[Happens::Critical, Happens::Warning]), ["c firing"]);
    assert_eq!(world.book.held["w"].why, Why::Inhibited("c".into()));
    assert_eq!(run(&mut world, &[Happens::Critical]), ["w firing", "c resolved"]);
    assert!(run(&mut world, &[Happens::Time]).is_empty());
}

#[test]
fn what_is_silenced_holds_back_nothing() {
    let mut world = World::new(Duration::ZERO);
    world.silence.rules = "c".into();
    let path = [Happens::Silence, Happens::Critical, Happens::Warning];
    assert_eq!(run(&mut world, &path), ["w firing"]);
    assert_eq!(world.book.held["c"].why, Why::Silence("s".into()));
}

#[test]
fn what_is_critical_does_not_wait_for_its_group_and_takes_it_along() {
    let mut world = World::new(Duration::from_secs(30));
    assert!(run(&mut world, &[Happens::Warning]).is_empty(), "it waits for company");
    assert_eq!(run(&mut world, &[Happens::Critical]), ["w firing", "c firing"]);
    assert_eq!(world.orders.len(), 1, "in one notice");
    assert!(run(&mut world, &[Happens::Warning]).is_empty());
    assert_eq!(run(&mut world, &[Happens::Time]), ["w resolved"]);
}

#[test]
fn what_comes_and_goes_within_an_evaluation_is_told_in_order() {
    let mut world = World::new(Duration::ZERO);
    assert_eq!(run(&mut world, &[Happens::Flap]), ["f firing", "f resolved"]);
    assert_eq!(world.orders.len(), 2);
}

#[test]
fn a_group_of_many_comes_in_notices_of_a_bounded_length() {
    let mut world = World::new(Duration::from_secs(1));
    for n in 0..250 {
        let step = world.turn(&format!("r{n}"), Severity::Warning, true);
        assert_eq!(step.turn, Turn::Fired);
    }
    world.evaluate(&[]);
    assert_eq!(run(&mut world, &[Happens::Time]).len() + 200, 250 + 200);
    assert_eq!(world.orders.len(), 3);
}

#[test]
fn a_maintenance_window_is_quiet_at_its_times_alone() {
    let mut window = silence();
    window.until = None;
    window.window = Some(crate::monitor::notify::Window {
        schedule_expression: "0 3 * * *".into(),
        time_zone: "Europe/Berlin".into(),
        duration_seconds: 3_600,
    });
    for (time, state) in [
        ("2026-07-01T00:59:59Z", SilenceState::Waiting),
        ("2026-07-01T01:00:00Z", SilenceState::Active),
        ("2026-07-01T01:59:59Z", SilenceState::Active),
        ("2026-07-01T02:00:00Z", SilenceState::Waiting),
        ("2026-12-01T02:30:00Z", SilenceState::Active),
    ] {
        let at = time.parse().expect("a time");
        assert_eq!(window.state(at), state, "{time}");
    }
}
