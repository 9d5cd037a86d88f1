//! Whether a movement may happen: one pure function from what its accounts are to what
//! becomes of them.
//!
//! Nothing here reads or writes. A [`Rule`] says what must hold of an account; each change comes
//! with the guard under which it is right, so that whoever commits it cannot be wrong.

use super::account::{Account, Standing, UserId};
use super::amount::{Sum, defect};
use super::movement::{Movement, Touch};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Deadline, Fence, Guard, Record, Revision, Write};

/// What must hold of an account that a movement touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Any user; what they have stays at zero or above.
    User,
    /// There is no such hold.
    OpenHold,
    /// The hold agrees in full and has not lapsed, and is then gone.
    Post,
    /// The hold agrees in full, and is then gone.
    Void,
    /// The same, and it has lapsed.
    Lapse,
    /// There is no such escrow.
    OpenEscrow,
    /// The escrow agrees in full, and is then gone.
    CloseEscrow,
    /// The escrow has that much.
    DrawEscrow,
    /// The escrow is of that payer, or emptied.
    RefillEscrow,
    /// Never written before: its name ends with the movement's.
    Outside,
}

/// What a movement makes of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// As it was; nothing in it if there was no record.
    pub(super) before: Standing,
    /// The revision that it had; zero if there was no record.
    pub(super) was: Revision,
    pub(super) guard: Guard,
    pub(super) write: Write,
}

/// What `movement` makes of its accounts, which are as `found`, or why it may not happen.
pub(super) fn changes(
    movement: &Movement,
    found: &[Option<Record>],
    now: Timestamp,
) -> Result<Vec<Change>> {
    let found = || movement.touches.iter().zip(found.iter().map(Option::as_ref));
    let mut before = Vec::with_capacity(movement.touches.len());
    // All are asked before anything is added up: a hold that does not agree is the caller's
    // mistake, and a user of whom less is held than in their hold would be ours.
    for (touch, found) in found() {
        let standing = match found {
            Some(record) => Standing::read(record, movement.currency)?,
            None => Standing::none(movement.currency),
        };
        permit(touch, found, &standing, now)?;
        before.push(standing);
    }
    found()
        .zip(before)
        .map(|((touch, found), before)| change(movement, touch, found, before))
        .collect()
}

fn change(
    movement: &Movement,
    touch: &Touch,
    found: Option<&Record>,
    before: Standing,
) -> Result<Change> {
    let (account, currency) = (&touch.account, movement.currency);
    let mut after = before.clone();
    after.balance = before.balance.plus(touch.amount)?;
    after.held = before.held.plus(touch.held)?;
    if after.balance.over_limit() || after.held.over_limit() {
        let limit = currency.limit_sum();
        return Err(refused(format!("{account} would hold more than {limit}")));
    }
    if after.held.is_negative() || (after.balance.is_negative() && touch.rule != Rule::Outside) {
        return Err(defect(format!("{account} would fall below zero: {:?}", after.balance)));
    }
    let ends = after.balance.is_zero();
    let deadline = movement.ttl.map_or(Deadline::Never, Deadline::After);
    let delete = Write::Delete { key: account.key() };
    let write = match touch.rule {
        Rule::Post | Rule::Void | Rule::Lapse | Rule::CloseEscrow => delete,
        Rule::DrawEscrow if ends => delete,
        Rule::User | Rule::Outside | Rule::DrawEscrow => put(account, &after, Deadline::Never)?,
        Rule::OpenHold => {
            after.owner = touch.owner.as_ref().map(UserId::to_string);
            after.saga = movement.reference.as_ref().map(|reference| reference.saga_id.clone());
            put(account, &after, deadline)?
        }
        Rule::OpenEscrow | Rule::RefillEscrow => {
            after.owner = touch.owner.as_ref().map(UserId::to_string);
            put(account, &after, Deadline::Never)?
        }
    };
    let was = found.map_or(Revision::ZERO, |record| record.revision);
    Ok(Change { guard: guard(touch, found), before, was, write })
}

/// The guard under which a change stays right.
fn guard(touch: &Touch, found: Option<&Record>) -> Guard {
    let key = touch.account.key();
    match found {
        None => Guard::Absent(key),
        // Also not lapsed when it is committed, by the store's clock.
        Some(record) if touch.rule == Rule::Post => {
            Guard::Held(Fence { key, token: record.revision })
        }
        Some(record) => Guard::RevisionIs(key, record.revision),
    }
}

/// Refuses what the rule does not permit.
fn permit(touch: &Touch, found: Option<&Record>, before: &Standing, now: Timestamp) -> Result<()> {
    let (account, asked) = (&touch.account, touch.amount.negated());
    match (touch.rule, found) {
        (Rule::User, _) => enough(account, before, asked),
        (Rule::OpenHold | Rule::OpenEscrow | Rule::RefillEscrow | Rule::Outside, None) => Ok(()),
        (Rule::OpenHold | Rule::OpenEscrow, Some(_)) => {
            Err(refused(format!("this is open already: {account}")))
        }
        (Rule::Outside, Some(_)) => {
            Err(defect(format!("there is an entry without its movement: {account}")))
        }
        (Rule::Post | Rule::Void | Rule::Lapse, None) => Err(refused(format!(
            "this is not open; it never was, or was posted, voided or lapsed, as its movements \
             tell: {account}"
        ))),
        (Rule::CloseEscrow | Rule::DrawEscrow, None) => Err(refused(format!(
            "there is nothing in this; it never was open, or is spent, as its movements tell: \
             {account}"
        ))),
        (Rule::Post, Some(record)) if record.lapsed(now) => {
            Err(refused(format!("this has lapsed and can only be voided: {account}")))
        }
        (Rule::Lapse, Some(record)) if !record.lapsed(now) => {
            Err(refused(format!("this has not lapsed: {account}")))
        }
        (Rule::Post | Rule::Void | Rule::Lapse | Rule::CloseEscrow, Some(_)) => {
            agrees(touch, before)?;
            match before.balance == asked {
                true => Ok(()),
                false => Err(refused(format!(
                    "this holds {} and not {asked}: {account}",
                    before.balance
                ))),
            }
        }
        (Rule::DrawEscrow, Some(_)) => {
            agrees(touch, before)?;
            enough(account, before, asked)
        }
        (Rule::RefillEscrow, Some(_)) => agrees(touch, before),
    }
}

/// Refuses to take more than there is. Where something is put in, less than nothing is asked for.
fn enough(account: &Account, before: &Standing, asked: Sum) -> Result<()> {
    let has = before.balance;
    if has.plus(asked.negated())?.is_negative() {
        return Err(refused(format!("there is {has} of the {asked} asked for in {account}")));
    }
    Ok(())
}

fn agrees(touch: &Touch, before: &Standing) -> Result<()> {
    let owner = touch.owner.as_ref().map(UserId::as_str);
    if before.owner.as_deref() == owner {
        return Ok(());
    }
    let (account, owner) = (&touch.account, owner.unwrap_or_default());
    Err(refused(format!("this is not of user {owner:?}: {account}")))
}

fn put(account: &Account, after: &Standing, deadline: Deadline) -> Result<Write> {
    Ok(Write::Put { key: account.key(), value: after.encode(account)?, deadline })
}

/// The business refuses.
pub(super) fn refused(message: String) -> Error {
    Error::new(ErrorKind::Refused, message)
}
