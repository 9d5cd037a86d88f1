//! The servers of the tour: processes of this binary, and the directory that they work in.
//!
//! A server is ended by its process id when it is dropped, and the directory is removed when it is.
//! Should this process be killed, the servers see their stdin close and end, and the directory is
//! left. What a server logs is in a file there.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use lockbay::clock::Clock;
use lockbay::config::SETTINGS;

use crate::cli::client::Client;
use crate::cli::output;

/// How long a server may take to listen.
const START_WITHIN: Duration = Duration::from_secs(15);
/// The pause between two looks at its log.
const PAUSE: Duration = Duration::from_millis(10);
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

/// A process that does not outlive its owner. Its stdin stays open as long as we live.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        // Neither fails but for a process that has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server that was started and may not listen yet.
pub(super) struct Starting {
    name: &'static str,
    process: Process,
    log: PathBuf,
}

/// A server that listens.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) instance_id: String,
    pub(super) address: String,
    pub(super) client: Client,
    process: Process,
    log: PathBuf,
}

impl Starting {
    /// Starts `lockbay serve` under this name on the store of the directory.
    pub(super) fn spawn(name: &'static str, scratch: &Scratch) -> anyhow::Result<Self> {
        let log = scratch.path().join(format!("{name}.log"));
        let binary = std::env::current_exe().context("cannot tell where this binary is")?;
        let mut command = Command::new(&binary);
        without_settings(&mut command);
        command
            .args(["serve", "--store", "sqlite:lockbay.db", "--listen", "127.0.0.1:0"])
            .args(["--instance-name", name, "--until-stdin-closes"])
            .envs(TIMES)
            .env("NO_COLOR", "1")
            .current_dir(scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&log).context("cannot write into the directory of the tour")?);
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Starting { name, process: Process(child), log })
    }

    /// Waits until it says where it listens.
    pub(super) async fn listening(mut self, clock: &Clock) -> anyhow::Result<Server> {
        let began = clock.tick();
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some((address, instance_id)) = log.lines().find_map(listening) {
                let client = Client::of(&format!("http://{address}"));
                let client = client.map_err(|failure| anyhow::anyhow!(failure.line()))?;
                let Starting { name, process, log } = self;
                return Ok(Server { name, instance_id, address, client, process, log });
            }
            let ended = self.process.0.try_wait().context("cannot look after a server")?;
            if let Some(status) = ended {
                bail!("server {} ended at its start with {status}: {}", self.name, log.trim());
            }
            if clock.tick().since(began) > START_WITHIN {
                bail!("server {} does not listen after {START_WITHIN:?}: {log}", self.name);
            }
            clock.sleep(PAUSE).await;
        }
    }
}

impl Server {
    /// The number of its process.
    pub(super) fn process_id(&self) -> u32 {
        self.process.0.id()
    }

    /// Ends it as a power cut would, and returns when it is dead.
    pub(super) fn kill(mut self) {
        self.process.kill();
    }

    /// The end of what it logged.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

/// The tour does not depend on how this machine is configured.
fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let base = text.strip_suffix("_FILE").unwrap_or(text);
        let ours = text.starts_with("LOCKBAY_") || SETTINGS.iter().any(|one| one.env == base);
        if ours || text == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
}

/// Address and instance from the line that a server says when it listens.
fn listening(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.split_once("listening on http://")?;
    let (address, rest) = rest.split_once(' ')?;
    let (_, instance) = rest.split_once("instance=")?;
    Some((address.to_owned(), instance.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::listening;

    #[test]
    fn a_line_that_is_not_whole_yet_is_waited_for() {
        let line = "lockbay listening on http://127.0.0.1:4321 store=sqlite:x instance=ab12";
        assert_eq!(listening(line), Some(("127.0.0.1:4321".into(), "ab12".into())));
        assert_eq!(listening("lockbay listening on http://127.0.0.1:4321 store=sq"), None);
        assert_eq!(listening("something else"), None);
    }
}
