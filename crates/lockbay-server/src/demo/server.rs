//! The servers of the tour: processes of this binary, and the directory that they work in.
//!
//! A server is ended by its process id when it is dropped, and the directory is removed when it is.
//! Should this process be killed, the servers see their stdin close and end, and the directory is
//! left. What a server logs is in a file there.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lockbay::clock::Clock;

use crate::child::Process;
use crate::cli::client::Client;
use crate::cli::output;

/// How much of a log is told when something failed.
const LAST_LINES: usize = 12;
/// Rights that lapse soon, and short intervals, so that nobody has to wait for long.
const TIMES: [(&str, &str); 5] = [
    ("REDIS_LEADER_ELECTION_TTL", "1"),
    ("LOCKBAY_SESSION_TTL", "2"),
    ("ADVANCED_MONITORING_INTERVAL", "1"),
    ("LOCKBAY_ALERT_INTERVAL", "1"),
    ("LOCKBAY_AUDIT_SEAL_INTERVAL", "1"),
];

/// A directory for this user alone, removed when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(clock: &Clock) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("lockbay-demo-{}", &clock.random_id()[..16]));
        DirBuilder::new().mode(0o700).create(&path).with_context(|| {
            let path = path.display();
            format!("cannot make a directory for the tour, {path}; name another with TMPDIR")
        })?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            output::talk(&format!("lockbay: {} is left behind: {error}", self.0.display()));
        }
    }
}

/// A server that was started and may not listen yet.
pub(super) struct Starting {
    name: &'static str,
    process: Process,
}

/// A server that listens.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) instance_id: String,
    pub(super) address: String,
    pub(super) client: Client,
    process: Process,
}

impl Starting {
    /// Starts `lockbay serve` under this name on the store of the directory.
    pub(super) fn spawn(name: &'static str, scratch: &Scratch) -> anyhow::Result<Self> {
        let log = scratch.path().join(format!("{name}.log"));
        let args = ["--store", "sqlite:lockbay.db", "--instance-name", name];
        let process = Process::serve(&args, &TIMES, scratch.path(), log)?;
        Ok(Starting { name, process })
    }

    /// Waits until it says where it listens.
    pub(super) async fn listening(mut self, clock: &Clock) -> anyhow::Result<Server> {
        let listening = self.process.listening(clock).await;
        let listening = listening.with_context(|| format!("server {}", self.name));
        let (address, instance_id) = listening?;
        let client = Client::of(&format!("http://{address}"));
        let client = client.map_err(|failure| anyhow::anyhow!(failure.line()))?;
        let Starting { name, process } = self;
        Ok(Server { name, instance_id, address, client, process })
    }
}

impl Server {
    /// The number of its process.
    pub(super) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as a power cut would, and returns when it is dead.
    pub(super) fn kill(mut self) {
        self.process.kill();
    }

    /// The end of what it logged.
    pub(super) fn last_words(&self) -> String {
        let log = self.process.logged();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}
