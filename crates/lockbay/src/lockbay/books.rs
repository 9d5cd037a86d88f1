//! The trial balance that the leader takes by itself, so that a ledger that does not come to zero is
//! an alert although nobody asks.
//!
//! It owns when that is done. What is added up, and how, is the business of the ledger; the gauge
//! that the ledger sets speaks as of the last one.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::LockBay;
use crate::metrics::Metric;

/// How long after its election a leader takes the first, so that an alert of the leader before it
/// goes on: its rule keeps firing for longer.
const FIRST: Duration = Duration::from_secs(10);
/// Between two of them; each reads every account.
const EVERY: Duration = Duration::from_secs(3_600);
/// After one that came to no end.
const AGAIN: Duration = Duration::from_secs(60);

impl LockBay {
    /// Takes trial balances while this instance leads, until it is stopped.
    pub(super) async fn watch_ledger(self, stop: CancellationToken) {
        let inner = &self.0;
        let mut edges = inner.leadership.subscribe();
        while !stop.is_cancelled() {
            match inner.leadership.right() {
                Some(right) => tokio::select! {
                    () = stop.cancelled() => return,
                    () = right.lost().cancelled() => {}
                    () = self.take_trial_balances() => {}
                },
                None => {
                    let woken = inner.clock.timeout(EVERY, edges.next());
                    stop.run_until_cancelled(woken).await;
                }
            }
            // Another leads and finds out anew; what was found here is not said for ever.
            inner.metrics.set(Metric::LedgerUnbalanced, 0);
        }
    }

    async fn take_trial_balances(&self) {
        let mut pause = FIRST;
        loop {
            self.0.clock.sleep(pause).await;
            pause = match self.0.ledger.slow_trial_balance().await {
                Ok(_) => EVERY,
                Err(error) => {
                    tracing::warn!(%error, "the leader's trial balance came to no end");
                    AGAIN
                }
            };
        }
    }
}
