//! How movements are kept, and how they are looked up.
//!
//! A movement is one record under its own id, so that no second one can have the same; its order in
//! time is an index entry beside it. It tells of every account what was in it before and which
//! commit had put that: so the accounts' histories form chains, which is what a trial balance of a
//! ledger in motion rests on.

use serde::{Deserialize, Serialize};

use super::account::{Account, UserId, check_id};
use super::amount::{Currency, Sum, defect};
use super::decide::Change;
use super::movement::{MAX_MOVEMENT_ID_BYTES, Movement, MovementKind, Reference, Touch};
use super::{Ledger, MAX_ID_BYTES};
use crate::clock::{Timestamp, micros};
use crate::error::{Error, Result};
use crate::name::check_name;
use crate::scribe::{self, Scribe};
use crate::store::{Deadline, Key, Kind, Partition, Range, Record, Revision, Write};

/// A movement. Key: its id.
pub(crate) const POSTING: Kind = Kind::new("posting");
/// Movements in time. Key: time, movement id. No value.
pub(crate) const POSTING_TIME: Kind = Kind::index("posting-time");

/// One side of a movement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leg {
    /// Which account.
    pub account: Account,
    /// What was added to it; below zero for what was taken.
    pub amount: Sum,
    /// What was in it then.
    pub balance: Sum,
}

/// A movement that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MovementInfo {
    /// Its id.
    pub movement_id: String,
    /// What it was for.
    pub kind: MovementKind,
    /// In which currency.
    pub currency: Currency,
    /// Its sides; they come to zero.
    pub legs: Vec<Leg>,
    /// The step of a saga that it was.
    pub reference: Option<Reference>,
    /// When it was committed, by the store's clock.
    pub at: Timestamp,
}

/// A page of movements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovementPage {
    /// The movements.
    pub items: Vec<MovementInfo>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

impl Ledger {
    /// The movement of this id, if it happened.
    pub async fn movement(&self, id: &str) -> Result<Option<MovementInfo>> {
        check_name("movement id", id, MAX_MOVEMENT_ID_BYTES)?;
        let read = self.store.get(&[key(id)]).await?;
        read.records.into_iter().flatten().next().map(|record| info(&record)).transpose()
    }

    /// The movements of a saga by their ids, at most `limit` of them, going on after `next` of an
    /// earlier page.
    ///
    /// # Errors
    /// `Invalid` for a `next` that was never handed out.
    pub async fn postings(
        &self,
        saga_id: &str,
        next: Option<String>,
        limit: usize,
    ) -> Result<MovementPage> {
        check_id("saga id", saga_id, MAX_ID_BYTES)?;
        let range = Range::new(Partition::FIRST, POSTING, format!("{saga_id}/"));
        if next.as_ref().is_some_and(|next| !next.starts_with(&range.prefix) || next.len() > 1_024)
        {
            return Err(Error::invalid("this page token does not belong to these movements"));
        }
        let page = self.store.scan(&range.after(next), limit).await?;
        let next = page.records.last().filter(|_| page.more).map(|last| last.key.id.to_string());
        let mut items = page.records.iter().map(info).collect::<Result<Vec<_>>>()?;
        // An id may begin like a saga's and yet not be of it.
        items.retain(|item| item.reference.as_ref().is_some_and(|r| r.saga_id == saga_id));
        Ok(MovementPage { items, next })
    }
}

/// What is stored of a movement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Posting {
    pub(super) kind: MovementKind,
    pub(super) currency: String,
    /// The store's time when it was prepared, under which it is listed.
    pub(super) at_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ttl_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) saga: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<String>,
    pub(super) entries: Vec<Entry>,
}

/// What it did to one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) account: String,
    pub(super) amount: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<String>,
    /// What was there before.
    pub(super) before: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held_before: Option<String>,
    /// The revision that the account had; zero if there was none.
    pub(super) was: u64,
}

/// The writes that keep a movement.
pub(super) fn keep(movement: &Movement, changes: &[Change], now: Timestamp) -> Result<[Write; 2]> {
    let posting = posting(movement, changes, now);
    let value = serde_json::to_vec(&posting)
        .map_err(|error| defect("a movement has no JSON form".into()).with_source(error))?;
    let id = &movement.id;
    let listed = Key::new(Partition::FIRST, POSTING_TIME, format!("{}/{id}", time_prefix(now)));
    Ok([Write::Put { key: key(id), value, deadline: Deadline::Never }, Write::Mark { key: listed }])
}

/// The entry of a movement in the audit trail, which tells every leg: amounts and accounts are what
/// a ledger is about. It rides with the movement, whoever commits it.
pub(super) fn entered(scribe: &Scribe, movement: &Movement, kept: &[Write]) -> Option<Write> {
    if !scribe.writes() {
        return None;
    }
    // Where only the sum of a user's holds changes, nothing is moved.
    let legs = movement.touches.iter().filter(|touch| !touch.amount.is_zero()).map(|touch| {
        scribe::Detail::default()
            .with("account", touch.account.to_string())
            .with("amount", touch.amount.to_string())
    });
    let reference = movement.reference.as_ref();
    let mut entry = scribe::Entry::new("movement", &movement.id, "committed")
        .with("kind", movement.kind.name())
        .with("currency", movement.currency.code())
        .with("legs", legs.collect::<Vec<_>>())
        .with_some("saga_id", reference.map(|reference| reference.saga_id.as_str()))
        .with_some("step", reference.map(|reference| reference.step.as_str()));
    entry.record = kept.iter().find_map(value_of);
    scribe.enter(&entry)
}

fn posting(movement: &Movement, changes: &[Change], now: Timestamp) -> Posting {
    let entries = movement.touches.iter().zip(changes).map(|(touch, change)| {
        let is_user = matches!(touch.account, Account::User(..));
        Entry {
            account: touch.account.to_string(),
            amount: touch.amount.to_string(),
            held: held_of(touch),
            owner: touch.owner.as_ref().map(UserId::to_string),
            before: change.before.balance.to_string(),
            held_before: is_user.then(|| change.before.held.to_string()),
            was: change.was.number(),
        }
    });
    let reference = movement.reference.as_ref();
    Posting {
        kind: movement.kind,
        currency: movement.currency.code().into(),
        at_us: now.as_micros(),
        ttl_us: movement.ttl.map(micros),
        saga: reference.map(|reference| reference.saga_id.clone()),
        step: reference.map(|reference| reference.step.clone()),
        entries: entries.collect(),
    }
}

impl Posting {
    pub(super) fn read(record: &Record) -> Result<Self> {
        serde_json::from_slice(&record.value).map_err(|error| {
            defect(format!("the record of {} is damaged", record.key)).with_source(error)
        })
    }

    /// Whether this is what the movement wishes for. When it was, and what was there before, is no
    /// part of the wish.
    pub(super) fn is(&self, movement: &Movement) -> bool {
        let reference = movement.reference.as_ref();
        self.kind == movement.kind
            && self.currency == movement.currency.code()
            && self.ttl_us == movement.ttl.map(micros)
            && self.saga.as_ref() == reference.map(|reference| &reference.saga_id)
            && self.step.as_ref() == reference.map(|reference| &reference.step)
            && self.entries.len() == movement.touches.len()
            && self.entries.iter().zip(&movement.touches).all(|(entry, touch)| entry.is(touch))
    }

    pub(super) fn currency(&self) -> Result<Currency> {
        Currency::parse(&self.currency)
    }
}

impl Entry {
    fn is(&self, touch: &Touch) -> bool {
        self.account == touch.account.to_string()
            && self.amount == touch.amount.to_string()
            && self.held == held_of(touch)
            && self.owner.as_deref() == touch.owner.as_ref().map(UserId::as_str)
    }
}

/// What is stored of a change of what is held: nothing if there is none.
fn held_of(touch: &Touch) -> Option<String> {
    (!touch.held.is_zero()).then(|| touch.held.to_string())
}

/// How the entry of a movement of this time begins.
pub(super) fn time_prefix(at: Timestamp) -> String {
    format!("{:016x}", at.as_micros())
}

/// What is written as the record of a movement.
pub(super) fn value_of(write: &Write) -> Option<&[u8]> {
    match write {
        Write::Put { key, value, .. } if key.kind == POSTING => Some(value),
        Write::Put { .. }
        | Write::Touch { .. }
        | Write::Delete { .. }
        | Write::Mark { .. }
        | Write::Append { .. } => None,
    }
}

/// The movement whose record was just written.
pub(super) fn committed(id: &str, value: Vec<u8>, revision: Revision) -> Result<MovementInfo> {
    info(&Record { key: key(id), value, revision, deadline: None })
}

pub(super) fn key(id: &str) -> Key {
    Key::new(Partition::FIRST, POSTING, id)
}

pub(super) fn info(record: &Record) -> Result<MovementInfo> {
    let posting = Posting::read(record)?;
    let currency = posting.currency()?;
    let mut legs = Vec::with_capacity(posting.entries.len());
    for entry in &posting.entries {
        let amount = Sum::parse(&entry.amount, currency)?;
        // Where only the sum of a user's holds changed, nothing was moved.
        if !amount.is_zero() {
            let account = Account::parse(&entry.account)?;
            let balance = Sum::parse(&entry.before, currency)?.plus(amount)?;
            legs.push(Leg { account, amount, balance });
        }
    }
    let reference =
        posting.saga.zip(posting.step).map(|(saga_id, step)| Reference { saga_id, step });
    Ok(MovementInfo {
        movement_id: record.key.id.to_string(),
        kind: posting.kind,
        currency,
        legs,
        reference,
        at: record.revision.time(),
    })
}
