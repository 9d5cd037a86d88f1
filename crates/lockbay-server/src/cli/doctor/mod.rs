//! `lockbay doctor`: opens the store itself, looks at everything that could break a promise, and
//! says what to change.
//!
//! It changes nothing, and makes no store that is missing, unless it is told to accept a store that
//! has lost data. What is looked at: `settings` alone, the `file` of a store, the store once it is
//! open, and who may ask a server (`tokens`).

mod file;
mod finding;
mod settings;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lockbay::clock::{Clock, Timestamp};
use lockbay::store::{self, Pong, Store};
use lockbay::{Caller, Config, ErrorKind, LockBay};

pub(crate) use self::file::starts_empty;
pub(super) use self::file::{is_missing, path_of};
use self::finding::{Check, State};
use super::client::Failure;
use super::{Ended, Shared, output};
use crate::serve::{told, without_credentials};

/// How long the store may take to open and to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How far the clocks of this machine and of the store may be apart.
const MAX_SKEW: Duration = Duration::from_secs(1);

/// Check configuration, store, durability and clock, and say what to change
///
/// Exit code 1 if anything is wrong.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Store URL [default: the configured one]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accept a store that has lost acknowledged data as it is, so that effects resume
    #[arg(long)]
    accept_store: bool,
}

pub(super) async fn doctor(args: &DoctorArgs, shared: &Shared) -> Result<Ended, Failure> {
    let clock = Clock::system();
    let mut checks = Vec::new();
    if let Some(config) = settings::read(args, &mut checks) {
        checks.extend(tokens::ask(shared, &clock).await);
        let file = file::path_of(&config.store);
        let is_missing = file.as_ref().is_some_and(|path| file::is_missing(path));
        if let Some(path) = &file {
            checks.extend(file::look(path));
            checks.extend(file::volume(path));
            checks.extend(file::disk_speed(path, &clock));
        }
        match file.filter(|_| is_missing) {
            Some(path) if args.accept_store => {
                let text = format!("there is no store at {} to accept", path.display());
                return Err(Failure::Usage(text));
            }
            Some(path) => checks.push(file::missing(&path)),
            None => {
                if !look_into(config, args, &clock, shared, &mut checks).await? {
                    return Ok(Ended::No);
                }
            }
        }
    }
    finding::report(&checks, shared.json);
    let wrong = checks.iter().any(|check| check.state == State::Wrong);
    Ok(if wrong { Ended::No } else { Ended::Done })
}

/// Opens the store and looks at it; false if it was to be accepted and nobody said yes.
async fn look_into(
    config: Config,
    args: &DoctorArgs,
    clock: &Clock,
    shared: &Shared,
    checks: &mut Vec<Check>,
) -> Result<bool, Failure> {
    let has_floor = file::has_floor(&config.store); // before it is opened, which may write one
    let Some(store) = open(&config, clock, checks).await else { return Ok(true) };
    if args.accept_store {
        if has_floor && has_lost_nothing(&*store, clock).await {
            output::talk("this store has lost nothing: there is nothing to accept");
        } else {
            let bay = || LockBay::with_store(config, Arc::clone(&store), clock.clone());
            if !accept(bay, shared).await? {
                return Ok(false);
            }
        }
    }
    examine(&*store, clock, checks).await;
    clock.timeout(ANSWER_WITHIN, store.close()).await;
    Ok(true)
}

/// Whether nobody has found out that a store lost something: nobody has halted it, and it is not
/// below what its floor file knows. Without such a file this proves nothing.
async fn has_lost_nothing(store: &dyn Store, clock: &Clock) -> bool {
    clock.timeout(ANSWER_WITHIN, store.ping()).await.is_some_and(|answer| answer.is_ok())
}

/// The configured store, if it opens.
async fn open(config: &Config, clock: &Clock, checks: &mut Vec<Check>) -> Option<Arc<dyn Store>> {
    let shown = without_credentials(&config.store);
    match clock.timeout(ANSWER_WITHIN, store::open(&config.store, clock)).await {
        Some(Ok(store)) => {
            checks.push(Check::fine("store", format!("{shown} is open")));
            Some(store)
        }
        Some(Err(error)) => {
            let advice = if error.kind() == ErrorKind::Invalid {
                "correct --store or LOCKBAY_STORE"
            } else if error.kind() == ErrorKind::Unauthorized {
                "correct the user and password of the store's URL"
            } else {
                "start the store, or correct its address and the rights on its directory"
            };
            checks.push(Check::wrong("store", format!("{shown}: {error}"), advice));
            None
        }
        None => {
            let finding = format!("{shown}: no answer within {ANSWER_WITHIN:?}");
            let advice = "start the store, or correct its address";
            checks.push(Check::wrong("store", finding, advice));
            None
        }
    }
}

async fn examine(store: &dyn Store, clock: &Clock, checks: &mut Vec<Check>) {
    let store_is = store.describe();
    let version = match store_is.version.strip_prefix(store_is.backend) {
        Some(_) => store_is.version,
        None => format!("{} {}", store_is.backend, store_is.version),
    };
    checks.push(age(version));
    checks.push(durability(store_is.backend, &store_is.durability));
    let (before, begun) = (clock.now(), clock.tick());
    let answer = clock.timeout(ANSWER_WITHIN, store.ping()).await;
    let took = clock.tick().since(begun);
    match answer {
        Some(Ok(pong)) => {
            let finding =
                format!("answers in {:.1} ms, has lost nothing", took.as_secs_f64() * 1e3);
            checks.push(Check::fine("answer", finding));
            checks.push(skew(before, &pong, took));
            checks.extend(pong.warnings.into_iter().map(promise));
            checks.extend(space(store, clock).await);
        }
        Some(Err(error)) if error.kind() == ErrorKind::RolledBack => {
            let advice = "restore the newest data; if it is gone for good, find out what is \
                          missing, then run `lockbay doctor --accept-store`";
            checks.push(Check::wrong("answer", error.to_string(), advice));
        }
        Some(Err(error)) => {
            checks.push(Check::wrong("answer", error.to_string(), "look into the store's own log"));
        }
        None => {
            let finding = format!("no answer within {ANSWER_WITHIN:?}");
            checks.push(Check::wrong("answer", finding, "look into the store's own log"));
        }
    }
}

/// A setting of the store that weakens a promise, with the command that changes it.
fn promise(warning: String) -> Check {
    let set = if warning.contains("maxmemory-policy") {
        "CONFIG SET maxmemory-policy noeviction"
    } else if warning.starts_with("appendonly") || warning.contains("survive a restart") {
        "CONFIG SET appendonly yes"
    } else {
        "CONFIG SET appendfsync always"
    };
    let advice =
        format!("redis-cli -u URL {set}, then redis-cli -u URL CONFIG REWRITE, to keep it so");
    Check::wrong("settings", warning, advice)
        .because("what was acknowledged can be lost; docs/semantics.md tells which promise breaks")
}

/// Versions of Redis that are known to do harm; what is younger, and Valkey, is fine.
fn age(version: String) -> Check {
    let number = version.strip_prefix("redis ").map(|number| {
        let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0u32));
        let mut next = || parts.next().unwrap_or(0);
        (next(), next(), next())
    });
    let Some(number) = number else { return Check::fine("version", version) };
    if number < (6, 2, 0) {
        let wrong = Check::wrong("version", version, "run Redis 7.2 or later, or Valkey");
        return wrong.because("it is no longer mended, and LockBay is not tested with it");
    }
    if number < (6, 2, 11) || ((7, 0, 0)..(7, 0, 9)).contains(&number) {
        let advice = "run Redis 7.2 or later, or Valkey";
        return Check::warning("version", version, advice)
            .because("a pattern of many * can keep it busy for ever (CVE-2022-36021)");
    }
    Check::fine("version", version)
}

/// What the store occupies, and what keeps it from giving space back.
async fn space(store: &dyn Store, clock: &Clock) -> Vec<Check> {
    let upkeep = store.upkeep();
    let asked = async { Ok((upkeep.footprint().await?, upkeep.advice().await?)) };
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    let answer: Option<lockbay::Result<_>> = clock.timeout(ANSWER_WITHIN, asked).await;
    match answer {
        Some(Ok((held, advice))) => {
            let (used, free) = (mib(held.used_bytes), mib(held.free_bytes));
            let mut checks = vec![Check::fine("space", format!("{used} in use, {free} free"))];
            let finding = "not everything can be cleaned up";
            checks.extend(advice.into_iter().map(|what| Check::warning("space", finding, what)));
            checks
        }
        Some(Err(error)) => {
            let advice = "allow what it names, or do without cleaning up";
            vec![Check::warning("space", error.to_string(), advice)]
        }
        None => {
            let finding = format!("not measured within {ANSWER_WITHIN:?}");
            vec![Check::warning("space", finding, "look into the store's own log")]
        }
    }
}

fn durability(backend: &str, durability: &str) -> Check {
    if durability != "none" {
        return Check::fine("durability", durability);
    }
    let (finding, advice) = if backend == "memory" {
        ("none: everything is gone when the process ends", "use sqlite: or redis:// but for tests")
    } else {
        ("none: a restart of the store loses commits", "see the settings below")
    };
    Check::warning("durability", finding, advice)
}

/// Both clocks were read within the round trip, so a difference inside it proves nothing.
fn skew(before: Timestamp, pong: &Pong, took: Duration) -> Check {
    let behind = before.since(pong.now);
    let ahead = pong.now.since(before).saturating_sub(took);
    let apart = behind.max(ahead);
    let finding = format!("{:.3} s apart from the store's", apart.as_secs_f64());
    if apart <= MAX_SKEW {
        return Check::fine("clock", finding);
    }
    let advice = "set this machine's and the store's clock by NTP; rights are safe, but the times \
                  that people see are wrong";
    Check::wrong("clock", finding, advice)
}

/// Accepts the store after a yes.
async fn accept(bay: impl FnOnce() -> LockBay, shared: &Shared) -> Result<bool, Failure> {
    output::talk(
        "Accepting means: the store goes on as it is. What it has lost stays lost: jobs may run \
         again whose outcome is missing, and leases may be granted that somebody still believes \
         to hold. Stop what depends on them first. Tokens granted from now on are higher than all \
         that any client has reported.",
    );
    match if shared.yes { Some(true) } else { output::ask("Accept the store as it is?") } {
        Some(true) => {}
        Some(false) => {
            output::talk("nothing was changed");
            return Ok(false);
        }
        None => {
            let text = "--accept-store asks on a terminal; without one, add --yes";
            return Err(Failure::Usage(text.into()));
        }
    }
    let caller = Caller::new(Some(shared.actor()), None).map_err(told)?;
    let accepted = caller.scope(bay().accept_store()).await;
    accepted.map_err(told).context("cannot accept the store")?;
    output::talk("the store is accepted: a new generation begins, and effects resume");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_redis_is_told_and_a_young_one_is_fine() {
        for (version, state) in [
            ("redis 5.0.14", State::Wrong),
            ("redis 6.2.6", State::Warning),
            ("redis 6.2.11", State::Fine),
            ("redis 7.0.8", State::Warning),
            ("redis 7.0.15", State::Fine),
            ("redis 8.2.1", State::Fine),
            ("valkey 8.0.1", State::Fine),
            ("sqlite 3.51.3", State::Fine),
        ] {
            assert_eq!(age(version.into()).state, state, "{version}");
        }
    }

    #[test]
    fn clocks_that_are_apart_are_told_whichever_is_ahead() {
        let judged = |ours: u64, theirs: u64, took: u64| {
            let at = |seconds: u64| Timestamp::from_micros(seconds * 1_000_000);
            let pong = Pong { now: at(theirs), revision: Default::default(), warnings: Vec::new() };
            skew(at(ours), &pong, Duration::from_secs(took)).state
        };
        assert_eq!(judged(1_000, 1_000, 0), State::Fine);
        assert_eq!(judged(1_000, 1_005, 5), State::Fine, "the answer took that long");
        assert_eq!(judged(1_000, 1_005, 0), State::Wrong);
        assert_eq!(judged(1_005, 1_000, 0), State::Wrong);
    }
}
