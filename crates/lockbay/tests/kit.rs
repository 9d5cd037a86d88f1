//! The kit for users' own sagas: our own sagas hold under it, and broken ones are caught by name.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;
use std::sync::Arc;

use lockbay::ledger::{Amount, Currency, UserId};
use lockbay::saga::{
    SagaRequest, SagaStatus, Started, StepContext, StepError, StepOutput, StepSpec, step_fn,
};
use lockbay::testing::{Boundary, Fault, Report, SagaKit, SagaWorld};
use lockbay::{Json, LockBay, Result};
use parking_lot::Mutex;

/// A financial saga, on accounts with something in them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finance {
    Escrow,
    Release,
    Refund,
    Cashout,
}

fn usd(text: &str) -> Amount {
    Amount::parse(text, Currency::parse("USD").unwrap()).unwrap()
}

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

/// Lets a saga of the preparation come to its end.
async fn ends(bay: &LockBay, started: &Started) -> Result<()> {
    while !bay.sagas().status(&started.saga_id).await?.is_terminal() {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[async_trait::async_trait]
impl SagaWorld for Finance {
    fn register(&self, _: &LockBay) -> Result<()> {
        Ok(())
    }

    async fn prepare(&self, bay: &LockBay) -> Result<()> {
        for id in ["ann", "bob"] {
            bay.ledger().deposit(&user(id), &usd("100.00"), id).await?;
        }
        if matches!(self, Finance::Release | Finance::Refund) {
            let (ann, bob, key) = (user("ann"), user("bob"), Some("escrow".to_owned()));
            let escrow = bay.finance().escrow(&ann, &bob, &usd("30.00"), key).await?;
            ends(bay, &escrow).await?;
        }
        Ok(())
    }

    async fn start(&self, bay: &LockBay) -> Result<Started> {
        let (finance, ann, amount) = (bay.finance(), user("ann"), usd("30.00"));
        let key = Some("escrow".to_owned());
        if *self == Finance::Cashout {
            return finance.cashout(&ann, &amount, "iban", None).await;
        }
        let escrow = finance.escrow(&ann, &user("bob"), &amount, key).await?;
        match self {
            Finance::Release => finance.release(&escrow.saga_id, None).await,
            Finance::Refund => finance.refund(&escrow.saga_id, None).await,
            Finance::Escrow | Finance::Cashout => Ok(escrow),
        }
    }

    async fn observe(&self, bay: &LockBay) -> Result<String> {
        let mut seen = Vec::new();
        for id in ["ann", "bob"] {
            let balance = bay.ledger().balance(&user(id), Currency::parse("USD")?).await?;
            seen.push(format!("{id} {} and {} held", balance.available, balance.held));
        }
        Ok(seen.join(", "))
    }

    async fn check(&self, bay: &LockBay, _: SagaStatus) -> Result<(), String> {
        let trial = bay.ledger().trial_balance().await.map_err(|error| error.to_string())?;
        let wrong = bay.ledger().recount().await.map_err(|error| error.to_string())?;
        if trial.balanced() && wrong.is_empty() { Ok(()) } else { Err(format!("{trial:?}")) }
    }
}

fn holds(finance: Finance) {
    let report = SagaKit::new(move || finance).run();
    report.assert_ok();
    // Every kind of fault was there.
    let crashes = report.runs.iter().filter(|run| matches!(run.fault, Fault::Crash { .. }));
    assert!(crashes.count() >= 6, "{}", report.runs.len());
    for kind in ["fails for good", "unheard", "executed twice", "panics", "compensated twice"] {
        assert!(report.runs.iter().any(|run| run.fault.to_string().contains(kind)), "no {kind}");
    }
}

#[test]
fn the_escrow_saga_holds_under_every_fault() {
    holds(Finance::Escrow);
}

#[test]
fn the_release_saga_holds_under_every_fault() {
    holds(Finance::Release);
}

#[test]
fn the_refund_saga_holds_under_every_fault() {
    holds(Finance::Refund);
}

#[test]
fn the_cashout_saga_holds_under_every_fault() {
    holds(Finance::Cashout);
}

/// How a step of a made-up saga is broken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Break {
    Nothing,
    ActsTwice,
    UndoesNothing,
    UndoesTwice,
    NeedsItsResult,
    FailsAfterActing,
    HasNoCompensation,
}

/// Three counters, each moved by a step.
#[derive(Clone)]
struct Counters {
    counts: Arc<Mutex<BTreeMap<String, i64>>>,
    done: Arc<Mutex<BTreeMap<String, bool>>>,
    broken: (&'static str, Break),
    graph: bool,
}

impl Counters {
    fn breaks(&self, step: &str) -> Break {
        if self.broken.0 == step { self.broken.1 } else { Break::Nothing }
    }

    fn execute(&self, context: &StepContext) -> Result<StepOutput, StepError> {
        let breaks = self.breaks(&context.step);
        let new = self.done.lock().insert(context.idempotency_key.clone(), true) != Some(true);
        if new || breaks == Break::ActsTwice {
            *self.counts.lock().entry(context.step.clone()).or_default() += 1;
        }
        if breaks == Break::FailsAfterActing {
            return Err(StepError::failed("the reply was garbled"));
        }
        Ok(Json::from_value(&context.idempotency_key)?.into())
    }

    fn compensate(&self, context: &StepContext) -> Result<StepOutput, StepError> {
        let breaks = self.breaks(&context.step);
        if breaks == Break::HasNoCompensation {
            return Err(StepError::missing("there is none"));
        }
        let key = match (&context.original_result, breaks) {
            (Some(result), Break::NeedsItsResult) => result.to_value()?,
            (None, Break::NeedsItsResult) => return Ok(StepOutput::default()),
            _ => context.idempotency_key.clone(),
        };
        let there = self.done.lock().insert(key, false) == Some(true);
        if there && breaks != Break::UndoesNothing || breaks == Break::UndoesTwice {
            *self.counts.lock().entry(context.step.clone()).or_default() -= 1;
        }
        Ok(StepOutput::default())
    }
}

#[async_trait::async_trait]
impl SagaWorld for Counters {
    fn register(&self, bay: &LockBay) -> Result<()> {
        let (forward, back) = (self.clone(), self.clone());
        let step = step_fn(
            move |context: StepContext| std::future::ready(forward.execute(&context)),
            move |context: StepContext| std::future::ready(back.compensate(&context)),
        );
        bay.sagas().register("count", step)
    }

    async fn start(&self, bay: &LockBay) -> Result<Started> {
        let mut steps: Vec<StepSpec> =
            ["one", "two", "three"].map(|name| StepSpec::new(name, "count", Json::null())).into();
        if self.graph {
            steps[2].depends_on = Some(vec!["one".into()]);
        }
        bay.sagas().start(SagaRequest::new("counters", steps)).await
    }

    async fn observe(&self, _: &LockBay) -> Result<String> {
        let counts = self.counts.lock();
        let moved = counts.iter().filter(|(_, count)| **count != 0);
        Ok(moved.map(|(step, count)| format!("{step}={count}")).collect::<Vec<_>>().join(" "))
    }
}

fn counters(step: &'static str, how: Break, graph: bool) -> Report {
    let new = move || Counters {
        counts: Arc::default(),
        done: Arc::default(),
        broken: (step, how),
        graph,
    };
    SagaKit::new(new).run()
}

#[test]
fn a_sound_saga_holds_whether_its_steps_follow_each_other_or_not() {
    counters("", Break::Nothing, false).assert_ok();
    counters("", Break::Nothing, true).assert_ok();
}

#[test]
fn every_fault_is_tried_with_a_crash_at_every_boundary() {
    let report = counters("", Break::Nothing, false);
    let has = |fault: &Fault| report.runs.iter().any(|run| run.fault == *fault);
    for step in ["one", "two", "three"] {
        let step = step.to_owned();
        assert!(has(&Fault::Fails { step: step.clone() }));
        assert!(has(&Fault::UnknownBefore { step: step.clone() }));
        assert!(has(&Fault::UnknownAfter { step: step.clone() }));
        assert!(has(&Fault::UndoRepeated { step }));
    }
    for call in 1..=3 {
        assert!(has(&Fault::Crash { at: Boundary::BeforeCall(call) }));
        assert!(has(&Fault::Crash { at: Boundary::AfterCall(call) }));
        assert!(has(&Fault::Crash { at: Boundary::AfterEntry(call as u64) }));
    }
    // Three steps forward and two back.
    assert!(has(&Fault::CrashGoingBack { at: Boundary::AfterCall(5) }));
    assert!(has(&Fault::CrashGoingBack { at: Boundary::AfterEntry(5) }));
    assert!(!has(&Fault::CrashGoingBack { at: Boundary::AfterCall(6) }));
}

/// The report names the step, says this of it, and no other step.
fn caught(step: &'static str, how: Break, says: &str) {
    let report = counters(step, how, false);
    let violations: Vec<String> =
        report.violations().map(|(fault, text)| format!("{fault}: {text}")).collect();
    assert!(violations.iter().any(|text| text.contains(says)), "{violations:#?}");
    for other in ["one", "two", "three"].iter().filter(|other| **other != step) {
        let blamed = format!(": step {other:?}");
        assert!(!violations.iter().any(|text| text.contains(&blamed)), "{violations:#?}");
    }
    // The text is for people: the fault, the violation, and the trace.
    let text = report.to_string();
    assert!(text.contains(says) && text.contains("1. execute one attempt=1 key="), "{text}");
    let failed = std::panic::catch_unwind(|| report.assert_ok());
    assert!(failed.is_err());
}

#[test]
fn a_step_that_acts_twice_is_caught() {
    caught("two", Break::ActsTwice, "step \"two\" is not idempotent");
}

#[test]
fn a_compensation_that_does_nothing_is_caught() {
    caught("one", Break::UndoesNothing, "step \"one\" is not undone");
}

#[test]
fn a_compensation_that_undoes_twice_is_caught() {
    caught("two", Break::UndoesTwice, "step \"two\" is not undone");
}

#[test]
fn a_compensation_that_needs_the_result_is_caught() {
    caught("two", Break::NeedsItsResult, "step \"two\" is not undone");
}

#[test]
fn a_step_that_reports_failure_after_acting_is_caught() {
    caught("three", Break::FailsAfterActing, "step \"three\" reported failure after it had acted");
}

#[test]
fn a_step_without_a_compensation_is_caught() {
    caught("two", Break::HasNoCompensation, "step \"two\" cannot be undone");
}
