//! Retention rules: what may go, when, and at which pace; the built-in ones; how they are kept.
//!
//! A rule that somebody puts is a record of its own. It stands in the place of the built-in rule of
//! its name, if there is one; a built-in rule that was deleted leaves a record that says so.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pattern;
use crate::error::{Error, Result};
use crate::name::check_name;

/// The most records that one commit of the sweeper deletes.
pub const MAX_BATCH: u32 = 1_000;
/// The longest time that a rule can keep something: a century.
pub const MAX_RULE_TTL: Duration = Duration::from_secs(100 * 366 * 86_400);
/// The shortest and the longest time between two cycles of a rule.
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// See [`MIN_INTERVAL`].
pub const MAX_INTERVAL: Duration = Duration::from_secs(366 * 86_400);
/// The most rules that can be put.
pub const MAX_RULES: usize = 200;
/// The least time that an ended saga is kept: whoever waits for its end must be able to read it.
pub const MIN_SAGA_TTL: Duration = Duration::from_secs(3_600);

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// When a rule does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Within a second of the moment at which something may go, where an index tells that moment;
    /// what has to be looked for, at the rule's interval.
    Immediate,
    /// At the rule's interval.
    Batch,
    /// Only when it is asked to, by a run or for memory.
    Lazy,
    /// Never, not even when everything is run.
    Never,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// State values whose time to live has passed. Named by their key; the rule's TTL does not
    /// matter to them.
    ExpiredState,
    /// State values that are older than one of their tags. Named by their key; as above.
    StaleState,
    /// Tasks of sagas that are over, and other leftovers of sagas. They have no name.
    Leftovers,
    /// Results of completed jobs; the job stays remembered. Named by the job's key.
    JobResults,
    /// Jobs that have ended, after which they are forgotten. Named by the job's key.
    Jobs,
    /// Sagas that have ended, with everything of them but their postings. Named by the saga's name.
    Sagas,
    /// Named leases that have lapsed. Named by their name.
    Leases,
    /// Samples of metrics whose time is over. Named by their place in the store; the rule's TTL does
    /// not matter to them.
    History,
    /// State values without a time to live that were not written for the rule's TTL. Named by
    /// their key.
    StateKeys,
    /// The beginning of the audit trail that a signed checkpoint says may be gone. It has no name,
    /// and the setting `audit_retention` says what may be gone; a rule can only keep it longer.
    Audit,
    /// Keys of others on the same Redis that were not used for the rule's TTL.
    ForeignKeys,
    /// Notices of alerts that every channel delivered. Named by their group.
    Notices,
    /// Notices of alerts that a channel gave up. Named by their group.
    DeadNotices,
    /// Tokens that expired or were revoked. Named by their names.
    Tokens,
    /// Sessions that have ended. Named by what SHA-256 makes of their secret; the rule's TTL does
    /// not matter to them.
    AccessSessions,
}

impl Scope {
    /// All of them.
    pub const ALL: [Scope; 15] = [
        Scope::ExpiredState,
        Scope::StaleState,
        Scope::Leftovers,
        Scope::JobResults,
        Scope::Jobs,
        Scope::Sagas,
        Scope::Leases,
        Scope::History,
        Scope::StateKeys,
        Scope::Audit,
        Scope::ForeignKeys,
        Scope::Notices,
        Scope::DeadNotices,
        Scope::Tokens,
        Scope::AccessSessions,
    ];

    /// Whether what may go is found without looking at what stays.
    pub(super) fn is_indexed(self) -> bool {
        match self {
            Scope::ExpiredState
            | Scope::JobResults
            | Scope::Jobs
            | Scope::Sagas
            | Scope::Leases
            | Scope::History
            | Scope::Notices
            | Scope::DeadNotices
            | Scope::Tokens
            | Scope::AccessSessions
            | Scope::Audit => true,
            Scope::StaleState | Scope::Leftovers | Scope::StateKeys | Scope::ForeignKeys => false,
        }
    }
}

/// What a rule does to keys of others that have an expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiring {
    /// Leaves them to the server.
    #[default]
    Leave,
    /// Deletes them like others, if their expiry is farther off than the rule's TTL.
    Include,
}

/// Whose rule it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It came with LockBay.
    BuiltIn,
    /// Somebody put it.
    #[default]
    Put,
}

/// What may go, when, and at which pace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name; the API's `type`. 1 to 64 bytes.
    pub name: String,
    /// Which things, by the name that each has in its scope: `*` is any text, `?` any character.
    pub pattern: String,
    /// How long they are kept, from what the scope says.
    #[serde(rename = "ttl_seconds", with = "seconds")]
    pub ttl: Duration,
    /// When the work is done.
    #[serde(default = "Strategy::usual")]
    pub strategy: Strategy,
    /// The most that one commit deletes; it deletes fewer where the store is slow.
    #[serde(default = "usual_batch")]
    pub batch_size: u32,
    /// Within a cycle, rules with a higher one come first; then by name.
    #[serde(default)]
    pub priority: i32,
    /// Time between two cycles of the rule; the setting `cleanup_interval` if there is none.
    #[serde(
        rename = "interval_seconds",
        default,
        skip_serializing_if = "Option::is_none",
        with = "some_seconds"
    )]
    pub interval: Option<Duration>,
    /// What it is about. Without, what the built-in rule of its name is about; if there is none,
    /// state keys and keys of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applies_to: Option<BTreeSet<Scope>>,
    /// What becomes of keys of others that have an expiry.
    #[serde(default)]
    pub expiring: Expiring,
    /// Whose it is; whatever was put is `put`.
    #[serde(default)]
    pub origin: Origin,
}

impl Strategy {
    fn usual() -> Self {
        Strategy::Batch
    }
}

fn usual_batch() -> u32 {
    100
}

impl Rule {
    /// A batch rule on state keys and keys of others.
    pub fn new(name: impl Into<String>, pattern: impl Into<String>, ttl: Duration) -> Self {
        Rule {
            name: name.into(),
            pattern: pattern.into(),
            ttl,
            strategy: Strategy::usual(),
            batch_size: usual_batch(),
            priority: 0,
            interval: None,
            applies_to: None,
            expiring: Expiring::Leave,
            origin: Origin::Put,
        }
    }

    /// What it is about.
    pub fn scopes(&self) -> BTreeSet<Scope> {
        self.applies_to.clone().unwrap_or_else(|| match scopes_of_built_in(&self.name) {
            Some(scopes) => scopes.iter().copied().collect(),
            None => [Scope::StateKeys, Scope::ForeignKeys].into(),
        })
    }

    /// Refuses what cannot be meant.
    ///
    /// # Errors
    /// `Invalid`, with the field and its value.
    pub fn check(&self) -> Result<()> {
        check_name("rule name", &self.name, 64)?;
        pattern::check(&self.pattern)?;
        check_ttl(self.ttl)?;
        if self.batch_size == 0 || self.batch_size > MAX_BATCH {
            let size = self.batch_size;
            return Err(Error::invalid(format!("batch_size is 1 to {MAX_BATCH}, not {size}")));
        }
        if let Some(interval) = self.interval
            && !(MIN_INTERVAL..=MAX_INTERVAL).contains(&interval)
        {
            return Err(Error::invalid(format!(
                "the interval of a rule is {MIN_INTERVAL:?} to {MAX_INTERVAL:?}, not {interval:?}"
            )));
        }
        let scopes = self.scopes();
        if scopes.is_empty() {
            return Err(Error::invalid("applies_to names nothing that the rule is about"));
        }
        if scopes.contains(&Scope::Sagas) && self.ttl < MIN_SAGA_TTL {
            let ttl = self.ttl;
            return Err(Error::invalid(format!(
                "ended sagas are kept for {MIN_SAGA_TTL:?} at least, not {ttl:?}"
            )));
        }
        Ok(())
    }
}

/// Refuses a time that nothing can be kept for.
pub(super) fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl <= MAX_RULE_TTL {
        return Ok(());
    }
    Err(Error::invalid(format!("a ttl is 100 years at most, not {} s", ttl.as_secs())))
}

/// What the built-in rule of this name is about.
fn scopes_of_built_in(name: &str) -> Option<&'static [Scope]> {
    BUILT_IN.iter().find(|rule| rule.name == name).map(|rule| rule.scopes)
}

/// How long things are kept by the built-in rules, where settings say it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retentions {
    pub(crate) result_ttl: Duration,
    pub(crate) dedup_horizon: Duration,
    pub(crate) audit: Duration,
}

struct BuiltIn {
    name: &'static str,
    pattern: &'static str,
    ttl: fn(&Retentions) -> Duration,
    strategy: Strategy,
    batch_size: u32,
    priority: i32,
    scopes: &'static [Scope],
}

#[rustfmt::skip]
const BUILT_IN: [BuiltIn; 13] = [
    BuiltIn { name: "temp_state", pattern: "temp_state:*", ttl: |_| HOUR, strategy: Strategy::Immediate, batch_size: 500, priority: 90,
        scopes: &[Scope::ExpiredState, Scope::StateKeys, Scope::ForeignKeys] },
    BuiltIn { name: "leader_election", pattern: "*", ttl: |_| HOUR, strategy: Strategy::Batch, batch_size: 200, priority: 80,
        scopes: &[Scope::Leases] },
    BuiltIn { name: "circuit_breaker", pattern: "circuit_breaker:*", ttl: |_| HOUR, strategy: Strategy::Batch, batch_size: 200, priority: 70,
        scopes: &[Scope::StateKeys, Scope::ForeignKeys] },
    BuiltIn { name: "cache", pattern: "cache:*", ttl: |_| HOUR, strategy: Strategy::Batch, batch_size: 500, priority: 60,
        scopes: &[Scope::StaleState, Scope::StateKeys, Scope::ForeignKeys] },
    BuiltIn { name: "session", pattern: "session:*", ttl: |_| DAY, strategy: Strategy::Batch, batch_size: 200, priority: 50,
        scopes: &[Scope::StateKeys, Scope::ForeignKeys] },
    BuiltIn { name: "idempotency", pattern: "*", ttl: |times| times.result_ttl, strategy: Strategy::Batch, batch_size: 200, priority: 40,
        scopes: &[Scope::JobResults] },
    BuiltIn { name: "job_execution", pattern: "*", ttl: |times| times.dedup_horizon, strategy: Strategy::Batch, batch_size: 200, priority: 30,
        scopes: &[Scope::Jobs] },
    BuiltIn { name: "saga", pattern: "*", ttl: |_| DAY * 400, strategy: Strategy::Batch, batch_size: 200, priority: 20,
        scopes: &[Scope::Sagas, Scope::Leftovers] },
    BuiltIn { name: "history", pattern: "*", ttl: |_| Duration::ZERO, strategy: Strategy::Batch, batch_size: 100, priority: 10,
        scopes: &[Scope::History] },
    BuiltIn { name: "notifications", pattern: "*", ttl: |_| DAY * 7, strategy: Strategy::Batch, batch_size: 200, priority: 15,
        scopes: &[Scope::Notices] },
    BuiltIn { name: "dead_letters", pattern: "*", ttl: |_| DAY * 30, strategy: Strategy::Batch, batch_size: 200, priority: 14,
        scopes: &[Scope::DeadNotices] },
    BuiltIn { name: "access", pattern: "*", ttl: |_| DAY * 90, strategy: Strategy::Batch, batch_size: 200, priority: 13,
        scopes: &[Scope::Tokens, Scope::AccessSessions] },
    BuiltIn { name: "audit", pattern: "*", ttl: |times| times.audit, strategy: Strategy::Batch, batch_size: 100, priority: 10,
        scopes: &[Scope::Audit] },
];

/// The rules that come with LockBay.
pub(crate) fn built_in(times: &Retentions) -> Vec<Rule> {
    let rule = |rule: &BuiltIn| Rule {
        name: rule.name.into(),
        pattern: rule.pattern.into(),
        ttl: (rule.ttl)(times),
        strategy: rule.strategy,
        batch_size: rule.batch_size,
        priority: rule.priority,
        interval: None,
        applies_to: Some(rule.scopes.iter().copied().collect()),
        expiring: Expiring::Leave,
        origin: Origin::BuiltIn,
    };
    BUILT_IN.iter().map(rule).collect()
}

/// A length of time as a number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        if time.subsec_nanos() == 0 {
            return to.serialize_u64(time.as_secs());
        }
        to.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(|_| {
            serde::de::Error::custom(format!("a number of seconds is 0 or more, not {seconds}"))
        })
    }
}

/// The same where there may be none.
mod some_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Seconds(#[serde(with = "super::seconds")] Duration);

    #[allow(clippy::ref_option)] // serde asks for a reference
    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::seconds::serialize(time, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Seconds>::deserialize(from)?.map(|seconds| seconds.0))
    }
}
