//! Whether a process of this machine is dead, so that nobody needs to wait until its rights lapse.
//!
//! A process is told by the boot of its machine, its process namespace, its number and the time at
//! which it started. Only where boot and namespace are ours can anything be said; then it is
//! certain. Elsewhere, and on systems that do not tell, nobody is ever called dead.

use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};
use serde::{Deserialize, Serialize};

/// Which process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// The boot and the process namespace; empty where the system does not tell.
    machine: String,
    number: i32,
    /// In the kernel's ticks since the boot.
    started: u64,
}

impl Process {
    /// This one.
    pub(crate) fn this() -> Self {
        let number = getpid().as_raw_nonzero().get();
        let started = status_of(number).map_or(0, |status| status.started);
        Process { machine: machine().unwrap_or_default(), number, started }
    }

    /// Whether it is certainly dead.
    pub(crate) fn is_dead(&self) -> bool {
        if self.machine.is_empty() || machine().as_ref() != Some(&self.machine) {
            return false;
        }
        let Some(pid) = Pid::from_raw(self.number) else { return false };
        // The kernel answers this also where it hides the processes of others.
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return true;
        }
        match status_of(self.number) {
            // Its number belongs to another by now, or only its parent has not noticed yet.
            Some(status) => status.started != self.started || matches!(status.state, 'Z' | 'X'),
            None => false,
        }
    }
}

/// The boot and the process namespace in which this process lives.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

struct Status {
    state: char,
    started: u64,
}

fn status_of(number: i32) -> Option<Status> {
    let text = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The name stands in brackets and may hold anything, brackets included.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Status { state, started: fields.nth(18)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_dead_when_it_has_ended_or_its_number_is_anothers() {
        let this = Process::this();
        assert!(!this.is_dead());
        assert!(Process { started: this.started + 1, ..this.clone() }.is_dead());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let number = i32::try_from(child.id()).unwrap();
        let started = status_of(number).unwrap().started;
        let theirs = Process { number, started, ..this.clone() };
        assert!(!theirs.is_dead());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(theirs.is_dead());
    }

    #[test]
    fn nobody_is_called_dead_on_another_machine() {
        let this = Process::this();
        let elsewhere = Process { machine: "another".into(), number: i32::MAX, ..this };
        assert!(!elsewhere.is_dead());
    }
}
