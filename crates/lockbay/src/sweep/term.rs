//! The right under which the sweeper works: one leadership of this instance.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::Fence;

/// The right is gone, or this instance ends: nothing more is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) fence: Fence,
    pub(super) lost: CancellationToken,
    pub(super) stop: CancellationToken,
    pub(super) clock: Clock,
}

impl Term {
    /// What a future comes to, unless the right is lost before.
    pub(super) async fn alive<T>(&self, work: impl Future<Output = T>) -> Result<T, Lost> {
        tokio::select! {
            biased;
            () = self.lost.cancelled() => Err(Lost),
            () = self.stop.cancelled() => Err(Lost),
            done = work => Ok(done),
        }
    }

    /// Waits, and lets others run even where time stands still.
    pub(super) async fn sleep(&self, pause: Duration) -> Result<(), Lost> {
        tokio::task::yield_now().await;
        self.alive(self.clock.sleep(pause)).await
    }
}
