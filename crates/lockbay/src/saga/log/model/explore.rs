//! Visits every state that runs of a saga can reach, nearest first, so that the first broken law
//! is shown by a shortest log.

use std::collections::HashMap;
use std::fmt;

use super::super::{Entry, Outcome, SagaStatus, State, Task, Verb};
use super::run::{Effect, Lawful, Run, step_of};
use super::sagas::Saga;
use crate::clock::Timestamp;
use crate::json::Json;

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    sagas: u64,
    states: u64,
    moves: u64,
    completed: u64,
    compensated: u64,
    abandoned: u64,
    parked: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Counts) {
        self.sagas += other.sagas;
        self.states += other.states;
        self.moves += other.moves;
        self.completed += other.completed;
        self.compensated += other.compensated;
        self.abandoned += other.abandoned;
        self.parked += other.parked;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { sagas, states, moves, completed, compensated, abandoned, parked } = self;
        write!(
            f,
            "{sagas} sagas, {states} states ({parked} parked), {moves} moves; ends: {completed} \
             completed, {compensated} compensated, {abandoned} abandoned"
        )
    }
}

/// How a run moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By itself, without a fault.
    Onward,
    /// Because a person came to a saga that waits for one, and did not give it up.
    Helped,
    /// Otherwise.
    Aside,
}

struct Node {
    run: Run,
    parent: usize,
    onward: Vec<usize>,
    helped: Vec<usize>,
}

/// Explores a saga; the error is a broken law and the log that breaks it.
pub(super) fn explore(saga: &Saga) -> Result<Counts, String> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut counts = Counts { sagas: 1, ..Counts::default() };
    let mut first = Run::new(saga);
    first.settle(saga).map_err(|broken| format!("{broken} at the start of {saga:?}"))?;
    seen.insert(first.key(saga), 0);
    nodes.push(Node { run: first, parent: 0, onward: Vec::new(), helped: Vec::new() });
    let mut next = 0;
    while next < nodes.len() {
        let shown = |nodes: &[Node], broken: String| {
            format!("{broken}\nafter {:#?}\nin {saga:?}", history(nodes, next))
        };
        let mut run = nodes[next].run.clone();
        run.entered.clear();
        let found = moves(&run, saga).map_err(|broken| shown(&nodes, broken))?;
        count(&mut counts, &run, saga, found.len());
        if run.flight.len() <= 3 && run.status(saga).is_terminal() {
            replays(&nodes, next, saga).map_err(|broken| shown(&nodes, broken))?;
        }
        for (run, way) in found {
            let at = *seen.entry(run.key(saga)).or_insert(nodes.len());
            if at == nodes.len() {
                nodes.push(Node { run, parent: next, onward: Vec::new(), helped: Vec::new() });
            }
            match way {
                Way::Onward => nodes[next].onward.push(at),
                Way::Helped => nodes[next].helped.push(at),
                Way::Aside => {}
            }
        }
        next += 1;
    }
    if let Some(at) = never_ends(&nodes, saga) {
        return Err(format!("no end is in reach\nafter {:#?}\nin {saga:?}", history(&nodes, at)));
    }
    if let Some(at) = goes_round(&nodes) {
        return Err(format!("it goes round\nafter {:#?}\nin {saga:?}", history(&nodes, at)));
    }
    Ok(counts)
}

fn count(counts: &mut Counts, run: &Run, saga: &Saga, moves: usize) {
    counts.states += 1;
    counts.moves += moves as u64;
    match run.status(saga) {
        SagaStatus::Completed => counts.completed += 1,
        SagaStatus::Compensated => counts.compensated += 1,
        SagaStatus::Abandoned => counts.abandoned += 1,
        SagaStatus::Parked => counts.parked += 1,
        SagaStatus::Pending | SagaStatus::Running | SagaStatus::Compensating => {}
    }
}

fn history(nodes: &[Node], mut at: usize) -> Vec<(Entry, Timestamp)> {
    let mut parts = Vec::new();
    while at != 0 {
        parts.push(&nodes[at].run.entered);
        at = nodes[at].parent;
    }
    parts.push(&nodes[0].run.entered);
    parts.into_iter().rev().flatten().cloned().collect()
}

/// The log, written and read again, folds to the state it came from.
fn replays(nodes: &[Node], at: usize, saga: &Saga) -> Lawful {
    let run = &nodes[at].run;
    let mut state: State = Run::new(saga).state;
    for (entry, at) in history(nodes, at) {
        let text = serde_json::to_string(&entry).map_err(|error| error.to_string())?;
        let read: Entry = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if read != entry {
            return Err(format!("{entry:?} is read as {read:?}"));
        }
        state.apply(&saga.definition, &read, at).map_err(|error| error.to_string())?;
    }
    if state == run.state { Ok(()) } else { Err("the log folds to another state".into()) }
}

/// A state from which no end but giving up can be reached without a fault.
fn never_ends(nodes: &[Node], saga: &Saga) -> Option<usize> {
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (at, node) in nodes.iter().enumerate() {
        node.onward.iter().chain(&node.helped).for_each(|next| before[*next].push(at));
    }
    let mut ends: Vec<bool> =
        nodes.iter().map(|node| node.run.status(saga).is_terminal()).collect();
    let mut open: Vec<usize> = (0..nodes.len()).filter(|at| ends[*at]).collect();
    while let Some(at) = open.pop() {
        for earlier in &before[at] {
            if !std::mem::replace(&mut ends[*earlier], true) {
                open.push(*earlier);
            }
        }
    }
    ends.iter().position(|ends| !ends)
}

/// A state to which a saga that nobody disturbs comes back.
fn goes_round(nodes: &[Node]) -> Option<usize> {
    let mut missing = vec![0_usize; nodes.len()];
    nodes.iter().flat_map(|node| &node.onward).for_each(|next| missing[*next] += 1);
    let mut open: Vec<usize> = (0..nodes.len()).filter(|at| missing[*at] == 0).collect();
    while let Some(at) = open.pop() {
        for next in &nodes[at].onward {
            missing[*next] -= 1;
            if missing[*next] == 0 {
                open.push(*next);
            }
        }
    }
    missing.iter().position(|missing| *missing > 0)
}

/// Everything that can happen next.
pub(super) fn moves(run: &Run, saga: &Saga) -> Lawful<Vec<(Run, Way)>> {
    let mut found = Vec::new();
    if run.status(saga).is_terminal() {
        refuses_everything(run, saga)?;
        return Ok(found);
    }
    starts(run, saga, &mut found)?;
    outcomes(run, saga, &mut found)?;
    if run.faults > 0 {
        takeovers(run, saga, &mut found)?;
    }
    persons(run, saga, &mut found)?;
    time(run, saga, &mut found)?;
    for (run, _) in &mut found {
        run.settle(saga)?;
    }
    Ok(found)
}

type Found = Vec<(Run, Way)>;

fn starts(run: &Run, saga: &Saga, found: &mut Found) -> Lawful {
    for task in run.state.todo(&saga.definition, run.now).tasks {
        if step_of(task).is_some_and(|step| run.flight[step].is_none()) {
            let mut next = run.clone();
            next.start(saga, task)?;
            found.push((next, Way::Onward));
        }
    }
    Ok(())
}

fn outcomes(run: &Run, saga: &Saga, found: &mut Found) -> Lawful {
    for task in run.flight.iter().flatten() {
        for end in run.ends(saga, *task) {
            let way = if end.cost == 0 { Way::Onward } else { Way::Aside };
            let mut next = run.clone();
            let entry = next.judge(saga, *task, end.outcome);
            next.conclude(saga, *task, entry, end.cost, end.effect)?;
            if saga.scope.wide {
                stale(run, &next, saga, found)?;
            }
            found.push((next, way));
        }
    }
    Ok(())
}

/// What was judged just before another entry came is entered after it.
fn stale(before: &Run, after: &Run, saga: &Saga, found: &mut Found) -> Lawful {
    if after.status(saga).is_terminal() {
        return Ok(());
    }
    for task in after.flight.iter().flatten() {
        for end in after.ends(saga, *task) {
            let mut next = after.clone();
            let entry = before.judge(saga, *task, end.outcome);
            next.conclude(saga, *task, entry, end.cost, end.effect)?;
            found.push((next, Way::Aside));
        }
    }
    Ok(())
}

fn takeovers(run: &Run, saga: &Saga, found: &mut Found) -> Lawful {
    let undos = run.flight.iter().flatten().filter(|task| matches!(task, Task::Undo(_)));
    let undos: Vec<usize> = undos.filter_map(|task| step_of(*task)).collect();
    for chosen in some_of(&undos) {
        let mut next = run.clone();
        next.faults -= 1;
        next.lose_flight(&chosen);
        next.enter(saga, Entry::TakenOver { by: "another".into() })?;
        if saga.scope.wide && chosen.is_empty() {
            zombies(run, &next, saga, found)?;
        }
        found.push((next, Way::Aside));
    }
    Ok(())
}

/// None, all and, of a few, each choice.
fn some_of(steps: &[usize]) -> Vec<Vec<usize>> {
    if steps.len() > 3 {
        return vec![Vec::new(), steps.to_vec()];
    }
    let chosen = |bits: usize| {
        let places = (0..steps.len()).filter(move |place| bits & 1 << place != 0);
        places.map(|place| steps[place]).collect()
    };
    (0..1 << steps.len()).map(chosen).collect()
}

/// An executor that was taken over offers what it judged before: refused, or harmless.
fn zombies(before: &Run, after: &Run, saga: &Saga, found: &mut Found) -> Lawful {
    for task in before.flight.iter().flatten() {
        let step = step_of(*task).expect("an attempt is of a step");
        for end in before.ends(saga, *task) {
            let mut next = after.clone();
            if next.offer(saga, before.judge(saga, *task, end.outcome))? {
                next.world[step] = end.effect;
                found.push((next, Way::Aside));
            }
        }
    }
    Ok(())
}

fn persons(run: &Run, saga: &Saga, found: &mut Found) -> Lawful {
    let parked = run.state.is_parked();
    for (verb, answer) in run.verbs() {
        let abandons = verb == Verb::Abandon;
        let unasked = run.visit && (verb == Verb::Cancel || saga.scope.wide);
        if !parked && !unasked {
            continue;
        }
        let entry = |session: Option<String>| Entry::Operated {
            verb: verb.clone(),
            actor: "somebody".into(),
            reason: "reason".into(),
            session,
        };
        let mut next = run.clone();
        next.visit &= parked;
        if saga.scope.wide && run.faults > 0 {
            let mut elsewhere = next.clone();
            elsewhere.faults -= 1;
            elsewhere.lose_flight(&[]);
            if elsewhere.offer(saga, entry(Some("another".into())))? {
                answer.into_iter().for_each(|(step, effect)| elsewhere.world[step] = effect);
                found.push((elsewhere, Way::Aside));
            }
        }
        if !next.offer(saga, entry(None))? {
            continue;
        }
        answer.into_iter().for_each(|(step, effect)| next.world[step] = effect);
        if verb == Verb::Cancel || saga.scope.wide {
            stale(run, &next, saga, found)?;
        }
        found.push((next, if parked && !abandons { Way::Helped } else { Way::Aside }));
    }
    Ok(())
}

fn time(run: &Run, saga: &Saga, found: &mut Found) -> Lawful {
    let parked = run.state.is_parked();
    if let Some(at) = run.next_retry() {
        let waits = run.state.todo(&saga.definition, run.now).wake_at.is_some();
        if waits || parked {
            found.push((Run { now: at, ..run.clone() }, Way::Onward));
        }
    }
    let Some(at) = run.deadline(saga).filter(|_| run.faults > 0) else { return Ok(()) };
    let mut next = Run { now: at, faults: run.faults - 1, ..run.clone() };
    if run.state.todo(&saga.definition, at).tasks == [Task::TimeOut] {
        next.enter(saga, Entry::TimedOut)?;
        stale(run, &next, saga, found)?;
    }
    found.push((next, Way::Aside));
    Ok(())
}

/// After an end nothing is to be done, and nothing is taken.
fn refuses_everything(run: &Run, saga: &Saga) -> Lawful {
    let mut run = run.clone();
    let mut entries = vec![
        Entry::TimedOut,
        Entry::TakenOver { by: "another".into() },
        Entry::Stuck { step: None, why: String::new() },
    ];
    for verb in [Verb::Cancel, Verb::Resume, Verb::Abandon] {
        let (actor, reason) = (String::new(), String::new());
        entries.push(Entry::Operated { verb, actor, reason, session: None });
    }
    for step in 0..run.flight.len() {
        for task in [Task::Execute(step), Task::Undo(step)] {
            let failed = Outcome::Failed { error: String::new(), may_retry: true };
            let unknown = Outcome::Unknown { error: String::new() };
            let missing = Outcome::Missing(String::new());
            for outcome in [Outcome::Done(Json::null()), failed, unknown, missing] {
                entries.push(run.judge(saga, task, outcome));
            }
        }
        entries.push(Entry::Began { step });
    }
    for entry in entries {
        if run.offer(saga, entry)? {
            return Err("taken after the end".into());
        }
    }
    Ok(())
}

impl Run {
    /// Enters how an attempt ended.
    fn conclude(
        &mut self,
        saga: &Saga,
        task: Task,
        entry: Entry,
        cost: u8,
        effect: Effect,
    ) -> Lawful {
        let step = step_of(task).expect("an attempt is of a step");
        self.enter(saga, entry)?;
        self.faults -= cost;
        self.flight[step] = None;
        self.world[step] = effect;
        Ok(())
    }
}
