//! A program of this machine that is told of alerts: it gets the notice as JSON on its standard
//! input, and says by its exit code whether it was told.
//!
//! It is run as it is named, by no shell, in a process group of its own and with hardly any
//! environment. When its time is over, or nobody waits for it any more, the whole group is killed.

use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use lockbay::clock::Clock;
use lockbay::monitor::notify::{Channel, Notice, Undelivered};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// How long it may run.
const RUN_WITHIN: Duration = Duration::from_secs(10);
/// How much of what it says about a failure is kept, in bytes.
const MAX_SAID_BYTES: u64 = 512;
/// The longest setting, in bytes.
const MAX_COMMAND_BYTES: usize = 4_096;

/// Runs a program with each notice.
pub(super) struct CommandChannel {
    program: String,
    arguments: Vec<String>,
    clock: Clock,
    within: Duration,
}

impl CommandChannel {
    /// The program and its arguments, parted by spaces; nothing is quoted or replaced.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str, clock: Clock) -> Result<Self, String> {
        if text.len() > MAX_COMMAND_BYTES || text.chars().any(char::is_control) {
            return Err(format!("it has at most {MAX_COMMAND_BYTES} bytes, all visible"));
        }
        let mut words = text.split_whitespace().map(str::to_owned);
        let Some(program) = words.next() else { return Err("it names no program".into()) };
        if !is_there(&program) {
            return Err(format!("there is no such program: {program}"));
        }
        Ok(CommandChannel { program, arguments: words.collect(), clock, within: RUN_WITHIN })
    }

    fn start(&self, notice: &Notice) -> std::io::Result<Running> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
            .env("LOCKBAY_NOTICE_ID", &notice.id)
            .env("LOCKBAY_NOTICE_GROUP", notice.group.replace(char::is_control, " "))
            .env("LOCKBAY_NOTICE_STATUS", notice.status.name())
            .env("LOCKBAY_NOTICE_SEVERITY", notice.severity.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command.spawn().map(|child| Running { group: child.id(), child })
    }
}

/// Whether a program can be found now.
fn is_there(program: &str) -> bool {
    let path = std::path::Path::new(program);
    if program.contains('/') {
        return path.is_file();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(path).is_file())
}

/// A program that runs. Dropped, it is killed with all that it has started.
struct Running {
    child: Child,
    group: Option<u32>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = self.group.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            // There is none any more if all of it has ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Running {
    /// Gives it the notice, and waits for its end; what it said about a failure.
    async fn finish(&mut self, input: &[u8]) -> std::io::Result<Result<(), String>> {
        let stdin = self.child.stdin.take();
        let give = async move {
            if let Some(mut stdin) = stdin {
                // One that does not read is judged by its exit code.
                let _ = stdin.write_all(input).await;
            }
        };
        let stderr = self.child.stderr.take();
        let hear = async move {
            let mut said = Vec::new();
            if let Some(stderr) = stderr {
                let mut first = stderr.take(MAX_SAID_BYTES);
                let _ = first.read_to_end(&mut said).await;
                // What it says beyond that must not stop it.
                let mut rest = first.into_inner();
                let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
            }
            said
        };
        let ((), said, status) = tokio::join!(give, hear, self.child.wait());
        let status = status?;
        if status.success() {
            return Ok(Ok(()));
        }
        let said = String::from_utf8_lossy(&said).replace(char::is_control, " ");
        Ok(Err(format!("the command ended with {status}: {}", said.trim())))
    }
}

#[async_trait]
impl Channel for CommandChannel {
    fn name(&self) -> &str {
        "command"
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), Undelivered> {
        let input = serde_json::to_vec(notice)
            .map_err(|error| Undelivered::for_good(format!("no JSON: {error}")))?;
        let mut running = self.start(notice).map_err(|error| {
            Undelivered::for_now(format!("the command could not be started: {error}"))
        })?;
        match self.clock.timeout(self.within, running.finish(&input)).await {
            Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(why))) => Err(Undelivered::for_now(why)),
            Some(Err(error)) => Err(Undelivered::for_now(format!("the command was lost: {error}"))),
            None => Err(Undelivered::for_now(format!(
                "the command ran longer than {:?} and was killed",
                self.within
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn notice() -> Notice {
        serde_json::from_str(
            r#"{"id":"ntc_1","at":"2026-01-01T00:00:00Z","group":"g","status":"firing",
                "severity":"error","alerts":[],"instance":"i"}"#,
        )
        .unwrap()
    }

    /// A program of this text in a directory of its own.
    fn program(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tell");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (folder, path.to_str().unwrap().to_owned())
    }

    fn channel(command: &str, within: u64) -> CommandChannel {
        let channel = CommandChannel::parse(command, Clock::system()).unwrap();
        CommandChannel { within: Duration::from_millis(within), ..channel }
    }

    #[tokio::test]
    async fn a_command_gets_the_notice_and_little_else() {
        let (folder, path) = program(r#"cat > "$1"; env | sort >> "$1"; echo "$2" >> "$1""#);
        let told = folder.path().join("told");
        let command = format!("{path} {} $HOME;id", told.display());
        channel(&command, 20_000).deliver(&notice()).await.unwrap();
        let told = std::fs::read_to_string(told).unwrap();
        assert!(told.contains(r#""id":"ntc_1""#), "{told}");
        assert!(told.contains("LOCKBAY_NOTICE_SEVERITY=error"), "{told}");
        assert!(told.contains("$HOME;id"), "no shell reads the setting: {told}");
        assert!(!told.contains("CARGO"), "{told}");
    }

    #[tokio::test]
    async fn a_command_that_fails_or_hangs_has_told_nobody_and_is_killed_with_its_children() {
        let (_folder, path) = program("echo no luck >&2; exit 3");
        let failed = channel(&path, 20_000).deliver(&notice()).await.unwrap_err();
        assert!(failed.retryable && failed.why.contains("no luck"), "{failed:?}");
        let (folder, path) = program("sleep 1000 &\necho $! > \"$1\"\nwait");
        let pid = folder.path().join("pid");
        let hung = channel(&format!("{path} {}", pid.display()), 1_500);
        let failed = hung.deliver(&notice()).await.unwrap_err();
        assert!(failed.retryable && failed.why.contains("killed"), "{failed:?}");
        let pid = std::fs::read_to_string(pid).unwrap();
        let clock = Clock::system();
        for _ in 0..500 {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            if state.is_err() || state.is_ok_and(|state| state.contains(") Z ")) {
                return;
            }
            clock.sleep(Duration::from_millis(10)).await;
        }
        panic!("what the command started still runs");
    }

    #[tokio::test]
    async fn what_a_command_says_is_cut_and_never_stops_it() {
        let (_folder, path) = program("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1");
        let failed = channel(&path, 20_000).deliver(&notice()).await.unwrap_err();
        assert!(failed.why.len() < 1_000, "{}", failed.why.len());
    }

    #[test]
    fn a_command_that_is_not_there_is_refused_at_the_start() {
        for text in ["", "  ", "/no/such/program", "no-such-program-4711 x", "a\nb"] {
            assert!(CommandChannel::parse(text, Clock::system()).is_err(), "{text:?}");
        }
    }
}
