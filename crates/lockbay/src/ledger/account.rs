//! Accounts: their names, the people they belong to, and what is stored of one.
//!
//! An account is one record. Its name says its class, its owner and its currency, so that accounts
//! of a sort lie together. What a movement may do to it is decided in [`movement`](super::movement).

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::amount::{Currency, Sum, defect};
use crate::error::{Error, Result};
use crate::json::Json;
use crate::name::check_name;
use crate::store::{Key, Kind, Partition, Record};

/// An account. Key: its name.
pub(crate) const ACCOUNT: Kind = Kind::new("account");

/// The longest id of a user, a hold or an escrow, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// The longest name of a provider, in bytes.
pub const MAX_PROVIDER_BYTES: usize = 64;

/// Who owns money here: 1 to 128 bytes, no control characters, no `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Box<str>);

impl UserId {
    /// A user by the caller's name for them.
    ///
    /// # Errors
    /// `Invalid` if it is empty, too long, or has control characters or a `/`.
    pub fn parse(id: &str) -> Result<Self> {
        check_id("user id", id, MAX_ID_BYTES)?;
        Ok(UserId(id.into()))
    }

    /// A user from a JSON string, or an integer: `5` and `"5"` are the same user.
    ///
    /// # Errors
    /// As [`parse`](UserId::parse), and `Invalid` for any other JSON, such as `5.0`.
    pub fn from_json(json: &Json) -> Result<Self> {
        let text = json.text();
        let digits = text.strip_prefix('-').unwrap_or(text);
        if text.starts_with('"') {
            return UserId::parse(&json.to_value::<String>()?);
        }
        if !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return UserId::parse(text);
        }
        Err(Error::invalid("a user id is a JSON string or integer"))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The name of an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// What a user may spend.
    User(UserId, Currency),
    /// What is set apart of one user's money, for one purpose.
    Hold(Box<str>, Currency),
    /// What belongs to two parties until one of them gets it.
    Escrow(Box<str>, Currency),
    /// What came from or went to the world outside in one movement, whose id stands last. One
    /// account per movement, so that no two movements ever write the same.
    External(Box<str>, Currency, Box<str>),
}

/// The classes of accounts, in the order of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    Escrow,
    External,
    Hold,
    User,
}

impl Account {
    pub(super) fn class(&self) -> Class {
        match self {
            Account::User(..) => Class::User,
            Account::Hold(..) => Class::Hold,
            Account::Escrow(..) => Class::Escrow,
            Account::External(..) => Class::External,
        }
    }

    /// Its currency.
    pub fn currency(&self) -> Currency {
        match self {
            Account::User(_, currency)
            | Account::Hold(_, currency)
            | Account::Escrow(_, currency)
            | Account::External(_, currency, _) => *currency,
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// `Invalid` if it is no name of an account.
    pub fn parse(name: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("not the name of an account: {name:?}"));
        let mut parts = name.splitn(4, '/');
        let mut next = || parts.next().ok_or_else(wrong);
        let (class, id, currency) = (next()?, next()?, Currency::parse(next()?)?);
        match (class, parts.next()) {
            ("user", None) => Ok(Account::User(UserId::parse(id)?, currency)),
            ("hold", None) => Ok(Account::Hold(id.into(), currency)),
            ("escrow", None) => Ok(Account::Escrow(id.into(), currency)),
            ("external", Some(entry)) => Ok(Account::External(id.into(), currency, entry.into())),
            (_, None | Some(_)) => Err(wrong()),
        }
    }

    pub(super) fn key(&self) -> Key {
        // A movement spans accounts and a commit stays within a partition: all of them live in one.
        Key::new(Partition::FIRST, ACCOUNT, self.to_string())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Account::User(id, currency) => write!(f, "user/{id}/{currency}"),
            Account::Hold(id, currency) => write!(f, "hold/{id}/{currency}"),
            Account::Escrow(id, currency) => write!(f, "escrow/{id}/{currency}"),
            Account::External(provider, currency, entry) => {
                write!(f, "external/{provider}/{currency}/{entry}")
            }
        }
    }
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Checks an id that stands inside the name of an account.
pub(super) fn check_id(what: &str, id: &str, longest: usize) -> Result<()> {
    check_name(what, id, longest)?;
    if id.contains('/') {
        return Err(Error::invalid(format!("a {what} has no slash: {id:?}")));
    }
    Ok(())
}

/// What is stored of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AccountRecord {
    pub(super) balance: String,
    /// Of a user: the sum of their open holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held: Option<String>,
    /// Of a hold: whose money it is. Of an escrow: who paid it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<String>,
    /// Of a hold: the saga that opened it, so that its lapse is told there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) saga: Option<String>,
}

/// An account as it was read, its sums parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) balance: Sum,
    pub(super) held: Sum,
    pub(super) owner: Option<String>,
    pub(super) saga: Option<String>,
}

impl Standing {
    /// Of an account that nothing was ever moved to.
    pub(super) fn none(currency: Currency) -> Self {
        let zero = Sum::zero(currency);
        Standing { balance: zero, held: zero, owner: None, saga: None }
    }

    pub(super) fn read(record: &Record, currency: Currency) -> Result<Self> {
        let stored: AccountRecord = serde_json::from_slice(&record.value).map_err(|error| {
            defect(format!("the record of {} is damaged", record.key)).with_source(error)
        })?;
        let standing = Standing {
            balance: Sum::parse(&stored.balance, currency)?,
            held: stored
                .held
                .map_or(Ok(Sum::zero(currency)), |held| Sum::parse(&held, currency))?,
            owner: stored.owner,
            saga: stored.saga,
        };
        let external = record.key.id.starts_with("external/");
        if (standing.balance.is_negative() && !external) || standing.held.is_negative() {
            return Err(defect(format!("an account is below zero in the store: {}", record.key)));
        }
        Ok(standing)
    }

    pub(super) fn encode(&self, account: &Account) -> Result<Vec<u8>> {
        let stored = AccountRecord {
            balance: self.balance.to_string(),
            held: (account.class() == Class::User).then(|| self.held.to_string()),
            owner: self.owner.clone(),
            saga: self.saga.clone(),
        };
        serde_json::to_vec(&stored)
            .map_err(|error| defect("an account has no JSON form".into()).with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_account_is_read_back() {
        let usd = Currency::parse("USD").unwrap();
        for account in [
            Account::User(UserId::parse("alice bob:1").unwrap(), usd),
            Account::Hold("h".into(), usd),
            Account::Escrow("e-1".into(), usd),
            Account::External("bank".into(), usd, "saga/step/do".into()),
        ] {
            assert_eq!(Account::parse(&account.to_string()).unwrap(), account);
        }
        for name in
            ["", "user", "user/a", "user/a/usd", "user/a/USD/x", "external/b/USD", "x/y/USD"]
        {
            assert!(Account::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_user_is_text_or_an_integer() {
        let read = |text: &str| UserId::from_json(&Json::parse(text).unwrap()).ok();
        assert_eq!(read("12345").unwrap(), read("\"12345\"").unwrap());
        assert_eq!(read("9007199254740993").unwrap().as_str(), "9007199254740993");
        for text in ["1.0", "1e3", "null", "true", "{}", "[]", "\"\"", "\"a/b\"", "\"a\\u0000b\""] {
            assert_eq!(read(text), None, "{text}");
        }
        assert!(UserId::parse(&"x".repeat(128)).is_ok());
        assert!(UserId::parse(&"x".repeat(129)).is_err());
    }
}
