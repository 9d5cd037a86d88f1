//! What becomes of a right whose client has gone before it could be told.
//!
//! A client that disconnects drops its handler wherever that waits, also between a commit and its
//! reply. So whatever grants a right is seen through in a task of its own, and given back if
//! nobody is left to take it.

use std::pin::pin;
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::{Caller, ErrorKind};
use tokio::sync::oneshot;
use tracing::Instrument;

use super::problem::Problem;

/// How long work goes on whose client has gone: a commit on its way is answered by then, and who
/// only waits need not wait longer.
const SEE_THROUGH_FOR: Duration = Duration::from_secs(2);

/// Does the work to its end, and undoes it if the client has gone meanwhile.
pub(super) async fn see_through<T, W, U>(
    work: W,
    undo: impl FnOnce(T) -> U + Send + 'static,
) -> Result<T, Problem>
where
    T: Send + 'static,
    W: Future<Output = T> + Send + 'static,
    U: Future<Output = ()> + Send,
{
    let (mut tell, told) = oneshot::channel();
    let seen_through = async move {
        let mut work = pin!(work);
        let done = tokio::select! {
            biased;
            done = &mut work => Some(done),
            () = tell.closed() => Clock::system().timeout(SEE_THROUGH_FOR, work).await,
        };
        if let Some(done) = done
            && let Err(untold) = tell.send(done)
        {
            undo(untold).await;
        }
    };
    // A task does not inherit in whose name it works.
    tokio::spawn(Caller::current().scope(seen_through).in_current_span());
    told.await.map_err(|_| {
        Problem::new(ErrorKind::Unknown, "this server ends; the request may have been carried out")
    })
}
