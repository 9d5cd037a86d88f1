//! The rules that come with LockBay: on leader, jobs, sagas, cleanup and store, the invariants, and
//! the burn of error budgets.
//!
//! Each can be replaced by a rule of its name, or deleted. Each has a heading under *Runbooks* in
//! `docs/operations.md`.

use super::rule::{DivideBy, Operator, Origin, Rule};
use super::{Severity, burn, invariant};
use crate::metrics::{self, Type};

/// So long a gauge must be well before its alert resolves: an instance that just began, and a
/// leader that is new, has not looked yet and says zero.
const SETTLED_SECONDS: u32 = 60;

/// All of them.
pub fn rules() -> Vec<Rule> {
    let mut rules = usual();
    rules.extend(invariant::rules());
    rules.extend(burn::OBJECTIVES.iter().flat_map(burn::rules));
    for rule in &mut rules {
        rule.origin = Origin::BuiltIn;
        if metrics::find(&rule.metric_path).is_some_and(|of| of.kind == Type::Gauge) {
            let longer = rule.keep_firing_for_seconds.max(SETTLED_SECONDS);
            rule.keep_firing_for_seconds = longer;
        }
        rule.runbook = Some(format!("docs/operations.md#{}", rule.name));
    }
    rules
}

/// A rule of a part, described.
pub(super) fn rule(
    name: &str,
    path: &str,
    condition: (Operator, f64),
    minutes: u32,
    (severity, part): (Severity, &str),
    description: &str,
) -> Rule {
    Rule {
        description: Some(description.into()),
        labels: [("group".to_owned(), part.to_owned())].into(),
        ..Rule::new(name, path, condition, minutes, severity)
    }
}

#[rustfmt::skip]
fn usual() -> Vec<Rule> {
    let above = |threshold: f64| (Operator::Above, threshold);
    let (warning, error) = (Severity::Warning, Severity::Error);
    let per = |by: &str, minimum: f64| Some(DivideBy { metric_path: by.into(), minimum });
    let jobs_fail = rule("high_job_failure_rate", "job_idempotency_metrics.jobs_failed", above(0.1), 10, (error, "jobs"), "more than a tenth of the attempts of jobs failed");
    let jobs_slow = rule("jobs_slow", "job_idempotency_metrics.job_seconds.p95", above(60.0), 15, (warning, "jobs"), "one job in twenty takes more than a minute");
    let sagas_fail = rule("high_saga_failure_rate", "saga_metrics.sagas_failed", above(0.1), 10, (error, "sagas"), "more than a tenth of the sagas turned around");
    let unhealthy = rule("instance_unhealthy", "system_metrics.healthy", (Operator::Below, 1.0), 1, (error, "system"), "an instance is not healthy");
    let store_slow = rule("store_slow", "system_metrics.store_round_trip_seconds.p95", above(0.5), 10, (warning, "store"), "one round trip to the store in twenty takes more than half a second");
    let near_limit = rule("requests_near_limit", "system_metrics.requests_in_flight", above(0.8), 5, (warning, "system"), "nearly as many requests are served at once as may be");
    vec![
        rule("leader_flapping", "system_metrics.leader_elections", above(3.0), 10, (warning, "leader"), "leadership changed hands often"),
        rule("renewals_failing", "system_metrics.renewal_errors", above(5.0), 5, (warning, "leader"), "renewals of leases and claims get no answer"),
        Rule { divide_by: per("job_idempotency_metrics.jobs_claimed", 20.0), ..jobs_fail },
        Rule { for_seconds: 120, ..jobs_slow },
        Rule { divide_by: per("saga_metrics.sagas_started", 20.0), ..sagas_fail },
        rule("steps_in_doubt", "saga_metrics.steps_unknown", above(20.0), 10, (warning, "sagas"), "the outcome of many steps is unknown"),
        rule("cleanup_errors", "cleanup_metrics.total_errors", above(10.0), 60, (warning, "cleanup"), "cleanup could not read, judge or delete"),
        rule("ticks_failing", "schedule_metrics.ticks_failed", above(2.0), 60, (warning, "schedules"), "ticks of schedules failed for good"),
        Rule { for_seconds: 60, keep_firing_for_seconds: 120, ..unhealthy },
        rule("notifications_failing", "system_metrics.notification_failures", above(5.0), 10, (error, "notifications"), "a channel does not take notices of alerts"),
        rule("store_errors", "system_metrics.store_errors", above(3.0), 5, (error, "store"), "health checks get no answer from the store"),
        Rule { for_seconds: 120, ..store_slow },
        Rule { for_seconds: 120, divide_by: per("system_metrics.max_in_flight", 0.0), ..near_limit },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_shipped_rule_can_be_meant_and_has_its_own_name() {
        let rules = rules();
        rules.iter().for_each(|rule| rule.check().unwrap_or_else(|e| panic!("{}: {e}", rule.name)));
        let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names.len(), rules.len());
    }
}
