//! Telling events of alerts inside every instance, from the states as they are stored.
//!
//! Events are hints for people and for what they build: each instance tells each firing and each
//! end that it sees, in order. What has to arrive is told by notifications, not here.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::record::{self, all_states};
use super::round::Kept;
use super::service::Alerts;
use crate::event::Event;
use crate::store::Hints;

/// Without a hint, states are looked at once in so many intervals.
const POLL: u32 = 3;

/// What was told of a rule last.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    episode: u64,
    fires: bool,
    severity: &'static str,
}

impl Alerts {
    /// Tells events until this instance ends.
    pub(crate) async fn tell_events(self, stop: CancellationToken) {
        let mut told: Option<BTreeMap<String, Told>> = None;
        let mut hints: Option<Hints> = None;
        let pause = self.0.interval * POLL;
        while !stop.is_cancelled() {
            let look = async {
                if hints.is_none() {
                    hints = self.0.store.watch(&all_states()).await.ok();
                }
                match record::states(&*self.0.store).await {
                    Err(error) => tracing::debug!(%error, "states of alerts could not be read"),
                    Ok(states) => {
                        let now = states.into_iter().map(|(name, (kept, _))| (name, kept));
                        told = Some(self.tell_of(told.take(), now));
                    }
                }
                match &mut hints {
                    Some(hints) => drop(self.0.clock.timeout(pause, hints.next()).await),
                    None => self.0.clock.sleep(pause).await,
                }
            };
            stop.run_until_cancelled(look).await;
            tokio::task::yield_now().await;
        }
    }

    /// Tells what is new, and says what was told then. What was there at the first look is known.
    fn tell_of(
        &self,
        told: Option<BTreeMap<String, Told>>,
        states: impl Iterator<Item = (String, Kept)>,
    ) -> BTreeMap<String, Told> {
        let is_first = told.is_none();
        let mut before = told.unwrap_or_default();
        let mut after = BTreeMap::new();
        for (rule, kept) in states {
            let now = Told {
                episode: kept.standing.episode,
                fires: kept.standing.phase.fires(),
                severity: kept.severity.name(),
            };
            let was = before.remove(&rule);
            let known = was.as_ref().map_or(0, |told| told.episode);
            let summary = kept.summary;
            if !is_first {
                let fired = now.episode > known;
                if was.as_ref().is_some_and(|told| told.fires) && (fired || !now.fires) {
                    self.event(&rule, now.severity, known, summary.clone(), End::Resolved);
                }
                if fired {
                    self.event(&rule, now.severity, now.episode, summary.clone(), End::Fired);
                }
                if fired && !now.fires {
                    self.event(&rule, now.severity, now.episode, summary, End::Resolved);
                }
            }
            after.insert(rule, now);
        }
        for (rule, told) in before.into_iter().filter(|(_, told)| told.fires) {
            let summary = format!("the rule {rule} was deleted");
            self.event(&rule, told.severity, told.episode, summary, End::Resolved);
        }
        after
    }

    fn event(&self, rule: &str, severity: &'static str, episode: u64, summary: String, end: End) {
        let (rule, severity) = (rule.to_owned(), severity.to_owned());
        let event = match end {
            End::Fired => {
                tracing::warn!(rule, severity, episode, summary, "alert_fired");
                Event::AlertFired { rule, severity, episode, summary }
            }
            End::Resolved => {
                tracing::info!(rule, severity, episode, summary, "alert_resolved");
                Event::AlertResolved { rule, severity, episode, summary }
            }
        };
        self.0.bus.tell(self.0.clock.now(), event);
    }
}

/// Which end of a firing is told.
enum End {
    Fired,
    Resolved,
}
