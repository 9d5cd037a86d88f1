//! `lockbay doctor`: opens the store itself, looks at everything that could break a promise, and
//! says what to change.
//!
//! It changes nothing but what opening a store does (a missing SQLite file is created), unless it
//! is told to accept a store that has lost data.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lockbay::clock::{Clock, Timestamp};
use lockbay::store::{self, Pong, Store};
use lockbay::{Caller, Config, ErrorKind, LockBay};
use serde::Serialize;

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

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Fine,
    Warning,
    Wrong,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Fine => "fine",
            State::Warning => "warning",
            State::Wrong => "WRONG",
        }
    }
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    state: State,
    finding: String,
    advice: Option<String>,
}

impl Check {
    fn fine(name: &'static str, finding: impl Into<String>) -> Self {
        Check { name, state: State::Fine, finding: finding.into(), advice: None }
    }

    fn warning(name: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Check { name, state: State::Warning, finding: finding.into(), advice }
    }

    fn wrong(name: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Check { name, state: State::Wrong, finding: finding.into(), advice }
    }
}

pub(super) async fn doctor(args: &DoctorArgs, shared: &Shared) -> Result<Ended, Failure> {
    let clock = Clock::system();
    let mut checks = Vec::new();
    if let Some((store, config)) = open(args, &clock, &mut checks).await {
        let bay = || LockBay::with_store(config, Arc::clone(&store), clock.clone());
        if args.accept_store && !accept(bay, shared).await? {
            return Ok(Ended::No);
        }
        examine(&*store, &clock, &mut checks).await;
        clock.timeout(ANSWER_WITHIN, store.close()).await;
    }
    report(&checks, shared.json);
    let wrong = checks.iter().any(|check| check.state == State::Wrong);
    Ok(if wrong { Ended::No } else { Ended::Done })
}

/// The configured store, if it opens.
async fn open(
    args: &DoctorArgs,
    clock: &Clock,
    checks: &mut Vec<Check>,
) -> Option<(Arc<dyn Store>, Config)> {
    let flags: BTreeMap<_, _> = args.store.iter().map(|url| ("store", url.clone())).collect();
    let config = match Config::load(args.config.as_deref(), &flags) {
        Ok(config) => config,
        Err(error) => {
            let advice = "correct this setting in the file, the environment or the flags";
            checks.push(Check::wrong("configuration", error.to_string(), advice));
            return None;
        }
    };
    let source = match &args.config {
        Some(path) => format!("{} and the environment", path.display()),
        None => "defaults and the environment".into(),
    };
    checks.push(Check::fine("configuration", source));
    checks.push(audit_key(&config));
    let shown = without_credentials(&config.store);
    match clock.timeout(ANSWER_WITHIN, store::open(&config.store, clock)).await {
        Some(Ok(store)) => {
            checks.push(Check::fine("store", format!("{shown} is open")));
            Some((store, config))
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

/// Whether who can write to the store can also seal the audit trail anew.
fn audit_key(config: &Config) -> Check {
    if config.audit_key.is_some() {
        return Check::fine("audit key", "given, and not kept in the store");
    }
    let finding = "made and kept in the store: it shows mishaps, and no one who knows where it is";
    let advice = "set LOCKBAY_AUDIT_KEY to 32 random bytes, such as of `openssl rand -hex 32`";
    Check::warning("audit key", finding, advice)
}

async fn examine(store: &dyn Store, clock: &Clock, checks: &mut Vec<Check>) {
    let store_is = store.describe();
    let version = match store_is.version.strip_prefix(store_is.backend) {
        Some(_) => store_is.version,
        None => format!("{} {}", store_is.backend, store_is.version),
    };
    checks.push(Check::fine("version", version));
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
            let advice = "change it as said; docs/semantics.md tells which promise it breaks";
            let warnings = pong.warnings.into_iter();
            checks.extend(warnings.map(|warning| Check::wrong("settings", warning, advice)));
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

fn report(checks: &[Check], json: bool) {
    let fine = checks.iter().all(|check| check.state != State::Wrong);
    if json {
        let document = serde_json::json!({ "ok": fine, "checks": checks });
        output::data(&document.to_string());
        return;
    }
    let row = |check: &Check| {
        vec![check.name.to_owned(), check.state.name().to_owned(), check.finding.clone()]
    };
    output::table(&["CHECK", "STATE", "FINDING"], checks.iter().map(row).collect());
    for check in checks {
        if let Some(advice) = &check.advice {
            output::data(&format!("{}: {advice}", check.name));
        }
    }
}
