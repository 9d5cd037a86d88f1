//! `lockbay events`: what happens in a server, as it happens.
//!
//! It comes back after a broken connection and goes on where it stopped; what was missed and is not
//! kept any more is told as a gap.

use std::time::Duration;

use clap::Args;
use lockbay::clock::Clock;
use serde_json::Value;

use super::client::{Client, Failure};
use super::{Ended, output};

/// How long to wait before a connection is tried again.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How often in a row that may fail.
const MAX_TRIES: u32 = 30;
/// The longest message that is read; events are far shorter.
pub(super) const MAX_MESSAGE: usize = 4 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Only these, separated by commas
    #[arg(long, value_name = "NAMES")]
    events: Option<String>,
    /// End after so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Begin behind the event of this id
    #[arg(long, value_name = "ID")]
    after: Option<String>,
}

/// Shows events until it is stopped.
pub(super) async fn follow(client: &Client, args: &EventsArgs) -> Result<Ended, Failure> {
    let mut listener = Listener { last: args.after.clone(), left: args.limit, json: client.json };
    let url = client.address(&["v1", "events"], &[("events", args.events.clone())]);
    let (clock, mut tries) = (Clock::system(), 0);
    loop {
        match client.stream("follow events", url.clone(), listener.last.as_deref()).await {
            Ok(mut answer) => {
                tries = 0;
                let mut buffer = Vec::new();
                while let Ok(Some(bytes)) = answer.chunk().await {
                    buffer.extend_from_slice(&bytes);
                    listener.read(&mut buffer);
                    if listener.left == Some(0) || output::is_unread() {
                        return Ok(Ended::Done);
                    }
                    if buffer.len() > MAX_MESSAGE {
                        break;
                    }
                }
            }
            Err(Failure::Unreachable(text)) if tries > 0 && tries < MAX_TRIES => {
                output::talk(&format!("lockbay: {text}"));
            }
            Err(failure) if tries == 0 && listener.last == args.after => return Err(failure),
            Err(failure) if tries >= MAX_TRIES => return Err(failure),
            Err(_) => {}
        }
        tries += 1;
        output::talk("lockbay: the connection ended; coming back");
        clock.sleep(AGAIN_AFTER).await;
    }
}

struct Listener {
    /// The id of the last message.
    last: Option<String>,
    /// How many events more are wanted.
    left: Option<u64>,
    json: bool,
}

impl Listener {
    /// Takes whole messages out of what has arrived.
    fn read(&mut self, buffer: &mut Vec<u8>) {
        while let Some(message) = Message::take(buffer) {
            if self.left != Some(0) {
                self.tell(message);
            }
        }
    }

    fn tell(&mut self, message: Message) {
        self.last = message.id.or_else(|| self.last.take());
        let Some((event, data)) = message.told else { return };
        if self.json {
            output::data(&data);
        } else {
            output::data(&line(&event, &data));
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
    }
}

/// One message of the stream.
pub(super) struct Message {
    pub(super) id: Option<String>,
    /// The name of an event and what it tells; none for what only keeps the stream alive.
    pub(super) told: Option<(String, String)>,
}

impl Message {
    /// Takes the first whole message out of what has arrived.
    pub(super) fn take(buffer: &mut Vec<u8>) -> Option<Message> {
        let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let bytes: Vec<u8> = buffer.drain(..end + 2).collect();
        let text = String::from_utf8_lossy(&bytes);
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.strip_prefix(' ').unwrap_or(line).to_owned())
        };
        let told = field("event:").zip(field("data:")).filter(|(event, _)| event != "listening");
        Some(Message { id: field("id:"), told })
    }
}

/// An event in one line: when, what, and its facts.
pub(super) fn line(event: &str, data: &str) -> String {
    let data: Value = serde_json::from_str(data).unwrap_or_default();
    let at = data["at"].as_str().unwrap_or("-").to_owned();
    let mut text = format!("{at}  {event}");
    for (name, value) in data.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "at" | "event" | "sequence") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!("  {name}={value}"));
        }
    }
    output::shown(&text)
}
