//! A profile that is loaded once for everybody who asks, and never shown from before a change.
//!
//! `cargo run --example state`

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lockbay::state::{Invalidation, LoadOptions};
use lockbay::{Config, Json, LockBay};

#[tokio::main]
async fn main() -> lockbay::Result<()> {
    let bay = LockBay::open(Config { store: "memory:".into(), ..Config::default() }).await?;
    bay.start();
    let state = bay.state();
    // Stands for a database.
    let database = Arc::new(AtomicU32::new(1));
    let load = {
        let database = Arc::clone(&database);
        move || {
            let database = Arc::clone(&database);
            async move {
                println!("the database is asked");
                let name = format!("name {}", database.load(Ordering::SeqCst));
                Json::from_value(&serde_json::json!({ "name": name }))
            }
        }
    };
    let options = LoadOptions {
        ttl: Some(Duration::from_secs(60)),
        tags: vec!["profiles".into()],
        ..LoadOptions::default()
    };
    // Three ask at once, and the database is asked once.
    let callers =
        (0..3).map(|_| state.get_or_load("user:7:profile", options.clone(), load.clone()));
    for profile in futures_util::future::try_join_all(callers).await? {
        println!("{}", profile.value.text());
    }
    // User 7 changes. The built-in rule says that `user:7:…` follows.
    database.store(2, Ordering::SeqCst);
    let change = Invalidation { updated_key: Some("user:7".into()), ..Invalidation::default() };
    let done = state.invalidate(&change).await?;
    println!("{} value invalidated", done.invalidated);
    let profile = state.get_or_load("user:7:profile", options, load).await?;
    println!("{}", profile.value.text());
    bay.shutdown().await;
    Ok(())
}
