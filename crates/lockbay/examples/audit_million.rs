//! Fills an audit trail with a million entries, seals it, and verifies it: how long that takes, and
//! the most memory that it occupied.
//!
//! `cargo run --release -p lockbay --example audit_million --all-features -- sqlite:audit.db 1000000`

#![allow(clippy::print_stdout)] // it prints what it measured

use std::time::Duration;

use lockbay::audit::Thoroughness;
use lockbay::store::{Commit, Key, Kind, Partition, Write};
use lockbay::{Config, LockBay};

/// Entries of one commit, and commits at once.
const EACH: usize = 3;
const AT_ONCE: usize = 500;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let store = args.next().unwrap_or_else(|| "memory:".into());
    let entries: usize = args.next().as_deref().unwrap_or("1000000").parse()?;
    let config = Config { store: store.clone(), ..Config::default() };
    let bay = LockBay::open(config).await?;
    let clock = bay.clock().clone();
    bay.start();
    while !bay.is_leader() {
        clock.sleep(Duration::from_millis(10)).await;
    }
    let began = clock.tick();
    let mut filled = 0;
    while filled < entries {
        let commits: Vec<Commit> = (0..AT_ONCE)
            .map(|_| {
                let writes = (0..EACH).map(|part| entry(filled + part)).collect();
                filled += EACH;
                Commit::new(Partition::FIRST, Vec::new(), writes, Vec::new())
            })
            .collect::<Result<_, _>>()?;
        for reply in bay.store().commit_all(&commits).await {
            reply?;
        }
    }
    println!("filled {filled} entries in {:.1} s", clock.tick().since(began).as_secs_f64());
    let began = clock.tick();
    bay.audit().seal_now().await?;
    println!("sealed the rest in {:.1} s", clock.tick().since(began).as_secs_f64());
    let before = resident("VmRSS:");
    let began = clock.tick();
    let verdict = bay.audit().verify(Thoroughness::Log).await?;
    let took = clock.tick().since(began).as_secs_f64();
    let (entries, checkpoints) = (verdict.entries, verdict.checkpoints);
    let (after, peak) = (resident("VmRSS:"), resident("VmHWM:"));
    println!(
        "verified {entries} entries and {checkpoints} checkpoints of {store} in {took:.2} s, ok: {}, \
         resident {before} MiB before, {after} MiB after, {peak} MiB at most",
        verdict.ok
    );
    let began = clock.tick();
    let mut export = bay.audit().export(None, None).await?;
    let mut bytes = 0;
    while let Some(piece) = export.next().await? {
        bytes += piece.len();
    }
    let took = clock.tick().since(began).as_secs_f64();
    println!("exported {bytes} bytes in {took:.1} s, {} MiB at most", resident("VmHWM:"));
    bay.shutdown().await;
    Ok(())
}

fn entry(n: usize) -> Write {
    let line = format!(
        "{{\"entity\":\"saga/{:032x}\",\"action\":\"step_done\",\"actor\":\"web-1\",\"previous\":\
         \"1767225600{:06}\",\"digest\":\"{:064x}\",\"detail\":{{\"entry\":{},\"step\":\"reserve\"}}}}",
        n / 4,
        n % 1_000_000,
        n,
        n % 4
    );
    let key = Key::new(Partition::FIRST, Kind::new("audit"), "all");
    Write::Append { key, line: line.into_bytes() }
}

/// A figure of the kernel about this process, in MiB; zero where it does not tell.
fn resident(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1_024
}
