//! The decision against its meaning, said again in the simplest way.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_767_225_600_000_000 + seconds * 1_000_000)
}

/// Every policy, every lateness around the grace, every room: each due tick is begun, skipped,
/// misfired or left for later, once; and which of these is what the policies say.
#[test]
fn every_due_tick_is_decided_once_and_as_the_policies_say() {
    let every = Expression::parse("every 10s", "UTC").unwrap();
    let mut seen = [0u32; 4];
    for misfire in [Misfire::RunOnce, Misfire::RunAll, Misfire::Skip] {
        for overlap in [Overlap::Queue, Overlap::Skip, Overlap::Allow] {
            for grace in [0, 25, 30] {
                for behind in 0..95 {
                    for (open, room) in [(0, 16), (0, 3), (1, 15), (3, 0)] {
                        let rules = Rules { misfire, grace: SECOND * grace, overlap };
                        let now = at(behind);
                        let plan = plan(&every, rules, Some(at(0)), now, open, room);
                        let context = format!("{rules:?} {behind} {open} {room}: {plan:?}");
                        check(&plan, rules, now, open, room, &context);
                        let decided = [
                            plan.begin.len() as u64,
                            plan.skipped,
                            plan.misfired,
                            u64::from(plan.next_due.is_some_and(|due| due <= now)),
                        ];
                        for (seen, count) in seen.iter_mut().zip(decided) {
                            *seen += u32::from(count > 0);
                        }
                    }
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 50), "every decision was made: {seen:?}");
}

fn check(plan: &Plan, rules: Rules, now: Timestamp, open: usize, room: usize, context: &str) {
    let next = plan.next_due.expect("an interval is always due again");
    let all: Vec<Timestamp> = (0..).map(|n| at(n * 10)).take_while(|due| *due <= now).collect();
    let decided = all.iter().filter(|due| **due < next).count();
    let counted = plan.begin.len() + usize::try_from(plan.skipped + plan.misfired).unwrap();
    assert_eq!(decided, counted, "{context}");
    assert!(plan.begin.is_sorted() && plan.begin.len() <= room, "{context}");
    assert!(plan.begin.iter().all(|due| all.contains(due) && *due < next), "{context}");
    let is_late = |due: &&Timestamp| **due < now - rules.grace;
    let (late, timely): (Vec<_>, Vec<_>) = all.iter().partition(is_late);
    let begun_late: Vec<_> = plan.begin.iter().filter(is_late).collect();
    let lost = match rules.misfire {
        Misfire::RunOnce => late.len().saturating_sub(1),
        Misfire::RunAll => 0,
        Misfire::Skip => late.len(),
    };
    assert_eq!(plan.misfired, lost as u64, "{context}");
    match rules.misfire {
        Misfire::RunOnce => assert!(begun_late.iter().all(|due| Some(due) == late.last().as_ref())),
        Misfire::Skip => assert!(begun_late.is_empty(), "{context}"),
        Misfire::RunAll => {}
    }
    match rules.overlap {
        Overlap::Queue | Overlap::Allow => {
            assert_eq!(plan.skipped, 0, "{context}");
            let run = late.len() - lost + timely.len();
            assert_eq!(plan.begin.len(), run.min(room), "as many as there is room for: {context}");
        }
        Overlap::Skip => {
            let run = late.len() - lost + timely.len();
            let one = usize::from(open == 0 && room > 0 && run > 0);
            assert_eq!(plan.begin.len(), one, "{context}");
            if open > 0 {
                assert_eq!(plan.skipped, run as u64, "{context}");
            }
        }
    }
}

#[test]
fn years_of_missed_seconds_are_decided_in_bounded_work() {
    let every = Expression::parse("* * * * * *", "Europe/Berlin").unwrap();
    let now = at(5 * 366 * 86_400);
    for (misfire, first) in [(Misfire::RunOnce, 61), (Misfire::RunAll, 1_060), (Misfire::Skip, 60)]
    {
        let rules = Rules { misfire, grace: SECOND * 60, overlap: Overlap::Queue };
        let plan = plan(&every, rules, Some(at(0)), now, 0, 16);
        assert_eq!(plan.begin.first(), Some(&(now - SECOND * first)), "{misfire:?}");
        assert_eq!((plan.begin.len(), plan.misfired), (16, MAX_COUNTED));
    }
    let rules = Rules { misfire: Misfire::RunOnce, grace: SECOND * 86_400, overlap: Overlap::Skip };
    let plan = plan(&every, rules, Some(now - SECOND * 80_000), now, 1, 15);
    assert_eq!((plan.begin.len(), plan.skipped), (0, MAX_KEPT as u64));
    assert!(plan.next_due < Some(now), "the rest is decided in the next round");
}

#[test]
fn ticks_that_are_late_by_at_most_the_grace_all_run_in_order() {
    let every = Expression::parse("* * * * * *", "UTC").unwrap();
    let rules = Rules { misfire: Misfire::Skip, grace: SECOND * 60, overlap: Overlap::Queue };
    let plan = plan(&every, rules, Some(at(0)), at(60), 0, 100);
    assert_eq!(plan.begin, (0..=60).map(at).collect::<Vec<_>>());
    assert_eq!((plan.misfired, plan.next_due), (0, Some(at(61))));
}

#[test]
fn jitter_is_the_same_for_everybody_and_spreads_over_all_of_its_span() {
    let most = SECOND * 30;
    assert_eq!(jitter("a", at(0), Duration::ZERO), Duration::ZERO);
    let drawn: Vec<Duration> = (0..1_000).map(|n| jitter("a", at(n), most)).collect();
    assert!(drawn.iter().all(|jitter| *jitter <= most));
    assert!(drawn.iter().zip(0..).all(|(drawn, n)| *drawn == jitter("a", at(n), most)));
    assert!(drawn.iter().any(|jitter| *jitter < most / 20));
    assert!(drawn.iter().any(|jitter| *jitter > most * 19 / 20));
    assert_ne!(jitter("a", at(0), most), jitter("b", at(0), most));
    // Written down once, so that no version draws anew.
    assert_eq!(jitter("report", at(0), most), Duration::from_micros(JITTER_OF_REPORT));
}

const JITTER_OF_REPORT: u64 = 2_356_879;
