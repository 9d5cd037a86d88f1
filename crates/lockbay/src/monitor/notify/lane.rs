//! Which notices one channel is asked to deliver now, and what follows from what it says: pure.
//!
//! A notice waits for every earlier one that tells of one of its rules, until that has arrived or
//! is a dead letter; so a rule's end never overtakes its firing, and a notice that cannot be
//! delivered holds up its own rules alone, and not for ever.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::channel::Undelivered;
use crate::clock::Timestamp;

/// How often a notice is tried on a channel before it is a dead letter.
pub const MAX_ATTEMPTS: u32 = 100;
/// How long it is tried: what is older tells nobody anything.
pub const MAX_AGE: Duration = Duration::from_secs(6 * 3_600);
/// However old it is, it is tried so often.
pub const LEAST_ATTEMPTS: u32 = 5;
/// The first pause between two attempts, and the longest.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// See [`FIRST_PAUSE`].
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The longest pause that a receiver can ask for.
pub const LONGEST_ASKED: Duration = Duration::from_secs(3_600);

/// How far a notice has come on one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Attempts whose end is known.
    pub attempts: u32,
    /// How it stands.
    pub standing: Standing,
    /// Since when it is tried.
    pub since: Timestamp,
    /// Why the last attempt failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a notice stands on one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Standing {
    /// It is to be delivered, not before this.
    Waiting {
        /// By the store's clock.
        next: Timestamp,
    },
    /// It has arrived.
    Delivered {
        /// When that was known.
        at: Timestamp,
    },
    /// It was given up.
    Dead {
        /// When.
        at: Timestamp,
    },
}

impl Progress {
    pub(super) fn new(at: Timestamp) -> Self {
        Progress { attempts: 0, standing: Standing::Waiting { next: at }, since: at, error: None }
    }

    /// When it may be tried next, if it is to be.
    pub(super) fn next(&self) -> Option<Timestamp> {
        match self.standing {
            Standing::Waiting { next } => Some(next),
            Standing::Delivered { .. } | Standing::Dead { .. } => None,
        }
    }
}

/// A notice that waits on a channel.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) id: &'a str,
    pub(super) rules: Vec<&'a str>,
    pub(super) next: Timestamp,
    pub(super) in_flight: bool,
}

/// Which of these, in their order, are tried now, at most `room`; and when the next may be.
pub(super) fn ready<'a>(
    entries: &[Entry<'a>],
    room: usize,
    now: Timestamp,
) -> (Vec<&'a str>, Option<Timestamp>) {
    let mut blocked: BTreeSet<&str> = BTreeSet::new();
    let (mut tried, mut wake) = (Vec::new(), None::<Timestamp>);
    for entry in entries {
        let free = !entry.rules.iter().any(|rule| blocked.contains(rule));
        blocked.extend(&entry.rules);
        if entry.in_flight || !free {
            continue;
        }
        if entry.next > now {
            wake = Some(wake.map_or(entry.next, |wake| wake.min(entry.next)));
        } else if tried.len() < room {
            tried.push(entry.id);
        }
    }
    (tried, wake)
}

/// What an attempt that ended like this comes to. `jitter` gives a random part of a time.
pub(super) fn judge(
    before: &Progress,
    outcome: Result<(), Undelivered>,
    now: Timestamp,
    jitter: impl FnOnce(Duration) -> Duration,
) -> Progress {
    let attempts = before.attempts.saturating_add(1);
    let Err(failure) = outcome else {
        let standing = Standing::Delivered { at: now };
        return Progress { attempts, standing, ..before.clone() };
    };
    // What is old because nobody was there to try it is tried first.
    let too_old = attempts >= LEAST_ATTEMPTS && now.since(before.since) >= MAX_AGE;
    let given_up = !failure.retryable || attempts >= MAX_ATTEMPTS || too_old;
    let standing = if given_up {
        Standing::Dead { at: now }
    } else {
        let asked = failure.after.unwrap_or_default().min(LONGEST_ASKED);
        Standing::Waiting { next: now + pause(attempts, jitter).max(asked) }
    };
    Progress { attempts, standing, error: Some(failure.why), ..before.clone() }
}

/// Doubles with each attempt up to the longest, the last half of it at random.
fn pause(attempts: u32, jitter: impl FnOnce(Duration) -> Duration) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    let whole = (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE);
    whole / 2 + jitter(whole / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000);

    fn entry<'a>(id: &'a str, rules: &[&'a str], next: u64, in_flight: bool) -> Entry<'a> {
        let next = Timestamp::from_micros(NOW.as_micros() + next);
        Entry { id, rules: rules.to_vec(), next, in_flight }
    }

    #[test]
    fn a_resolve_waits_for_its_fire_and_others_overtake_it() {
        let entries = [
            entry("fire a", &["a"], 5, false),
            entry("fire b", &["b"], 0, false),
            entry("over a and c", &["a", "c"], 0, false),
            entry("fire c", &["c"], 0, false),
            entry("fire d", &["d"], 0, false),
        ];
        let (tried, wake) = ready(&entries, 9, NOW);
        assert_eq!(tried, ["fire b", "fire d"]);
        assert_eq!(wake, Some(entries[0].next));
        assert_eq!(ready(&entries, 1, NOW).0, ["fire b"], "no more than there is room for");
    }

    #[test]
    fn no_order_of_ends_lets_a_rule_overtake_itself() {
        // Every window of four notices over two rules, each waiting, due or in flight.
        let rules: [&[&str]; 3] = [&["a"], &["b"], &["a", "b"]];
        let names = ["0", "1", "2", "3"];
        let mut tried_some = 0;
        for code in 0..9usize.pow(4) {
            let mut rest = code;
            let entries: Vec<Entry<'_>> = names
                .iter()
                .map(|name| {
                    let (of, how) = (rest % 3, rest / 3 % 3);
                    rest /= 9;
                    entry(name, rules[of], if how == 1 { 7 } else { 0 }, how == 2)
                })
                .collect();
            let (tried, _) = ready(&entries, 4, NOW);
            tried_some += tried.len();
            for (at, later) in entries.iter().enumerate().filter(|(_, e)| tried.contains(&e.id)) {
                let shares = |earlier: &Entry<'_>| {
                    earlier.rules.iter().any(|rule| later.rules.contains(rule))
                };
                assert!(!entries[..at].iter().any(shares), "{entries:?}");
            }
        }
        assert!(tried_some > 1_000);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_a_receiver_may_ask_for_more() {
        let mut progress = Progress::new(NOW);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            progress = judge(&progress, Err(Undelivered::for_now("no")), NOW, |most| most);
            pauses.push(progress.next().unwrap().since(NOW).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        let later = Undelivered::for_now("busy").not_before(Duration::from_secs(40));
        let asked = judge(&Progress::new(NOW), Err(later), NOW, |_| Duration::ZERO);
        assert_eq!(asked.next(), Some(NOW + Duration::from_secs(40)));
        let forever = Undelivered::for_now("busy").not_before(Duration::MAX);
        let asked = judge(&Progress::new(NOW), Err(forever), NOW, |_| Duration::ZERO);
        assert_eq!(asked.next(), Some(NOW + LONGEST_ASKED));
    }

    #[test]
    fn what_is_refused_or_too_old_or_tried_too_often_is_a_dead_letter() {
        let dead = |progress: Progress| matches!(progress.standing, Standing::Dead { .. });
        let fresh = Progress::new(NOW);
        let failed = || Err(Undelivered::for_now("no"));
        assert!(!dead(judge(&fresh, failed(), NOW, |most| most)));
        assert!(dead(judge(&fresh, Err(Undelivered::for_good("gone")), NOW, |most| most)));
        assert!(!dead(judge(&fresh, failed(), NOW + MAX_AGE, |most| most)), "hardly tried");
        let tried = Progress { attempts: LEAST_ATTEMPTS - 1, ..fresh.clone() };
        assert!(dead(judge(&tried, failed(), NOW + MAX_AGE, |most| most)));
        let often = Progress { attempts: MAX_ATTEMPTS - 1, ..fresh };
        assert!(dead(judge(&often, failed(), NOW, |most| most)));
        let arrived = judge(&often, Ok(()), NOW + MAX_AGE, |most| most);
        assert_eq!(arrived.standing, Standing::Delivered { at: NOW + MAX_AGE });
    }
}
