//! What the kernel tells of this process. Where it does not tell, nothing is known.

use std::fs;

/// What a process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    /// Time on the processors, in milliseconds.
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) open_files: Option<u64>,
    /// Since 1970.
    pub(crate) started_seconds: Option<u64>,
}

/// Times in the kernel's tables are in hundredths of a second, on every system of today.
const TICK_MS: u64 = 10;

impl Process {
    /// Of this process, now.
    pub(crate) fn look() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let files = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
        let booted = fs::read_to_string("/proc/stat").ok();
        let booted = booted.and_then(|stat| number_on(&stat, "btime"));
        // The name of the process, in parentheses, may hold spaces.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let cpu = field(11).zip(field(12)).map(|(user, system)| (user + system) * TICK_MS);
        let started = field(19).zip(booted).map(|(after, booted)| booted + after * TICK_MS / 1_000);
        Process {
            resident_bytes: number_on(&status, "VmRSS:").map(|kib| kib * 1_024),
            threads: number_on(&status, "Threads:"),
            cpu_ms: cpu,
            // The one through which they were counted is closed by now.
            open_files: files.map(|files| files.saturating_sub(1)),
            started_seconds: started,
        }
    }
}

fn number_on(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_tells_what_this_process_uses() {
        let process = Process::look();
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.threads.unwrap() >= 1);
        assert!(process.open_files.unwrap() >= 3);
        assert!(process.started_seconds.unwrap() > 1_700_000_000);
        assert!(process.cpu_ms.is_some());
    }
}
