//! Where the tour takes place: three servers, the way to ask them, and waiting for something.
//!
//! It asks exactly once and gives what came back, refusals included; what that means is for the
//! acts to say.

use std::time::Duration;

use lockbay::clock::Clock;
use reqwest::Method;
use serde_json::Value;

use super::server::{Scratch, Server, Starting};
use super::tell::{Tell, short};
use crate::cli::client::Failure;
use crate::cli::output;

/// The names of the servers.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long something may take that should come about by itself: much longer than it does, as the
/// machine may be busy.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Whether it says that the same request was carried out before.
    pub(super) replayed: bool,
    pub(super) body: Value,
}

impl Reply {
    /// A member of the body as people read it.
    pub(super) fn text(&self, member: &str) -> String {
        text(&self.body[member])
    }

    /// A refusal in short, or nothing if it is none.
    pub(super) fn refusal(&self) -> String {
        self.body["detail"].as_str().unwrap_or_default().to_owned()
    }
}

/// A value as people read it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "nothing".into(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// The stage. Its servers are ended before its directory is removed.
pub(super) struct Stage {
    pub(super) servers: Vec<Server>,
    scratch: Scratch,
    pub(super) tell: Tell,
    pub(super) clock: Clock,
}

impl Stage {
    pub(super) fn new(json: bool, clock: Clock) -> anyhow::Result<Self> {
        let scratch = Scratch::new(&clock)?;
        Ok(Stage { servers: Vec::new(), scratch, tell: Tell::new(json), clock })
    }

    /// Starts the servers.
    pub(super) async fn open(&mut self) -> anyhow::Result<()> {
        self.tell.say(concat!(
            "lockbay ",
            env!("CARGO_PKG_VERSION"),
            ": three servers share one store, and everything below really happens."
        ));
        self.tell.say("Each could be asked anything; they know of each other only by the store.");
        self.tell.say("");
        let scratch = self.scratch.path().display();
        self.tell.say(&format!("   store  sqlite:{scratch}/lockbay.db, removed at the end"));
        let started: Vec<Starting> = NAMES
            .iter()
            .map(|name| Starting::spawn(name, &self.scratch))
            .collect::<Result<_, _>>()?;
        for starting in started {
            let server = starting.listening(&self.clock).await?;
            let Server { name, address, .. } = &server;
            let process = server.process_id();
            self.tell.say(&format!("   {name}      http://{address}, process {process}"));
            self.servers.push(server);
        }
        Ok(())
    }

    /// Where the server of this instance stands among the servers.
    pub(super) fn place_of(&self, instance_id: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.instance_id == instance_id)
    }

    /// The name of this instance, or what is known of it.
    pub(super) fn name_of(&self, instance_id: &str) -> String {
        let place = self.place_of(instance_id);
        place.map_or_else(|| short(instance_id), |place| self.servers[place].name.to_owned())
    }

    /// Asks without a word.
    pub(super) async fn get(&self, at: usize, path: &[&str], query: &[(&str, &str)]) -> Answered {
        self.ask(at, Method::GET, path, query, None, None).await
    }

    /// Sends a change without a word.
    pub(super) async fn post(&self, at: usize, path: &[&str], body: Value) -> Answered {
        self.ask(at, Method::POST, path, &[], Some(body), None).await
    }

    /// Tells what is sent, and sends it; what came back is for the act to tell.
    pub(super) async fn send(
        &self,
        at: usize,
        path: &[&str],
        key: Option<&str>,
        body: Value,
        in_short: &str,
    ) -> Answered {
        self.send_as(Method::POST, at, path, key, body, in_short).await
    }

    /// As [`send`](Stage::send), with another method.
    pub(super) async fn send_as(
        &self,
        method: Method,
        at: usize,
        path: &[&str],
        key: Option<&str>,
        body: Value,
        in_short: &str,
    ) -> Answered {
        let shown: Vec<String> = path.iter().map(|part| shown_part(part)).collect();
        let what = format!("{method} /{}  {in_short}", shown.join("/"));
        self.tell.asked(self.servers[at].name, &what);
        self.ask(at, method, path, &[], Some(body), key).await
    }

    async fn ask(
        &self,
        at: usize,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Value>,
        key: Option<&str>,
    ) -> Answered {
        let Server { client, name, .. } = &self.servers[at];
        // What a person at a command line would be advised to do is of no use here.
        let silent = |failure: Failure| {
            let why = failure.line();
            anyhow::anyhow!(
                "server {name} has no answer: {}",
                why.split(';').next().unwrap_or(&why)
            )
        };
        let query: Vec<_> =
            query.iter().map(|(name, value)| (*name, Some((*value).to_owned()))).collect();
        let url = client.address(path, &query);
        let answer = client.ask_under(key, method, url, body).await;
        let answer = answer.map_err(silent)?;
        let body = answer.read().map_err(silent)?;
        Ok(Reply { status: answer.status.as_u16(), replayed: answer.replayed, body })
    }

    /// Looks until it is `enough`, and gives what was seen last, which is not enough if that took
    /// too long.
    pub(super) async fn watch<T>(
        &self,
        until: &str,
        mut look: impl AsyncFnMut() -> anyhow::Result<T>,
        enough: impl Fn(&T) -> bool,
    ) -> anyhow::Result<T> {
        let _progress = output::Progress::waiting(&format!("waiting until {until}"));
        let began = self.clock.tick();
        loop {
            match look().await {
                Ok(seen) if !enough(&seen) && self.clock.tick().since(began) < PATIENCE => {}
                ended => return ended,
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    /// Says what the servers logged last, to whoever looks why something failed.
    pub(super) fn tell_logs(&self) {
        for server in &self.servers {
            output::talk(&format!("log of {}:\n{}", server.name, server.last_words()));
        }
    }
}

/// What a request gave, unless nothing did.
pub(super) type Answered = anyhow::Result<Reply>;

/// A part of a path: ids are cut.
fn shown_part(part: &str) -> String {
    let is_id = part.len() >= 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { short(part) } else { part.to_owned() }
}
