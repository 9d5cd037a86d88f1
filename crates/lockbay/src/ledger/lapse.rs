//! Holds whose deadline has passed: each is voided once, by whoever comes first.

use super::account::{ACCOUNT, Account, Standing, UserId};
use super::amount::defect;
use super::movement::{Hold, Movement};
use super::{Ledger, owner};
use crate::error::{ErrorKind, Result};
use crate::store::{MAX_PAGE, Partition, Record};

/// What [`Ledger::lapse_due`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lapsed {
    /// Holds that it voided.
    pub voided: usize,
    /// Whether there may be more of them: call it again.
    pub more: bool,
}

impl Ledger {
    /// Voids holds whose deadline has passed, at most `limit` of them, the longest passed first.
    /// Any number of instances may call it at once.
    ///
    /// A hold that a saga opened lapses in a movement of that saga, with the step `lapse`. One that
    /// cannot be read is told in the log, and does not hold up the others.
    pub async fn lapse_due(&self, limit: usize) -> Result<Lapsed> {
        let limit = limit.clamp(1, MAX_PAGE);
        let page = self.store.due(Partition::FIRST, ACCOUNT, limit).await?;
        let mut lapsed = Lapsed { voided: 0, more: page.more };
        for record in &page.records {
            let applied = match lapse(record) {
                Ok(movement) => self.apply(&movement).await,
                Err(error) => Err(error),
            };
            match applied {
                Ok(applied) => lapsed.voided += usize::from(!applied.replayed),
                // Somebody else has ended it, or changes its user all the time.
                Err(error) if error.kind() == ErrorKind::Refused => {}
                Err(error) if error.kind() == ErrorKind::Busy => lapsed.more = true,
                Err(error) if error.kind() == ErrorKind::Internal => {
                    tracing::error!(hold = %record.key.id, %error, "a hold cannot be lapsed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(lapsed)
    }
}

/// The movement in which a hold lapses. Its id names the commit that opened the hold, so that a
/// hold that is opened again under the same id can lapse again.
fn lapse(record: &Record) -> Result<Movement> {
    let account = Account::parse(&record.key.id)?;
    let Account::Hold(id, currency) = &account else {
        return Err(defect(format!("this has a deadline and is no hold: {account}")));
    };
    let standing = Standing::read(record, *currency)?;
    let user: UserId = owner(&account, &standing)?;
    let hold = Hold { id: id.to_string(), user, amount: standing.balance.amount()? };
    let name = format!("lapse:{id}:{currency}:{}", record.revision);
    match &standing.saga {
        None => Movement::lapse(&name, &hold),
        Some(saga) => Movement::lapse(&format!("{saga}/{name}"), &hold)?.of_saga(saga, "lapse"),
    }
}
