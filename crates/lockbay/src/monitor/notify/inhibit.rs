//! Inhibition: what need not be told because it follows from something worse that is told already.
//!
//! Rules on what must never be are not held back by a worse alert of their group: each needs a
//! person, whatever else fires. An alert can only be held back by one that ranks above it, so that of all that fires the highest
//! is never held back, however rules and severities are combined.

use crate::monitor::alert::invariant::is_invariant;
use crate::monitor::alert::{Firing, Severity};

/// Alerts whose consequences are not told while they fire, the most fundamental first.
struct Cause {
    rule: &'static str,
    /// Which rules follow from it, by their names or how these begin.
    holds_back: &'static [&'static str],
    #[allow(dead_code)] // for whoever reads this table
    because: &'static str,
}

const CAUSES: &[Cause] = &[
    Cause {
        rule: "store_rolled_back",
        holds_back: &[
            "store_errors",
            "store_slow",
            "no_leader",
            "leader_flapping",
            "renewals_failing",
            "rights_lost",
            "claims_unserved",
            "sagas_orphaned",
            "schedule_stuck",
            "ticks_failing",
            "steps_in_doubt",
            "cleanup_errors",
            "instance_unhealthy",
            "jobs_slow",
            "high_job_*",
            "high_saga_*",
            "saga_success_*",
            "job_success_*",
        ],
        because: "effects are halted, so whatever waits for a commit fails or stands still; money \
                  and parked sagas are told all the same",
    },
    Cause {
        rule: "store_errors",
        holds_back: &[
            "store_slow",
            "no_leader",
            "leader_flapping",
            "renewals_failing",
            "rights_lost",
            "claims_unserved",
            "sagas_orphaned",
            "schedule_stuck",
            "cleanup_errors",
            "instance_unhealthy",
        ],
        because: "the store does not answer those who have to ask it",
    },
    Cause {
        rule: "no_leader",
        holds_back: &["leader_flapping", "schedule_stuck", "cleanup_errors"],
        because: "only a leader begins ticks and cleans up",
    },
];

/// The rule of an alert that holds this one back, if there is one among those that are told.
pub(super) fn inhibitor<'a>(
    held: &Firing,
    group: &str,
    told: impl IntoIterator<Item = &'a Firing>,
) -> Option<&'a str> {
    let holds = |cause: &&Firing| rank(cause) > rank(held) && follows(held, group, cause);
    told.into_iter().find(holds).map(|cause| cause.rule.as_str())
}

/// Whether one follows from the other, were it of a lower rank.
fn follows(held: &Firing, group: &str, cause: &Firing) -> bool {
    let worse = cause.severity == Severity::Critical && held.severity < Severity::Critical;
    let same_group = super::plan::group_of(cause) == group;
    (worse && same_group && !is_invariant(&held.rule))
        || CAUSES.iter().any(|known| known.rule == cause.rule && covers(known, &held.rule))
}

fn covers(cause: &Cause, rule: &str) -> bool {
    let names = |pattern: &str| match pattern.strip_suffix('*') {
        Some(beginning) => rule.starts_with(beginning),
        None => rule == pattern,
    };
    cause.rule != rule && cause.holds_back.iter().any(|pattern| names(pattern))
}

/// Severity first, then the place in the table from its end.
fn rank(alert: &Firing) -> (Severity, usize) {
    let place = CAUSES.iter().position(|known| known.rule == alert.rule);
    (alert.severity, place.map_or(0, |place| CAUSES.len() - place))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::Timestamp;
    use crate::monitor::notify::plan::group_of;

    fn firing(rule: &str, severity: Severity, group: Option<&str>) -> Firing {
        let labels = group.map(|group| ("group".to_owned(), group.to_owned()));
        Firing {
            rule: rule.into(),
            severity,
            labels: labels.into_iter().collect::<BTreeMap<_, _>>(),
            since: Timestamp::default(),
            episode: 1,
            value: None,
            summary: String::new(),
        }
    }

    fn held<'a>(rule: &str, all: &'a [Firing]) -> Option<&'a str> {
        let alert = all.iter().find(|alert| alert.rule == rule).unwrap();
        inhibitor(alert, &group_of(alert), all)
    }

    #[test]
    fn a_critical_alert_holds_back_the_less_severe_of_its_group_alone() {
        let all = [
            firing("a", Severity::Critical, Some("g")),
            firing("b", Severity::Error, Some("g")),
            firing("c", Severity::Error, Some("h")),
            firing("d", Severity::Critical, Some("g")),
            firing("e", Severity::Info, None),
        ];
        assert_eq!(held("b", &all), Some("a"));
        for told in ["a", "c", "d", "e"] {
            assert_eq!(held(told, &all), None, "{told}");
        }
    }

    #[test]
    fn what_needs_a_person_is_told_whatever_else_of_its_group_fires() {
        let shipped = crate::monitor::alert::builtin::rules();
        let of = |rule: &str| shipped.iter().find(|known| known.name == rule).unwrap();
        let fires = |rule: &str| {
            firing(rule, of(rule).severity, of(rule).labels.get("group").map(String::as_str))
        };
        let all =
            ["saga_success_burn_fast", "sagas_orphaned", "saga_parked", "high_saga_failure_rate"]
                .map(fires);
        assert_eq!(held("saga_parked", &all), None);
        assert_eq!(held("high_saga_failure_rate", &all), Some("saga_success_burn_fast"));
    }

    #[test]
    fn a_store_that_was_set_back_holds_back_what_follows_from_it_and_nothing_else() {
        let all = [
            firing("high_job_failure_rate", Severity::Critical, Some("jobs")),
            firing("store_rolled_back", Severity::Critical, Some("store")),
            firing("no_leader", Severity::Critical, Some("leader")),
            firing("ledger_unbalanced", Severity::Critical, Some("ledger")),
            firing("own", Severity::Critical, None),
        ];
        assert_eq!(held("high_job_failure_rate", &all), Some("store_rolled_back"));
        assert_eq!(held("no_leader", &all), Some("store_rolled_back"));
        for told in ["store_rolled_back", "ledger_unbalanced", "own"] {
            assert_eq!(held(told, &all), None, "{told}");
        }
    }

    #[test]
    fn every_rule_of_the_table_is_shipped() {
        let shipped = crate::monitor::alert::builtin::rules();
        for cause in CAUSES {
            assert!(!cause.because.is_empty());
            for pattern in cause.holds_back.iter().chain([&cause.rule]) {
                let known = shipped.iter().any(|rule| match pattern.strip_suffix('*') {
                    Some(beginning) => rule.name.starts_with(beginning),
                    None => rule.name == *pattern,
                });
                assert!(known, "there is no rule {pattern}");
            }
        }
    }

    #[test]
    fn of_whatever_fires_at_least_one_is_told() {
        let rules = ["store_rolled_back", "no_leader", "leader_flapping", "schedule_stuck", "own"];
        let mut cases = 0;
        // Every set of rules, every severity of each, all in one group or each in its own.
        for code in 0..5usize.pow(5) * 2 {
            let group = (code % 2 == 1).then_some("g");
            let mut rest = code / 2;
            let mut all = Vec::new();
            for rule in rules {
                if let Some(severity) = Severity::ALL.get(rest % 5) {
                    all.push(firing(rule, *severity, group));
                }
                rest /= 5;
            }
            let told = all.iter().filter(|alert| held(&alert.rule, &all).is_none()).count();
            assert!(all.is_empty() || told > 0, "{all:?}");
            cases += 1;
        }
        assert_eq!(cases, 6_250);
    }
}
