//! The double-entry ledger: money moves between accounts in balanced movements, exactly.
//!
//! The ledger owns accounts, movements and the rules between them. It refuses to know what a saga
//! or a job is: a movement that belongs to one carries its name as text. Its state is one record
//! per account, and one record and one index entry per movement, written in one commit.
//!
//! The way of a movement through the files: [`movement`] is the wish in full, [`decide`] says
//! whether it may happen, [`posting`] how it is kept. [`amount`] and [`account`] are what it is
//! made of; [`trial`] and [`recount`] check that nothing is lost.
//!
//! # What holds
//! The legs of a movement come to zero. Users, holds and escrows never have less than nothing. A
//! movement of one id happens once, whoever asks how often. A hold ends once: posted, voided or
//! lapsed.
//!
//! # Whose commit
//! [`Ledger::prepare`] commits nothing: it gives guards and writes for somebody else's commit, such
//! as the outcome of a step, so that both happen together or not at all. If that commit is refused
//! because of one of these guards, an account has changed meanwhile: prepare again.
//! [`Ledger::apply`] does all that for callers without a commit of their own.

mod account;
mod amount;
mod decide;
mod lapse;
mod movement;
mod posting;
mod recount;
mod trial;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Metric, Metrics};
use crate::name::check_name;
use crate::scribe::Scribe;
use crate::store::{Commit, Effects, Guard, Key, MAX_PAGE, Partition, Range, Read, Reply, Store};

pub use account::{Account, MAX_ID_BYTES, MAX_PROVIDER_BYTES, UserId};
pub use amount::{Amount, Currency, Sum};
pub use lapse::Lapsed;
pub use movement::{
    Escrow, Hold, MAX_HOLD_TTL, MAX_MOVEMENT_ID_BYTES, Movement, MovementKind, Reference,
};
pub(crate) use posting::POSTING;
pub use posting::{Leg, MovementInfo, MovementPage};
pub use recount::Difference;
pub use trial::{Totals, TrialBalance};

use account::{ACCOUNT, Standing, check_id};
use movement::DEPOSIT_IDS;
use posting::Posting;

/// The provider of deposits that the ledger commits itself.
const DEPOSITS: &str = "deposits";
/// How often a movement is prepared again because an account changed meanwhile.
const MAX_RACES: u32 = 24;
/// The pause after the first race is below this, and doubles up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// All accounts of a namespace. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    scribe: Scribe,
}

/// The answer to [`Ledger::prepare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// It may happen: put this into a commit, soon.
    Ready(Effects),
    /// It has happened, and must not be committed again.
    Already(MovementInfo),
}

/// A movement that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// The movement.
    pub movement: MovementInfo,
    /// Whether it had happened before this call.
    pub replayed: bool,
}

/// What a user has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// What may be spent.
    pub available: Sum,
    /// What is set apart in open holds.
    pub held: Sum,
    /// In which currency.
    pub currency: Currency,
}

/// A hold that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenHold {
    /// The hold.
    pub hold: Hold,
    /// When it lapses, by the store's clock, if ever.
    pub expires_at: Option<Timestamp>,
    /// Whether it has: it can only be voided.
    pub lapsed: bool,
}

/// An escrow that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenEscrow {
    /// The escrow.
    pub escrow: Escrow,
    /// What is in it.
    pub amount: Amount,
}

impl Ledger {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        metrics: Arc<Metrics>,
        scribe: Scribe,
    ) -> Self {
        Ledger { store, clock, metrics, scribe }
    }

    /// What must hold and what to write for this movement to happen, for a commit of the caller's.
    /// One round trip, and nothing is written.
    ///
    /// Commit it soon: whatever changes one of the accounts first makes the commit a conflict on
    /// one of these guards, and then the movement is prepared again. The effects of two movements
    /// that touch the same account cannot share a commit.
    ///
    /// # Errors
    /// `Refused` if the business forbids it: too little money, or a hold or escrow that is not
    /// there, is there already, has lapsed, or is not as the movement says. `KeyReused` if another
    /// movement has this id.
    ///
    /// ```
    /// # tokio_test(async {
    /// use lockbay::ledger::{Amount, Currency, Hold, Movement, Prepared, UserId};
    /// use lockbay::{Config, ErrorKind, LockBay};
    ///
    /// let bay = LockBay::open(Config { store: "memory:".into(), ..Config::default() }).await?;
    /// let (user, usd) = (UserId::parse("alice")?, Currency::parse("USD")?);
    /// let amount = Amount::parse("10.00", usd)?;
    /// let hold = Hold { id: "h1".into(), user: user.clone(), amount };
    /// let lock = Movement::lock("saga1/lock/do", &hold)?;
    /// // There is no money yet.
    /// let refused = bay.ledger().prepare(&lock).await.unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::Refused);
    /// bay.ledger().deposit(&user, &amount, "transfer 7").await?;
    /// assert!(matches!(bay.ledger().prepare(&lock).await?, Prepared::Ready(_)));
    /// # Ok(()) });
    /// # fn tokio_test(f: impl Future<Output = lockbay::Result<()>>) {
    /// #     tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(f).unwrap()
    /// # }
    /// ```
    pub async fn prepare(&self, movement: &Movement) -> Result<Prepared> {
        let mut keys: Vec<Key> = vec![posting::key(&movement.id)];
        keys.extend(movement.touches.iter().map(|touch| touch.account.key()));
        let Read { records, now } = self.store.get(&keys).await?;
        if let Some(Some(record)) = records.first() {
            if !Posting::read(record)?.is(movement) {
                let id = &movement.id;
                let message = format!("another movement has this id: {id:?}");
                return Err(Error::new(ErrorKind::KeyReused, message));
            }
            return Ok(Prepared::Already(posting::info(record)?));
        }
        let changes = decide::changes(movement, records.get(1..).unwrap_or_default(), now)
            .inspect_err(|error| {
                if error.kind() == ErrorKind::Refused {
                    self.metrics.count(Metric::LedgerRefusals);
                }
            })?;
        let mut effects = Effects {
            guards: vec![Guard::Absent(posting::key(&movement.id))],
            writes: posting::keep(movement, &changes, now)?.into(),
        };
        effects.writes.extend(posting::entered(&self.scribe, movement, &effects.writes));
        for change in changes {
            effects.guards.push(change.guard);
            effects.writes.push(change.write);
        }
        Ok(Prepared::Ready(effects))
    }

    /// Makes this movement happen, in a commit of its own. Called again, it is answered with what
    /// happened the first time. Two round trips if nobody else writes to the same accounts.
    ///
    /// # Errors
    /// As [`prepare`](Ledger::prepare), and `Busy` if others change the accounts all the time.
    pub async fn apply(&self, movement: &Movement) -> Result<Applied> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..MAX_RACES {
            let effects = match self.prepare(movement).await? {
                Prepared::Ready(effects) => effects,
                Prepared::Already(movement) => return Ok(Applied { movement, replayed: true }),
            };
            let value = effects.writes.iter().find_map(posting::value_of);
            let value = value.unwrap_or_default().to_vec();
            let Effects { guards, writes } = effects;
            let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new())?;
            match self.store.commit(&commit).await? {
                Reply::Committed { revision, .. } => {
                    let movement = posting::committed(&movement.id, value, revision)?;
                    return Ok(Applied { movement, replayed: false });
                }
                Reply::Conflict { .. } => self.clock.sleep(self.clock.jitter(pause)).await,
            }
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        let message = format!("the accounts of this movement change all the time: {}", movement.id);
        Err(Error::new(ErrorKind::Busy, message).with_retry_after(LONGEST_PAUSE))
    }

    /// Puts money that came in from outside at a user's disposal. The key is the caller's name for
    /// this deposit, 1 to 256 bytes: repeated with it, the deposit is not made again.
    ///
    /// # Errors
    /// `KeyReused` if this key was used for another user or amount. `Refused` if the user would
    /// have more than the limit of a balance. `Busy` as [`apply`](Ledger::apply).
    pub async fn deposit(&self, user: &UserId, amount: &Amount, key: &str) -> Result<Applied> {
        check_name("idempotency key", key, 256)?;
        let id = format!("{DEPOSIT_IDS}{key}");
        self.apply(&Movement::deposit(&id, DEPOSITS, user, amount)?).await
    }

    /// What a user has in a currency; nothing if they never had any.
    pub async fn balance(&self, user: &UserId, currency: Currency) -> Result<Balance> {
        let account = Account::User(user.clone(), currency);
        let (standing, _) = self.standing(&account).await?.unwrap_or_else(|| {
            let never = OpenUntil { expires_at: None, lapsed: false };
            (Standing::none(currency), never)
        });
        Ok(Balance { available: standing.balance, held: standing.held, currency })
    }

    /// The hold of this id, if it is open.
    pub async fn hold(&self, id: &str, currency: Currency) -> Result<Option<OpenHold>> {
        check_id("hold id", id, MAX_ID_BYTES)?;
        let account = Account::Hold(id.into(), currency);
        let Some((standing, until)) = self.standing(&account).await? else { return Ok(None) };
        let (user, amount) = (owner(&account, &standing)?, standing.balance.amount()?);
        let OpenUntil { expires_at, lapsed } = until;
        Ok(Some(OpenHold { hold: Hold { id: id.into(), user, amount }, expires_at, lapsed }))
    }

    /// The escrow of this id, if anything is in it.
    pub async fn escrow(&self, id: &str, currency: Currency) -> Result<Option<OpenEscrow>> {
        check_id("escrow id", id, MAX_ID_BYTES)?;
        let account = Account::Escrow(id.into(), currency);
        let Some((standing, _)) = self.standing(&account).await? else { return Ok(None) };
        let (payer, amount) = (owner(&account, &standing)?, standing.balance.amount()?);
        Ok(Some(OpenEscrow { escrow: Escrow { id: id.into(), payer }, amount }))
    }

    /// What went outside through a provider, less what came from there. Read page by page: of a
    /// provider whose money moves meanwhile, it is the sum of no one moment.
    pub async fn outside(&self, provider: &str, currency: Currency) -> Result<Sum> {
        check_id("provider", provider, MAX_PROVIDER_BYTES)?;
        let prefix = Account::External(provider.into(), currency, "".into()).to_string();
        let (mut sum, mut after) = (Sum::zero(currency), None);
        loop {
            let range = Range::new(Partition::FIRST, ACCOUNT, prefix.as_str()).after(after);
            let page = self.store.scan(&range, MAX_PAGE).await?;
            for record in &page.records {
                sum = sum.plus(Standing::read(record, currency)?.balance)?;
            }
            after = page.records.last().map(|last| last.key.id.to_string());
            if !page.more {
                return Ok(sum);
            }
        }
    }

    async fn standing(&self, account: &Account) -> Result<Option<(Standing, OpenUntil)>> {
        let read = self.store.get(&[account.key()]).await?;
        let Some(record) = read.records.into_iter().flatten().next() else { return Ok(None) };
        let until = OpenUntil { expires_at: record.deadline, lapsed: record.lapsed(read.now) };
        Ok(Some((Standing::read(&record, account.currency())?, until)))
    }
}

/// How long an account stays open.
struct OpenUntil {
    expires_at: Option<Timestamp>,
    lapsed: bool,
}

fn owner(account: &Account, standing: &Standing) -> Result<UserId> {
    let owner = standing.owner.as_deref();
    let owner = owner.ok_or_else(|| amount::defect(format!("{account} belongs to nobody")))?;
    UserId::parse(owner)
}
