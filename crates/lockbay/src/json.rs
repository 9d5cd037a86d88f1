//! Exact JSON: the text as it was given, and one canonical form of it.
//!
//! Parameters and results are money's papers, so they are kept by their text and never pass
//! through a float. The canonical form is for comparing: two texts have the same form exactly when
//! they say the same thing, whatever the order of members, the white space, the escapes, or the way
//! a number is written. Numbers are compared as exact decimals of any length.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The deepest nesting that is taken. Each level is read once more than the one above it, so this
/// bounds the work that a hostile text can cause.
pub const MAX_DEPTH: usize = 32;

/// Valid JSON, kept as the text it was given as.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// The JSON `null`.
    pub fn null() -> Self {
        Json(RawValue::NULL.to_owned())
    }

    /// An object without members.
    pub fn empty_object() -> Self {
        Json(RawValue::from_string("{}".into()).expect("this text is JSON"))
    }

    /// Takes a text if it is one JSON value.
    ///
    /// # Errors
    /// `Invalid` with the place of the mistake.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        RawValue::from_string(text.into())
            .map(Json)
            .map_err(|error| Error::invalid("not valid JSON").with_source(error))
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// `Invalid` if the value has no JSON form, such as a map whose keys are not strings.
    pub fn from_value(value: &impl Serialize) -> Result<Self> {
        serde_json::value::to_raw_value(value)
            .map(Json)
            .map_err(|error| Error::invalid("this value has no JSON form").with_source(error))
    }

    /// Reads it as a value.
    ///
    /// # Errors
    /// `Invalid` if it does not have the form of a `T`.
    pub fn to_value<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.text())
            .map_err(|error| Error::invalid("this JSON does not have the form").with_source(error))
    }

    /// The value as it is kept.
    pub(crate) fn raw(&self) -> &RawValue {
        &self.0
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// SHA-256 of the canonical form.
    ///
    /// # Errors
    /// `Invalid` if it is nested deeper than [`MAX_DEPTH`], repeats a member of an object, or has a
    /// number whose exponent is beyond ±1,000,000.
    pub fn digest(&self) -> Result<[u8; 32]> {
        let mut canonical = String::with_capacity(self.text().len());
        encode(&self.0, &mut canonical, 0)?;
        Ok(Sha256::digest(canonical.as_bytes()).into())
    }
}

/// `null`.
impl Default for Json {
    fn default() -> Self {
        Json::null()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Json {}

/// Appends the canonical form of a value.
fn encode(value: &RawValue, out: &mut String, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!("JSON is nested deeper than {MAX_DEPTH} levels")));
    }
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => encode_object(text, out, depth),
        Some(b'[') => {
            let items: Vec<&RawValue> = read(text)?;
            out.push('[');
            for item in items {
                encode(item, out, depth + 1)?;
                out.push(',');
            }
            out.push(']');
            Ok(())
        }
        Some(b'"') => encode_string(&read::<String>(text)?, out),
        Some(b'-' | b'0'..=b'9') => encode_number(text, out),
        // `true`, `false` and `null` have one spelling each.
        _ => {
            out.push_str(text);
            Ok(())
        }
    }
}

fn encode_object(text: &str, out: &mut String, depth: usize) -> Result<()> {
    let Members(members) = read(text)?;
    out.push('{');
    for (name, value) in members {
        encode_string(&name, out)?;
        out.push(':');
        encode(value, out, depth + 1)?;
        out.push(',');
    }
    out.push('}');
    Ok(())
}

fn encode_string(text: &str, out: &mut String) -> Result<()> {
    let quoted = serde_json::to_string(text)
        .map_err(|error| Error::invalid("this text has no JSON form").with_source(error))?;
    out.push_str(&quoted);
    Ok(())
}

/// A decimal as its significant digits and a power of ten: `1`, `1.0`, `10e-1` are all `1e0`.
fn encode_number(text: &str, out: &mut String) -> Result<()> {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        out.push('0');
        return Ok(());
    }
    let exponent: i64 = exponent
        .parse()
        .ok()
        .filter(|exponent: &i64| exponent.abs() <= 1_000_000)
        .ok_or_else(|| Error::invalid("a number's exponent is beyond 1,000,000"))?;
    // Lengths are bounded by the size of the text, far below i64::MAX.
    let zeros = i64::try_from(digits.len() - significant.len()).unwrap_or(i64::MAX);
    let places = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    out.push_str(&format!("{sign}{significant}e{}", exponent + zeros - places));
    Ok(())
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::invalid("this JSON cannot be compared").with_source(error))
}

/// The members of an object in the order of their names; a name that comes twice is refused,
/// because readers disagree about which one counts.
struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if members.contains_key(&name) {
                        let message = format!("member {name:?} comes twice");
                        return Err(serde::de::Error::custom(message));
                    }
                    members.insert(name, value);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        let mut out = String::new();
        encode(&Json::parse(text).unwrap().0, &mut out, 0).unwrap();
        out
    }

    #[test]
    fn the_same_thing_said_differently_has_one_form() {
        assert_eq!(
            canonical(r#"{"b":1,"a":[1.50,"\u0041"]}"#),
            canonical(r#"{ "a" : [15e-1, "A"], "b":1.0 }"#)
        );
        assert_eq!(canonical("1000.0"), canonical("1e3"));
        assert_eq!(canonical("-0"), canonical("0.00e5"));
    }

    #[test]
    fn amounts_above_two_to_the_53_are_told_apart() {
        assert_ne!(canonical("9007199254740993"), canonical("9007199254740992"));
        assert_ne!(
            canonical("123456789012345678901234567890.1"),
            canonical("123456789012345678901234567890.2")
        );
        assert_ne!(canonical("0.1000000000000000055511151231257827"), canonical("0.1"));
    }

    #[test]
    fn different_things_have_different_forms() {
        for (a, b) in
            [("1", "-1"), ("1", "\"1\""), ("[1,[2]]", "[[1],2]"), ("10", "1"), ("null", "false")]
        {
            assert_ne!(canonical(a), canonical(b), "{a} and {b}");
        }
    }

    #[test]
    fn hostile_json_is_refused() {
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        for text in [deep.as_str(), r#"{"a":1,"a":2}"#, "1e99999999999999999999"] {
            assert!(Json::parse(text).unwrap().digest().is_err(), "{text}");
        }
        assert!(Json::parse("NaN").is_err());
        assert!(Json::parse("{} {}").is_err());
    }

    proptest! {
        #[test]
        fn a_number_keeps_its_value_however_its_point_is_moved(n in (1..i64::MAX), shift in 0usize..30) {
            let zeros = "0".repeat(shift);
            prop_assert_eq!(canonical(&format!("{n}{zeros}e-{shift}")), canonical(&n.to_string()));
            prop_assert_eq!(canonical(&format!("{n}.0{zeros}")), canonical(&n.to_string()));
        }
    }
}
