//! Settings: defaults, then a TOML file, then the environment, then flags.
//!
//! All layers are merged into one table of names and values, and that table is read once. So a
//! value means the same wherever it is given, and every mistake is reported with its name.

mod explain;
mod value;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::check_name;

use value::{number, yes_or_no};

pub use explain::{Effective, Source};
pub use value::{Hidden, Span};

/// The longest claim of a job between heartbeats.
pub const MAX_CLAIM_TTL: Duration = Duration::from_secs(24 * 3600);
/// Each field of an entry is compared with every one of them.
const MAX_MASKED_FIELDS: usize = 64;
/// The most retries of a job.
pub const MAX_RETRIES: u32 = 1_000;

/// What `alert_min_severity` can be.
const SEVERITIES: [&str; 4] = ["info", "warning", "error", "critical"];

/// What `auth` can be: tokens are needed from the first admin token on, or always.
pub(crate) const AUTO: &str = "auto";
/// See [`AUTO`].
pub(crate) const REQUIRED: &str = "required";
/// The most names in `allowed_hosts`.
const MAX_HOSTS: usize = 64;

/// A setting's name in the file, in the environment, and what it is.
pub struct Setting {
    /// In the TOML file.
    pub name: &'static str,
    /// In the environment.
    pub env: &'static str,
    /// What it does, with its default.
    pub help: &'static str,
}

const fn setting(name: &'static str, env: &'static str, help: &'static str) -> Setting {
    Setting { name, env, help }
}

/// Every setting. `docs/operations.md` shows the same table.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    setting("store", "LOCKBAY_STORE", "store URL; sqlite:lockbay-data/lockbay.db"),
    setting("listen", "LOCKBAY_LISTEN", "address of the HTTP server; 127.0.0.1:5000"),
    setting("service", "LOCKBAY_SERVICE", "whose leader is elected; lockbay"),
    setting("instance_name", "LOCKBAY_INSTANCE_NAME", "a name for people; none"),
    setting("environment", "LOCKBAY_ENVIRONMENT", "what the dashboard says this is, such as production; none"),
    setting("leader_ttl", "REDIS_LEADER_ELECTION_TTL", "how long leadership lasts between renewals; 5s"),
    setting("claim_ttl", "REDIS_JOB_CLAIM_TTL", "how long a job's claim lasts between heartbeats; 60s"),
    setting("result_ttl", "REDIS_JOB_RESULT_TTL", "how long a job's result is kept; 1h"),
    setting("dedup_horizon", "LOCKBAY_DEDUP_HORIZON", "how long a job's key is remembered; 7d"),
    setting("max_retries", "LOCKBAY_MAX_RETRIES", "retries of a failed job unless it says otherwise; 3"),
    setting("cleanup_interval", "REDIS_CLEANUP_INTERVAL", "time between cleanup cycles; 5m"),
    setting("cleanup_foreign_keys", "LOCKBAY_CLEANUP_FOREIGN_KEYS", "whether keys of others on the same Redis may be cleaned up by rules; true"),
    setting("saga_timeout", "SAGA_DEFAULT_TIMEOUT", "how long a saga may take; 30m"),
    setting("saga_step_timeout", "SAGA_STEP_TIMEOUT", "how long a step may take; 5m"),
    setting("saga_concurrency", "LOCKBAY_SAGA_CONCURRENCY", "sagas worked on at once; 10000"),
    setting("saga_queue", "LOCKBAY_SAGA_QUEUE", "sagas accepted beyond that, which wait; 100000"),
    setting("session_ttl", "LOCKBAY_SESSION_TTL", "how long others wait before they take over the sagas of an instance that is not heard of; 5s"),
    setting("monitoring_interval", "ADVANCED_MONITORING_INTERVAL", "time between metric samples; 10s"),
    setting("monitoring", "LOCKBAY_MONITORING", "whether history is kept, and alerts and trends are judged; true"),
    setting("alert_interval", "LOCKBAY_ALERT_INTERVAL", "time between evaluations of the alert rules; 10s"),
    setting("audit", "LOCKBAY_AUDIT", "whether changes are entered into the audit trail; true"),
    setting("audit_masked_fields", "LOCKBAY_AUDIT_MASKED_FIELDS", "names of details that the audit trail shows masked, with commas between; destination"),
    setting("audit_mask_secret", "LOCKBAY_AUDIT_MASK_SECRET", "keys those masks, so that instances and restarts mask alike; none"),
    setting("audit_key", "LOCKBAY_AUDIT_KEY", "signs the audit trail: 32 bytes in hexadecimal digits or base64; to change it, first the old one, a comma and the new one everywhere, then the new one first; behind the key of the store, the new one, a comma and `store`; without it one is made and kept in the store; none"),
    setting("audit_seal_interval", "LOCKBAY_AUDIT_SEAL_INTERVAL", "time between two seals of the audit trail; 10s"),
    setting("audit_retention", "LOCKBAY_AUDIT_RETENTION", "how long entries of the audit trail are kept; 400d"),
    setting("search", "LOCKBAY_SEARCH", "whether jobs and sagas are found by their words; true"),
    setting("health_interval", "LOCKBAY_HEALTH_INTERVAL", "time between health checks; 5s"),
    setting("payout_provider", "LOCKBAY_PAYOUT_PROVIDER", "who pays money out: simulated, simulated:refused=10,unknown=5,delay_ms=20, or the URL of an endpoint; simulated"),
    setting("payout_secret", "LOCKBAY_PAYOUT_SECRET", "signs what the endpoint that pays out is sent; none"),
    setting("alert_webhook_url", "LOCKBAY_ALERT_WEBHOOK_URL", "endpoints that are told of alerts, separated by commas or spaces; none"),
    setting("alert_webhook_secret", "LOCKBAY_ALERT_WEBHOOK_SECRET", "signs what those endpoints are sent; none"),
    setting("alert_command", "LOCKBAY_ALERT_COMMAND", "a program and its arguments, run with each notice on its standard input; none"),
    setting("alert_smtp_url", "LOCKBAY_ALERT_SMTP_URL", "the mail server through which alerts are told, as smtp[s]://user:password@host:port; none"),
    setting("alert_email_from", "LOCKBAY_ALERT_EMAIL_FROM", "who those letters are from; none"),
    setting("alert_email_to", "LOCKBAY_ALERT_EMAIL_TO", "whom they go to, separated by commas; none"),
    setting("alert_min_severity", "LOCKBAY_ALERT_MIN_SEVERITY", "alerts that are less severe are not told: info, warning, error or critical; warning"),
    setting("alert_group_wait", "LOCKBAY_ALERT_GROUP_WAIT", "how long the first alert of a group waits for others before it is told, unless it is critical; 10s"),
    setting("four_eyes_above", "LOCKBAY_FOUR_EYES_ABOVE", "deposits, and decisions about sagas, of more money than this wait until a second person approves: USD:10000,EUR:9000, and *:5000 for every other currency; none"),
    setting("approval_ttl", "LOCKBAY_APPROVAL_TTL", "how long what needs an approval waits for one; 1d"),
    setting("shutdown_grace", "LOCKBAY_SHUTDOWN_GRACE", "how long running work may finish at shutdown; 2500ms"),
    setting("max_in_flight", "LOCKBAY_MAX_IN_FLIGHT", "HTTP requests served at once, more are told to wait; 4096"),
    setting("tls_cert", "LOCKBAY_TLS_CERT", "PEM file of the certificate that the server shows, and those that lead to its authority; none"),
    setting("tls_key", "LOCKBAY_TLS_KEY", "PEM file of the private key of that certificate; none"),
    setting("tls_client_ca", "LOCKBAY_TLS_CLIENT_CA", "PEM file of the authorities whose client certificates are accepted; none"),
    setting("tls_client_auth", "LOCKBAY_TLS_CLIENT_AUTH", "whether clients show a certificate: none, optional or required; none"),
    setting("tls_client_roles", "LOCKBAY_TLS_CLIENT_ROLES", "what the owners of client certificates may do, by the common names of their subjects, such as ops:operator,backup:viewer; none"),
    setting("head_timeout", "LOCKBAY_HEAD_TIMEOUT", "how long a client may take to send the head of a request, from its first byte; 10s"),
    setting("body_timeout", "LOCKBAY_BODY_TIMEOUT", "how long a client may take to send a body; 30s"),
    setting("write_timeout", "LOCKBAY_WRITE_TIMEOUT", "how long a client may take nothing of what it is sent; 60s"),
    setting("max_peer_connections", "LOCKBAY_MAX_PEER_CONNECTIONS", "connections of one address at once, this machine's excepted; 1024"),
    setting("auth", "LOCKBAY_AUTH", "when a token is needed: auto, from the first admin token on, or required, always; auto"),
    setting("rate_limit", "LOCKBAY_RATE_LIMIT", "requests a second that each token, certificate or unknown address may make, 0 for no limit; 0"),
    setting("allowed_hosts", "LOCKBAY_ALLOWED_HOSTS", "names under which the server is reached besides this machine's own, with commas between; none"),
];

/// The settings of one instance.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // SETTINGS says what each is
pub struct Config {
    pub store: String,
    pub listen: String,
    pub service: String,
    pub instance_name: Option<String>,
    pub environment: Option<String>,
    pub leader_ttl: Span,
    pub claim_ttl: Span,
    pub result_ttl: Span,
    pub dedup_horizon: Span,
    #[serde(deserialize_with = "number")]
    pub max_retries: u32,
    pub cleanup_interval: Span,
    #[serde(deserialize_with = "yes_or_no")]
    pub cleanup_foreign_keys: bool,
    pub saga_timeout: Span,
    pub saga_step_timeout: Span,
    #[serde(deserialize_with = "number")]
    pub saga_concurrency: u32,
    #[serde(deserialize_with = "number")]
    pub saga_queue: u32,
    pub session_ttl: Span,
    pub monitoring_interval: Span,
    #[serde(deserialize_with = "yes_or_no")]
    pub monitoring: bool,
    pub alert_interval: Span,
    #[serde(deserialize_with = "yes_or_no")]
    pub audit: bool,
    pub audit_masked_fields: String,
    pub audit_mask_secret: Option<Hidden>,
    pub audit_key: Option<Hidden>,
    pub audit_seal_interval: Span,
    pub audit_retention: Span,
    #[serde(deserialize_with = "yes_or_no")]
    pub search: bool,
    pub health_interval: Span,
    pub payout_provider: String,
    pub payout_secret: Option<Hidden>,
    pub alert_webhook_url: Option<Hidden>,
    pub alert_webhook_secret: Option<Hidden>,
    pub alert_command: Option<String>,
    pub alert_smtp_url: Option<Hidden>,
    pub alert_email_from: Option<String>,
    pub alert_email_to: Option<String>,
    pub alert_min_severity: String,
    pub alert_group_wait: Span,
    pub four_eyes_above: Option<String>,
    pub approval_ttl: Span,
    pub shutdown_grace: Span,
    #[serde(deserialize_with = "number")]
    pub max_in_flight: u32,
    pub tls_cert: Option<String>,
    pub tls_key: Option<String>,
    pub tls_client_ca: Option<String>,
    pub tls_client_auth: String,
    pub tls_client_roles: Option<String>,
    pub head_timeout: Span,
    pub body_timeout: Span,
    pub write_timeout: Span,
    #[serde(deserialize_with = "number")]
    pub max_peer_connections: u32,
    pub auth: String,
    #[serde(deserialize_with = "number")]
    pub rate_limit: u32,
    pub allowed_hosts: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = |seconds| Span(Duration::from_secs(seconds));
        Config {
            store: "sqlite:lockbay-data/lockbay.db".into(),
            listen: "127.0.0.1:5000".into(),
            service: "lockbay".into(),
            instance_name: None,
            environment: None,
            leader_ttl: seconds(5),
            claim_ttl: seconds(60),
            result_ttl: seconds(3_600),
            dedup_horizon: seconds(7 * 86_400),
            max_retries: 3,
            cleanup_interval: seconds(300),
            cleanup_foreign_keys: true,
            saga_timeout: seconds(1_800),
            saga_step_timeout: seconds(300),
            saga_concurrency: 10_000,
            saga_queue: 100_000,
            session_ttl: seconds(5),
            monitoring_interval: seconds(10),
            monitoring: true,
            alert_interval: seconds(10),
            audit: true,
            audit_masked_fields: "destination".into(),
            audit_mask_secret: None,
            audit_key: None,
            audit_seal_interval: seconds(10),
            audit_retention: seconds(400 * 86_400),
            search: true,
            health_interval: seconds(5),
            payout_provider: "simulated".into(),
            payout_secret: None,
            alert_webhook_url: None,
            alert_webhook_secret: None,
            alert_command: None,
            alert_smtp_url: None,
            alert_email_from: None,
            alert_email_to: None,
            alert_min_severity: "warning".into(),
            alert_group_wait: seconds(10),
            four_eyes_above: None,
            approval_ttl: seconds(86_400),
            shutdown_grace: Span(Duration::from_millis(2_500)),
            max_in_flight: 4_096,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            tls_client_auth: "none".into(),
            tls_client_roles: None,
            head_timeout: seconds(10),
            body_timeout: seconds(30),
            write_timeout: seconds(60),
            max_peer_connections: 1_024,
            auth: AUTO.into(),
            rate_limit: 0,
            allowed_hosts: None,
        }
    }
}

impl Config {
    /// Merges the layers: `file` if given, then this process's environment, then `flags` by name.
    ///
    /// # Errors
    /// `Invalid`, naming the setting, for a file that cannot be read, an unknown name, a value of
    /// the wrong form, and a broken inequality.
    pub fn load(file: Option<&Path>, flags: &BTreeMap<&'static str, String>) -> Result<Self> {
        let environment = |name: &str| std::env::var(name).ok();
        Self::merge(file, &environment, flags)
    }

    fn merge(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
        flags: &BTreeMap<&'static str, String>,
    ) -> Result<Self> {
        let mut table = match file {
            None => toml::Table::new(),
            Some(path) => parse_file(path)?,
        };
        for setting in SETTINGS {
            let secret_file = format!("{}_FILE", setting.env);
            let given = match (environment(setting.env), environment(&secret_file)) {
                (Some(value), _) => Some(value),
                (None, Some(path)) => Some(read_secret(&secret_file, &path)?),
                (None, None) => None,
            };
            if let Some(value) = given {
                table.insert(setting.name.into(), toml::Value::String(value));
            }
        }
        for (name, value) in flags {
            table.insert((*name).into(), toml::Value::String(value.clone()));
        }
        let config = Self::read(table)?;
        config.check()?;
        Ok(config)
    }

    /// Reads the merged table a name at a time, so that a mistake is reported with its name.
    fn read(table: toml::Table) -> Result<Self> {
        for (name, value) in &table {
            let one = toml::Table::from_iter([(name.clone(), value.clone())]);
            if let Err(error) = one.try_into::<Config>() {
                let env = SETTINGS.iter().find(|setting| setting.name == name);
                let env = env.map(|setting| format!(" ({})", setting.env)).unwrap_or_default();
                let reason = error.message().to_owned();
                return Err(Error::invalid(format!("setting {name}{env}: {reason}")));
            }
        }
        table.try_into::<Config>().map_err(|error| Error::invalid(error.message().to_owned()))
    }

    /// Names in this process's environment that look like settings and are none: most likely
    /// misspelt. They are told, not refused, as another version may know them.
    pub fn unknown_environment() -> Vec<String> {
        const OTHERS: &[&str] = &[
            "LOCKBAY_ACTOR",
            "LOCKBAY_URL",
            "LOCKBAY_TOKEN",
            "LOCKBAY_ALLOW_PLAIN_HTTP",
            "LOCKBAY_HANDLERS_ALLOW_PRIVATE",
            "LOCKBAY_TRACE",
            "LOCKBAY_CA_CERT",
            "LOCKBAY_CLIENT_CERT",
            "LOCKBAY_CLIENT_KEY",
        ];
        let known = |name: &str| {
            let base = name.strip_suffix("_FILE").unwrap_or(name);
            OTHERS.contains(&base) || SETTINGS.iter().any(|setting| setting.env == base)
        };
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        names.filter(|name| name.starts_with("LOCKBAY_") && !known(name)).collect()
    }

    /// The names of `audit_masked_fields`.
    ///
    /// # Errors
    /// `Invalid` for one that cannot be a name, or too many.
    pub fn masked_fields(&self) -> Result<Vec<String>> {
        let names = self.audit_masked_fields.split(',').map(str::trim);
        let names: Vec<String> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.len() > MAX_MASKED_FIELDS {
            let message = format!("audit_masked_fields has at most {MAX_MASKED_FIELDS} names");
            return Err(Error::invalid(message));
        }
        let is_name = |name: &String| {
            name.len() <= 64 && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
        };
        match names.iter().find(|name| !is_name(name)) {
            None => Ok(names),
            Some(name) => Err(Error::invalid(format!(
                "audit_masked_fields has names of lowercase letters and underscores, not {name:?}"
            ))),
        }
    }

    /// The names of `allowed_hosts`, in lowercase.
    ///
    /// # Errors
    /// `Invalid` for one that cannot be the name or address of a host, or too many.
    pub fn hosts(&self) -> Result<Vec<String>> {
        let names = self.allowed_hosts.as_deref().unwrap_or_default().split(',').map(str::trim);
        let names: Vec<String> =
            names.filter(|name| !name.is_empty()).map(str::to_ascii_lowercase).collect();
        if names.len() > MAX_HOSTS {
            return Err(Error::invalid(format!("allowed_hosts has at most {MAX_HOSTS} names")));
        }
        let is_host = |name: &String| {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
            name.len() <= 253 && name.bytes().all(letter)
        };
        match names.iter().find(|name| !is_host(name)) {
            None => Ok(names),
            Some(name) => Err(Error::invalid(format!(
                "allowed_hosts has names like lockbay.example.com, or with a port, not {name:?}"
            ))),
        }
    }

    /// Refuses values that cannot work together.
    ///
    /// # Errors
    /// `Invalid` with both names and both values.
    pub fn check(&self) -> Result<()> {
        let second = Duration::from_millis(100);
        let day = Duration::from_secs(86_400);
        within("leader_ttl", self.leader_ttl, second * 5, day)?;
        within("claim_ttl", self.claim_ttl, second * 3, MAX_CLAIM_TTL)?;
        within("result_ttl", self.result_ttl, second, day * 3_650)?;
        within("dedup_horizon", self.dedup_horizon, second, day * 3_650)?;
        within("health_interval", self.health_interval, second, day)?;
        within("monitoring_interval", self.monitoring_interval, second * 10, day)?;
        within("alert_interval", self.alert_interval, second * 10, Duration::from_secs(600))?;
        within(
            "audit_seal_interval",
            self.audit_seal_interval,
            second,
            Duration::from_secs(3_600),
        )?;
        within("audit_retention", self.audit_retention, second * 10, day * 3_650)?;
        within("cleanup_interval", self.cleanup_interval, second * 10, day)?;
        within("saga_step_timeout", self.saga_step_timeout, second, day * 3_650)?;
        within("session_ttl", self.session_ttl, second * 5, day)?;
        within("shutdown_grace", self.shutdown_grace, Duration::ZERO, day)?;
        at_most("saga_step_timeout", self.saga_step_timeout, "saga_timeout", self.saga_timeout)?;
        at_most("result_ttl", self.result_ttl, "dedup_horizon", self.dedup_horizon)?;
        if self.max_retries > MAX_RETRIES {
            return Err(Error::invalid(format!("max_retries is at most {MAX_RETRIES}")));
        }
        if self.saga_concurrency == 0 {
            return Err(Error::invalid("saga_concurrency is at least 1"));
        }
        if self.max_in_flight == 0 {
            return Err(Error::invalid("max_in_flight is at least 1"));
        }
        for (name, timeout) in [
            ("head_timeout", self.head_timeout),
            ("body_timeout", self.body_timeout),
            ("write_timeout", self.write_timeout),
        ] {
            within(name, timeout, second, Duration::from_secs(3_600))?;
        }
        if self.max_peer_connections == 0 {
            return Err(Error::invalid("max_peer_connections is at least 1"));
        }
        check_payout_provider(&self.payout_provider)?;
        self.masked_fields()?;
        within("approval_ttl", self.approval_ttl, second * 10, day * 30)?;
        self.hosts()?;
        if ![AUTO, REQUIRED].contains(&self.auth.as_str()) {
            let given = &self.auth;
            return Err(Error::invalid(format!("auth is {AUTO} or {REQUIRED}, not {given:?}")));
        }
        within("alert_group_wait", self.alert_group_wait, Duration::ZERO, day)?;
        if !SEVERITIES.contains(&self.alert_min_severity.as_str()) {
            let (known, given) = (SEVERITIES.join(", "), &self.alert_min_severity);
            return Err(Error::invalid(format!(
                "alert_min_severity is one of {known}, not {given:?}"
            )));
        }
        check_name("service", &self.service, 256)?;
        if let Some(environment) = &self.environment {
            check_name("environment", environment, 32)?;
        }
        match &self.instance_name {
            Some(name) => check_name("instance_name", name, 256),
            None => Ok(()),
        }
    }
}

/// Whether it is of one of the forms. What follows is read by whoever builds it; it may hold a
/// secret, and is not shown.
fn check_payout_provider(provider: &str) -> Result<()> {
    const FORMS: [&str; 3] = ["simulated:", "http://", "https://"];
    if provider == "simulated" || FORMS.iter().any(|form| provider.starts_with(form)) {
        return Ok(());
    }
    Err(Error::invalid(
        "payout_provider is simulated, simulated:refused=10,unknown=5,delay_ms=20, http://… or \
         https://…",
    ))
}

fn within(name: &str, Span(value): Span, least: Duration, most: Duration) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} lies between {least:?} and {most:?}, not {value:?}")))
}

fn at_most(small: &str, Span(less): Span, large: &str, Span(more): Span) -> Result<()> {
    if less <= more {
        return Ok(());
    }
    Err(Error::invalid(format!("{small} ({less:?}) is longer than {large} ({more:?})")))
}

fn parse_file(path: &Path) -> Result<toml::Table> {
    let refused =
        || Error::invalid(format!("cannot read the configuration file {}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refused().with_source(error))?;
    let table = text.parse::<toml::Table>().map_err(|error| refused().with_source(error))?;
    named_as_here(table)
}

/// A file may name a setting as the environment does.
fn named_as_here(file: toml::Table) -> Result<toml::Table> {
    let mut table = toml::Table::new();
    for (given, value) in file {
        let known = SETTINGS.iter().find(|setting| setting.env == given);
        let name = known.map_or(given.clone(), |setting| setting.name.to_owned());
        if table.insert(name.clone(), value).is_some() {
            return Err(Error::invalid(format!("setting {name} stands twice in the file")));
        }
    }
    Ok(table)
}

fn read_secret(name: &str, path: &str) -> Result<String> {
    std::fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|error| Error::invalid(format!("cannot read {name}={path}")).with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Config> {
        let flags = flags.iter().map(|(name, value)| (*name, (*value).to_string())).collect();
        let find = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string())
        };
        Config::merge(None, &find, &flags)
    }

    #[test]
    fn the_guides_names_are_plain_seconds_and_flags_win() {
        let config = load(
            &[
                ("REDIS_LEADER_ELECTION_TTL", "90"),
                ("REDIS_JOB_CLAIM_TTL", "300"),
                ("LOCKBAY_LISTEN", "127.0.0.1:1"),
            ],
            &[("listen", "127.0.0.1:2")],
        )
        .unwrap();
        assert_eq!(config.leader_ttl, Span(Duration::from_secs(90)));
        assert_eq!(config.claim_ttl, Span(Duration::from_secs(300)));
        assert_eq!(config.listen, "127.0.0.1:2");
    }

    #[test]
    fn a_file_may_use_the_names_of_the_environment_but_say_nothing_twice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            Config::merge(Some(file.path()), &|_| None, &BTreeMap::new())
        };
        let config = read("REDIS_LEADER_ELECTION_TTL = 90\nLOCKBAY_SERVICE = \"pay\"").unwrap();
        assert_eq!(config.leader_ttl, Span(Duration::from_secs(90)));
        assert_eq!(config.service, "pay");
        let twice = read("REDIS_LEADER_ELECTION_TTL = 90\nleader_ttl = 30").unwrap_err();
        assert!(twice.to_string().contains("leader_ttl stands twice"), "{twice}");
    }

    #[test]
    fn a_bad_value_is_refused_by_its_name() {
        for (name, value) in [
            ("REDIS_LEADER_ELECTION_TTL", "soon"),
            ("REDIS_LEADER_ELECTION_TTL", "-1"),
            ("REDIS_LEADER_ELECTION_TTL", "0"),
            ("REDIS_JOB_CLAIM_TTL", "1e400"),
            ("LOCKBAY_MAX_RETRIES", "many"),
            ("SAGA_STEP_TIMEOUT", "31m"),
            ("REDIS_JOB_RESULT_TTL", "8d"),
        ] {
            let error = load(&[(name, value)], &[]).unwrap_err().to_string();
            let setting = SETTINGS.iter().find(|setting| setting.env == name).unwrap();
            assert!(error.contains(setting.name), "{name}={value}: {error}");
        }
    }

    #[test]
    fn a_secret_is_read_from_a_file_and_shown_nowhere() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hush-4711\n").unwrap();
        let path = file.path().to_str().unwrap();
        let config = load(&[("LOCKBAY_PAYOUT_SECRET_FILE", path)], &[]).unwrap();
        assert_eq!(config.payout_secret, Some(Hidden("hush-4711".into())));
        assert!(!format!("{config:?}").contains("hush"));
        std::fs::write(file.path(), "payout_secret = 4711\n").unwrap();
        let error = Config::load(Some(file.path()), &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("payout_secret") && !error.contains("4711"), "{error}");
    }

    #[test]
    fn a_payout_provider_is_simulated_or_an_address_and_a_wrong_one_is_not_shown() {
        for right in ["simulated", "simulated:refused=10", "https://bank.example/pay"] {
            load(&[("LOCKBAY_PAYOUT_PROVIDER", right)], &[]).unwrap();
        }
        for wrong in ["", "simulate", "Simulated", "ftp://x", "bank.example/hush"] {
            let error = load(&[("LOCKBAY_PAYOUT_PROVIDER", wrong)], &[]).unwrap_err().to_string();
            assert!(error.contains("payout_provider") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn an_unknown_name_in_the_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "leader_ttl = 7\nleeder_ttl = 8\n").unwrap();
        let error = Config::load(Some(file.path()), &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("leeder_ttl"), "{error}");
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("90", 90_000), ("90s", 90_000), ("500ms", 500), ("2h", 7_200_000), ("0.5", 500)]
        {
            assert_eq!(text.parse::<Span>().unwrap().0, Duration::from_millis(millis), "{text}");
        }
        for text in ["", "s", "-1", "1w", "nan", "inf", "99999999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
