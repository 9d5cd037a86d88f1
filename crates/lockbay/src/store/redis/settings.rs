//! What the server's settings promise, and which of them break ours.
//!
//! `CONFIG` is often forbidden at providers. `INFO` then tells most of it, and what nobody tells
//! becomes a warning of its own.

use std::collections::HashMap;

use redis::Value;

use super::link::Up;

/// The settings that matter, where they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) version: Option<String>,
    /// In bytes; zero is without limit.
    maxmemory: Option<u64>,
    policy: Option<String>,
    append_only: Option<bool>,
    append_sync: Option<String>,
    /// Of the numbers that its scripts write.
    bits: Option<u32>,
}

impl Settings {
    /// Asks the server. What it does not say stays unknown; no error comes of that.
    pub(super) async fn read(up: &mut Up) -> Self {
        let info = Box::pin(up.send(&redis::cmd("INFO"))).await;
        let mut settings = Settings::from_info(&text(info.unwrap_or_default()));
        for name in ["maxmemory", "maxmemory-policy", "appendonly", "appendfsync"] {
            let mut command = redis::cmd("CONFIG");
            command.arg("GET").arg(name);
            match up.send(&command).await {
                Ok(value) => settings.take(name, pair(value)),
                Err(_) => break,
            }
        }
        settings
    }

    fn from_info(info: &str) -> Self {
        let lines: HashMap<_, _> =
            info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let own = |name: &str| lines.get(name).map(|value| (*value).to_owned());
        let version = match own("valkey_version") {
            Some(version) => Some(format!("valkey {version}")),
            None => own("redis_version").map(|version| format!("redis {version}")),
        };
        Settings {
            version,
            maxmemory: own("maxmemory").and_then(|value| value.parse().ok()),
            policy: own("maxmemory_policy"),
            append_only: own("aof_enabled").map(|value| value == "1"),
            append_sync: None,
            bits: own("arch_bits").and_then(|value| value.parse().ok()),
        }
    }

    fn take(&mut self, name: &str, value: Option<String>) {
        let Some(value) = value else { return };
        match name {
            "maxmemory" => self.maxmemory = value.parse().ok(),
            "maxmemory-policy" => self.policy = Some(value),
            "appendonly" => self.append_only = Some(value == "yes"),
            "appendfsync" => self.append_sync = Some(value),
            _ => {}
        }
    }

    /// What is done before a commit is acknowledged.
    pub(super) fn durability(&self) -> String {
        match (self.append_only, &self.append_sync) {
            (Some(true), Some(sync)) => format!("aof {sync}"),
            (Some(true), None) => "aof".into(),
            (Some(false), _) => "none".into(),
            (None, _) => "unknown".into(),
        }
    }

    /// Whether keys tell for how long they were idle, as far as is known.
    pub(super) fn tells_idle_times(&self) -> bool {
        !self.policy.as_deref().is_some_and(|policy| policy.ends_with("-lfu"))
    }

    /// Whether the server matches any glob in little time. Older ones try every way to divide a name
    /// among the stars of a glob, and do nothing else meanwhile (CVE-2022-36021).
    pub(super) fn matches_quickly(&self) -> bool {
        let Some(version) = &self.version else { return false };
        let Some(version) = version.strip_prefix("redis ") else { return true };
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0u32));
        let mut next = || parts.next().unwrap_or(0);
        match (next(), next(), next()) {
            (6, 0, patch) => patch >= 18,
            (6, 2, patch) => patch >= 11,
            (7, 0, patch) => patch >= 9,
            (major, _, _) => major >= 7,
        }
    }

    /// What breaks a promise, each with what to change. The gravest come first.
    pub(super) fn warnings(&self) -> Vec<String> {
        let all = [self.numbers(), self.eviction(), self.persistence()];
        all.into_iter().flatten().collect()
    }

    fn numbers(&self) -> Option<String> {
        self.bits.filter(|bits| *bits < 64).map(|bits| {
            format!(
                "unsafe: this server is a {bits}-bit build, whose scripts cut off times and \
                 revisions; use a 64-bit build"
            )
        })
    }

    fn eviction(&self) -> Option<String> {
        match (self.policy.as_deref(), self.maxmemory) {
            (Some("noeviction"), _) => None,
            (Some(policy), Some(0)) => Some(format!(
                "maxmemory-policy is {policy}: as soon as maxmemory is set, leases, claims and \
                 sagas can be evicted; set maxmemory-policy to noeviction"
            )),
            (Some(policy), _) => Some(format!(
                "unsafe: maxmemory-policy {policy} evicts leases, claims and sagas when memory \
                 runs out; set maxmemory-policy to noeviction"
            )),
            (None, _) => Some(
                "it could not be checked whether the server evicts data; allow CONFIG GET or \
                 INFO, or make sure that maxmemory-policy is noeviction"
                    .into(),
            ),
        }
    }

    fn persistence(&self) -> Option<String> {
        match (self.append_only, self.append_sync.as_deref()) {
            (Some(true), Some("always")) => None,
            (Some(true), Some("no")) => Some(
                "appendfsync is no: a power cut loses what the operating system had not written, \
                 commonly 30 s of commits; set appendfsync to always, or to everysec for about 1 s"
                    .into(),
            ),
            (Some(true), Some(_)) => Some(
                "appendfsync is not always: a power cut loses about 1 s of acknowledged commits; \
                 set appendfsync to always"
                    .into(),
            ),
            (Some(true), None) => Some(
                "it could not be checked whether appendfsync is always; unless it is, a power cut \
                 loses 1 s of acknowledged commits or more"
                    .into(),
            ),
            (Some(false), _) => Some(
                "appendonly is no: a restart loses every commit since the last snapshot, or all; \
                 set appendonly to yes and appendfsync to always"
                    .into(),
            ),
            (None, _) => Some(
                "it could not be checked whether commits survive a restart; allow CONFIG GET or \
                 INFO, or make sure that appendonly is yes and appendfsync is always"
                    .into(),
            ),
        }
    }
}

fn text(value: Value) -> String {
    redis::from_redis_value(value).unwrap_or_default()
}

/// The value of `CONFIG GET` for one name.
fn pair(value: Value) -> Option<String> {
    let pairs: HashMap<String, String> = redis::from_redis_value(value).ok()?;
    pairs.into_values().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(policy: &str, maxmemory: u64, append: bool, sync: &str) -> Settings {
        Settings {
            version: None,
            maxmemory: Some(maxmemory),
            policy: Some(policy.into()),
            append_only: Some(append),
            append_sync: Some(sync.into()),
            bits: Some(64),
        }
    }

    #[test]
    fn a_safe_server_gets_no_warning() {
        assert_eq!(with("noeviction", 100, true, "always").warnings(), Vec::<String>::new());
        assert_eq!(with("noeviction", 100, true, "always").durability(), "aof always");
    }

    #[test]
    fn eviction_is_unsafe_once_memory_is_limited() {
        let [grave] = &with("volatile-lru", 100, true, "always").warnings()[..] else { panic!() };
        assert!(grave.starts_with("unsafe: ") && grave.contains("volatile-lru"), "{grave}");
        let [mild] = &with("allkeys-lfu", 0, true, "always").warnings()[..] else { panic!() };
        assert!(!mild.starts_with("unsafe: "), "{mild}");
    }

    #[test]
    fn a_server_whose_numbers_are_too_short_is_unsafe() {
        let info = "arch_bits:32\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n";
        let warnings = Settings::from_info(info).warnings();
        assert!(warnings[0].starts_with("unsafe: ") && warnings[0].contains("32"), "{warnings:?}");
    }

    #[test]
    fn weak_persistence_says_what_can_be_lost() {
        for (append, sync, lost) in
            [(false, "always", "last snapshot"), (true, "everysec", "1 s"), (true, "no", "30 s")]
        {
            let [warning] = &with("noeviction", 0, append, sync).warnings()[..] else { panic!() };
            assert!(warning.contains(lost), "{warning}");
            assert!(warning.contains("appendfsync to always"), "{warning}");
        }
    }

    #[test]
    fn servers_that_match_globs_slowly_are_known_by_their_version() {
        let of = |version: &str| Settings { version: Some(version.into()), ..Settings::default() };
        for quick in ["redis 6.0.18", "redis 6.2.11", "redis 7.0.9", "redis 7.2.0", "valkey 7.2.5"]
        {
            assert!(of(quick).matches_quickly(), "{quick}");
        }
        for slow in ["redis 5.0.14", "redis 6.2.10", "redis 7.0.8", "redis ?"] {
            assert!(!of(slow).matches_quickly(), "{slow}");
        }
        assert!(!Settings::default().matches_quickly(), "unknown");
    }

    #[test]
    fn info_stands_in_where_config_is_forbidden() {
        let info = "# Server\r\nredis_version:7.0.15\r\nmaxmemory:0\r\n\
                    maxmemory_policy:noeviction\r\naof_enabled:1\r\n";
        let settings = Settings::from_info(info);
        assert_eq!(settings.version.as_deref(), Some("redis 7.0.15"));
        assert_eq!(settings.durability(), "aof");
        let [warning] = &settings.warnings()[..] else { panic!() };
        assert!(warning.contains("could not be checked"), "{warning}");
        assert_eq!(Settings::default().warnings().len(), 2);
    }
}
