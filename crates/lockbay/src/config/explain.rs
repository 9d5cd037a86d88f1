//! What every setting is and where it comes from, for people who wonder. Secrets are not in it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::{Config, Hidden, SETTINGS, Setting, Span};
use crate::error::{Error, Result};

/// What stands in place of a secret.
const HIDDEN: &str = "(hidden)";

/// Where the value of a setting comes from. The later wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Nothing was said.
    Default,
    /// The configuration file.
    File,
    /// A variable of the environment.
    Environment,
    /// The file that a variable ending in `_FILE` names.
    SecretFile,
    /// A flag of the command line.
    Flag,
}

/// A setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// In the file.
    pub name: &'static str,
    /// In the environment.
    pub env: &'static str,
    /// What it is; `None` if it is not set and has no default. A secret is told as hidden.
    pub value: Option<String>,
    /// Who said so.
    pub source: Source,
    /// Whether it is a secret that is set.
    pub secret: bool,
    /// What it does, with its default.
    pub help: &'static str,
}

impl Config {
    /// As [`load`](Config::load), with what each setting is and where that was said, in the order
    /// of [`SETTINGS`].
    ///
    /// # Errors
    /// Those of `load`.
    pub fn explain(
        file: Option<&Path>,
        flags: &BTreeMap<&'static str, String>,
    ) -> Result<(Config, Vec<Effective>)> {
        let environment = |name: &str| std::env::var(name).ok();
        Self::explain_in(file, &environment, flags)
    }

    pub(super) fn explain_in(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
        flags: &BTreeMap<&'static str, String>,
    ) -> Result<(Config, Vec<Effective>)> {
        let config = Self::merge(file, environment, flags)?;
        let in_file = file.map(super::parse_file).transpose()?.unwrap_or_default();
        let values = serde_json::to_value(&config)
            .map_err(|error| Error::invalid("the settings cannot be written").with_source(error))?;
        let told = SETTINGS.iter().map(|setting| {
            let Setting { name, env, help } = *setting;
            let value = &values[name];
            let value = match value.as_str() {
                Some(text) => Some(text.to_owned()),
                None => (!value.is_null()).then(|| value.to_string()),
            };
            let source = if flags.contains_key(name) {
                Source::Flag
            } else if environment(env).is_some() {
                Source::Environment
            } else if environment(&format!("{env}_FILE")).is_some() {
                Source::SecretFile
            } else if in_file.contains_key(name) {
                Source::File
            } else {
                Source::Default
            };
            let secret = value.as_deref() == Some(HIDDEN);
            Effective { name, env, value, source, secret, help }
        });
        let told = told.collect();
        Ok((config, told))
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Span {
    /// In the largest unit that tells it exactly, as it can be read again.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [(u128, &str); 4] =
            [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let millis = self.0.as_millis();
        if !self.0.subsec_nanos().is_multiple_of(1_000_000) {
            return write!(f, "{}s", self.0.as_secs_f64());
        }
        match UNITS.iter().find(|(length, _)| millis > 0 && millis.is_multiple_of(*length)) {
            Some((length, unit)) => write!(f, "{}{unit}", millis / length),
            None if millis == 0 => f.write_str("0s"),
            None => write!(f, "{millis}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(file: &str, env: &[(&str, &str)]) -> Vec<Effective> {
        let written = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(written.path(), file).unwrap();
        let find = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let flags = BTreeMap::from([("service", "pay".to_owned())]);
        Config::explain_in(Some(written.path()), &find, &flags).unwrap().1
    }

    #[test]
    fn each_setting_tells_who_said_it_and_secrets_are_not_told() {
        let file = "leader_ttl = 7\nservice = \"x\"\npayout_secret = \"hush-4711\"\n";
        let told = explained(file, &[("LOCKBAY_LISTEN", "127.0.0.1:1"), ("USER", "x")]);
        let of = |name: &str| told.iter().find(|setting| setting.name == name).unwrap();
        let stands = |name: &str| (of(name).value.as_deref(), of(name).source);
        assert_eq!(stands("leader_ttl"), (Some("7s"), Source::File));
        assert_eq!(stands("service"), (Some("pay"), Source::Flag));
        assert_eq!(stands("listen"), (Some("127.0.0.1:1"), Source::Environment));
        assert_eq!(stands("shutdown_grace"), (Some("2500ms"), Source::Default));
        assert_eq!(stands("instance_name"), (None, Source::Default));
        assert!(of("payout_secret").secret && !format!("{told:?}").contains("hush"));
        assert_eq!(told.len(), SETTINGS.len());
    }

    #[test]
    fn a_duration_is_told_as_it_can_be_read() {
        for text in ["0s", "1ms", "500ms", "90s", "5m", "2h", "400d"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["60", "0.0005", "1.5"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{text}");
        }
    }
}
