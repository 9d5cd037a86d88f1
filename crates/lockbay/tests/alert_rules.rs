//! The engine of alert rules on synthetic series: what fires, what resolves, and when.
//!
//! Most cases are told in the words of test files: a rule, series with a sample each ten seconds,
//! and the moves that must come of it, all of them and no other.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use lockbay::monitor::alert::testfile;

const FAILED: &str = "saga_metrics.sagas_failed";
const STARTED: &str = "saga_metrics.sagas_started";
const RUNNING: &str = "saga_metrics.running_sagas";
const SECONDS: &str = "saga_metrics.step_seconds";

/// A rule named `r` on a path, a condition, a window in minutes, and what else it says.
fn rule(path: &str, operator: &str, threshold: &str, window: u32, more: &str) -> String {
    format!(
        "[[rule]]\nname = \"r\"\nmetric_path = \"{path}\"\noperator = \"{operator}\"\n\
         threshold = {threshold}\nwindow_minutes = {window}\nseverity = \"error\"\n{more}\n"
    )
}

fn on_gauge(more: &str) -> String {
    rule(RUNNING, ">", "5.0", 1, more)
}

fn on_counter(more: &str) -> String {
    rule(FAILED, ">", "5.0", 1, more)
}

/// The differences between what the rules do on these series and the moves and states expected.
fn differences(rules: &str, series: &[(&str, &str)], more: &str) -> Vec<String> {
    let series: String = series
        .iter()
        .enumerate()
        .map(|(at, (path, samples))| {
            let path = path.split('@').next().unwrap();
            format!(
                "[[test.series]]\nmetric_path = \"{path}\"\ninstance = \"i{at}\"\nsamples = \"{samples}\"\n"
            )
        })
        .collect();
    let file = format!("{rules}\n[[test]]\nname = \"case\"\n{more}\n{series}");
    let outcomes = testfile::run(&file).unwrap_or_else(|error| panic!("{error}\n{file}"));
    outcomes.into_iter().flat_map(|outcome| outcome.differences).collect()
}

#[track_caller]
fn moves(rules: &str, series: &[(&str, &str)], moves: &[&str]) {
    with(rules, series, moves, "");
}

#[track_caller]
fn with(rules: &str, series: &[(&str, &str)], moves: &[&str], more: &str) {
    let moves: Vec<String> = moves.iter().map(|one| format!("\"{one} r\"")).collect();
    let more = format!("moves = [{}]\n{more}", moves.join(", "));
    let found = differences(rules, series, &more);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

mod counters {
    use super::*;

    #[test]
    fn the_first_increment_ever_is_seen() {
        moves(
            &rule(FAILED, ">", "0.0", 1, ""),
            &[(FAILED, "0x3 1x8")],
            &["30s fired", "90s resolved"],
        );
    }

    #[test]
    fn a_counter_that_is_born_with_increments_counts_from_zero() {
        moves(&on_counter(""), &[(FAILED, "6x8")], &["0s fired", "60s resolved"]);
    }

    #[test]
    fn a_lifetime_counter_resolves_after_the_window() {
        moves(&on_counter(""), &[(FAILED, "0 6x20")], &["10s fired", "70s resolved"]);
    }

    #[test]
    fn a_lifetime_total_from_before_is_no_increase() {
        let more = "states = [\"100s inactive r\"]";
        let file = "[[test.series]]\nmetric_path = \"saga_metrics.sagas_failed\"\n\
                    born_minutes_before = 60\nsamples = \"5000x20\"";
        let more = format!("moves = []\n{more}\n{file}");
        assert!(differences(&on_counter(""), &[], &more).is_empty());
    }

    #[test]
    fn a_restart_takes_nothing_back_and_adds_nothing() {
        moves(&on_counter(""), &[(FAILED, "0 4x2 reset 0 1x12")], &[]);
    }

    #[test]
    fn increments_before_and_after_a_restart_add_up() {
        moves(&on_counter(""), &[(FAILED, "0 4x2 reset 0 3x12")], &["40s fired", "70s resolved"]);
    }

    #[test]
    fn increments_of_all_instances_add_up() {
        moves(
            &on_counter(""),
            &[(FAILED, "0 3x12"), (FAILED, "0 3x12")],
            &["10s fired", "70s resolved"],
        );
    }

    #[test]
    fn what_an_instance_counted_before_it_went_stays_in_the_window() {
        let series = [(FAILED, "0 6 _x12"), (FAILED, "0x14")];
        moves(&on_counter(""), &series, &["10s fired", "70s resolved"]);
    }

    #[test]
    fn an_increase_just_at_the_threshold_is_not_above_it() {
        moves(&on_counter(""), &[(FAILED, "0 5x12")], &[]);
    }

    #[test]
    fn an_increment_leaves_the_window_exactly_a_window_later() {
        let states = "states = [\"60s firing r\", \"70s resolved r\"]";
        with(&on_counter(""), &[(FAILED, "0 6x12")], &["10s fired", "70s resolved"], states);
    }

    #[test]
    fn a_rate_is_the_increase_per_second_of_the_window() {
        let rule = rule(FAILED, ">=", "0.1", 1, "aggregation = \"rate\"");
        moves(&rule, &[(FAILED, "0 6x12")], &["10s fired", "70s resolved"]);
    }

    #[test]
    fn a_slow_trickle_over_a_long_window_fires() {
        let rule = rule(FAILED, ">", "5.0", 10, "");
        moves(&rule, &[(FAILED, "0x6 1x6 2x6 3x6 4x6 5x6 6x6")], &["360s fired"]);
    }

    #[test]
    fn a_huge_counter_does_not_overflow() {
        let rule = rule(FAILED, ">", "1e18", 1, "");
        let series = [(FAILED, "0 18446744073709551615x9"), (FAILED, "0 18446744073709551615x9")];
        moves(&rule, &series, &["10s fired", "70s resolved"]);
    }
}

mod operators {
    use super::*;

    #[track_caller]
    fn at_equality(operator: &str, fires: bool) {
        let wanted: &[&str] = if fires { &["0s fired"] } else { &[] };
        moves(&rule(RUNNING, operator, "5.0", 1, ""), &[(RUNNING, "5x4")], wanted);
    }

    #[test]
    fn above_does_not_hold_at_equality() {
        at_equality(">", false);
    }

    #[test]
    fn at_least_holds_at_equality() {
        at_equality(">=", true);
    }

    #[test]
    fn below_does_not_hold_at_equality() {
        at_equality("<", false);
    }

    #[test]
    fn at_most_holds_at_equality() {
        at_equality("<=", true);
    }

    #[test]
    fn equal_holds_at_equality() {
        at_equality("==", true);
    }

    #[test]
    fn unequal_does_not_hold_at_equality() {
        at_equality("!=", false);
    }

    #[test]
    fn below_fires_when_a_gauge_falls_under_the_threshold() {
        let rule = rule(RUNNING, "<", "5.0", 1, "");
        moves(&rule, &[(RUNNING, "5x2 4x2 5x2")], &["20s fired", "40s resolved"]);
    }

    #[test]
    fn unequal_fires_on_both_sides() {
        let rule = rule(RUNNING, "!=", "5.0", 1, "");
        let wanted = ["10s fired", "20s resolved", "30s fired", "40s resolved"];
        moves(&rule, &[(RUNNING, "5 4 5 6 5")], &wanted);
    }
}

mod gauges {
    use super::*;

    #[test]
    fn the_last_value_fires_and_resolves_at_once() {
        moves(&on_gauge(""), &[(RUNNING, "0x2 6x2 0x2")], &["20s fired", "40s resolved"]);
    }

    #[test]
    fn the_maximum_holds_for_the_window() {
        let rule = on_gauge("aggregation = \"max\"");
        moves(&rule, &[(RUNNING, "0x2 6 0x10")], &["20s fired", "90s resolved"]);
    }

    #[test]
    fn the_minimum_needs_the_whole_window() {
        let rule = on_gauge("aggregation = \"min\"");
        moves(&rule, &[(RUNNING, "0x2 6x10 0x2")], &["80s fired", "120s resolved"]);
    }

    #[test]
    fn the_average_is_over_time() {
        let rule = on_gauge("aggregation = \"avg\"");
        moves(&rule, &[(RUNNING, "0x7 12x7 0x7")], &["100s fired", "180s resolved"]);
    }

    #[test]
    fn gauges_of_all_instances_come_together_as_their_row_says() {
        moves(&on_gauge(""), &[(RUNNING, "3x3"), (RUNNING, "3x3")], &["0s fired"]);
        let healthy = rule("system_metrics.healthy", "<", "1.0", 1, "");
        let path = "system_metrics.healthy";
        moves(&healthy, &[(path, "1x3"), (path, "1 0 1")], &["10s fired", "20s resolved"]);
    }

    #[test]
    fn the_gauge_of_an_instance_that_is_gone_counts_no_more() {
        let series = [(RUNNING, "6x3 _x6"), (RUNNING, "0x9")];
        moves(&on_gauge(""), &series, &["0s fired", "50s resolved"]);
    }

    #[test]
    fn what_is_no_number_is_not_measured() {
        let states = "states = [\"20s firing r\"]";
        with(&on_gauge(""), &[(RUNNING, "6 nan nan")], &["0s fired"], states);
    }

    #[test]
    fn infinite_values_are_the_largest_numbers() {
        moves(&on_gauge(""), &[(RUNNING, "0 inf 0")], &["10s fired", "20s resolved"]);
    }

    #[test]
    fn negative_values_are_compared_as_such() {
        let rule = rule(RUNNING, "<", "-1.5", 1, "");
        moves(&rule, &[(RUNNING, "0 -2 +1")], &["10s fired", "20s resolved"]);
    }
}

mod histograms {
    use super::*;

    #[test]
    fn the_95th_percentile_is_usual() {
        let rule = rule(SECONDS, ">", "1.0", 1, "");
        moves(&rule, &[(SECONDS, "0.1*95 0.1*0 3*20 0.1*0x8")], &["20s fired", "80s resolved"]);
    }

    #[test]
    fn a_quantile_can_be_asked_for() {
        let slow = "0.1*90 3*8";
        moves(&rule(SECONDS, ">", "1.0", 1, "quantile = 0.5"), &[(SECONDS, slow)], &[]);
        moves(&rule(SECONDS, ">", "1.0", 1, "quantile = 0.99"), &[(SECONDS, slow)], &["10s fired"]);
    }

    #[test]
    fn a_quantile_may_stand_in_the_path() {
        let path = "saga_metrics.step_seconds.p50";
        moves(&rule(path, ">", "1.0", 1, ""), &[(SECONDS, "0.1*9 3*20")], &["10s fired"]);
    }

    #[test]
    fn without_observations_the_condition_does_not_hold() {
        let rule = rule(SECONDS, "<", "1.0", 1, "on_no_data = \"fire\"");
        moves(&rule, &[(SECONDS, "0.1*0x6")], &[]);
    }

    #[test]
    fn the_average_is_over_observations() {
        let rule = rule(SECONDS, ">", "1.0", 1, "aggregation = \"avg\"");
        moves(&rule, &[(SECONDS, "0.5*9 11*1")], &["10s fired"]);
    }

    #[test]
    fn observations_can_be_counted() {
        let rule = rule("saga_metrics.step_seconds.count", ">", "5.0", 1, "");
        moves(&rule, &[(SECONDS, "0.1*0 0.1*6 0.1*0x8")], &["10s fired", "70s resolved"]);
    }

    #[test]
    fn histograms_of_instances_are_merged_before_the_quantile_is_taken() {
        let rule = rule(SECONDS, ">", "1.0", 1, "quantile = 0.5");
        moves(&rule, &[(SECONDS, "0.1*10x2"), (SECONDS, "3*9x2")], &[]);
    }
}

mod waiting {
    use super::*;

    #[test]
    fn a_condition_fires_after_it_held_for_so_long() {
        let states = "states = [\"10s pending r\", \"30s pending r\", \"40s firing r\"]";
        with(&on_gauge("for_seconds = 30"), &[(RUNNING, "0 6x5")], &["40s fired"], states);
    }

    #[test]
    fn a_condition_that_ends_before_does_not_fire() {
        let states = "states = [\"20s pending r\", \"40s inactive r\"]";
        with(&on_gauge("for_seconds = 30"), &[(RUNNING, "0 6x3 0x2")], &[], states);
    }

    #[test]
    fn each_interruption_begins_the_wait_anew() {
        moves(&on_gauge("for_seconds = 20"), &[(RUNNING, "6x2 0 6x2 0 6x3")], &["80s fired"]);
    }

    #[test]
    fn flapping_without_keep_firing_for_tells_each_time() {
        let wanted = ["0s fired", "10s resolved", "20s fired", "30s resolved"];
        moves(&on_gauge(""), &[(RUNNING, "6 0 6 0")], &wanted);
    }

    #[test]
    fn flapping_with_keep_firing_for_tells_once() {
        let rule = on_gauge("keep_firing_for_seconds = 30");
        let states = "states = [\"10s recovering r\", \"20s firing r\"]";
        with(&rule, &[(RUNNING, "6 0 6 0 6 0x5")], &["0s fired", "80s resolved"], states);
    }

    #[test]
    fn cooldown_keeps_it_from_firing_again() {
        let rule = on_gauge("cooldown_minutes = 1");
        let states = "states = [\"30s pending r\", \"40s resolved r\"]";
        with(&rule, &[(RUNNING, "6 0x2 6 0x6")], &["0s fired", "10s resolved"], states);
    }

    #[test]
    fn a_condition_that_still_holds_fires_when_the_cooldown_ends() {
        let rule = on_gauge("cooldown_minutes = 1");
        let wanted = ["0s fired", "10s resolved", "70s fired"];
        moves(&rule, &[(RUNNING, "6 0 6x8")], &wanted);
    }

    #[test]
    fn the_wait_runs_during_the_cooldown() {
        let rule = on_gauge("cooldown_minutes = 1\nfor_seconds = 20");
        let wanted = ["20s fired", "30s resolved", "90s fired"];
        moves(&rule, &[(RUNNING, "6x3 0 6x8")], &wanted);
    }

    #[test]
    fn what_resolved_rests_after_a_while() {
        let states = "states = [\"10s resolved r\", \"300s resolved r\", \"310s inactive r\"]";
        with(&on_gauge(""), &[(RUNNING, "6 0x40")], &["0s fired", "10s resolved"], states);
    }
}

mod missing {
    use super::*;

    const GONE: &str = "6x2 _x6 6";

    #[test]
    fn missing_data_is_ignored_unless_it_is_said_otherwise() {
        let states = "states = [\"70s firing r\"]";
        with(&on_gauge(""), &[(RUNNING, GONE)], &["0s fired"], states);
    }

    #[test]
    fn a_pending_alert_begins_anew_after_ignored_missing_data() {
        let states = "states = [\"30s pending r\", \"50s inactive r\", \"80s pending r\"]";
        with(&on_gauge("for_seconds = 60"), &[(RUNNING, GONE)], &[], states);
    }

    #[test]
    fn missing_data_can_fire() {
        let rule = on_gauge("on_no_data = \"fire\"");
        moves(&rule, &[(RUNNING, "0x2 _x6 0"), (FAILED, "0x9")], &["40s fired", "80s resolved"]);
    }

    #[test]
    fn missing_data_fires_after_the_wait() {
        let rule = on_gauge("on_no_data = \"fire\"\nfor_seconds = 20");
        moves(&rule, &[(RUNNING, "0x2 _x7")], &["60s fired"]);
    }

    #[test]
    fn missing_data_can_resolve() {
        let rule = on_gauge("on_no_data = \"resolve\"");
        moves(&rule, &[(RUNNING, GONE)], &["0s fired", "40s resolved", "80s fired"]);
    }

    #[test]
    fn missing_data_can_keep_everything_as_it_is() {
        let rule = on_gauge("on_no_data = \"keep\"\nfor_seconds = 60");
        // Seen at 0 to 30 s, then nothing: what was counted stays, and nothing is added.
        let states = "states = [\"70s pending r\"]";
        with(&rule, &[(RUNNING, GONE)], &[], states);
    }

    #[test]
    fn a_metric_that_nobody_ever_measured_does_not_fire() {
        moves(&on_gauge(""), &[(FAILED, "0x9")], &[]);
    }

    #[test]
    fn one_instance_that_is_silent_is_no_missing_data() {
        let rule = on_counter("on_no_data = \"fire\"");
        moves(&rule, &[(FAILED, "0x2 _x9"), (FAILED, "0x11")], &[]);
    }

    #[test]
    fn a_lost_sample_is_no_missing_data() {
        let rule = on_gauge("on_no_data = \"fire\"");
        moves(&rule, &[(RUNNING, "0 _ 0 _ 0 _ 0")], &[]);
    }
}

mod ratios {
    use super::*;

    fn ratio(minimum: u32) -> String {
        let by = format!("divide_by = {{ metric_path = \"{STARTED}\", minimum = {minimum}.0 }}");
        rule(FAILED, ">", "0.1", 1, &by)
    }

    #[test]
    fn a_ratio_is_of_two_increases() {
        let series = [(FAILED, "0 2x9"), (STARTED, "0 10x9")];
        moves(&ratio(0), &series, &["10s fired", "70s resolved"]);
    }

    #[test]
    fn a_zero_denominator_does_not_hold() {
        moves(&ratio(0), &[(FAILED, "0 2x9"), (STARTED, "0x10")], &[]);
    }

    #[test]
    fn below_the_minimum_nothing_is_concluded() {
        moves(&ratio(11), &[(FAILED, "0 10x9"), (STARTED, "0 10x9")], &[]);
    }

    #[test]
    fn a_ratio_resolves_when_there_is_nothing_to_divide_by() {
        let series = [(FAILED, "0 2x9"), (STARTED, "0 10x9")];
        let states = "states = [\"70s resolved r\"]";
        with(&ratio(0), &series, &["10s fired", "70s resolved"], states);
    }

    #[test]
    fn a_ratio_without_its_denominator_is_missing_data() {
        let rule = ratio(0) + "on_no_data = \"fire\"\n";
        moves(&rule, &[(FAILED, "0 2x9")], &["0s fired"]);
    }

    #[test]
    fn both_windows_must_hold() {
        let by =
            format!("divide_by = {{ metric_path = \"{STARTED}\" }}\nconfirm_window_minutes = 1");
        let rule = rule(FAILED, ">", "0.1", 5, &by);
        // The long window holds until 190 s; the short one has only what went well from 70 s on.
        let series = [(FAILED, "0 20x18"), (STARTED, "0 +10x18")];
        moves(&rule, &series, &["10s fired", "70s resolved"]);
    }
}

mod shipped {
    use super::*;

    #[test]
    fn a_store_that_was_halted_for_one_check_is_told() {
        let series = [("system_metrics.store_halted", "0x3 1 0x70")];
        let moves =
            "moves = [\"30s fired store_rolled_back\", \"700s resolved store_rolled_back\"]";
        let found = differences("builtin = [\"store_rolled_back\"]\n", &series, moves);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_gauge_that_a_restart_sets_to_zero_resolves_nothing() {
        for (rule, path) in [
            ("saga_parked", "saga_metrics.waiting_sagas"),
            ("schedule_stuck", "schedule_metrics.schedules_stuck"),
            ("notifications_dead", "system_metrics.notifications_dead"),
            ("ledger_unbalanced", "system_metrics.ledger_unbalanced"),
        ] {
            let (rules, moves) =
                (format!("builtin = [\"{rule}\"]\n"), format!("moves = [\"0s fired {rule}\"]"));
            let found = differences(&rules, &[(path, "1x3 0x3 1x9")], &moves);
            assert!(found.is_empty(), "{found:?}");
        }
    }
}

mod burn_rates {
    use super::*;

    /// A test of built-in rules, at an evaluation each minute.
    fn burn(name: &str, failed: &str, started: &str, more: &str) -> Vec<String> {
        let rules = format!("interval = \"60s\"\nbuiltin = [\"{name}\"]\n");
        differences(&rules, &[(FAILED, failed), (STARTED, started)], more)
    }

    #[test]
    fn a_fast_burn_fires_within_minutes_and_resolves_soon_after() {
        // Half of a hundred a minute fail for twenty minutes; an hour takes 14.4 % of its 6,000.
        let name = "saga_success_burn_fast";
        let wanted = format!("moves = [\"4620s fired {name}\", \"4980s resolved {name}\"]");
        let found = burn(name, "0x60 +50x20 +0x60", "0 +100x139", &wanted);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_medium_burn_fires_the_medium_rule_and_not_the_fast_one() {
        let name = "saga_success_burn_medium";
        let wanted = format!("moves = [\"60s fired {name}\"]");
        assert_eq!(burn(name, "0 +7x60", "0 +100x60", &wanted), Vec::<String>::new());
        let none = burn("saga_success_burn_fast", "0 +7x60", "0 +100x60", "moves = []");
        assert!(none.is_empty(), "{none:?}");
    }

    #[test]
    fn a_burn_twice_too_fast_fires_the_slow_rule_alone() {
        let name = "saga_success_burn_slow";
        let wanted = format!("moves = [\"60s fired {name}\"]");
        assert_eq!(burn(name, "0 +2x99", "0 +100x99", &wanted), Vec::<String>::new());
        let none = burn("saga_success_burn_medium", "0 +2x99", "0 +100x99", "moves = []");
        assert!(none.is_empty(), "{none:?}");
    }

    #[test]
    fn jobs_have_burn_rates_of_their_own() {
        let rules = "interval = \"60s\"\nbuiltin = [\"job_success_burn_fast\"]\n";
        let (failed, claimed) =
            ("job_idempotency_metrics.jobs_failed", "job_idempotency_metrics.jobs_claimed");
        let series = [(failed, "0 +50x9"), (claimed, "0 +100x9")];
        let wanted = "moves = [\"60s fired job_success_burn_fast\"]";
        assert_eq!(differences(rules, &series, wanted), Vec::<String>::new());
    }

    #[test]
    fn a_slow_burn_does_not_fire_the_fast_rule() {
        let found = burn("saga_success_burn_fast", "0 +10x99", "0 +100x99", "moves = []");
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_burn_within_the_budget_fires_nothing() {
        for rule in ["saga_success_burn_fast", "saga_success_burn_medium", "saga_success_burn_slow"]
        {
            let found = burn(rule, "0 +1x199", "0 +100x199", "moves = []");
            assert!(found.is_empty(), "{found:?}");
        }
    }

    #[test]
    fn one_failure_of_few_in_the_short_window_confirms_nothing() {
        // Six of forty failed long ago, then one of the two that came lately.
        let found = burn(
            "saga_success_burn_fast",
            "0 +6 +0x20 +1 +0x5",
            "0x1 +20 +20 +0x19 +2 +0x5",
            "moves = [\"60s fired saga_success_burn_fast\", \"360s resolved saga_success_burn_fast\"]",
        );
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_test_that_expects_nothing_is_refused() {
        let file = "builtin = [\"saga_parked\"]\n[[test]]\nname = \"case\"\n[[test.series]]\n\
                    metric_path = \"saga_metrics.waiting_sagas\"\nsamples = \"1x4\"\n";
        assert!(testfile::run(file).unwrap_err().to_string().contains("nothing"));
    }

    #[test]
    fn a_few_failures_at_little_traffic_fire_nothing() {
        let found = burn("saga_success_burn_fast", "0 +1x5 +0x50", "0 +1x5 +0x50", "moves = []");
        assert!(found.is_empty(), "{found:?}");
    }
}
