//! A schedule of every second whose ticks count something exactly once, over two instances of which
//! the leading one resigns.
//!
//! `cargo run --example schedule`

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use lockbay::job::{JobFailure, JobSuccess};
use lockbay::schedule::{ScheduleRequest, Tick};
use lockbay::store::{Deadline, Effects, Guard, Key, Kind, Partition, Store, Write};
use lockbay::{Config, Json, LockBay};

/// Where the example counts.
const COUNTER: Kind = Kind::new("example-counter");

/// Adds one to a number, in the same commit as the completion of the tick: however often this is
/// called, each tick counts once.
async fn count(tick: Tick, store: Arc<dyn Store>) -> Result<JobSuccess, JobFailure> {
    let key = Key::new(Partition::FIRST, COUNTER, "ticks");
    let found = store.get(std::slice::from_ref(&key)).await?.records.remove(0);
    let text = found.as_ref().map(|record| String::from_utf8_lossy(&record.value).into_owned());
    let count = text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + 1;
    let guard = match found {
        Some(record) => Guard::RevisionIs(key.clone(), record.revision),
        None => Guard::Absent(key.clone()),
    };
    let value = count.to_string().into_bytes();
    let write = Write::Put { key, value, deadline: Deadline::Never };
    let result = Json::parse(count.to_string())?;
    println!("tick of {} is number {count}", tick.scheduled_time);
    Ok(JobSuccess { result, effects: Effects { guards: vec![guard], writes: vec![write] } })
}

/// An instance that knows how to count.
async fn instance(name: &str, url: &str) -> lockbay::Result<LockBay> {
    let config =
        Config { store: url.into(), instance_name: Some(name.into()), ..Config::default() };
    let bay = LockBay::open(config).await?;
    let store = Arc::clone(bay.store());
    bay.schedules().register("count", move |tick| count(tick, Arc::clone(&store)))?;
    bay.start();
    Ok(bay)
}

#[tokio::main]
async fn main() -> lockbay::Result<()> {
    let file = std::env::temp_dir().join(format!("lockbay-schedule-{}.db", std::process::id()));
    let url = format!("sqlite:{}", file.display());
    let (one, two) = (instance("one", &url).await?, instance("two", &url).await?);
    let wish = ScheduleRequest::new("counting", "count", "every 1s", "count");
    let put = one.schedules().put(&wish).await?;
    println!("next due {:?}", put.schedule.next_due);
    let clock = one.clock();
    clock.sleep(Duration::from_secs(3)).await;
    for bay in [&one, &two] {
        if bay.is_leader() {
            bay.leadership().resign().await?;
            println!("{} resigns", bay.config().instance_name.as_deref().unwrap_or_default());
            break;
        }
    }
    clock.sleep(Duration::from_secs(3)).await;
    let shown = two.schedules().show("counting").await?;
    println!("{:?}", shown.counts);
    // A schedule that cannot be is refused, with what would be right.
    let wrong = ScheduleRequest::new("never", "count", "0 0 30 2 *", "count");
    if let Err(error) = one.schedules().put(&wrong).await {
        println!("refused: {error}");
    }
    one.shutdown().await;
    two.shutdown().await;
    for suffix in ["", "-wal", "-shm", "-floor", "-turn"] {
        drop(std::fs::remove_file(format!("{}{suffix}", file.display())));
    }
    Ok(())
}
