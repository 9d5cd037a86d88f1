//! What the settings alone tell: who can listen in, who can read the secrets, what does not go
//! together.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use lockbay::Config;
use lockbay::config::{Effective, SETTINGS, Source, Span};
use rustix::process::{Resource, getrlimit};

use super::DoctorArgs;
use super::file::mode_of;
use super::finding::Check;
use crate::serve::without_credentials;

/// A Redis that does not answer is given up after 1.5 s and asked again over a new connection.
const SHORT_ON_REDIS: Duration = Duration::from_secs(3);
/// Files that are open beside connections.
const OTHER_FILES: u64 = 128;

/// The settings, if a server would take them.
pub(super) fn read(args: &DoctorArgs, checks: &mut Vec<Check>) -> Option<Config> {
    let flags: BTreeMap<_, _> = args.store.iter().map(|url| ("store", url.clone())).collect();
    let (config, told) = match Config::explain(args.config.as_deref(), &flags) {
        Ok(found) => found,
        Err(error) => {
            let advice = "correct this setting in the file, the environment or the flags; \
                          `lockbay config` shows them all";
            let wrong = Check::wrong("configuration", error.to_string(), advice);
            checks.push(wrong.because("no server starts with it"));
            return None;
        }
    };
    checks.push(configuration(args, &told));
    checks.push(audit_key(&config));
    checks.extend(secrets(&told, args.config.as_deref(), &|name| std::env::var(name).ok()));
    checks.push(listening(&config, &told));
    checks.extend(transport(&config));
    checks.extend(times(&config));
    checks.extend(payouts(&config));
    checks.push(open_files(&config, getrlimit(Resource::Nofile).maximum));
    Some(config)
}

fn configuration(args: &DoctorArgs, told: &[Effective]) -> Check {
    let source = match &args.config {
        Some(path) => format!("{} and the environment", path.display()),
        None => "defaults and the environment".into(),
    };
    let said = told.iter().filter(|setting| setting.source != Source::Default).count();
    let unknown = Config::unknown_environment();
    if unknown.is_empty() {
        return Check::fine("configuration", format!("{source}: {said} settings are given"));
    }
    let finding = format!("{source}; there is no setting {}", unknown.join(", "));
    Check::warning("configuration", finding, "unset it, or spell it as `lockbay config` does")
        .because("what is misspelt is not in force")
}

/// Whether who can write to the store can also seal the audit trail anew.
fn audit_key(config: &Config) -> Check {
    if config.audit_key.is_some() {
        return Check::fine("audit key", "given, and not kept in the store");
    }
    let finding = "made and kept in the store";
    let advice = "set LOCKBAY_AUDIT_KEY to 32 random bytes, such as of `openssl rand -hex 32`";
    Check::warning("audit key", finding, advice)
        .because("it shows mishaps, and no one who can write to the store and knows where it is")
}

/// Files with secrets that others on this machine can read.
fn secrets(
    told: &[Effective],
    config: Option<&Path>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Vec<Check> {
    let named = SETTINGS.iter().filter_map(|setting| environment(&format!("{}_FILE", setting.env)));
    let keys = told.iter().filter(|setting| setting.name == "tls_key");
    let keys = keys.filter_map(|setting| setting.value.clone());
    let kept = told.iter().any(|setting| setting.secret && setting.source == Source::File);
    let own = config.filter(|_| kept).map(|path| path.display().to_string());
    let open = named
        .chain(keys)
        .chain(own)
        .filter(|path| mode_of(Path::new(path)).is_some_and(|mode| mode & 0o077 != 0));
    open.map(|path| {
        let mode = mode_of(Path::new(&path)).unwrap_or_default();
        let finding = format!("{path} has a secret and mode {mode:04o}");
        Check::warning("secrets", finding, format!("chmod 600 {path}"))
            .because("others on this machine can read it")
    })
    .collect()
}

fn is_of_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether others can listen in on what the server is told.
fn listening(config: &Config, told: &[Effective]) -> Check {
    let listen = &config.listen;
    let host = listen.rsplit_once(':').map_or(listen.as_str(), |(host, _)| host);
    let local = listen
        .parse::<SocketAddr>()
        .map_or_else(|_| is_of_this_machine(host), |address| address.ip().is_loopback());
    let encrypts =
        |setting: &Effective| setting.name.starts_with("tls_") && setting.source != Source::Default;
    if local {
        return Check::fine("listen", format!("{listen}: only this machine reaches it"));
    }
    if told.iter().any(encrypts) {
        return Check::fine("listen", format!("{listen}, with TLS"));
    }
    let finding = format!("{listen}: other machines reach it, without TLS");
    let advice = "give the server a certificate: set LOCKBAY_TLS_CERT and LOCKBAY_TLS_KEY; or set \
                  LOCKBAY_LISTEN to 127.0.0.1:5000 and put a proxy with TLS before it";
    Check::warning("listen", finding, advice)
        .because("tokens and payloads can be read and changed on the way")
}

/// Whether others can listen in on what the store is told.
fn transport(config: &Config) -> Option<Check> {
    let shown = without_credentials(&config.store);
    let rest = shown.strip_prefix("redis://")?;
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    };
    if is_of_this_machine(host) {
        return None;
    }
    let advice =
        format!("set LOCKBAY_STORE to rediss://{rest}, with ?ca=PATH for an own authority");
    let warning =
        Check::warning("transport", format!("{shown} goes over a network in clear"), advice);
    Some(warning.because("its password, jobs and results can be read and changed on the way"))
}

/// Rights that are shorter than a pause of the store that is borne otherwise.
fn times(config: &Config) -> Vec<Check> {
    if !config.store.starts_with("redis") {
        return Vec::new();
    }
    let rights = [
        ("leader_ttl", "REDIS_LEADER_ELECTION_TTL", config.leader_ttl),
        ("claim_ttl", "REDIS_JOB_CLAIM_TTL", config.claim_ttl),
        ("session_ttl", "LOCKBAY_SESSION_TTL", config.session_ttl),
    ];
    let short = rights.into_iter().filter(|(_, _, Span(ttl))| *ttl < SHORT_ON_REDIS);
    short
        .map(|(name, env, ttl)| {
            let finding = format!("{name} is {ttl}, on a store over a network");
            Check::warning("times", finding, format!("set {env} to 3s or more")).because(
                "one connection that hangs takes 1.5 s to be given up, and the right with it",
            )
        })
        .collect()
}

fn payouts(config: &Config) -> Option<Check> {
    if !config.payout_provider.starts_with("simulated") {
        return None;
    }
    let finding = "payouts are simulated";
    let advice = "set LOCKBAY_PAYOUT_PROVIDER to the URL of who pays out, where money is real";
    Some(Check::warning("payouts", finding, advice).because("a cash-out only pretends to pay"))
}

/// Whether as many connections fit as requests may be served.
fn open_files(config: &Config, most: Option<u64>) -> Check {
    let needed = u64::from(config.max_in_flight).saturating_mul(2).saturating_add(OTHER_FILES);
    let Some(most) = most.filter(|most| *most < needed) else {
        return Check::fine("files", format!("{needed} may be open at once"));
    };
    let finding = format!("{most} may be open at once, and {needed} are needed at most");
    let advice = format!("ulimit -Hn {needed}, or LimitNOFILE={needed} in the unit of systemd");
    Check::warning("files", finding, advice)
        .because("connections beyond that are not accepted while the server is busy")
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn config(store: &str, listen: &str) -> Config {
        Config { store: store.into(), listen: listen.into(), ..Config::default() }
    }

    #[test]
    fn who_reaches_the_server_is_seen_by_its_address() {
        for (listen, state) in [
            ("127.0.0.1:5000", State::Fine),
            ("[::1]:5000", State::Fine),
            ("localhost:5000", State::Fine),
            ("0.0.0.0:5000", State::Warning),
            ("[::]:5000", State::Warning),
            ("lockbay.example.com:5000", State::Warning),
        ] {
            assert_eq!(listening(&config("memory:", listen), &[]).state, state, "{listen}");
        }
    }

    #[test]
    fn a_redis_in_clear_is_told_only_beyond_this_machine() {
        for (store, told) in [
            ("redis://127.0.0.1:6379", false),
            ("redis://[::1]:6379/0", false),
            ("redis://:p@localhost", false),
            ("rediss://10.0.0.5", false),
            ("sqlite:x.db", false),
            ("redis://user:hush@10.0.0.5:6379/0?namespace=pay", true),
            ("redis://cache", true),
        ] {
            let found = transport(&config(store, "127.0.0.1:0"));
            assert_eq!(found.is_some(), told, "{store}");
            let text = format!("{found:?}");
            assert!(!text.contains("hush"), "{text}");
            assert!(!told || text.contains("rediss://"), "{text}");
        }
    }

    #[test]
    fn a_right_that_does_not_outlive_a_pause_of_a_redis_is_told() {
        let short = Config { leader_ttl: Span(Duration::from_secs(2)), ..config("redis://h", "x") };
        assert_eq!(times(&short).len(), 1);
        assert!(times(&config("redis://h", "x")).is_empty());
        assert!(times(&Config { store: "sqlite:x".into(), ..short }).is_empty());
    }

    #[test]
    fn a_limit_of_files_below_the_connections_is_told_with_the_number_that_is_needed() {
        let config = config("memory:", "127.0.0.1:0");
        assert_eq!(open_files(&config, None).state, State::Fine);
        assert_eq!(open_files(&config, Some(65_536)).state, State::Fine);
        let few = open_files(&config, Some(1_024));
        assert!(few.state == State::Warning && few.advice.unwrap().contains("8320"));
    }
}
