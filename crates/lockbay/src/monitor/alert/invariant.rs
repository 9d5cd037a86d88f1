//! Rules on what must never be: each is wrong at any count, and each needs a person.

use super::Severity;
use super::builtin::rule;
use super::rule::{Aggregation, Operator, Rule};

/// Whether a rule is one of these, by its name.
pub(in crate::monitor) fn is_invariant(name: &str) -> bool {
    rules().iter().any(|rule| rule.name == name)
}

#[rustfmt::skip]
pub(super) fn rules() -> Vec<Rule> {
    let (critical, error, warning) = (Severity::Critical, Severity::Error, Severity::Warning);
    let any = (Operator::Above, 0.0);
    let orphaned = rule("sagas_orphaned", "saga_metrics.orphaned_seconds", (Operator::Above, 15.0), 1, (critical, "sagas"), "the executor of sagas is gone and nobody goes on with them");
    let vacant = rule("no_leader", "system_metrics.leader_vacant_seconds", (Operator::Above, 30.0), 10, (critical, "leader"), "nobody led for more than half a minute");
    // While the store is halted nothing is judged; so what it was then is seen afterwards.
    let halted = rule("store_rolled_back", "system_metrics.store_halted", any, 10, (critical, "store"), "the store has lost acknowledged data and effects are halted");
    // Until the next leader has taken a trial balance of its own.
    let unbalanced = rule("ledger_unbalanced", "system_metrics.ledger_unbalanced", any, 1, (critical, "ledger"), "the sum of all accounts of a currency is not zero");
    vec![
        rule("saga_parked", "saga_metrics.waiting_sagas", any, 1, (error, "sagas"), "a saga is parked and waits for a person"),
        Rule { for_seconds: 30, ..orphaned },
        rule("stale_claim_used", "job_idempotency_metrics.claims_fenced", any, 10, (error, "fences"), "a job was to be ended under a claim that was gone; the write was refused"),
        rule("rights_lost", "system_metrics.rights_lost", any, 10, (warning, "fences"), "an instance lost a lease or a claim that it held"),
        rule("claims_unserved", "job_idempotency_metrics.unserved_seconds", (Operator::Above, 900.0), 1, (warning, "jobs"), "a lapsed claim of a job waits and nobody claims it again"),
        Rule { aggregation: Some(Aggregation::Max), ..halted },
        rule("store_unsafe", "system_metrics.store_warnings", any, 1, (warning, "store"), "a setting of the store weakens a promise"),
        Rule { keep_firing_for_seconds: 600, ..unbalanced },
        rule("audit_broken", "audit_metrics.audit_broken", any, 1, (critical, "audit"), "the audit trail is not as it was sealed"),
        Rule { aggregation: Some(Aggregation::Max), ..vacant },
        rule("schedule_stuck", "schedule_metrics.schedules_stuck", any, 1, (error, "schedules"), "a schedule stands still because its expression or zone cannot be read"),
        rule("notifications_dead", "system_metrics.notifications_dead", any, 1, (error, "notifications"), "a notice of alerts could not be delivered and is not tried again"),
    ]
}
