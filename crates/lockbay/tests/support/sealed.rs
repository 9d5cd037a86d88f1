//! Audit trails for tests: filled, sealed, and looked at by instances that have seen nothing yet.

#![allow(dead_code)] // every test binary uses its own part of it

use std::sync::Arc;
use std::time::Duration;

use lockbay::LockBay;
use lockbay::audit::{Thoroughness, Verdict};
use lockbay::clock::Clock;
use lockbay::config::Config;
use lockbay::store::memory::{Memory, Snapshot};
use lockbay::store::{Commit, Key, Kind, Partition, Record, Store, Write};

pub const ENTRIES: Kind = Kind::new("audit");
pub const CHECKPOINTS: Kind = Kind::new("audit-checkpoint");
pub const HEAD: Kind = Kind::new("audit-head");
pub const KEYS: Kind = Kind::new("audit-key");

pub fn log() -> Key {
    Key::new(Partition::FIRST, ENTRIES, "all")
}

/// An entry as services write them.
pub fn entry(n: usize) -> Write {
    let previous = if n >= 7 { format!(",\"previous\":\"{}\"", n - 7) } else { String::new() };
    let line = format!(
        "{{\"entity\":\"saga/{:04}\",\"action\":\"step_done\",\"actor\":\"web-{}\"{previous},\
         \"detail\":{{\"entry\":{n}}}}}",
        n % 7,
        n % 3
    );
    Write::Append { key: log(), line: line.into_bytes() }
}

/// Appends so many entries, so many in a commit.
pub async fn append(store: &dyn Store, from: usize, count: usize, each: usize) {
    let all: Vec<usize> = (from..from + count).collect();
    for some in all.chunks(each) {
        let writes = some.iter().map(|n| entry(*n)).collect();
        let commit = Commit::new(Partition::FIRST, vec![], writes, vec![]).unwrap();
        store.commit(&commit).await.unwrap();
    }
}

/// Starts an instance on a manual clock, and waits until it leads.
pub async fn lead(bay: &LockBay, clock: &Clock) {
    bay.start();
    for _ in 0..2_000 {
        if bay.is_leader() {
            return;
        }
        clock.advance(Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
    panic!("nobody was elected");
}

/// Ends an instance on a manual clock.
pub async fn end(bay: &LockBay, clock: &Clock) {
    let ending = bay.shutdown();
    let stepping = async {
        loop {
            clock.advance(Duration::from_millis(1));
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = ending => {}
        () = stepping => {}
    }
}

/// A memory with so many entries in so many checkpoints, everything sealed.
pub async fn sealed(entries: usize, each: usize, seals: usize) -> (Clock, Arc<Memory>) {
    let clock = Clock::manual(7);
    let memory = Memory::new(clock.clone());
    let bay = LockBay::with_store(Config::default(), Arc::new(memory.client()), clock.clone());
    lead(&bay, &clock).await;
    for part in 0..seals {
        append(&memory.client(), part * entries / seals, entries / seals, each).await;
        clock.advance(Duration::from_micros(50_000));
        bay.audit().seal_now().await.unwrap();
    }
    end(&bay, &clock).await;
    (clock, memory)
}

/// What an instance says that has seen nothing before.
pub async fn verdict(memory: &Arc<Memory>, clock: &Clock) -> Verdict {
    let bay = LockBay::with_store(Config::default(), Arc::new(memory.client()), clock.clone());
    bay.audit().verify(Thoroughness::Log).await.unwrap()
}

/// The records of a kind, in order.
pub fn records(snapshot: &Snapshot, kind: Kind) -> Vec<Record> {
    snapshot.records().filter(|record| record.key.kind == kind).cloned().collect()
}
