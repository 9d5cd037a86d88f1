//! The hint channel: one pub/sub connection, opened when somebody first watches.
//!
//! Watchers say which patterns they want; one task makes the server's subscriptions follow. When
//! the connection breaks, every watcher is told that it missed something, at once and again when
//! the subscriptions stand on the next connection.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Space;
use super::link::backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::store::hint::{Hints, Hub};
use crate::store::{Key, Kind, Partition, Range};

/// How long connecting, subscribing or a sign of life may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a silent connection must show that it lives.
const PULSE: Duration = Duration::from_secs(10);

/// The hint channel of a store.
pub(super) struct Channel {
    space: Arc<Space>,
    hub: Hub,
    wanted: Mutex<HashMap<String, Wanted>>,
    /// Wakes the task when `wanted` changed.
    changed: Notify,
    /// What the server has acknowledged, on the connection that stands.
    subscribed: watch::Sender<HashSet<String>>,
    started: std::sync::Once,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// A pattern that somebody wants.
struct Wanted {
    partition: Partition,
    kind: Kind,
    watchers: usize,
}

/// One watcher's claim on a pattern; it ends with the hints it belongs to.
struct Claim {
    channel: Arc<Channel>,
    pattern: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut wanted = self.channel.wanted.lock();
        if let Some(entry) = wanted.get_mut(&self.pattern) {
            entry.watchers -= 1;
            if entry.watchers == 0 {
                wanted.remove(&self.pattern);
                self.channel.changed.notify_one();
            }
        }
    }
}

impl Channel {
    pub(super) fn new(
        space: &Arc<Space>,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Channel {
            space: Arc::clone(space),
            hub: Hub::default(),
            wanted: Mutex::default(),
            changed: Notify::new(),
            subscribed: watch::Sender::default(),
            started: std::sync::Once::new(),
            tasks: tasks.clone(),
            closing,
        })
    }

    /// Hints about a range; the server has acknowledged the subscription when this returns.
    pub(super) async fn watch(self: &Arc<Self>, range: &Range) -> Result<Hints> {
        let claim = self.claim(range);
        self.started.call_once(|| {
            let channel = Arc::clone(self);
            self.tasks.spawn(async move {
                let closing = channel.closing.clone();
                let _ = closing.run_until_cancelled(channel.run()).await;
                channel.hub.tell_all();
            });
        });
        let mut subscribed = self.subscribed.subscribe();
        let ready = subscribed.wait_for(|patterns| patterns.contains(&claim.pattern));
        match self.space.clock.timeout(PATIENCE, ready).await {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                let message = "redis did not acknowledge a subscription in time";
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
        Ok(self.hub.watch(range, Some(Box::new(claim))))
    }

    fn claim(self: &Arc<Self>, range: &Range) -> Claim {
        let tag = self.space.tag(range.partition);
        let text = format!("{tag}h:{}/{}", range.kind.name(), range.prefix);
        let pattern = format!("{}*", escape(&text));
        let (partition, kind) = (range.partition, range.kind);
        let mut wanted = self.wanted.lock();
        let entry = wanted.entry(pattern.clone());
        entry.or_insert(Wanted { partition, kind, watchers: 0 }).watchers += 1;
        self.changed.notify_one();
        Claim { channel: Arc::clone(self), pattern }
    }

    async fn run(&self) {
        let mut failures = 0;
        loop {
            let began = self.space.clock.tick();
            if let Err(error) = self.listen().await {
                tracing::debug!(%error, "redis hint channel broke");
            }
            self.subscribed.send_replace(HashSet::new());
            self.hub.tell_all();
            let held = self.space.clock.tick().since(began) >= PATIENCE;
            failures = if held { 0 } else { failures + 1 };
            self.space.clock.sleep(backoff(&self.space.clock, failures)).await;
        }
    }

    /// Serves one connection until it breaks.
    async fn listen(&self) -> redis::RedisResult<()> {
        let connected = self.limit(self.space.link.client().get_async_pubsub()).await?;
        let (mut sink, mut messages) = connected.split();
        self.follow(&mut sink).await?;
        // Whatever was told while there was no connection is lost; now nothing more will be.
        self.hub.tell_all();
        loop {
            tokio::select! {
                // Messages first: a flood of new watchers must not hold them up.
                biased;
                message = messages.next() => match message {
                    Some(message) => self.tell(&message),
                    None => return Err(broken()),
                },
                () = self.changed.notified() => self.change(&mut sink, &mut messages).await?,
                () = self.space.clock.sleep(PULSE) => {
                    self.limit(sink.ping::<redis::Value>()).await?;
                }
            }
        }
    }

    /// Subscribes as wanted, and goes on telling meanwhile.
    async fn change(
        &self,
        sink: &mut PubSubSink,
        messages: &mut PubSubStream,
    ) -> redis::RedisResult<()> {
        let follow = self.follow(sink);
        tokio::pin!(follow);
        loop {
            tokio::select! {
                done = &mut follow => return done,
                message = messages.next() => match message {
                    Some(message) => self.tell(&message),
                    None => return Err(broken()),
                },
            }
        }
    }

    /// Makes the server's subscriptions what is wanted.
    async fn follow(&self, sink: &mut PubSubSink) -> redis::RedisResult<()> {
        let wanted: HashSet<String> = self.wanted.lock().keys().cloned().collect();
        let there = self.subscribed.borrow().clone();
        let missing: Vec<&String> = wanted.difference(&there).collect();
        let surplus: Vec<&String> = there.difference(&wanted).collect();
        if !missing.is_empty() {
            self.limit(sink.psubscribe(&missing)).await?;
        }
        if !surplus.is_empty() {
            self.limit(sink.punsubscribe(&surplus)).await?;
        }
        if wanted != there {
            self.subscribed.send_replace(wanted);
        }
        Ok(())
    }

    fn tell(&self, message: &redis::Msg) {
        let Ok(pattern) = message.get_pattern::<String>() else { return };
        let Some((partition, kind)) =
            self.wanted.lock().get(&pattern).map(|wanted| (wanted.partition, wanted.kind))
        else {
            return; // unsubscribed meanwhile
        };
        let start = format!("{}h:{}/", self.space.tag(partition), kind.name());
        if let Some(id) = message.get_channel_name().strip_prefix(&start) {
            self.hub.tell(&Key::new(partition, kind, id));
        }
    }

    async fn limit<T>(
        &self,
        action: impl Future<Output = redis::RedisResult<T>>,
    ) -> redis::RedisResult<T> {
        match self.space.clock.timeout(PATIENCE, action).await {
            Some(result) => result,
            None => Err(broken()),
        }
    }
}

/// A glob that matches this text only.
fn escape(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

fn broken() -> redis::RedisError {
    (redis::ErrorKind::Io, "the connection broke or did not answer").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_its_text_only() {
        assert_eq!(escape("{a:0}:h:job/x*[1]?\\"), "{a:0}:h:job/x\\*\\[1\\]\\?\\\\");
    }
}
