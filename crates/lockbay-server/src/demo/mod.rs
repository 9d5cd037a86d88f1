//! `lockbay demo`: a tour for whoever sees this for the first time, that checks what it tells.
//!
//! It starts three servers of its own binary on one SQLite file, asks them over HTTP as any client
//! would, and kills one. What is promised is judged by pure functions from what was answered, one
//! file per act; a promise that is not seen to hold fails the whole. It knows nothing of the
//! library but the clock and the names of settings. Its state is a directory and three processes,
//! and both are gone when it ends, in whatever way.

mod books;
mod crash;
mod job;
mod leader;
mod lease;
mod money;
mod rollback;
mod server;
mod stage;
mod state;
mod tell;
mod upkeep;
mod watch;
mod worker;

use anyhow::{Context, bail};
use lockbay::clock::Clock;
use tokio::signal::unix::{Signal, SignalKind, signal};

use stage::Stage;
use tell::Check;

/// How the tour ended.
pub(crate) enum Outcome {
    /// Everything that is promised was seen.
    Held,
    /// Something was not.
    Failed,
}

/// Shows and checks everything; with `json`, only the checks are written, an object a line.
pub(crate) async fn run(json: bool) -> anyhow::Result<Outcome> {
    let mut interruption = Interruption::listen()?;
    let clock = Clock::system();
    let began = clock.tick();
    let mut stage = Stage::new(json, clock.clone())?;
    let toured = tokio::select! {
        toured = tour(&mut stage) => toured,
        () = interruption.comes() => bail!("interrupted: its servers are ended and its files removed"),
    };
    if let Err(error) = toured {
        let seen = format!("it stopped: {error:#}");
        stage.tell.check(Check::new("the tour comes to its end", false, seen));
    }
    let held = stage.tell.ending(clock.tick().since(began));
    if !held {
        stage.tell_logs();
    }
    Ok(if held { Outcome::Held } else { Outcome::Failed })
}

async fn tour(stage: &mut Stage) -> anyhow::Result<()> {
    stage.open().await?;
    leader::act(stage).await?;
    lease::act(stage).await?;
    job::act(stage).await?;
    state::act(stage).await?;
    upkeep::act(stage).await?;
    money::act(stage).await?;
    rollback::act(stage).await?;
    crash::act(stage).await?;
    books::act(stage).await?;
    watch::act(stage).await
}

/// The signals that end a tour before its end.
struct Interruption([Signal; 3]);

impl Interruption {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(listen);
        Ok(Interruption([interrupt?, terminate?, hangup?]))
    }

    async fn comes(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
