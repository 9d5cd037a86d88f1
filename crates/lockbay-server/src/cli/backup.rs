//! `lockbay backup`: a copy of a store that is in use, and whether a copy is whole.
//!
//! It needs no server and disturbs none: SQLite makes the copy as of one moment. A Redis has means
//! of its own, which are told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lockbay::Config;
use lockbay::clock::Clock;
use lockbay::store::sqlite::SqliteStore;
use serde_json::json;

use super::client::Failure;
use super::{Ended, output};
use crate::serve::{told, without_credentials};

/// How often the length of the copy is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// Store URL [default: the configured one]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The file that the copy becomes; there must be none of that name
    #[arg(long, value_name = "FILE", required_unless_present = "check")]
    to: Option<PathBuf>,
    /// Copy nothing, and say whether an earlier copy is whole
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "store", "config"])]
    check: Option<PathBuf>,
}

pub(super) async fn backup(args: BackupArgs, json: bool) -> Result<Ended, Failure> {
    if let Some(file) = args.check {
        return check(file, json).await;
    }
    let flags: BTreeMap<_, _> = args.store.iter().map(|url| ("store", url.clone())).collect();
    let config = Config::load(args.config.as_deref(), &flags).map_err(told)?;
    let from = path_of(&config.store)?;
    let to = args.to.unwrap_or_default();
    let clock = Clock::system();
    let began = clock.tick();
    let bytes = copied(&clock, from, &to).await?;
    let took = clock.tick().since(began);
    tell(&to, bytes, took, json);
    Ok(Ended::Done)
}

/// The file of a store, or how such a store is backed up otherwise.
fn path_of(url: &str) -> Result<PathBuf, Failure> {
    let (base, _) = url.split_once('?').unwrap_or((url, ""));
    if let Some(path) = base.strip_prefix("sqlite:") {
        return Ok(path.into());
    }
    let shown = without_credentials(url);
    let what = if base.starts_with("redis") {
        "a Redis is copied by its own means: redis-cli -u URL --rdb FILE writes its data as it is \
         now; keep its append-only file too. docs/operations.md tells how to put that back"
    } else {
        "only a store in a file, sqlite:PATH, can be copied"
    };
    Err(Failure::Usage(format!("there is no backup of {shown}: {what}")))
}

/// Copies on a thread of its own, and shows how far that is.
async fn copied(clock: &Clock, from: PathBuf, to: &Path) -> Result<u64, Failure> {
    let total = std::fs::metadata(&from).map_or(0, |found| found.len());
    let progress = output::Progress::bytes("copying", total);
    let (part, target) = (SqliteStore::being_made(to), to.to_owned());
    let mut copying = tokio::task::spawn_blocking(move || SqliteStore::copy(&from, &target));
    let done = loop {
        match clock.timeout(LOOK_EVERY, &mut copying).await {
            Some(done) => break done,
            None => {
                let length = std::fs::metadata(&part).map_or(0, |found| found.len());
                progress.reach(length.min(total));
            }
        }
    };
    drop(progress);
    let copied = done.context("the copying was cut off")?;
    Ok(copied.map_err(told).context("cannot make the backup")?)
}

async fn check(file: PathBuf, json: bool) -> Result<Ended, Failure> {
    let clock = Clock::system();
    let began = clock.tick();
    let progress = output::Progress::waiting("checking");
    let path = file.clone();
    let checked = tokio::task::spawn_blocking(move || SqliteStore::check(&path)).await;
    drop(progress);
    let bytes = checked.context("the check was cut off")?.map_err(told)?;
    tell(&file, bytes, clock.tick().since(began), json);
    Ok(Ended::Done)
}

fn tell(file: &Path, bytes: u64, took: Duration, json: bool) {
    let file = file.display().to_string();
    if json {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let told = json!({ "file": file, "bytes": bytes, "whole": true, "took_ms": took });
        output::data(&told.to_string());
        return;
    }
    output::facts(vec![
        ("file", file),
        ("size", format!("{:.1} MiB", bytes as f64 / 1_048_576.0)),
        ("checked", "whole".into()),
        ("took", format!("{:.1} s", took.as_secs_f64())),
    ]);
}
