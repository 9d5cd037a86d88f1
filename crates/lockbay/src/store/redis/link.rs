//! The connection: one at a time, replaced as often as needed, by one task.
//!
//! Whoever needs it waits for it with a limit; whoever finds it broken says so and waits for the
//! next. A server that turned read-only, is loading, or has lost its master counts as broken: after
//! a failover the name leads to another server, and only a new connection gets there.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, RedisError, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::address;
use crate::clock::{Clock, Tick};
use crate::error::{Error, ErrorKind};

/// The first wait between attempts; it doubles up to [`LONGEST_WAIT`], and jitter is added.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A connection that held this long was a good one: its end is not held against the next.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// See the file's first paragraph.
pub(super) struct Link {
    client: Client,
    clock: Clock,
    state: watch::Sender<State>,
    stop: CancellationToken,
}

#[derive(Clone)]
enum State {
    Down(Arc<RedisError>),
    Starting,
    Up(Up),
}

/// A connection that is up, as far as anybody knows.
#[derive(Clone)]
pub(super) struct Up {
    /// Which one it is, for [`Link::broken`].
    pub(super) epoch: u64,
    connection: MultiplexedConnection,
}

/// Why a script gave no answer.
pub(super) enum Failure {
    /// The server did not run it, and another connection may.
    NotRun(RedisError),
    /// The server did not run it and will not.
    Refused(RedisError),
    /// The server ran it and it failed.
    Broken(RedisError),
    /// Nothing was heard: it may have run.
    Unclear(RedisError),
}

impl Link {
    pub(super) fn new(client: Client, clock: Clock) -> Arc<Self> {
        Arc::new(Link {
            client,
            clock,
            state: watch::Sender::new(State::Starting),
            stop: CancellationToken::new(),
        })
    }

    /// Where it leads, without credentials.
    pub(super) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Keeps a connection up until [`stop`](Link::stop).
    pub(super) async fn run(self: Arc<Self>) {
        let work = async {
            let (mut epoch, mut failures) = (0, 0);
            loop {
                epoch += 1;
                let began = self.clock.tick();
                self.hold(epoch).await;
                failures = if self.held_long(began) { 0 } else { failures + 1 };
                self.clock.sleep(backoff(&self.clock, failures)).await;
            }
        };
        let _ = self.stop.run_until_cancelled(work).await;
        self.state.send_replace(State::Down(Arc::new(closed())));
    }

    fn held_long(&self, began: Tick) -> bool {
        self.clock.tick().since(began) >= GOOD_FOR
    }

    /// Connects, and returns when that fails or somebody finds the connection broken.
    async fn hold(&self, epoch: u64) {
        let settings = address::settings();
        let connected = self.client.get_multiplexed_async_connection_with_config(&settings).await;
        let connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%error, "redis connection failed");
                self.state.send_replace(State::Down(Arc::new(error)));
                return;
            }
        };
        tracing::debug!(epoch, "redis connected");
        self.state.send_replace(State::Up(Up { epoch, connection }));
        let mut state = self.state.subscribe();
        // Only the end of the link closes the channel, and that ends this task too.
        let _ = state.wait_for(|state| !matches!(state, State::Up(_))).await;
    }

    /// The connection, as soon as there is one; an error when there is none in time.
    pub(super) async fn up(&self, limit: Duration) -> Result<Up, Error> {
        if let State::Up(up) = &*self.state.borrow() {
            return Ok(up.clone());
        }
        let mut state = self.state.subscribe();
        let wait = async {
            let state = state.wait_for(|state| matches!(state, State::Up(_))).await;
            state.map(|state| state.clone())
        };
        match self.clock.timeout(limit, wait).await {
            Some(Ok(State::Up(up))) => Ok(up),
            Some(_) | None => Err(self.unavailable()),
        }
    }

    /// What is wrong, when it is not up.
    fn unavailable(&self) -> Error {
        let state = self.state.borrow().clone();
        match state {
            State::Down(error) if is_login(&error) => {
                Error::new(ErrorKind::Unauthorized, "redis refuses our credentials")
                    .with_source(error)
            }
            State::Down(error) => {
                Error::new(ErrorKind::Unavailable, "redis cannot be reached").with_source(error)
            }
            State::Starting | State::Up(_) => {
                Error::new(ErrorKind::Unavailable, "redis does not answer in time")
            }
        }
    }

    /// Replaces the connection of this epoch, if that has not happened yet. What others have sent
    /// on it may still be answered.
    pub(super) fn broken(&self, epoch: u64) {
        self.state.send_if_modified(|state| {
            let same = matches!(state, State::Up(up) if up.epoch == epoch);
            if same {
                *state = State::Starting;
            }
            same
        });
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// A client for a second connection to the same place.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

impl Up {
    /// Runs a script by its hash, and loads it first where it is not known. That resend is safe:
    /// a script that is not known has not run.
    pub(super) async fn run(&mut self, script: &Script, call: &redis::Cmd) -> Run {
        match self.send(call).await {
            Err(error) if code(&error) == "NOSCRIPT" => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(script.source);
                self.send(&load).await.map_err(classify)?;
                self.send(call).await.map_err(classify)
            }
            answer => answer.map_err(classify),
        }
    }

    /// Sends any command.
    pub(super) async fn send(&mut self, command: &redis::Cmd) -> redis::RedisResult<Value> {
        command.query_async(&mut self.connection).await
    }
}

/// What came of a script.
pub(super) type Run = Result<Value, Failure>;

/// A Lua script and its hash.
pub(super) struct Script {
    source: &'static str,
    hash: String,
}

impl Script {
    pub(super) fn new(source: &'static str) -> Self {
        Script { source, hash: redis::Script::new(source).get_hash().to_owned() }
    }

    /// A call of it on one key; arguments are added by the caller.
    pub(super) fn call(&self, key: &str, bytes: usize) -> redis::Cmd {
        self.call_with(key, &[], bytes)
    }

    /// A call of it on one key and more behind it.
    pub(super) fn call_with(&self, key: &str, more: &[Vec<u8>], bytes: usize) -> redis::Cmd {
        let mut command = redis::Cmd::with_capacity(16 + more.len(), bytes + 256);
        command.arg("EVALSHA").arg(&self.hash).arg(1 + more.len()).arg(key).arg(more);
        command
    }
}

/// How long to wait before the attempt after this many failures.
pub(super) fn backoff(clock: &Clock, failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let wait = (FIRST_WAIT * 2u32.pow(failures.min(10) - 1)).min(LONGEST_WAIT);
    wait + clock.jitter(wait / 2)
}

fn code(error: &RedisError) -> &str {
    error.code().unwrap_or_default()
}

fn is_login(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed
        || matches!(code(error), "WRONGPASS" | "NOAUTH" | "NOPERM")
}

/// Tells what a failed script means. A script is refused at its first write or before it starts,
/// so a refusal by name has changed nothing.
pub(super) fn classify(error: RedisError) -> Failure {
    // Redis 6 hides the reason inside a general error.
    let detail = error.detail().unwrap_or_default();
    match code(&error) {
        "READONLY" | "LOADING" | "MASTERDOWN" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN"
        | "NOSCRIPT" => Failure::NotRun(error),
        "ERR" if detail.contains("-READONLY") => Failure::NotRun(error),
        "OOM" | "MISCONF" | "NOREPLICAS" | "NOAUTH" => Failure::Refused(error),
        "ERR" if ["-OOM", "-MISCONF", "-NOREPLICAS"].iter().any(|c| detail.contains(c)) => {
            Failure::Refused(error)
        }
        "" => Failure::Unclear(error),
        _ => Failure::Broken(error),
    }
}

/// The error for a script that the server refuses to run.
pub(super) fn refused(error: RedisError) -> Error {
    let kind = if is_login(&error) { ErrorKind::Unauthorized } else { ErrorKind::Unavailable };
    Error::new(kind, "redis refuses").with_source(error)
}

fn closed() -> RedisError {
    RedisError::from((redis::ErrorKind::Client, "the store is closed"))
}
