//! The trial balance: all accounts added up as they were at one moment, while money moves.
//!
//! A scan comes in pages and is no snapshot, so what has changed since the moment is set right from
//! the movements, each of which tells what was in its accounts before it. After some pages the
//! movements that were committed meanwhile are read. Then, for each account of those pages:
//!
//! - a record no newer than the moment is the account as it was;
//! - otherwise it is what the first movement after the moment found there. A hold or escrow that
//!   has ended since has no record, and is found in this way too.
//!
//! A movement that is learnt of only after the pages of its account were done was committed after
//! them, and those pages had it right already. So memory holds some pages, the movements of the
//! last seconds, and the changed accounts that are still to come.
//!
//! # Why it is exact
//! Movements are listed by the time of their preparation and may be committed later, so one that
//! was held up long could be missed. It does not go unnoticed. If an account is seen changed and its
//! first change is not known, the chain of revisions in the movements shows it. What can be missed
//! besides are holds and escrows that ended, each above zero, and then the whole does not come to
//! zero. In both cases all is done again, looking further back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::Ledger;
use super::account::{ACCOUNT, Account, Class, Standing};
use super::amount::{Currency, Sum};
use super::posting::{self, POSTING_TIME, Posting};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::store::{Key, MAX_PAGE, Partition, Range, Record, Revision};

/// How far back movements are looked for that were prepared and not committed yet; further in
/// each attempt.
const LOOK_BACK: [Duration; 3] =
    [Duration::from_secs(15), Duration::from_secs(120), Duration::from_secs(1_200)];
/// Pages of accounts between two looks at the movements.
const PAGES: usize = 8;
/// How long the leader's own trial balance rests between those, so that it holds up nobody: a
/// million accounts take it some ten seconds longer.
const REST: Duration = Duration::from_millis(100);
/// Movements read at once.
const CHUNK: usize = 200;
/// How often the movements are looked at again while something is not explained.
const LOOKS: usize = 8;

/// All accounts added up, as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrialBalance {
    /// The last commit that is in it.
    #[serde(serialize_with = "text")]
    pub as_of: Revision,
    /// The store's time of asking.
    pub at: Timestamp,
    /// By currency, in the order of their codes.
    pub totals: Vec<Totals>,
}

/// All accounts of one currency added up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Which currency.
    pub currency: Currency,
    /// Everything. Anything but zero is a defect or a damaged store.
    pub sum: Sum,
    /// What users may spend.
    pub available: Sum,
    /// What is in holds.
    pub held: Sum,
    /// What the accounts of users say is in holds. Anything but `held` is a defect too.
    pub held_by_users: Sum,
    /// What is in escrows.
    pub escrow: Sum,
    /// What went outside, less what came from there.
    pub external: Sum,
}

impl Totals {
    fn none(currency: Currency) -> Self {
        let zero = Sum::zero(currency);
        Totals {
            currency,
            sum: zero,
            available: zero,
            held: zero,
            held_by_users: zero,
            escrow: zero,
            external: zero,
        }
    }

    /// Whether it comes to zero, and holds agree with what users have in them.
    pub fn balanced(&self) -> bool {
        self.sum.is_zero() && self.held == self.held_by_users
    }

    fn add(&mut self, class: Class, balance: Sum, held: Sum) -> Result<()> {
        let total = match class {
            Class::User => &mut self.available,
            Class::Hold => &mut self.held,
            Class::Escrow => &mut self.escrow,
            Class::External => &mut self.external,
        };
        *total = total.plus(balance)?;
        self.sum = self.sum.plus(balance)?;
        self.held_by_users = self.held_by_users.plus(held)?;
        Ok(())
    }
}

impl TrialBalance {
    /// Whether every currency is [balanced](Totals::balanced).
    pub fn balanced(&self) -> bool {
        self.totals.iter().all(Totals::balanced)
    }
}

impl Ledger {
    /// All accounts added up, exactly as they were at one moment of this call, while money moves.
    ///
    /// It reads every account, page by page, and the movements of its duration.
    ///
    /// # Errors
    /// `Busy` if movements are committed so long after they were prepared that no moment can be
    /// made out.
    pub async fn trial_balance(&self) -> Result<TrialBalance> {
        self.trial_balance_at(Duration::ZERO).await
    }

    /// The same, as slowly as it may be for one that nobody waits for.
    pub(crate) async fn slow_trial_balance(&self) -> Result<TrialBalance> {
        self.trial_balance_at(REST).await
    }

    async fn trial_balance_at(&self, rest: Duration) -> Result<TrialBalance> {
        let mut last = None;
        for look_back in LOOK_BACK {
            match Survey::take(self, look_back, rest).await? {
                Some(trial) if trial.balanced() => {
                    last = Some(trial);
                    break;
                }
                // Perhaps a movement was missed; if it stays like this, it is so.
                Some(trial) => last = Some(trial),
                None => {}
            }
        }
        let Some(trial) = last else {
            return Err(Error::new(
                ErrorKind::Busy,
                "movements are committed too long after they were prepared; ask again",
            ));
        };
        let unbalanced = trial.totals.iter().filter(|totals| !totals.balanced()).count();
        self.metrics.set(Metric::LedgerUnbalanced, i64::try_from(unbalanced).unwrap_or(i64::MAX));
        if unbalanced > 0 {
            tracing::error!(totals = ?trial.totals, "ledger_unbalanced");
        }
        Ok(trial)
    }
}

/// One attempt at a trial balance.
struct Survey<'a> {
    ledger: &'a Ledger,
    /// The moment.
    moment: Revision,
    look_back: Duration,
    /// Every movement committed before this time of the store is known.
    known_until: Timestamp,
    /// List entries of movements that were read, of the time that is looked back on.
    known: BTreeSet<Box<str>>,
    /// The accounts up to this one are added up.
    done: Option<Box<str>>,
    /// What the first movement after the moment found in the accounts still to come.
    found: BTreeMap<Box<str>, Found>,
    totals: BTreeMap<Currency, Totals>,
}

/// What a movement found in an account.
struct Found {
    /// Of the movement.
    revision: Revision,
    /// Of the account, before it.
    was: Revision,
    balance: Sum,
    held: Sum,
}

impl Survey<'_> {
    /// The trial balance, or nothing if some change was not explained.
    async fn take(
        ledger: &Ledger,
        look_back: Duration,
        rest: Duration,
    ) -> Result<Option<TrialBalance>> {
        let pong = ledger.store.ping().await?;
        let mut survey = Survey {
            ledger,
            moment: pong.revision,
            look_back,
            known_until: pong.now,
            known: BTreeSet::new(),
            done: None,
            found: BTreeMap::new(),
            totals: BTreeMap::new(),
        };
        loop {
            let (accounts, more) = survey.next_accounts().await?;
            let upto = accounts.last().filter(|_| more).map(|last| last.key.id.clone());
            let mut looks = 0;
            loop {
                survey.learn().await?;
                if survey.explained(&accounts, upto.as_deref()) {
                    break;
                }
                looks += 1;
                if looks == LOOKS {
                    return Ok(None);
                }
            }
            survey.add_up(&accounts, upto.as_deref())?;
            if upto.is_none() {
                let totals = survey.totals.into_values().collect();
                return Ok(Some(TrialBalance { as_of: survey.moment, at: pong.now, totals }));
            }
            survey.done = upto;
            if !rest.is_zero() {
                ledger.clock.sleep(rest).await;
            }
        }
    }

    /// Some pages of accounts, and whether there are more behind them.
    async fn next_accounts(&self) -> Result<(Vec<Record>, bool)> {
        let mut accounts: Vec<Record> = Vec::new();
        let mut after = self.done.as_deref().map(str::to_owned);
        for _ in 0..PAGES {
            let range = Range::new(Partition::FIRST, ACCOUNT, "").after(after);
            let page = self.ledger.store.scan(&range, MAX_PAGE).await?;
            after = page.records.last().map(|last| last.key.id.to_string());
            accounts.extend(page.records);
            if !page.more {
                return Ok((accounts, false));
            }
        }
        Ok((accounts, true))
    }

    /// Reads every movement that was committed before now and is not known yet.
    async fn learn(&mut self) -> Result<()> {
        let from = posting::time_prefix(self.known_until - self.look_back);
        let (mut after, mut began) = (Some(from), None);
        loop {
            let range = Range::new(Partition::FIRST, POSTING_TIME, "").after(after);
            let page = self.ledger.store.scan(&range, MAX_PAGE).await?;
            let began = *began.get_or_insert(page.now);
            let fresh: Vec<Box<str>> = page
                .records
                .iter()
                .map(|entry| entry.key.id.clone())
                .filter(|entry| !self.known.contains(entry))
                .collect();
            for entries in fresh.chunks(CHUNK) {
                let keys: Vec<Key> =
                    entries.iter().map(|entry| posting::key(id_of(entry))).collect();
                for record in self.ledger.store.get(&keys).await?.records.into_iter().flatten() {
                    self.note(&record)?;
                }
            }
            self.known.extend(fresh);
            after = page.records.last().map(|last| last.key.id.to_string());
            // What was prepared after we began was committed after it too: the list may grow as
            // fast as it is read, and need not be followed.
            let end = posting::time_prefix(began + Duration::from_micros(1));
            let past = after.as_deref().is_some_and(|last| *last > *end);
            if !page.more || past {
                self.known_until = began;
                let from = posting::time_prefix(began - self.look_back);
                self.known = self.known.split_off(from.as_str());
                return Ok(());
            }
        }
    }

    /// Notes what a movement found, if it is the first after the moment in that account.
    fn note(&mut self, record: &Record) -> Result<()> {
        if record.revision <= self.moment {
            return Ok(());
        }
        let posting = Posting::read(record)?;
        let currency = posting.currency()?;
        for entry in posting.entries {
            if self.done.as_deref().is_some_and(|done| *entry.account <= *done) {
                continue;
            }
            let held = entry.held_before.map(|held| Sum::parse(&held, currency)).transpose()?;
            let found = Found {
                revision: record.revision,
                was: Revision::new(entry.was),
                balance: Sum::parse(&entry.before, currency)?,
                held: held.unwrap_or(Sum::zero(currency)),
            };
            match self.found.get(entry.account.as_str()) {
                Some(earlier) if earlier.revision <= found.revision => {}
                Some(_) | None => drop(self.found.insert(entry.account.into(), found)),
            }
        }
        Ok(())
    }

    /// Whether the first change after the moment is known of every account up to `upto` that has
    /// changed.
    fn explained(&self, accounts: &[Record], upto: Option<&str>) -> bool {
        let changed = accounts.iter().filter(|account| account.revision > self.moment);
        let known = |account: &Record| self.found.contains_key(&account.key.id);
        let unchanged = |id: &str| {
            let at = accounts.binary_search_by(|account| (*account.key.id).cmp(id));
            at.is_ok_and(|at| accounts[at].revision <= self.moment)
        };
        let first = |(id, found): (&str, &Found)| found.was <= self.moment || unchanged(id);
        changed.into_iter().all(known) && self.found_upto(upto).all(first)
    }

    fn found_upto<'a>(
        &'a self,
        upto: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Found)> {
        let found = self.found.iter().map(|(id, found)| (&**id, found));
        found.take_while(move |(id, _)| upto.is_none_or(|upto| *id <= upto))
    }

    /// Adds up the accounts to `upto` as they were at the moment.
    fn add_up(&mut self, accounts: &[Record], upto: Option<&str>) -> Result<()> {
        let moment = self.moment;
        for record in accounts.iter().filter(|account| account.revision <= moment) {
            let account = Account::parse(&record.key.id)?;
            let standing = Standing::read(record, account.currency())?;
            self.add(&account, standing.balance, standing.held)?;
            self.found.remove(&record.key.id);
        }
        let later = match upto {
            // An id with a zero byte behind it is the next one in order.
            Some(upto) => self.found.split_off(format!("{upto}\0").as_str()),
            None => BTreeMap::new(),
        };
        for (id, found) in std::mem::replace(&mut self.found, later) {
            self.add(&Account::parse(&id)?, found.balance, found.held)?;
        }
        Ok(())
    }

    fn add(&mut self, account: &Account, balance: Sum, held: Sum) -> Result<()> {
        let currency = account.currency();
        let totals = self.totals.entry(currency).or_insert_with(|| Totals::none(currency));
        totals.add(account.class(), balance, held)
    }
}

/// The movement that a list entry stands for.
fn id_of(entry: &str) -> &str {
    entry.split_once('/').map_or(entry, |(_, id)| id)
}

fn text<S: Serializer>(revision: &Revision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(revision)
}
