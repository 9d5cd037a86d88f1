//! Stories of one saga each: what users of other tools suffer from, and what the exploration found.

use std::time::Duration;

use super::super::{
    Cause, Entry, MAX_TAKEOVERS, Outcome, Phase, SagaStatus, State, StepStatus, Task, Verb,
};
use super::sagas::{Graph, POLICIES, request};
use crate::clock::Timestamp;
use crate::json::Json;
use crate::saga::definition::{Definition, SagaRequest};

/// A saga, its log so far, and the time.
struct Story {
    definition: Definition,
    state: State,
    now: Timestamp,
    log: Vec<(Entry, Timestamp)>,
}

impl Story {
    fn of(request: &SagaRequest) -> Self {
        let definition = Definition::of(request, POLICIES).expect("a saga");
        let now = Timestamp::from_micros(1_000_000_000);
        let state = State::new(&definition, now);
        Story { definition, state, now, log: Vec::new() }
    }

    /// Steps that follow each other, with so many retries.
    fn chain(steps: usize, retries: u32) -> Self {
        Story::of(&request(&chain(steps), retries))
    }

    fn offer(&mut self, entry: Entry) -> bool {
        let taken = self.state.apply(&self.definition, &entry, self.now).is_ok();
        if taken {
            self.log.push((entry, self.now));
        }
        taken
    }

    fn enter(&mut self, entry: Entry) -> &mut Self {
        let shown = format!("{entry:?}");
        assert!(self.offer(entry), "{shown} was refused");
        self
    }

    fn ends(&mut self, task: Task, outcome: Outcome) -> &mut Self {
        let entry = self.judge(task, outcome);
        self.enter(entry)
    }

    fn judge(&self, task: Task, outcome: Outcome) -> Entry {
        self.state.judge(&self.definition, task, outcome, self.now, 0)
    }

    fn done(&mut self, steps: impl IntoIterator<Item = usize>) -> &mut Self {
        for step in steps {
            self.ends(Task::Execute(step), done());
        }
        self
    }

    fn operate(&mut self, verb: Verb) -> &mut Self {
        self.enter(operated(verb))
    }

    fn taken_over(&mut self) -> &mut Self {
        self.enter(Entry::TakenOver { by: "another".into() })
    }

    fn taken_over_too_often(&mut self) -> &mut Self {
        for _ in 0..=MAX_TAKEOVERS {
            self.taken_over();
        }
        self
    }

    fn tasks(&self) -> Vec<Task> {
        self.state.todo(&self.definition, self.now).tasks
    }

    /// Lets the time pass until something is to be done again.
    fn wait(&mut self) -> Duration {
        let at = self.state.todo(&self.definition, self.now).wake_at.expect("it waits");
        let waited = at.since(self.now);
        self.now = at;
        waited
    }

    fn status(&self) -> SagaStatus {
        self.state.status(&self.definition)
    }
}

fn chain(steps: usize) -> Graph {
    (0..steps).map(|at: usize| at.checked_sub(1).into_iter().collect()).collect()
}

fn operated(verb: Verb) -> Entry {
    Entry::Operated { verb, actor: "somebody".into(), reason: "reason".into(), session: None }
}

fn done() -> Outcome {
    Outcome::Done(Json::null())
}

fn failed() -> Outcome {
    Outcome::Failed { error: "failed".into(), may_retry: false }
}

fn busy() -> Outcome {
    Outcome::Failed { error: "busy".into(), may_retry: true }
}

fn unknown() -> Outcome {
    Outcome::Unknown { error: "timed out".into() }
}

fn missing() -> Outcome {
    Outcome::Missing("nobody does this".into())
}

#[test]
fn a_step_that_timed_out_is_undone_although_nobody_knows_its_result() {
    let mut story = Story::chain(2, 0);
    story.done([0]).ends(Task::Execute(1), unknown());
    assert_eq!(story.tasks(), [Task::Undo(1)]);
    assert_eq!(story.state.steps[1].result, None);
    story.ends(Task::Undo(1), done());
    assert_eq!(story.tasks(), [Task::Undo(0)]);
}

#[test]
fn a_later_failure_does_not_clear_the_doubt_about_an_earlier_attempt() {
    let mut story = Story::chain(1, 1);
    story.ends(Task::Execute(0), unknown()).wait();
    story.ends(Task::Execute(0), failed());
    assert_eq!(story.state.step_status(&story.definition, 0), StepStatus::Compensating);
    assert_eq!(story.tasks(), [Task::Undo(0)]);
    story.ends(Task::Undo(0), done());
    assert_eq!(story.status(), SagaStatus::Compensated);
}

#[test]
fn what_ran_when_its_executor_died_is_undone_even_if_it_fails_later() {
    let mut story = Story::chain(1, 0);
    story.taken_over().ends(Task::Execute(0), failed());
    assert_eq!(story.tasks(), [Task::Undo(0)]);
}

#[test]
fn a_step_that_must_not_be_repeated_is_probed_when_its_attempt_is_in_doubt() {
    let mut wish = request(&chain(1), 1);
    wish.steps[0].idempotent = false;
    let mut story = Story::of(&wish);
    story.enter(Entry::Began { step: 0 }).taken_over();
    assert_eq!(story.tasks(), [Task::Probe(0)]);
    story.ends(Task::Probe(0), Outcome::NotDone).wait();
    assert_eq!(story.tasks(), [Task::Execute(0)]);
}

#[test]
fn a_failed_compensation_backs_off_up_to_a_minute_then_parks_and_can_be_resumed() {
    let mut wish = request(&chain(1), 0);
    wish.steps[0].compensation_max_retries = Some(12);
    let mut story = Story::of(&wish);
    story.done([]).ends(Task::Execute(0), unknown());
    let mut pauses = Vec::new();
    for _ in 0..12 {
        story.ends(Task::Undo(0), busy());
        assert_eq!(story.tasks(), []);
        pauses.push(story.wait());
        assert_eq!(story.tasks(), [Task::Undo(0)]);
    }
    assert!(pauses.is_sorted() && pauses[0] >= Duration::from_millis(100));
    assert_eq!(pauses.last(), Some(&Duration::from_secs(30)), "half a minute to a whole one");
    story.ends(Task::Undo(0), busy());
    assert_eq!((story.status(), story.tasks()), (SagaStatus::Parked, vec![]));
    story.operate(Verb::Resume);
    assert_eq!(story.tasks(), [Task::Undo(0)]);
    story.ends(Task::Undo(0), done());
    assert_eq!(story.status(), SagaStatus::Compensated);
}

#[test]
fn a_resumed_compensation_has_its_full_time_again() {
    let mut story = Story::chain(1, 1);
    story.ends(Task::Execute(0), unknown()).operate(Verb::Cancel);
    // Another executor's clock may have been a little ahead: what had not begun is said so.
    story.ends(Task::Execute(0), failed()).ends(Task::Undo(0), failed());
    story.now = story.now + 3 * POLICIES.timeout;
    story.operate(Verb::Resume).ends(Task::Undo(0), busy());
    assert_eq!(story.status(), SagaStatus::Compensating);
    story.wait();
    assert_eq!(story.tasks(), [Task::Undo(0)]);
}

#[test]
fn cancelling_a_deadline_and_an_operators_stop_all_compensate_what_was_done() {
    let cancel = operated(Verb::Cancel);
    for entry in [cancel, Entry::TimedOut] {
        let mut story = Story::chain(3, 0);
        story.done([0, 1]).enter(entry);
        assert_eq!(story.tasks(), [], "the step in flight is waited for");
        story.ends(Task::Execute(2), failed());
        assert_eq!(story.tasks(), [Task::Undo(1)]);
        story.ends(Task::Undo(1), done()).ends(Task::Undo(0), done());
        assert_eq!(story.status(), SagaStatus::Compensated);
    }
    let mut story = Story::chain(2, 0);
    story.done([0]).ends(Task::Execute(1), missing());
    assert_eq!(story.status(), SagaStatus::Parked);
    story.operate(Verb::Cancel);
    assert_eq!(story.tasks(), [Task::Undo(0)]);
}

#[test]
fn the_deadline_turns_a_saga_around_by_itself() {
    let mut story = Story::chain(2, 0);
    story.done([0]);
    story.now = story.now + POLICIES.timeout;
    assert_eq!(story.tasks(), [Task::TimeOut]);
    story.ends(Task::TimeOut, done()).ends(Task::Execute(1), failed());
    assert!(matches!(story.state.turned, Some((Cause::TimedOut, _))));
    assert_eq!(story.tasks(), [Task::Undo(0)]);
}

/// The store refuses a dead executor's commits by revision; this is what holds without it.
#[test]
fn what_a_dead_executor_says_after_a_takeover_is_refused_or_settles_no_doubt() {
    let mut story = Story::chain(2, 1);
    let late = [done(), failed(), unknown()].map(|end| story.judge(Task::Execute(0), end));
    story.taken_over();
    let mut heard = Story { log: Vec::new(), state: story.state.clone(), ..Story::chain(2, 1) };
    heard.enter(late[1].clone());
    assert_eq!(heard.tasks(), [Task::Undo(0)], "its failure does not mean that nothing was done");
    story.done([0]);
    for entry in &late {
        assert!(!story.offer(entry.clone()), "{entry:?} comes after the step is done");
    }
    story.operate(Verb::Cancel).ends(Task::Execute(1), failed());
    story.ends(Task::Undo(0), done());
    for entry in &late {
        assert!(!story.offer(entry.clone()), "{entry:?} comes after the end");
    }
}

#[test]
fn a_step_that_went_on_is_not_parked_by_what_a_dead_executor_says() {
    let mut story = Story::chain(2, 1);
    let late = story.judge(Task::Execute(0), missing());
    story.taken_over().done([0]);
    assert!(!story.offer(late));
    assert_eq!(story.tasks(), [Task::Execute(1)]);
}

#[test]
fn every_state_that_is_no_end_has_a_verb_of_its_own() {
    let running = Story::chain(2, 1);
    let mut parked = Story::chain(2, 1);
    parked.ends(Task::Execute(0), missing());
    let mut given_up = Story::chain(2, 1);
    given_up.taken_over_too_often().ends(Task::GiveUp, done());
    let mut back = Story::chain(2, 1);
    back.done([0]).operate(Verb::Cancel).ends(Task::Execute(1), failed());
    let mut back_parked = Story::chain(2, 1);
    back_parked.done([0]).operate(Verb::Cancel).ends(Task::Execute(1), failed());
    back_parked.ends(Task::Undo(0), missing());
    let skip = Verb::Skip { step: 0 };
    let cases = [
        (running, vec![Verb::Cancel]),
        (parked, vec![Verb::Resume, Verb::Cancel, skip.clone()]),
        (given_up, vec![Verb::Resume, Verb::Cancel]),
        (back, vec![]),
        (back_parked, vec![Verb::Resume, skip]),
    ];
    for (story, verbs) in cases {
        for verb in verbs.into_iter().chain([Verb::Abandon]) {
            let mut state = story.state.clone();
            let entry = operated(verb);
            assert!(state.apply(&story.definition, &entry, story.now).is_ok(), "{entry:?}");
            let todo = state.todo(&story.definition, story.now);
            let ended = state.status(&story.definition).is_terminal();
            let waits = state.steps.iter().any(super::super::StepState::is_unsettled);
            assert!(ended || waits || !todo.tasks.is_empty(), "{entry:?} leads nowhere");
        }
    }
}

#[test]
fn a_saga_that_was_given_up_goes_back_when_it_is_cancelled() {
    let mut story = Story::chain(2, 1);
    story.done([0]).taken_over_too_often();
    assert_eq!(story.tasks(), [Task::GiveUp]);
    story.ends(Task::GiveUp, done()).operate(Verb::Cancel);
    assert_eq!(story.tasks(), [Task::Undo(1)], "what may have run at the last takeover");
}

#[test]
fn every_beginning_of_a_log_can_be_recovered_and_led_to_an_end() {
    let mut story = Story::of(&request(&vec![vec![], vec![0], vec![0], vec![1, 2]], 1));
    story.done([0]).ends(Task::Execute(2), unknown()).ends(Task::Execute(1), busy());
    story.taken_over().wait();
    story.done([1, 2]).ends(Task::Execute(3), failed());
    story.ends(Task::Undo(1), missing()).ends(Task::Undo(2), busy()).operate(Verb::Resume);
    story.ends(Task::Undo(2), done()).ends(Task::Undo(1), done()).ends(Task::Undo(0), done());
    assert_eq!(story.status(), SagaStatus::Compensated);
    for length in 0..story.log.len() {
        let mut again = Story::of(&request(&vec![vec![], vec![0], vec![0], vec![1, 2]], 1));
        for (entry, at) in &story.log[..length] {
            let text = serde_json::to_string(entry).expect("an entry is JSON");
            again.now = *at;
            again.enter(serde_json::from_str(&text).expect("what was written is read"));
        }
        again.taken_over();
        let parked = again.status() == SagaStatus::Parked;
        if parked {
            again.operate(Verb::Resume);
        }
        while !again.status().is_terminal() {
            if again.tasks().is_empty() {
                again.wait();
            }
            let task = again.tasks()[0];
            again.ends(task, done());
        }
        let turned = again.state.turned.is_some();
        let end = if turned { SagaStatus::Compensated } else { SagaStatus::Completed };
        assert_eq!(again.status(), end, "after {length} entries");
    }
}

#[test]
fn parallel_steps_are_undone_before_what_they_depend_on_and_side_by_side() {
    let mut story = Story::of(&request(&vec![vec![], vec![0], vec![0], vec![1, 2], vec![0]], 0));
    story.done([0, 2, 1, 3]).ends(Task::Execute(4), failed());
    assert_eq!(story.tasks(), [Task::Undo(3)]);
    story.ends(Task::Undo(3), done());
    assert_eq!(story.tasks(), [Task::Undo(1), Task::Undo(2)]);
    story.ends(Task::Undo(2), done());
    assert_eq!(story.tasks(), [Task::Undo(1)], "step 0 waits for both");
    story.ends(Task::Undo(1), done());
    assert_eq!(story.tasks(), [Task::Undo(0)]);
}

#[test]
fn a_compensation_has_all_its_retries_when_the_step_has_used_its_own() {
    let mut story = Story::chain(1, 1);
    story.ends(Task::Execute(0), unknown()).wait();
    story.ends(Task::Execute(0), unknown());
    assert_eq!(story.tasks(), [Task::Undo(0)]);
    story.ends(Task::Undo(0), busy());
    assert_eq!(story.status(), SagaStatus::Compensating, "one retry is left");
    story.wait();
    story.ends(Task::Undo(0), busy());
    assert_eq!(story.status(), SagaStatus::Parked);
    assert_eq!((story.state.steps[0].attempts, story.state.steps[0].undo_attempts), (2, 2));
}

#[test]
fn a_missing_compensation_parks_the_saga_and_is_never_called_compensated() {
    let mut story = Story::chain(2, 0);
    story.done([0]).ends(Task::Execute(1), failed()).ends(Task::Undo(0), missing());
    assert_eq!(story.status(), SagaStatus::Parked);
    assert_eq!(story.state.step_status(&story.definition, 0), StepStatus::Parked);
    story.operate(Verb::Resume).ends(Task::Undo(0), missing());
    assert_eq!(story.status(), SagaStatus::Parked);
    story.operate(Verb::ResolveUndone { step: 0 });
    assert_eq!(story.status(), SagaStatus::Compensated, "now somebody has said so");
}

#[test]
fn a_pivot_in_doubt_that_is_passed_over_still_bars_the_way_back() {
    let mut wish = request(&chain(3), 0);
    wish.steps[1].pivot = true;
    let mut story = Story::of(&wish);
    story.done([0]).enter(Entry::Began { step: 1 }).ends(Task::Execute(1), unknown());
    assert_eq!(story.status(), SagaStatus::Parked);
    story.operate(Verb::Skip { step: 1 });
    assert!(!story.offer(operated(Verb::Cancel)));
    assert!(!story.offer(Entry::TimedOut));
    story.done([2]);
    assert_eq!(story.status(), SagaStatus::Completed);
}

#[test]
fn what_runs_beside_a_step_that_parks_past_a_pivot_is_still_heard() {
    let mut wish = request(&vec![vec![], vec![0], vec![0]], 0);
    wish.steps[0].pivot = true;
    let mut story = Story::of(&wish);
    story.enter(Entry::Began { step: 0 }).done([0]).ends(Task::Execute(1), failed());
    assert_eq!(story.status(), SagaStatus::Parked);
    story.done([2]);
    assert_eq!(story.state.steps[2].phase, Phase::Done);
}

#[test]
fn a_probe_in_flight_is_heard_before_its_step_is_undone() {
    let mut wish = request(&chain(1), 1);
    wish.steps[0].idempotent = false;
    let mut story = Story::of(&wish);
    story.enter(Entry::Began { step: 0 }).taken_over();
    story.operate(Verb::Cancel);
    assert_eq!(story.tasks(), []);
    story.ends(Task::Probe(0), Outcome::NotDone);
    assert_eq!(story.status(), SagaStatus::Compensated, "there is nothing to undo");
}

#[test]
fn a_retry_that_never_began_is_not_waited_for_when_its_saga_turns_around() {
    let mut story = Story::of(&request(&vec![vec![], vec![]], 1));
    story.ends(Task::Execute(0), missing()).ends(Task::Execute(1), busy());
    story.now = story.now + Duration::from_secs(1);
    story.operate(Verb::ResolveUndone { step: 0 });
    assert_eq!(story.status(), SagaStatus::Compensated);
}

#[test]
fn a_step_that_is_undone_is_not_tried_again() {
    let mut wish = request(&vec![vec![], vec![]], 1);
    wish.steps[1].max_retries = Some(0);
    let mut story = Story::of(&wish);
    story.done([0]).ends(Task::Execute(1), unknown()).ends(Task::Undo(0), busy());
    story.wait();
    story.ends(Task::Undo(0), done());
    assert!(!story.offer(operated(Verb::Retry { step: 0, parameters: None })));
    assert_eq!(story.tasks(), [Task::Undo(1)]);
}
