//! What is told: a notice of alerts that began to fire, or of alerts that are over.
//!
//! A notice has one identity, made of the moves that it tells of, and every delivery of it bears
//! that identity. Nothing here knows who is told, nor how.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::hex::hex;
use crate::monitor::alert::Severity;

/// The most alerts that one notice tells of; more of a group come in more notices.
pub const MAX_ALERTS: usize = 100;
/// How much of a summary is told, in bytes.
pub const MAX_SUMMARY_BYTES: usize = 1_024;
/// How many labels of an alert are told, and how many bytes of each.
const MAX_LABELS: usize = 16;
const MAX_LABEL_BYTES: usize = 256;

/// What has become of the alerts of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// They have begun to fire.
    Firing,
    /// They are over.
    Resolved,
}

impl Status {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Status::Firing => "firing",
            Status::Resolved => "resolved",
        }
    }
}

/// One message to people, as every channel gets it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The same whenever this notice is delivered, and different from that of every other.
    pub id: String,
    /// When it was written, by the store's clock.
    pub at: Timestamp,
    /// What its alerts have in common: their label `group`, or the rule of the only one.
    pub group: String,
    /// Whether they fire or are over.
    pub status: Status,
    /// The worst of them.
    pub severity: Severity,
    /// At least one, at most [`MAX_ALERTS`], each of another rule.
    pub alerts: Vec<Alert>,
    /// The instance that judged them: its name, or its identity if it has none.
    pub instance: String,
}

/// One alert of a notice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Which rule.
    pub rule: String,
    /// Its severity.
    pub severity: Severity,
    /// Whether it fires or is over.
    pub state: Status,
    /// The same for a firing and its end; another for the next firing of the rule.
    #[serde(with = "digits")]
    pub episode: u64,
    /// The value that was judged, if there was one.
    pub value: Option<f64>,
    /// In words: what is wrong with which value, or that it is over.
    pub summary: String,
    /// When it began to fire.
    pub since: Timestamp,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Where to read what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// Words about it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Notice {
    /// A notice of these alerts, which are not empty.
    pub(super) fn of(at: Timestamp, group: String, alerts: Vec<Alert>, instance: &str) -> Self {
        debug_assert!(!alerts.is_empty() && alerts.len() <= MAX_ALERTS);
        let status = alerts.first().map_or(Status::Firing, |alert| alert.state);
        let severity = alerts.iter().map(|alert| alert.severity).max().unwrap_or(Severity::Info);
        let id = identity(&alerts);
        Notice { id, at, group, status, severity, alerts, instance: instance.to_owned() }
    }

    /// What it says in one line, such as the subject of a letter.
    pub fn headline(&self) -> String {
        let first = self.alerts.first();
        let summary = first.map_or("", |alert| alert.summary.as_str());
        let (status, severity) = (self.status.name(), self.severity.name());
        match self.alerts.len() {
            0 | 1 => format!("{status}: {severity}: {}: {summary}", self.group),
            many => format!("{status}: {severity}: {}: {many} alerts, first {summary}", self.group),
        }
    }
}

impl Alert {
    /// Cuts what is too long to be told.
    pub(super) fn fit(mut self) -> Self {
        cut(&mut self.summary, MAX_SUMMARY_BYTES);
        while self.labels.len() > MAX_LABELS {
            self.labels.pop_last();
        }
        self.labels.values_mut().for_each(|value| cut(value, MAX_LABEL_BYTES));
        self.labels.retain(|name, _| name.len() <= MAX_LABEL_BYTES);
        self.value = self.value.filter(|value| value.is_finite());
        self
    }
}

/// Cuts a text to at most so many bytes.
pub(super) fn cut(text: &mut String, longest: usize) {
    text.truncate(text.floor_char_boundary(longest));
}

/// The identity of a notice of these moves: a hash over rule, beginning, episode and turn of each,
/// in any order. Each move is in one notice only, as it is committed with it, so none has two.
fn identity(alerts: &[Alert]) -> String {
    let mut moves: Vec<_> = alerts
        .iter()
        .map(|alert| (&*alert.rule, alert.since.as_micros(), alert.episode, alert.state))
        .collect();
    moves.sort_unstable();
    let mut hash = Sha256::new();
    for (rule, since, episode, state) in moves {
        hash.update(format!("{}:{rule}/{since}/{episode}/{}\n", rule.len(), state.name()));
    }
    let digest = hash.finalize();
    format!("ntc_{}", hex(&digest[..16]))
}

/// A number that may pass 2^53, as its digits.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| serde::de::Error::custom(format!("no number: {text:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn alert(rule: &str, episode: u64, state: Status) -> Alert {
        Alert {
            rule: rule.into(),
            severity: Severity::Warning,
            state,
            episode,
            value: Some(1.0),
            summary: "too many".into(),
            since: Timestamp::from_micros(5),
            until: None,
            runbook: None,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_notice_has_the_identity_of_its_moves_in_any_order_and_no_other() {
        let (a, b) = (alert("a", 1, Status::Firing), alert("b", 1, Status::Firing));
        let id = identity(&[a.clone(), b.clone()]);
        assert_eq!(id, identity(&[b.clone(), a.clone()]));
        let later = Alert { since: Timestamp::from_micros(6), ..a.clone() };
        for other in [
            vec![a.clone()],
            vec![b],
            vec![alert("a", 2, Status::Firing)],
            vec![alert("a", 1, Status::Resolved)],
            vec![later],
        ] {
            assert_ne!(id, identity(&other));
        }
        let worse = Alert { severity: Severity::Critical, summary: "other".into(), ..a.clone() };
        assert_eq!(identity(&[a]), identity(&[worse]), "words are no part of it");
    }

    #[test]
    fn a_notice_is_the_same_after_it_was_stored() {
        let mut strange = alert("a\u{1}\"é", u64::MAX, Status::Resolved);
        strange.value = Some(f64::NAN);
        strange.summary = "é".repeat(MAX_SUMMARY_BYTES);
        let at = Timestamp::from_micros(7);
        let notice = Notice::of(at, "g".into(), vec![strange.fit()], "web-1");
        assert!(notice.alerts[0].summary.len() <= MAX_SUMMARY_BYTES);
        let text = serde_json::to_string(&notice).unwrap();
        assert!(text.contains("\"18446744073709551615\""), "{text}");
        assert_eq!(serde_json::from_str::<Notice>(&text).unwrap(), notice);
    }
}
