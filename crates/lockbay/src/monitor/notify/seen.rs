//! What the desk saw last, for health: when it could read what is to be told, and what has waited
//! longest. It refuses to know how that is read and delivered.

use std::time::Duration;

use parking_lot::Mutex;

use super::Notifier;
use crate::clock::{Tick, Timestamp};

/// So long without a look is an issue of health; the desk looks each second.
const BLIND: Duration = Duration::from_secs(60);
/// A notice that waits for longer is a warning of health.
const LATE: Duration = Duration::from_secs(300);

/// What waits for a channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waits {
    pub(super) since: Timestamp,
    pub(super) channel: String,
    /// Why the last attempt failed, if there was one.
    pub(super) error: Option<String>,
}

/// The last look of a desk; nothing while this instance does not lead.
#[derive(Default)]
pub(super) struct Seen(Mutex<Option<(Tick, Option<Waits>)>>);

impl Seen {
    /// The desk could read at this tick, or begins at it.
    pub(super) fn looked(&self, at: Tick, longest: Option<Waits>) {
        *self.0.lock() = Some((at, longest));
    }

    /// This instance does not lead.
    pub(super) fn rest(&self) {
        *self.0.lock() = None;
    }

    /// What is wrong, and what a person should look at.
    fn judge(&self, tick: Tick, now: Timestamp) -> (Vec<String>, Vec<String>) {
        let seen = self.0.lock();
        let Some((looked, longest)) = &*seen else { return (Vec::new(), Vec::new()) };
        let blind = tick.since(*looked);
        let issue = (blind > BLIND).then(|| {
            let seconds = blind.as_secs();
            format!(
                "notifications: notices were not read for {seconds} s; see the log of this instance"
            )
        });
        let late = longest.as_ref().filter(|waits| now.since(waits.since) > LATE);
        let warning = late.map(|Waits { since, channel, error }| {
            let (seconds, error) = (now.since(*since).as_secs(), error.as_deref());
            format!(
                "notifications: {channel} has not taken a notice for {seconds} s: {}; see \
                 `lockbay alerts notifications`",
                error.unwrap_or("it was not tried")
            )
        });
        (issue.into_iter().collect(), warning.into_iter().collect())
    }
}

impl Notifier {
    /// What is wrong with delivery on this instance, if it leads, and what a person should look at.
    pub(crate) fn examine(&self) -> (Vec<String>, Vec<String>) {
        self.0.seen.judge(self.0.clock.tick(), self.0.time.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_desk_that_reads_nothing_is_an_issue_and_none_at_all_is_not() {
        let (clock, seen) = (Clock::manual(1), Seen::default());
        let judge = || seen.judge(clock.tick(), clock.now());
        seen.looked(clock.tick(), None);
        clock.advance(BLIND);
        assert_eq!(judge(), (Vec::new(), Vec::new()));
        clock.advance(Duration::from_secs(1));
        assert!(judge().0[0].contains("were not read for 61 s"), "{:?}", judge());
        seen.rest();
        assert_eq!(judge(), (Vec::new(), Vec::new()));
    }
}
