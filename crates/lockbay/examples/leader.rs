//! Two instances of one service: one leads, and when it resigns the other goes on.
//!
//! `cargo run --example leader`

#![allow(clippy::print_stdout)]

use std::sync::Arc;

use lockbay::clock::Clock;
use lockbay::store::memory::Memory;
use lockbay::store::{Commit, Deadline, Guard, Key, Kind, Partition, Reply, Write};
use lockbay::{Config, LockBay};

fn instance(memory: &Arc<Memory>, name: &str) -> LockBay {
    let config = Config { instance_name: Some(name.into()), ..Config::default() };
    LockBay::with_store(config, Arc::new(memory.client()), Clock::system())
}

#[tokio::main]
async fn main() -> lockbay::Result<()> {
    let memory = Memory::new(Clock::system());
    let (first, second) = (instance(&memory, "first"), instance(&memory, "second"));
    let (mut of_first, mut of_second) =
        (first.leadership().subscribe(), second.leadership().subscribe());

    first.start();
    println!("first: {:?}", of_first.next().await?);
    second.start();

    // What only the leader may write is committed under its fence.
    let fence = first.leadership().fence().expect("first was just elected");
    let ledger = Key::new(Partition::FIRST, Kind::new("example"), "reconciled");
    let write = || {
        let value = b"yes".to_vec();
        let put = Write::Put { key: ledger.clone(), value, deadline: Deadline::Never };
        Commit::new(Partition::FIRST, vec![Guard::Held(fence.clone())], vec![put], vec![])
    };
    let reply = first.store().commit(&write()?).await?;
    println!("first writes under its fence: {}", matches!(reply, Reply::Committed { .. }));

    first.leadership().resign().await?;
    println!("first: {:?}", of_first.next().await?);
    println!("second: {:?}", of_second.next().await?);

    // The old leader, should it not have noticed, is refused by the store itself.
    let reply = first.store().commit(&write()?).await?;
    println!("first writes under its old fence: {}", matches!(reply, Reply::Committed { .. }));
    first.shutdown().await;
    second.shutdown().await;
    Ok(())
}
