//! Movements: what may happen to money, each a balanced set of legs that is known before anything
//! is read.
//!
//! A [`Movement`] is a wish in full: its id, its accounts and its amounts. So a repetition is told
//! from a new wish by comparing, whatever has become of the accounts meanwhile. Whether it may
//! happen is decided in [`decide`](super::decide), and how it is kept in [`posting`](super::posting).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::{Account, MAX_ID_BYTES, MAX_PROVIDER_BYTES, UserId, check_id};
use super::amount::{Amount, Currency, Sum};
use super::decide::Rule;
use crate::error::{Error, Result};
use crate::name::check_name;

/// The longest id of a movement, in bytes.
pub const MAX_MOVEMENT_ID_BYTES: usize = 512;
/// The longest time that a hold may be given.
pub const MAX_HOLD_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// Ids that begin like this belong to deposits that the ledger commits itself.
pub(super) const DEPOSIT_IDS: &str = "deposit:";

/// What a movement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MovementKind {
    /// From outside to a user.
    Deposit,
    /// Back outside: a deposit that did not last.
    UndoDeposit,
    /// From a user to a hold, for an escrow.
    Lock,
    /// From a user to a hold, for a payout.
    Reserve,
    /// From a hold back to its user.
    Void,
    /// The same, because the hold's deadline has passed.
    Lapse,
    /// From a hold to an escrow.
    Escrow,
    /// From an escrow back to a hold.
    UndoEscrow,
    /// From an escrow to whoever earned it.
    Release,
    /// From an escrow to whoever paid it in.
    Refund,
    /// From a user back to an escrow.
    UndoRelease,
    /// From a hold to the outside.
    Payout,
    /// From outside back to a hold: the payout did not happen.
    UndoPayout,
    /// From outside back to the user: the payout came back.
    ReturnPayout,
}

impl MovementKind {
    /// Its name in JSON and in listings.
    pub fn name(self) -> &'static str {
        match self {
            MovementKind::Deposit => "deposit",
            MovementKind::UndoDeposit => "undo_deposit",
            MovementKind::Lock => "lock",
            MovementKind::Reserve => "reserve",
            MovementKind::Void => "void",
            MovementKind::Lapse => "lapse",
            MovementKind::Escrow => "escrow",
            MovementKind::UndoEscrow => "undo_escrow",
            MovementKind::Release => "release",
            MovementKind::Refund => "refund",
            MovementKind::UndoRelease => "undo_release",
            MovementKind::Payout => "payout",
            MovementKind::UndoPayout => "undo_payout",
            MovementKind::ReturnPayout => "return_payout",
        }
    }
}

/// Which saga, and which step of it, a movement belongs to. The ledger keeps it and gives it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reference {
    /// The saga.
    pub saga_id: String,
    /// The step.
    pub step: String,
}

/// A hold as the caller knows it: money of one user, set apart under an id of the caller's choice.
/// A movement on a hold that does not agree with this is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its id: 1 to 128 bytes, no control characters, no `/`.
    pub id: String,
    /// Whose money it is.
    pub user: UserId,
    /// All that it holds.
    pub amount: Amount,
}

/// An escrow as the caller knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escrow {
    /// Its id: 1 to 128 bytes, no control characters, no `/`.
    pub id: String,
    /// Who paid it in, and gets a refund.
    pub payer: UserId,
}

/// A balanced set of legs that is wished for. Built by one of its functions, and then
/// [prepared](super::Ledger::prepare) or [applied](super::Ledger::apply).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    pub(super) id: Box<str>,
    pub(super) kind: MovementKind,
    pub(super) currency: Currency,
    pub(super) touches: Vec<Touch>,
    pub(super) reference: Option<Reference>,
    /// How long the hold lasts that it opens.
    pub(super) ttl: Option<Duration>,
}

/// What a movement does to one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Touch {
    pub(super) account: Account,
    /// Added to the balance. Zero where only the sum of a user's holds changes.
    pub(super) amount: Sum,
    /// Added to what is held of a user.
    pub(super) held: Sum,
    /// Of a hold or an escrow: whose money it is, or who paid it in.
    pub(super) owner: Option<UserId>,
    pub(super) rule: Rule,
}

/// Each function takes the id of the movement first: an idempotency key of 1 to 512 bytes, under
/// which it happens once at most. All fail with `Invalid` for an id outside its limits, and write
/// nothing.
impl Movement {
    /// Money comes in from a provider.
    pub fn deposit(id: &str, provider: &str, user: &UserId, amount: &Amount) -> Result<Self> {
        let touches = vec![outside(id, provider, amount, Way::Out)?, user_gets(user, amount)];
        Movement::new(id, MovementKind::Deposit, amount, touches)
    }

    /// The exact inverse of [`deposit`](Movement::deposit). Refused if the money is gone.
    pub fn undo_deposit(id: &str, provider: &str, user: &UserId, amount: &Amount) -> Result<Self> {
        let touches = vec![outside(id, provider, amount, Way::In)?, user_gives(user, amount)];
        Movement::new(id, MovementKind::UndoDeposit, amount, touches)
    }

    /// A hold is opened for an escrow. Refused if less is available.
    pub fn lock(id: &str, hold: &Hold) -> Result<Self> {
        Movement::open(id, MovementKind::Lock, hold)
    }

    /// A hold is opened for a payout. Refused if less is available.
    pub fn reserve(id: &str, hold: &Hold) -> Result<Self> {
        Movement::open(id, MovementKind::Reserve, hold)
    }

    fn open(id: &str, kind: MovementKind, hold: &Hold) -> Result<Self> {
        let mut user = user_gives(&hold.user, &hold.amount);
        user.held = hold.amount.sum();
        Movement::new(id, kind, &hold.amount, vec![user, hold_opens(hold)?])
    }

    /// The inverse of [`lock`](Movement::lock) and [`reserve`](Movement::reserve): the hold ends,
    /// and its user has the money again. Refused if it is not open.
    pub fn void(id: &str, hold: &Hold) -> Result<Self> {
        Movement::end(id, MovementKind::Void, hold, Rule::Void)
    }

    /// As [`void`](Movement::void), for a hold whose deadline has passed.
    pub(super) fn lapse(id: &str, hold: &Hold) -> Result<Self> {
        Movement::end(id, MovementKind::Lapse, hold, Rule::Lapse)
    }

    fn end(id: &str, kind: MovementKind, hold: &Hold, rule: Rule) -> Result<Self> {
        let mut user = user_gets(&hold.user, &hold.amount);
        user.held = hold.amount.sum().negated();
        Movement::new(id, kind, &hold.amount, vec![user, hold_ends(hold, rule)?])
    }

    /// A hold becomes an escrow of this id. Refused if the hold is not open or has lapsed, or if
    /// the escrow exists.
    pub fn escrow(id: &str, hold: &Hold, escrow_id: &str) -> Result<Self> {
        let escrow = Escrow { id: escrow_id.into(), payer: hold.user.clone() };
        let escrow = escrow_touch(&escrow, hold.amount.sum(), Rule::OpenEscrow)?;
        let user = held_changes(&hold.user, hold.amount.sum().negated());
        let touches = vec![user, hold_ends(hold, Rule::Post)?, escrow];
        Movement::new(id, MovementKind::Escrow, &hold.amount, touches)
    }

    /// The exact inverse of [`escrow`](Movement::escrow). Refused unless the escrow is whole.
    pub fn undo_escrow(id: &str, hold: &Hold, escrow_id: &str) -> Result<Self> {
        let escrow = Escrow { id: escrow_id.into(), payer: hold.user.clone() };
        let escrow = escrow_touch(&escrow, hold.amount.sum().negated(), Rule::CloseEscrow)?;
        let user = held_changes(&hold.user, hold.amount.sum());
        let touches = vec![user, hold_opens(hold)?, escrow];
        Movement::new(id, MovementKind::UndoEscrow, &hold.amount, touches)
    }

    /// An escrow, or a part of it, goes to a user. Refused if it holds less.
    pub fn release(id: &str, escrow: &Escrow, to: &UserId, amount: &Amount) -> Result<Self> {
        let drawn = escrow_touch(escrow, amount.sum().negated(), Rule::DrawEscrow)?;
        let touches = vec![drawn, user_gets(to, amount)];
        Movement::new(id, MovementKind::Release, amount, touches)
    }

    /// An escrow, or a part of it, goes back to who paid it in. Refused if it holds less.
    pub fn refund(id: &str, escrow: &Escrow, amount: &Amount) -> Result<Self> {
        let drawn = escrow_touch(escrow, amount.sum().negated(), Rule::DrawEscrow)?;
        let touches = vec![drawn, user_gets(&escrow.payer, amount)];
        Movement::new(id, MovementKind::Refund, amount, touches)
    }

    /// The exact inverse of [`release`](Movement::release) and [`refund`](Movement::refund).
    /// Refused if the user has spent it.
    pub fn undo_release(id: &str, escrow: &Escrow, from: &UserId, amount: &Amount) -> Result<Self> {
        let filled = escrow_touch(escrow, amount.sum(), Rule::RefillEscrow)?;
        let touches = vec![filled, user_gives(from, amount)];
        Movement::new(id, MovementKind::UndoRelease, amount, touches)
    }

    /// A hold is paid out through a provider. Refused if the hold is not open or has lapsed.
    pub fn payout(id: &str, hold: &Hold, provider: &str) -> Result<Self> {
        let user = held_changes(&hold.user, hold.amount.sum().negated());
        let outside = outside(id, provider, &hold.amount, Way::In)?;
        let touches = vec![user, hold_ends(hold, Rule::Post)?, outside];
        Movement::new(id, MovementKind::Payout, &hold.amount, touches)
    }

    /// The exact inverse of [`payout`](Movement::payout): the hold is open again.
    pub fn undo_payout(id: &str, hold: &Hold, provider: &str) -> Result<Self> {
        let user = held_changes(&hold.user, hold.amount.sum());
        let outside = outside(id, provider, &hold.amount, Way::Out)?;
        let touches = vec![user, hold_opens(hold)?, outside];
        Movement::new(id, MovementKind::UndoPayout, &hold.amount, touches)
    }

    /// A payout came back, and its user has the money again.
    pub fn return_payout(id: &str, provider: &str, user: &UserId, amount: &Amount) -> Result<Self> {
        let touches = vec![outside(id, provider, amount, Way::Out)?, user_gets(user, amount)];
        Movement::new(id, MovementKind::ReturnPayout, amount, touches)
    }

    fn new(id: &str, kind: MovementKind, amount: &Amount, touches: Vec<Touch>) -> Result<Self> {
        check_name("movement id", id, MAX_MOVEMENT_ID_BYTES)?;
        let currency = amount.currency();
        let sum = touches.iter().try_fold(Sum::zero(currency), |sum, touch| sum.plus(touch.amount));
        assert!(sum?.is_zero(), "the legs of a movement come to zero");
        Ok(Movement { id: id.into(), kind, currency, touches, reference: None, ttl: None })
    }

    /// Says which step of which saga this is. The id of the movement begins with the saga's and a
    /// `/`, so that the movements of a saga lie together.
    ///
    /// # Errors
    /// `Invalid` if it does not, or a name is outside its limits.
    pub fn of_saga(mut self, saga_id: &str, step: &str) -> Result<Self> {
        check_id("saga id", saga_id, MAX_ID_BYTES)?;
        check_name("step", step, MAX_ID_BYTES)?;
        let id = &self.id;
        if !id.strip_prefix(saga_id).is_some_and(|rest| rest.starts_with('/')) {
            return Err(Error::invalid(format!(
                "the id of a movement of saga {saga_id:?} begins with it and a slash, not {id:?}"
            )));
        }
        self.reference = Some(Reference { saga_id: saga_id.into(), step: step.into() });
        Ok(self)
    }

    /// The hold that this opens lapses after this long, by the store's clock: then it can no longer
    /// be posted, only voided.
    ///
    /// # Errors
    /// `Invalid` if it opens no hold, or for a time of zero or over 366 days.
    pub fn lapsing_after(mut self, ttl: Duration) -> Result<Self> {
        if !self.touches.iter().any(|touch| touch.rule == Rule::OpenHold) {
            let kind = self.kind.name();
            return Err(Error::invalid(format!("only a hold can lapse, not a {kind}")));
        }
        if ttl < Duration::from_millis(1) || ttl > MAX_HOLD_TTL {
            return Err(Error::invalid(format!("a hold lasts 1 ms to 366 days, not {ttl:?}")));
        }
        self.ttl = Some(ttl);
        Ok(self)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it is for.
    pub fn kind(&self) -> MovementKind {
        self.kind
    }
}

/// Whether money comes in from outside or goes out there, seen from the account outside.
enum Way {
    Out,
    In,
}

fn outside(id: &str, provider: &str, amount: &Amount, way: Way) -> Result<Touch> {
    check_id("provider", provider, MAX_PROVIDER_BYTES)?;
    // Before it becomes a part of a key.
    check_name("movement id", id, MAX_MOVEMENT_ID_BYTES)?;
    let amount = match way {
        Way::Out => amount.sum().negated(),
        Way::In => amount.sum(),
    };
    let account = Account::External(provider.into(), amount.currency(), id.into());
    Ok(touch(account, amount, Rule::Outside))
}

fn user_gets(user: &UserId, amount: &Amount) -> Touch {
    touch(Account::User(user.clone(), amount.currency()), amount.sum(), Rule::User)
}

fn user_gives(user: &UserId, amount: &Amount) -> Touch {
    touch(Account::User(user.clone(), amount.currency()), amount.sum().negated(), Rule::User)
}

/// What a user has available stays; what is held of it changes.
fn held_changes(user: &UserId, held: Sum) -> Touch {
    let currency = held.currency();
    let account = Account::User(user.clone(), currency);
    Touch { held, ..touch(account, Sum::zero(currency), Rule::User) }
}

fn hold_opens(hold: &Hold) -> Result<Touch> {
    hold_touch(hold, hold.amount.sum(), Rule::OpenHold)
}

fn hold_ends(hold: &Hold, rule: Rule) -> Result<Touch> {
    hold_touch(hold, hold.amount.sum().negated(), rule)
}

fn hold_touch(hold: &Hold, amount: Sum, rule: Rule) -> Result<Touch> {
    check_id("hold id", &hold.id, MAX_ID_BYTES)?;
    let account = Account::Hold(hold.id.as_str().into(), amount.currency());
    Ok(Touch { owner: Some(hold.user.clone()), ..touch(account, amount, rule) })
}

fn escrow_touch(escrow: &Escrow, amount: Sum, rule: Rule) -> Result<Touch> {
    check_id("escrow id", &escrow.id, MAX_ID_BYTES)?;
    let account = Account::Escrow(escrow.id.as_str().into(), amount.currency());
    Ok(Touch { owner: Some(escrow.payer.clone()), ..touch(account, amount, rule) })
}

fn touch(account: Account, amount: Sum, rule: Rule) -> Touch {
    Touch { account, amount, held: Sum::zero(amount.currency()), owner: None, rule }
}
