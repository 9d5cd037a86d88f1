//! A store in a file: whether it is there, who can read it, how large its log is, how full and how
//! fast its disk.
//!
//! All of this is looked at before the store is opened, since opening tidies up. Nothing here
//! opens the file itself: closing any descriptor of a database drops the locks of its process.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::store::Volume;

use super::finding::Check;

/// A log that was never copied into its file for so long is read through by every reader.
const HUGE_LOG: u64 = 512 * 1024 * 1024;
/// A commit waits for one write to the disk.
const SLOW_WRITE: Duration = Duration::from_millis(20);
/// How often a write is measured; the middle one counts.
const WRITES: usize = 7;
/// Of a volume: below a share, and below so many bytes where the share would be more than anybody
/// needs.
const NEARLY_FULL: Level = Level { share: 10, bytes: 5 << 30 };
const FULL: Level = Level { share: 2, bytes: 512 << 20 };

struct Level {
    /// So many percent.
    share: u64,
    bytes: u64,
}

impl Level {
    fn is_reached(&self, volume: &Volume) -> bool {
        let share = volume.total_bytes / 100 * self.share;
        volume.free_bytes < share.min(self.bytes)
    }
}

/// The path of a store in a file.
pub(in crate::cli) fn path_of(url: &str) -> Option<PathBuf> {
    let path = url.split_once('?').map_or(url, |(base, _)| base).strip_prefix("sqlite:")?;
    (!path.is_empty()).then(|| path.into())
}

/// Who may do what with a file; `None` if there is none.
pub(super) fn mode_of(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.permissions().mode() & 0o7777)
}

/// Whether there is no store at a path. A file without a byte is none: to open it makes one of it.
pub(in crate::cli) fn is_missing(path: &Path) -> bool {
    fs::metadata(path).map_or(!path.exists(), |file| file.is_file() && file.len() == 0)
}

/// Whether a server would begin with an empty store at this URL.
pub(crate) fn starts_empty(url: &str) -> bool {
    url.starts_with("memory:") || path_of(url).is_some_and(|path| is_missing(&path))
}

/// Whether the file beside a store tells what was acknowledged in the namespace of this URL.
pub(super) fn has_floor(url: &str) -> bool {
    let Some(path) = path_of(url) else { return false };
    let Ok(namespace) = lockbay::store::namespace_of(url) else { return false };
    let text = fs::read(beside(&path, "-floor")).unwrap_or_default();
    let floors: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap_or_default();
    floors.iter().any(|floor| floor["namespace"] == *namespace)
}

/// The path of a file that lies beside another.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What would be there if a server were started on a file that is not.
pub(super) fn missing(path: &Path) -> Check {
    let shown = path.display();
    let (directory, there) = home_of(path);
    let finding = match there {
        _ if path.exists() => {
            format!("the file {shown} is empty; a server would begin with an empty store")
        }
        true => format!("there is no file {shown}; a server would begin with an empty one"),
        false => format!(
            "there is no file {shown}, nor its directory; a server would make both, below {}",
            directory.display()
        ),
    };
    let advice = format!(
        "correct --store or LOCKBAY_STORE if there should be data, or begin: lockbay serve \
         --store sqlite:{shown}"
    );
    Check::warning("store", finding, advice).because("an empty store has no jobs, sagas or money")
}

/// The directory of a file, or the nearest above it that is there, and whether it is its own.
fn home_of(path: &Path) -> (PathBuf, bool) {
    let mut directory = path.parent().map(Path::to_owned).unwrap_or_default();
    let mut own = true;
    loop {
        let here = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
        if here.is_dir() {
            return (here.to_owned(), own);
        }
        own = false;
        if !directory.pop() {
            return (PathBuf::from("."), own);
        }
    }
}

/// What can be seen of a file without opening it.
pub(super) fn look(path: &Path) -> Vec<Check> {
    let beside = |suffix| beside(path, suffix);
    // The floor file holds numbers that everybody may read.
    let kept = [(path.to_owned(), 0o066), (beside("-wal"), 0o066), (beside("-floor"), 0o022)];
    let judged = kept.iter().filter_map(|(path, bits)| permissions(path, *bits));
    let mut checks: Vec<Check> = judged.collect();
    if checks.is_empty() && mode_of(path).is_some() {
        checks.push(Check::fine("permissions", "only the owner can read the store"));
    }
    let log = fs::metadata(beside("-wal")).map_or(0, |found| found.len());
    checks.extend((mode_of(path).is_some()).then(|| write_ahead(path, log)));
    checks
}

/// Who else may do what of `bits` with a file.
fn permissions(path: &Path, bits: u32) -> Option<Check> {
    let mode = mode_of(path)?;
    let others = mode & bits;
    let shown = path.display();
    let advice = format!("chmod 600 {shown}");
    if others & 0o022 != 0 {
        let wrong = Check::wrong("permissions", format!("{shown} has mode {mode:04o}"), advice);
        return Some(wrong.because("others on this machine can change money behind LockBay"));
    }
    if others & 0o044 != 0 {
        let warning = Check::warning("permissions", format!("{shown} has mode {mode:04o}"), advice);
        return Some(warning.because("others on this machine can read parameters and results"));
    }
    None
}

fn write_ahead(path: &Path, bytes: u64) -> Check {
    let mib = bytes / (1 << 20);
    if bytes < HUGE_LOG {
        return Check::fine("log", format!("{mib} MiB wait to be copied into the file"));
    }
    let finding = format!("{mib} MiB wait to be copied into the file");
    let advice = format!(
        "find who reads {0} for long: fuser -v {0}; end that, and the next commits copy the log",
        path.display()
    );
    Check::warning("log", finding, advice)
        .because("a log that never empties fills the disk, and every read looks through it")
}

/// How full the volume of the file is; the nearest directory stands for a file that is not there.
pub(super) fn volume(path: &Path) -> Option<Check> {
    let (directory, _) = home_of(path);
    let found = rustix::fs::statvfs(&directory).ok()?;
    let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
    let total_bytes = found.f_blocks.saturating_mul(found.f_frsize);
    Some(room(&Volume { free_bytes, total_bytes }, &directory))
}

fn room(volume: &Volume, directory: &Path) -> Check {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1u32 << 30));
    let shown = directory.display();
    let finding =
        format!("{} of {} are free at {shown}", gib(volume.free_bytes), gib(volume.total_bytes));
    let advice = format!(
        "make room: du -xh {shown} | sort -h | tail; lockbay cleanup run --dry-run tells what may \
         go of the store itself"
    );
    let why = "without room every commit is refused";
    if FULL.is_reached(volume) {
        return Check::wrong("disk", finding, advice).because(why);
    }
    if NEARLY_FULL.is_reached(volume) {
        return Check::warning("disk", finding, advice).because(why);
    }
    Check::fine("disk", finding)
}

/// How long the disk takes to keep something, measured on a file that is removed again.
pub(super) fn disk_speed(path: &Path, clock: &Clock) -> Option<Check> {
    let (directory, _) = home_of(path);
    let probe = directory.join(format!(".lockbay-doctor-{}", clock.random_id()));
    let measured = measure(&probe, clock);
    let removed = fs::remove_file(&probe);
    match measured {
        Ok(took) => Some(judge_speed(took, &directory)),
        // Where nothing can be written, opening the store tells that better.
        Err(_) => removed.err().filter(|error| error.kind() != std::io::ErrorKind::NotFound).map(
            |error| {
                let finding = format!("{} is left behind: {error}", probe.display());
                Check::warning("writes", finding, format!("rm {}", probe.display()))
            },
        ),
    }
}

fn measure(probe: &Path, clock: &Clock) -> std::io::Result<Duration> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(probe)?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let began = clock.tick();
        file.write_all(&[0x5a; 4_096])?;
        file.sync_data()?;
        times.push(clock.tick().since(began));
    }
    times.sort_unstable();
    Ok(times.get(WRITES / 2).copied().unwrap_or_default())
}

fn judge_speed(took: Duration, directory: &Path) -> Check {
    let shown = directory.display();
    let finding =
        format!("{:.1} ms to bring 4 KiB to the disk of {shown}", took.as_secs_f64() * 1e3);
    if took <= SLOW_WRITE {
        return Check::fine("writes", finding);
    }
    let advice = "put the store on a disk with a write cache that survives a power cut, local and \
                  not over a network";
    Check::warning("writes", finding, advice).because("each commit waits for one such write")
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_volume_is_judged_by_share_and_by_what_anybody_needs() {
        const GIB: u64 = 1 << 30;
        for (free, total, state) in [
            (50 * GIB, 100 * GIB, State::Fine),
            (6 * GIB, 1_000 * GIB, State::Fine), // a small share of much is enough
            (4 * GIB, 1_000 * GIB, State::Warning),
            (GIB / 4, 1_000 * GIB, State::Wrong),
            (GIB / 2, GIB, State::Fine), // little, and half of it is free
            (GIB / 20, GIB, State::Warning),
            (GIB / 100, GIB, State::Wrong),
            (0, 0, State::Fine),
        ] {
            let volume = Volume { free_bytes: free, total_bytes: total };
            assert_eq!(room(&volume, Path::new("/x")).state, state, "{free} of {total}");
        }
    }

    #[test]
    fn a_slow_disk_is_told() {
        let judged = |millis| judge_speed(Duration::from_millis(millis), Path::new("/x")).state;
        assert_eq!(judged(2), State::Fine);
        assert_eq!(judged(80), State::Warning);
    }

    #[test]
    fn the_probe_of_the_disk_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not/there/lockbay.db");
        assert!(disk_speed(&path, &Clock::system()).unwrap().finding.contains("4 KiB"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
