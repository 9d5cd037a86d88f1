//! Signatures of outbound calls, as Standard Webhooks defines them (<https://www.standardwebhooks.com>).
//!
//! A receiver that knows the secret can tell that a call comes from us, is whole, and is recent.
//! Nothing here knows what is signed, and no secret is ever shown.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use lockbay::clock::Timestamp;
use sha2::{Digest, Sha256};

/// The identity of a message, the same for every delivery that means the same.
pub(crate) const ID_HEADER: &str = "webhook-id";
/// When it was signed, in seconds since 1970.
pub(crate) const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The signature over both and the body.
pub(crate) const SIGNATURE_HEADER: &str = "webhook-signature";

/// What a secret in base64 begins with.
const PREFIX: &str = "whsec_";

/// Base64 whose padding may be left out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a receiver knows us by. Never shown.
#[derive(Clone)]
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// From `whsec_` and base64, or from any other text as it stands.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let bytes = match text.strip_prefix(PREFIX) {
            Some(encoded) => LENIENT
                .decode(encoded)
                .map_err(|_| "a secret that begins with whsec_ goes on in base64")?,
            None => text.as_bytes().to_vec(),
        };
        if bytes.is_empty() {
            return Err("a secret is not empty");
        }
        Ok(Secret(bytes))
    }

    /// The value of [`SIGNATURE_HEADER`] for a message.
    pub(crate) fn sign(&self, id: &str, seconds: u64, body: &[u8]) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Whole seconds since 1970.
pub(crate) fn seconds(time: Timestamp) -> u64 {
    time.as_micros() / 1_000_000
}

/// Names a delivery by what it means, so that a delivery that comes again has the same name. It
/// is a hash, because the parts may hold what a header may not.
pub(crate) fn message_id(idempotency_key: &str, action: &str, attempt: u32) -> String {
    let digest = Sha256::digest(format!("{idempotency_key}/{action}/{attempt}"));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("msg_{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    // The expected values were computed with Python's hmac and hashlib.
    #[test]
    fn signatures_are_those_of_another_implementation() {
        for (secret, id, seconds, body, signature) in [
            (
                SECRET,
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "plain secret \u{fc}",
                "msg_1",
                1_767_225_600,
                r#"{"amount":10.00}"#,
                "v1,ln06LOnWQ2WhD3R+q72YLx0V9GiEXDqLy7N+13E1kDk=",
            ),
            (SECRET, "msg_1", 0, "", "v1,ij2G0S51rXTp+PMwqJOjeWFLEpktT32X6cQ9P08rbws="),
        ] {
            let secret = Secret::parse(secret).unwrap();
            assert_eq!(secret.sign(id, seconds, body.as_bytes()), signature);
        }
    }

    #[test]
    fn a_message_has_the_same_identity_whenever_it_means_the_same() {
        for (key, action, attempt, id) in [
            ("saga/0/charge", "execute", 1, "msg_381909118fb9d6ea7b17e3ed7166cd1d"),
            ("saga/0/charge", "execute", 2, "msg_0781dacca73dc0ba65b0d8bef8a3b801"),
            ("saga/0/charge", "compensate", 1, "msg_6c4ff05c8c891078b272af7c2e63e809"),
            ("a/b", "probe", 7, "msg_7d0ae33ef6992c9654a2144f4272f7c0"),
        ] {
            assert_eq!(message_id(key, action, attempt), id);
        }
    }

    #[test]
    fn a_secret_that_cannot_be_meant_is_refused_and_none_is_shown() {
        for text in ["", "whsec_", "whsec_***", "whsec_a"] {
            assert!(Secret::parse(text).is_err(), "{text:?}");
        }
        assert!(Secret::parse("whsec_YWI").is_ok(), "the padding may be left out");
        assert_eq!(format!("{:?}", Secret::parse("hush").unwrap()), "Secret(…)");
    }
}
