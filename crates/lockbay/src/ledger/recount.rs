//! The recount: every account against the sum of its movements.
//!
//! It is meant for tests and for an operator who doubts the store: it needs nothing but the records
//! themselves, trusts none of the sums in them, and takes its time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Ledger;
use super::account::{ACCOUNT, Account, Standing};
use super::amount::Sum;
use super::posting::{POSTING, Posting};
use crate::error::Result;
use crate::store::{MAX_PAGE, Partition, Range, Record};

/// The most accounts that one recount returns.
const MAX_DIFFERENCES: usize = 1_000;

/// An account that is not what its movements make of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which account.
    pub account: Account,
    /// What it says.
    pub balance: Sum,
    /// What its movements come to.
    pub moved: Sum,
    /// What it says is held.
    pub held: Sum,
    /// What its movements come to, of what is held.
    pub moved_to_holds: Sum,
}

impl Ledger {
    /// The accounts that are not the sum of their movements, 1,000 at most: none, unless there is
    /// a defect or the store is damaged.
    ///
    /// It reads all movements once for every 1,000 accounts, in bounded memory. Ask while no money
    /// moves: an account that changes between two pages may be named without cause.
    pub async fn recount(&self) -> Result<Vec<Difference>> {
        let mut differences = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let range = Range::new(Partition::FIRST, ACCOUNT, "").after(after.clone());
            let page = self.store.scan(&range, MAX_PAGE).await?;
            let last = page.records.last().filter(|_| page.more).map(|last| last.key.id.clone());
            let moved = self.moved(after.as_deref(), last.as_deref()).await?;
            differences.extend(compare(&page.records, moved)?);
            if last.is_none() || differences.len() >= MAX_DIFFERENCES {
                differences.truncate(MAX_DIFFERENCES);
                return Ok(differences);
            }
            after = last.map(String::from);
        }
    }

    /// What all movements come to, of the accounts after one and up to another.
    async fn moved(
        &self,
        after: Option<&str>,
        upto: Option<&str>,
    ) -> Result<BTreeMap<String, (Sum, Sum)>> {
        let mut moved: BTreeMap<String, (Sum, Sum)> = BTreeMap::new();
        let mut next = None;
        loop {
            let range = Range::new(Partition::FIRST, POSTING, "").after(next);
            let page = self.store.scan(&range, MAX_PAGE).await?;
            for record in &page.records {
                let posting = Posting::read(record)?;
                let currency = posting.currency()?;
                let zero = Sum::zero(currency);
                for entry in posting.entries {
                    let id = entry.account.as_str();
                    if after.is_some_and(|after| id <= after) || upto.is_some_and(|upto| id > upto)
                    {
                        continue;
                    }
                    let held = entry.held.map(|held| Sum::parse(&held, currency)).transpose()?;
                    let amount = Sum::parse(&entry.amount, currency)?;
                    let (sum, in_holds) = moved.remove(id).unwrap_or((zero, zero));
                    let sums = (sum.plus(amount)?, in_holds.plus(held.unwrap_or(zero))?);
                    // Ended holds and escrows come to nothing: many, and not worth keeping.
                    if sums != (zero, zero) {
                        moved.insert(entry.account, sums);
                    }
                }
            }
            next = page.records.last().map(|last| last.key.id.to_string());
            if !page.more {
                return Ok(moved);
            }
        }
    }
}

/// The accounts of a page, and those that have movements and no record, where they differ.
fn compare(records: &[Record], mut moved: BTreeMap<String, (Sum, Sum)>) -> Result<Vec<Difference>> {
    let mut differences = Vec::new();
    for record in records {
        let account = Account::parse(&record.key.id)?;
        let zero = Sum::zero(account.currency());
        let standing = Standing::read(record, account.currency())?;
        let (sum, in_holds) = moved.remove(&*record.key.id).unwrap_or((zero, zero));
        let (balance, held) = (standing.balance, standing.held);
        if (balance, held) != (sum, in_holds) {
            differences.push(Difference {
                account,
                balance,
                moved: sum,
                held,
                moved_to_holds: in_holds,
            });
        }
    }
    for (id, (sum, in_holds)) in moved {
        if !sum.is_zero() || !in_holds.is_zero() {
            let account = Account::parse(&id)?;
            let zero = Sum::zero(account.currency());
            differences.push(Difference {
                account,
                balance: zero,
                moved: sum,
                held: zero,
                moved_to_holds: in_holds,
            });
        }
    }
    Ok(differences)
}
