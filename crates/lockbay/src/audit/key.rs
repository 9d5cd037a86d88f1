//! Keys that sign checkpoints: Ed25519.
//!
//! The key in use comes from the setting, so that the store does not know it; or it is made once
//! and kept in the store, which shows mishaps, and tampering by those who do not know that it is
//! there. A second key in the setting is the other one of a change: the one in use before signs the
//! checkpoint that names its successor, and the successor signs that checkpoint as well. The key of
//! the store is followed by another one only if the setting says so.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::hex::{hex, unhex};

/// A public key. Shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("a public key has 64 lowercase digits: {text:?}"));
        unhex(text.trim()).map(PublicKey).ok_or_else(wrong)
    }

    /// Whether this is the signature of these bytes. Strict: there is one for a key and bytes.
    pub(crate) fn verifies(&self, bytes: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(bytes, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        PublicKey::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A key that signs. Never shown.
#[derive(Clone)]
pub(crate) struct Signer(SigningKey);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public())
    }
}

impl Signer {
    /// A new one.
    pub(crate) fn make(clock: &Clock) -> Self {
        let mut secret = [0; 32];
        for part in secret.chunks_exact_mut(8) {
            part.copy_from_slice(&clock.random().to_be_bytes());
        }
        Signer(SigningKey::from_bytes(&secret))
    }

    /// Reads 64 hexadecimal digits, or 32 bytes in base64.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let secret = unhex(&text.to_ascii_lowercase()).or_else(|| base64(text))?;
        Some(Signer(SigningKey::from_bytes(&secret)))
    }

    /// Reads what [`secret`](Signer::secret) wrote, to the last byte.
    pub(crate) fn stored(bytes: &[u8]) -> Option<Self> {
        let signer = Signer::parse(std::str::from_utf8(bytes).ok()?)?;
        (signer.secret().as_bytes() == bytes).then_some(signer)
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(bytes).to_bytes()
    }

    /// As it is kept in the store.
    pub(crate) fn secret(&self) -> String {
        hex(&self.0.to_bytes())
    }
}

/// The keys of the setting.
#[derive(Debug, Clone, Default)]
#[allow(clippy::large_enum_variant)] // there is one in a process
pub(crate) enum Keys {
    /// None was given: the one of the store signs.
    #[default]
    Stored,
    /// The one that signs, and perhaps another.
    Given(Signer, Other),
    /// What was given cannot be read: nothing is signed.
    Unreadable,
}

/// What a setting names beside the key that signs.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // there is one in a process
pub(crate) enum Other {
    Nothing,
    /// One that signed before, or will sign next.
    Key(Signer),
    /// The one of the store, which signed before.
    Stored,
}

impl Keys {
    /// The key that signs, if it was given.
    pub(crate) fn given(&self) -> Option<&Signer> {
        match self {
            Keys::Given(current, _) => Some(current),
            Keys::Stored | Keys::Unreadable => None,
        }
    }

    /// Those that may sign, the one in use first; `made` is the key of the store.
    pub(super) fn at_hand<'a>(&'a self, made: Option<&'a Signer>) -> Vec<&'a Signer> {
        match self {
            Keys::Stored => made.into_iter().collect(),
            Keys::Given(current, Other::Nothing) => vec![current],
            Keys::Given(current, Other::Key(other)) => vec![current, other],
            Keys::Given(current, Other::Stored) => std::iter::once(current).chain(made).collect(),
            Keys::Unreadable => Vec::new(),
        }
    }

    /// Reads the setting: one key, or two with a comma between them, or one and `store`.
    ///
    /// # Errors
    /// `Invalid` for what is no key. The text is not shown.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Keys::Stored) };
        let (current, other) = match text.split_once(',') {
            None => (text, Some(Other::Nothing)),
            Some((current, other)) if other.trim() == "store" => (current, Some(Other::Stored)),
            Some((current, other)) => (current, Signer::parse(other).map(Other::Key)),
        };
        match (Signer::parse(current), other) {
            (Some(current), Some(other)) => Ok(Keys::Given(current, other)),
            (None, _) | (_, None) => Err(Error::invalid(
                "audit_key is 32 bytes in hexadecimal digits or base64, perhaps with a comma and \
                 another key, or a comma and `store`",
            )),
        }
    }
}

/// 32 bytes in base64 of either alphabet, with or without padding.
fn base64(text: &str) -> Option<[u8; 32]> {
    let digits = text.trim_end_matches('=').bytes();
    let mut bytes = Vec::with_capacity(33);
    let (mut held, mut bits) = (0u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
            held &= (1 << bits) - 1;
        }
        if bytes.len() > 32 {
            return None;
        }
    }
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_hexadecimal_or_base64_and_nothing_else_is_one() {
        let hexadecimal = "00".repeat(31) + "ff";
        let base64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8=";
        let read = |text: &str| Keys::parse(Some(text)).map(|keys| keys.given().unwrap().secret());
        assert_eq!(read(&hexadecimal).unwrap(), hexadecimal);
        assert_eq!(read(base64).unwrap(), hexadecimal);
        assert_eq!(read(&format!("{base64},{}", "11".repeat(32))).unwrap(), hexadecimal);
        let stored = Keys::parse(Some(&format!("{base64},store"))).unwrap();
        assert!(matches!(stored, Keys::Given(_, Other::Stored)));
        for wrong in
            ["", "store", "hush", "00", &base64[..40], &format!("{base64},{base64},{base64}")]
        {
            let error = Keys::parse(Some(wrong)).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
        let signer = Signer::parse(&hexadecimal).unwrap();
        assert!(!format!("{signer:?}").contains("00000000"), "{signer:?}");
    }
}
