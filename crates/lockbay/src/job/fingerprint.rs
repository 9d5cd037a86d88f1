//! What makes two jobs the same job.
//!
//! Identity is the SHA-256 of type, key and canonical parameters, or of type and key alone. It has
//! a version, so that a later form can never collide with this one, and it is exact: see
//! [`crate::json`]. The job id begins with a digest of the key alone, so that all jobs of one
//! business key lie side by side in the store and are found without an index of their own.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::hex::hex;
use crate::json::Json;

/// What counts as the same job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// Type, key and parameters: the same key with other parameters is another job.
    #[default]
    Fingerprint,
    /// Type and key: the same key with other parameters is refused.
    Key,
}

/// The digest of the canonical parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ParameterDigest(String);

impl ParameterDigest {
    pub(crate) fn of(parameters: &Json) -> Result<Self> {
        Ok(ParameterDigest(hex(&parameters.digest()?)))
    }

    /// As it is told where the parameters themselves are not.
    pub(crate) fn told(&self) -> String {
        format!("sha256:{}", self.0)
    }
}

/// The id of the job that a type, a key and parameters name.
pub(crate) fn job_id(
    identity: Identity,
    job_type: &str,
    job_key: &str,
    digest: &ParameterDigest,
) -> String {
    let mut hash = Sha256::new();
    let identity = match identity {
        Identity::Fingerprint => "lockbay job 1 fingerprint",
        Identity::Key => "lockbay job 1 key",
    };
    // Lengths first, so that no two splits of the same bytes are alike.
    for part in [identity, job_type, job_key] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part.as_bytes());
    }
    if identity.ends_with("fingerprint") {
        hash.update(digest.0.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    format!("{}{}", key_prefix(job_key), &hex(&digest)[..48])
}

/// How the ids of all jobs with this business key begin.
pub(crate) fn key_prefix(job_key: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(job_key.as_bytes()).into();
    hex(&digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(identity: Identity, job_type: &str, job_key: &str, parameters: &str) -> String {
        let parameters = Json::parse(parameters).unwrap();
        job_id(identity, job_type, job_key, &ParameterDigest::of(&parameters).unwrap())
    }

    /// Stored ids must mean the same in every later version.
    #[test]
    fn fingerprints_never_change_between_versions() {
        let parameters = r#"{"user_id":12345,"amount":1000.0,"currency":"USD"}"#;
        assert_eq!(
            id(Identity::Fingerprint, "payment_processing", "user_12345_payment", parameters),
            "1b369d0726e903d4d9bde400048405f45d7950b5ff01feafe2f8f472c0550fe5"
        );
        assert_eq!(
            id(Identity::Key, "payment_processing", "user_12345_payment", parameters),
            "1b369d0726e903d43fba6fce46820cbf932de5f5c6492c87fe02480d903771b4"
        );
    }

    #[test]
    fn a_fingerprint_ignores_field_order_and_number_format() {
        assert_eq!(
            id(Identity::Fingerprint, "t", "k", r#"{"a":1,"b":2.50}"#),
            id(Identity::Fingerprint, "t", "k", r#"{ "b" : 25e-1, "a": 1.0 }"#)
        );
    }

    #[test]
    fn other_parameters_are_another_job_only_by_fingerprint() {
        assert_ne!(
            id(Identity::Fingerprint, "t", "k", "1"),
            id(Identity::Fingerprint, "t", "k", "2")
        );
        assert_eq!(id(Identity::Key, "t", "k", "1"), id(Identity::Key, "t", "k", "2"));
        assert_ne!(id(Identity::Key, "ta", "k", "1"), id(Identity::Key, "t", "ak", "1"));
    }
}
