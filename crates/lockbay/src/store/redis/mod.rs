//! The store on Redis or Valkey: several machines share one namespace.
//!
//! What a commit means on the server stands in `redis_commit.lua`, with the layout of all keys.
//! Here is the way there: commits are gathered into batches ([`queue`]), numbered ([`sending`]),
//! sent over a connection that is replaced when it fails ([`link`]), and answered; hints come over a
//! second connection ([`channel`]). Whether anything survives a restart is the server's business:
//! [`settings`] reads it and warns. What may be cleaned up is measured and deleted beside all this
//! ([`upkeep`]). Truth is only on the server; this process holds what its client has seen.

mod address;
mod channel;
mod link;
mod queue;
mod sending;
mod settings;
mod upkeep;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::channel::Channel;
use self::link::{Failure, Link, Script, Up};
use self::queue::Queue;
use self::settings::Settings;
use super::operation::Operation;
use super::witness::Witness;
use super::{
    Commit, Description, Hints, Key, Kind, MAX_PAGE, MAX_PAGE_BYTES, Order, Page, Partition, Pong,
    Range, Read, Record, Reply, Revision, Store, Upkeep,
};
use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};

/// How long a read waits for a server that is away or slow.
const READ_PATIENCE: Duration = Duration::from_secs(3);
/// How long settings that were read count as known.
const SETTINGS_AGE: Duration = Duration::from_secs(30);
/// The longest name of a namespace, in bytes.
const MAX_NAMESPACE: usize = 64;

/// A client of a namespace on a Redis or Valkey server.
///
/// A commit is as durable as the server makes it: see [`Store::describe`] and the warnings of
/// [`Store::ping`]. The handle outlives failures of the server: it connects again by itself, and
/// sends again what was not answered, at most 10 s per commit. Up to 512 commits of one
/// [`commit_all`](Store::commit_all) go out as one command.
///
/// Its tasks run on the runtime it was opened on, and end when it is closed or dropped.
pub struct RedisStore {
    space: Arc<Space>,
    queue: Queue,
    channel: Arc<Channel>,
    settings: Mutex<Known>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// What all parts of a client share.
struct Space {
    namespace: String,
    clock: Clock,
    link: Arc<Link>,
    witness: Witness,
    /// The last commit of ours that was acknowledged.
    applied: Mutex<Option<queue::Applied>>,
    scripts: Scripts,
}

struct Scripts {
    commit: Script,
    read: Script,
    accept: Script,
    weigh: Script,
    sweep: Script,
}

/// The settings as they were read.
struct Known {
    settings: Settings,
    at: Tick,
    epoch: u64,
}

impl Space {
    /// How all keys of a partition start. The braces put them into one slot of a cluster.
    fn tag(&self, partition: Partition) -> String {
        format!("{{{}:{}}}:", self.namespace, partition.0)
    }

    fn meta(&self, partition: Partition) -> String {
        self.tag(partition) + "meta"
    }
}

impl RedisStore {
    /// Connects, begins the namespace if there is none, and reads the server's settings.
    ///
    /// The URL is `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS, which
    /// trusts the public certificate authorities or, with `?ca=PATH`, those in that PEM file only.
    /// A store that has lost data opens, so that it can be looked at and accepted; effects are
    /// halted.
    ///
    /// # Errors
    /// `Invalid` for a wrong URL or namespace, `Unauthorized` when the server refuses our
    /// credentials, `Unavailable` when it does not answer within seconds.
    pub async fn open(url: &str, namespace: &str, clock: Clock) -> Result<RedisStore> {
        check_namespace(namespace)?;
        let link = Link::new(address::client(url)?, clock.clone());
        let scripts = Scripts {
            commit: Script::new(include_str!("../redis_commit.lua")),
            read: Script::new(include_str!("read.lua")),
            accept: Script::new(include_str!("accept.lua")),
            weigh: Script::new(include_str!("weigh.lua")),
            sweep: Script::new(include_str!("sweep.lua")),
        };
        let namespace = namespace.to_owned();
        let witness = Witness::default();
        let space =
            Arc::new(Space { namespace, clock, link, witness, applied: Mutex::default(), scripts });
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        tokio::spawn(Arc::clone(&space.link).run());
        let known = Known { settings: Settings::default(), at: space.clock.tick(), epoch: 0 };
        let store = RedisStore {
            queue: Queue::start(&space, &tasks, closing.clone()),
            channel: Channel::new(&space, &tasks, closing.clone()),
            settings: Mutex::new(known),
            space,
            closing,
            tasks,
        };
        match store.check().await {
            Err(error) if error.kind() != ErrorKind::RolledBack => return Err(error),
            Ok(_) | Err(_) => {}
        }
        store.refresh_settings().await?;
        Ok(store)
    }

    /// An empty commit: proves that the server answers and that its data is what we have seen.
    async fn check(&self) -> Result<(Timestamp, Revision)> {
        let space = &self.space;
        let (partition, client) = (Partition::FIRST, Operation::begin().client);
        loop {
            let call = || queue::question(space, partition, client);
            let value = self.run(&space.scripts.commit, call).await?;
            if let Some(judged) = queue::take_answer(space, partition, value)? {
                return Ok((judged.now, judged.revision));
            }
        }
    }

    /// Runs a script that may run twice, within [`READ_PATIENCE`].
    async fn run(&self, script: &Script, call: impl Fn() -> redis::Cmd) -> Result<Value> {
        if self.closing.is_cancelled() {
            return Err(closed());
        }
        let clock = &self.space.clock;
        let since = clock.tick();
        loop {
            let left = READ_PATIENCE.saturating_sub(clock.tick().since(since));
            let mut up = self.space.link.up(left).await?;
            let left = READ_PATIENCE.saturating_sub(clock.tick().since(since));
            let failed = match clock.timeout(left, up.run(script, &call())).await {
                Some(Ok(value)) => return Ok(value),
                Some(Err(Failure::Refused(error))) => return Err(link::refused(error)),
                Some(Err(Failure::Broken(error))) => {
                    let message = "a script of ours failed on redis";
                    return Err(Error::new(ErrorKind::Internal, message).with_source(error));
                }
                Some(Err(Failure::NotRun(error) | Failure::Unclear(error))) => Some(error),
                None => None,
            };
            self.space.link.broken(up.epoch);
            if failed.is_none() || clock.tick().since(since) >= READ_PATIENCE {
                let error = Error::new(ErrorKind::Unavailable, "redis does not answer in time");
                return Err(match failed {
                    Some(cause) => error.with_source(cause),
                    None => error,
                });
            }
        }
    }

    async fn read(&self, partition: Partition, args: &[&[u8]]) -> Result<Value> {
        let meta = self.space.meta(partition);
        let script = &self.space.scripts.read;
        self.run(script, || {
            let mut call = script.call(&meta, 64 * args.len());
            call.arg(args);
            call
        })
        .await
    }

    async fn page(&self, partition: Partition, kind: Kind, args: &[&[u8]]) -> Result<Page> {
        let value = self.read(partition, args).await?;
        let found = wire::found(value, partition, |_| Some(kind))?;
        let records = found.records.into_iter();
        let records = records.map(|(key, record)| record.unwrap_or_else(|| mark(key))).collect();
        Ok(Page { records, more: found.more, now: found.now })
    }

    /// Reads the settings again, if they are old or from before the last reconnect.
    async fn refresh_settings(&self) -> Result<()> {
        let mut up: Up = self.space.link.up(READ_PATIENCE).await?;
        let now = self.space.clock.tick();
        let fresh = {
            let known = self.settings.lock();
            known.epoch == up.epoch && now.since(known.at) < SETTINGS_AGE
        };
        if fresh {
            return Ok(());
        }
        let reading = Settings::read(&mut up);
        if let Some(settings) = self.space.clock.timeout(READ_PATIENCE, reading).await {
            *self.settings.lock() = Known { settings, at: now, epoch: up.epoch };
        }
        Ok(())
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn get(&self, keys: &[Key]) -> Result<Read> {
        let partition = keys.first().map_or(Partition::FIRST, |key| key.partition);
        let mut args: Vec<&[u8]> = vec![b"get"];
        for key in keys {
            args.extend([key.kind.name().as_bytes(), key.id.as_bytes()]);
        }
        let value = self.read(partition, &args).await?;
        let found = wire::found(value, partition, |at| keys.get(at).map(|key| key.kind))?;
        let records = found.records.into_iter().map(|(_, record)| record).collect();
        Ok(Read { records, now: found.now })
    }

    async fn scan(&self, range: &Range, limit: usize) -> Result<Page> {
        let (from, to) = bounds(range);
        let (kind, [limit, bytes]) = (range.kind.name().as_bytes(), size_of_page(limit));
        let what: &[u8] = match range.order {
            Order::Forwards => b"scan",
            Order::Backwards => b"back",
        };
        let bare: &[u8] = if range.kind.is_index() { b"1" } else { b"0" };
        let args: [&[u8]; 7] = [what, kind, limit.as_bytes(), bytes.as_bytes(), &from, &to, bare];
        self.page(range.partition, range.kind, &args).await
    }

    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page> {
        let [limit, bytes] = size_of_page(limit);
        let name = kind.name().as_bytes();
        let args: [&[u8]; 4] = [b"due", name, limit.as_bytes(), bytes.as_bytes()];
        self.page(partition, kind, &args).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply> {
        if self.closing.is_cancelled() {
            return Err(closed());
        }
        let replies = self.queue.commit(std::slice::from_ref(commit)).await;
        replies.into_iter().next().unwrap_or_else(|| Err(closed()))
    }

    async fn commit_all(&self, commits: &[Commit]) -> Vec<Result<Reply>> {
        if self.closing.is_cancelled() {
            return commits.iter().map(|_| Err(closed())).collect();
        }
        let chunks = commits.chunk_by(|a, b| a.partition == b.partition);
        let chunks = chunks.flat_map(|chunk| chunk.chunks(queue::MAX_BATCH));
        let replies = join_all(chunks.map(|chunk| self.queue.commit(chunk))).await;
        replies.into_iter().flatten().collect()
    }

    async fn watch(&self, range: &Range) -> Result<Hints> {
        if self.closing.is_cancelled() {
            return Err(closed());
        }
        self.channel.watch(range).await
    }

    async fn ping(&self) -> Result<Pong> {
        let (now, revision) = self.check().await?;
        self.refresh_settings().await?;
        Ok(Pong { now, revision, warnings: self.settings.lock().settings.warnings() })
    }

    fn upkeep(&self) -> &dyn Upkeep {
        self
    }

    fn describe(&self) -> Description {
        let known = self.settings.lock();
        Description {
            backend: "redis",
            durability: known.settings.durability(),
            version: known.settings.version.clone().unwrap_or_else(|| "unknown".into()),
        }
    }

    async fn accept(&self) -> Result<()> {
        let space = &self.space;
        let (meta, script) = (space.meta(Partition::FIRST), &space.scripts.accept);
        let generation = space.clock.random_id();
        let floor = space.witness.floor(Partition::FIRST).number();
        self.run(script, || {
            let mut call = script.call(&meta, 128);
            call.arg(&generation).arg(floor);
            call
        })
        .await?;
        self.check().await.map(drop)
    }

    async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("address", &self.space.link.address())
            .field("namespace", &self.space.namespace)
            .finish_non_exhaustive()
    }
}

/// An index entry, as scans show it.
fn mark(key: Key) -> Record {
    Record { key, value: Vec::new(), revision: Revision::ZERO, deadline: None }
}

/// The most records and about the most bytes of a page, as the script takes them.
fn size_of_page(limit: usize) -> [String; 2] {
    [limit.clamp(1, MAX_PAGE).to_string(), MAX_PAGE_BYTES.to_string()]
}

/// A range as `ZRANGEBYLEX` takes it. No id holds the byte 0xff, for ids are UTF-8.
fn bounds(range: &Range) -> (Vec<u8>, Vec<u8>) {
    let prefix = range.prefix.as_bytes();
    let (first, end) = ([b"[", prefix].concat(), [b"(", prefix, b"\xff"].concat());
    match (&range.after, range.order) {
        (Some(after), Order::Forwards) if after.as_bytes() >= prefix => {
            ([b"(", after.as_bytes()].concat(), end)
        }
        (Some(after), Order::Backwards) if after.as_bytes() < &end[1..] => {
            (first, [b"(", after.as_bytes()].concat())
        }
        (Some(_) | None, _) => (first, end),
    }
}

fn check_namespace(namespace: &str) -> Result<()> {
    let fits = (1..=MAX_NAMESPACE).contains(&namespace.len());
    if fits && namespace.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '{' | '}')) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a namespace has 1 to {MAX_NAMESPACE} visible ASCII letters and no braces: {namespace:?}"
    )))
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the store is closed")
}
