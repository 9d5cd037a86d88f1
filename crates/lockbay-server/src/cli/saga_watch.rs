//! `lockbay saga watch`: what happens to one saga, as it happens, until it comes to rest.
//!
//! The log of a saga only grows, so the last page that was read is read again, and what was told
//! is passed over by its number. A server that goes away is asked again.

use std::time::Duration;

use clap::Args;
use lockbay::clock::Clock;
use lockbay::config::Span;
use serde_json::value::RawValue;

use super::client::{Client, Failure, Page};
use super::saga::{self, Happened};
use super::{Ended, output};

/// How long one look waits for the end.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait before a server that went away is asked again, and how often in a row.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
const MAX_TRIES: u32 = 30;

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Its id
    id: String,
    /// Watch for so long at most, such as 30s or 5m
    #[arg(long = "for", value_name = "TIME")]
    length: Option<Span>,
}

/// Tells every entry once, then how the saga stands; exit code 0 if it is completed.
pub(super) async fn watch(client: &Client, args: WatchArgs) -> Result<Ended, Failure> {
    let clock = Clock::system();
    let until = args.length.map(|Span(length)| clock.tick() + length);
    let mut reader = Reader { id: args.id, page: None, next: 0 };
    let (mut tries, mut met) = (0, false);
    loop {
        match reader.look(client).await {
            Ok(Some(status)) => return Ok(saga::ended_as(&status)),
            Ok(None) => (tries, met) = (0, true),
            Err(Failure::Unreachable(text)) if met && tries < MAX_TRIES => {
                tries += 1;
                output::talk(&format!("lockbay: {text}"));
                clock.sleep(AGAIN_AFTER).await;
            }
            Err(failure) => return Err(failure),
        }
        if output::is_unread() {
            return Ok(Ended::No);
        }
        if until.is_some_and(|until| until.since(clock.tick()).is_zero()) {
            output::talk("it goes on");
            return Ok(Ended::No);
        }
    }
}

struct Reader {
    id: String,
    /// The token of the page that was read last.
    page: Option<String>,
    /// The number of the entry that is told next, at least.
    next: u64,
}

impl Reader {
    /// Tells what is new; then the saga and its status, if it has come to rest.
    async fn look(&mut self, client: &Client) -> Result<Option<String>, Failure> {
        // The status first: what the log gains meanwhile is told before the end is.
        let url = client.address(
            &["v1", "sagas", &self.id],
            &[("wait_seconds", Some(LOOK.as_secs().to_string()))],
        );
        if self.next == 0 {
            self.tell_news(client).await?;
        }
        let answer = client.get(&format!("watch saga {:?}", self.id), url).await?;
        let saga::Standing { status, .. } = answer.read()?;
        self.tell_news(client).await?;
        if !saga::has_come_to_rest(&status) {
            return Ok(None);
        }
        match client.json {
            true => answer.show_raw(),
            false => output::data(&format!("saga {} is {status}", output::shown(&self.id))),
        }
        Ok(Some(status))
    }

    async fn tell_news(&mut self, client: &Client) -> Result<(), Failure> {
        loop {
            let query = [("page_size", Some("1000".to_owned())), ("page_token", self.page.clone())];
            let url = client.address(&["v1", "sagas", &self.id, "history"], &query);
            let answer = client.get(&format!("watch saga {:?}", self.id), url).await?;
            let page: Page<Box<RawValue>> = answer.read()?;
            for entry in page.items {
                self.tell(client, &entry)?;
            }
            let Some(next) = page.next_page_token else { return Ok(()) };
            self.page = Some(next);
        }
    }

    fn tell(&mut self, client: &Client, entry: &RawValue) -> Result<(), Failure> {
        let odd = |error: serde_json::Error| {
            Failure::Unreachable(format!("an entry of the history is not understood: {error}"))
        };
        let happened: Happened = serde_json::from_str(entry.get()).map_err(odd)?;
        if happened.number < self.next {
            return Ok(());
        }
        self.next = happened.number + 1;
        match client.json {
            true => output::data(entry.get()),
            false => output::data(&output::shown(&happened.line())),
        }
        Ok(())
    }
}
