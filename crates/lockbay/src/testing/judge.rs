//! Whether a run was as it should be, and whose fault it is if not.

use super::inject::{Boundary, Call, Fault};
use super::report::Run;
use super::run::{Ran, Shape, calls_of};
use crate::saga::{Action, SagaStatus};

/// The run without a fault.
pub(super) fn plain(ran: &Ran) -> Run {
    let mut run = ran.run.clone();
    run.violations.extend(broken_words(&run.trace));
    match run.status {
        Some(SagaStatus::Completed) => run.violations.extend(checked(ran)),
        Some(SagaStatus::Compensated) => {
            run.violations.push("the saga does not complete even without a fault".into());
            run.violations.extend(not_undone(ran));
        }
        Some(status) => {
            let status = status.name();
            run.violations.push(format!("the saga is {status} even without a fault"));
        }
        None => {}
    }
    run
}

/// A run with a fault, beside the one without.
pub(super) fn under_fault(ran: Ran, plain: &Ran, shape: &Shape) -> Run {
    let mut wrong = ran.run.violations.clone();
    if !ran.happened {
        wrong.push("the kit is wrong: the fault did not happen".into());
    }
    wrong.extend(broken_words(&ran.run.trace));
    match ran.run.status {
        None => {}
        Some(SagaStatus::Completed) => wrong.extend(repeated(&ran, plain)),
        Some(SagaStatus::Compensated) => wrong.extend(not_undone(&ran)),
        Some(SagaStatus::Parked) if may_park(&ran.run.fault, shape) => {}
        Some(SagaStatus::Parked) => wrong.push(parked(&ran)),
        Some(status @ (SagaStatus::Pending | SagaStatus::Running | SagaStatus::Compensating)) => {
            wrong.push(format!("the saga does not end: it is {}", status.name()));
        }
        Some(SagaStatus::Abandoned) => wrong.push("somebody abandoned the saga".into()),
    }
    if ran.run.status.is_some_and(SagaStatus::is_terminal) {
        wrong.extend(checked(&ran));
    }
    let mut run = ran.run;
    run.violations = wrong;
    run
}

fn checked(ran: &Ran) -> Option<String> {
    ran.checked.as_ref().err().map(|error| format!("the world is wrong: {error}"))
}

/// Steps that said that they failed, which means without effect, after they had acted.
fn broken_words(trace: &[Call]) -> Vec<String> {
    let broken = trace.iter().filter(|call| call.failed_after_acting);
    let tell = |call: &Call| {
        let (step, before) = (&call.step, &call.before);
        format!(
            "step {step:?} reported failure after it had acted: the world was {before:?} and had \
             changed; what may have had an effect is unknown, not failed"
        )
    };
    broken.map(tell).collect()
}

/// What a completed saga left that one without a fault does not.
fn repeated(ran: &Ran, plain: &Ran) -> Option<String> {
    if ran.after == plain.after {
        return None;
    }
    let (after, once) = (&ran.after, &plain.after);
    Some(match twice(ran) {
        Some(step) => format!(
            "step {step:?} is not idempotent: executed again under the same key it left {after:?}, \
             and once leaves {once:?}"
        ),
        None => format!("the saga left {after:?}, and without a fault it leaves {once:?}"),
    })
}

/// The step that was, or may have been, executed twice.
fn twice(ran: &Ran) -> Option<&str> {
    if let Some(step) = ran.run.fault.step() {
        return Some(step);
    }
    if let Some(Boundary::BeforeCall(call) | Boundary::AfterCall(call)) = ran.run.fault.boundary() {
        return ran.run.trace.get(call - 1).map(|call| call.step.as_str());
    }
    let again = ran.run.trace.iter().find(|call| {
        call.action == Action::Execute
            && calls_of(&ran.run.trace, Action::Execute, &call.step).count() > 1
    });
    again.map(|call| call.step.as_str())
}

/// What a compensated saga left.
fn not_undone(ran: &Ran) -> Option<String> {
    if ran.after == ran.before {
        return None;
    }
    let (before, after) = (&ran.before, &ran.after);
    Some(match left_behind(ran) {
        Some((step, true)) => format!(
            "step {step:?} is not undone: after its compensation the world is not as it was before \
             the step; in the end it is {after:?}, and was {before:?}"
        ),
        Some((step, false)) => format!(
            "step {step:?} is not undone: it was not compensated, and has changed the world; in \
             the end it is {after:?}, and was {before:?}"
        ),
        None => format!("not everything is undone: the world is {after:?}, and was {before:?}"),
    })
}

/// The step whose effect stays, and whether it was compensated. Undone in reverse, the first one
/// behind which the world is not as it was before that step is the one.
fn left_behind(ran: &Ran) -> Option<(&str, bool)> {
    let trace = &ran.run.trace;
    let seen_after = |at: usize| trace.get(at + 1).map_or(&ran.after, |next| &next.before);
    let executed = trace.iter().rev().filter(|call| call.action == Action::Execute);
    for call in executed {
        let (step, undone) = (call.step.as_str(), Action::Compensate);
        let first = calls_of(trace, Action::Execute, step).next();
        let last = calls_of(trace, undone, step).next_back();
        let before = first.map(|(_, call)| &call.before);
        match last {
            Some((at, _)) if Some(seen_after(at)) != before => return Some((step, true)),
            None => {
                let (at, _) = calls_of(trace, Action::Execute, step).next_back()?;
                if Some(seen_after(at)) != before {
                    return Some((step, false));
                }
            }
            Some(_) => {}
        }
    }
    None
}

/// Past a pivot there is only the way forward, and where that is barred a person is needed.
fn may_park(fault: &Fault, shape: &Shape) -> bool {
    match fault {
        Fault::Crash { .. } | Fault::CrashGoingBack { .. } => {
            shape.steps.iter().any(|step| step.pivot)
        }
        Fault::UndoFailsForNow { .. }
        | Fault::UndoUnknownAfter { .. }
        | Fault::UndoRepeated { .. }
        | Fault::Nothing => false,
        Fault::Fails { step }
        | Fault::FailsForNow { step }
        | Fault::UnknownBefore { step }
        | Fault::UnknownAfter { step }
        | Fault::UnheardThenFails { step }
        | Fault::Repeated { step }
        | Fault::Panics { step } => shape.is_past_pivot(step),
    }
}

fn parked(ran: &Ran) -> String {
    let reason = ran.run.reason.as_deref().unwrap_or("no reason");
    let last = ran.run.trace.last().map(|call| (call.action, call.step.as_str()));
    match last {
        Some((Action::Compensate, step)) => {
            format!("step {step:?} cannot be undone, and the saga needs a person: {reason}")
        }
        _ => format!("the saga needs a person: {reason}"),
    }
}
