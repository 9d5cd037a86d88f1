//! Servers that this process starts for itself: `lockbay serve` as a child, ended with its owner.
//!
//! A server is ended by its process id when it is dropped. Should this process be killed, the server
//! sees its stdin close and ends. What it logs is in a file.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use lockbay::clock::Clock;
use lockbay::config::SETTINGS;

/// How long a server may take to listen.
const START_WITHIN: Duration = Duration::from_secs(15);
/// The pause between two looks at its log.
const PAUSE: Duration = Duration::from_millis(10);

/// A server in a process of its own. Its stdin stays open as long as we live.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `lockbay serve` with these arguments in this directory, on a free port, with these
    /// settings and no others.
    pub(crate) fn serve<A: AsRef<OsStr>>(
        args: &[A],
        settings: &[(&str, &str)],
        directory: &Path,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("cannot tell where this binary is")?;
        let mut command = Command::new(&binary);
        without_settings(&mut command);
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--until-stdin-closes"])
            .args(args)
            .envs(settings.iter().copied())
            .env("NO_COLOR", "1")
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(file);
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Process { child, log })
    }

    /// Waits until it says where it listens: its address, and the id of its instance.
    pub(crate) async fn listening(&mut self, clock: &Clock) -> anyhow::Result<(String, String)> {
        let began = clock.tick();
        loop {
            let log = self.logged();
            if let Some(found) = log.lines().find_map(listening) {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait().context("cannot look after a server")? {
                bail!("a server ended at its start with {status}: {}", log.trim());
            }
            if clock.tick().since(began) > START_WITHIN {
                bail!("a server does not listen after {START_WITHIN:?}: {log}");
            }
            clock.sleep(PAUSE).await;
        }
    }

    /// What it has logged so far.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut would, and returns when it is dead.
    pub(crate) fn kill(&mut self) {
        // Neither fails but for a process that has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The child does not depend on how this machine is configured.
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
