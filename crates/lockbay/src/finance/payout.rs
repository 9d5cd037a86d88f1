//! Who pays money out to the world: the trait, and a provider that only pretends.
//!
//! A provider is asked under a key, and pays once under each, however often it is asked.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Amount, UserId};
use crate::scribe::{Entry, Scribe};
use crate::store::{Commit, Deadline, Guard, Key, Kind, Partition, Reply, Revision, Store, Write};

/// What the simulated provider has paid. Key: the payout's key.
pub(crate) const SIMULATED_PAYOUT: Kind = Kind::new("simulated-payout");

/// A wish to pay somebody.
#[derive(Debug, Clone)]
pub struct PayoutRequest {
    /// Names the payout: asked again with it, the provider pays once.
    pub key: String,
    /// Whose money it is.
    pub user: UserId,
    /// How much.
    pub amount: Amount,
    /// Where to, in the provider's terms.
    pub destination: String,
    /// Grows when another executor takes over: a provider that can refuses lower ones.
    pub fencing_token: Revision,
    /// How often it is asked for with this, counted from 1.
    pub attempt: u32,
}

/// What a provider answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payout {
    /// It is paid.
    Paid {
        /// How the provider calls it.
        reference: String,
    },
    /// It is not paid and will not be.
    Refused {
        /// Why.
        reason: String,
        /// Whether asking again later may help.
        retryable: bool,
    },
    /// It may be paid.
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// Pays money out.
#[async_trait]
pub trait PayoutProvider: Send + Sync + 'static {
    /// How its account in the ledger is called: 1 to 64 bytes, no control characters, no `/`.
    fn name(&self) -> &str;

    /// Pays, or answers what became of the payout of this key.
    async fn pay(&self, request: &PayoutRequest) -> Payout;
}

/// How the simulated provider misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Mischief {
    /// How many of a hundred payouts are refused for good.
    pub refused: f64,
    /// How many of a hundred answers are lost; of these, every other payout is made.
    pub unknown: f64,
    /// How long an answer takes.
    pub delay: Duration,
}

impl Mischief {
    /// Reads `refused=10,unknown=5,delay_ms=20`; empty text is none.
    ///
    /// # Errors
    /// `Invalid` for any other name or value.
    pub fn parse(text: &str) -> Result<Self> {
        let mut mischief = Mischief::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let refused = || {
                Error::invalid(format!(
                    "a simulated provider is told refused=PERCENT, unknown=PERCENT and \
                     delay_ms=NUMBER, not {part:?}"
                ))
            };
            let (name, value) = part.split_once('=').ok_or_else(refused)?;
            let value: f64 = value.trim().parse().map_err(|_| refused())?;
            let percent = (0.0..=100.0).contains(&value).then_some(value);
            match name.trim() {
                "refused" => mischief.refused = percent.ok_or_else(refused)?,
                "unknown" => mischief.unknown = percent.ok_or_else(refused)?,
                "delay_ms" if (0.0..=60_000.0).contains(&value) => {
                    mischief.delay = Duration::from_secs_f64(value / 1e3);
                }
                _ => return Err(refused()),
            }
        }
        Ok(mischief)
    }
}

/// A provider that pays nobody, and remembers in the store whom it would have paid.
pub struct SimulatedProvider {
    store: Arc<dyn Store>,
    clock: Clock,
    scribe: Scribe,
    mischief: Mischief,
}

/// What the simulated provider keeps of a payout.
#[derive(Serialize, Deserialize)]
struct Pretended {
    user: String,
    amount: String,
    currency: String,
    destination: String,
    reference: String,
}

/// Made by [`LockBay::simulated_provider`](crate::LockBay::simulated_provider).
impl SimulatedProvider {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        scribe: Scribe,
        mischief: Mischief,
    ) -> Self {
        SimulatedProvider { store, clock, scribe, mischief }
    }

    fn happens(&self, percent: f64) -> bool {
        // A hundred thousand sides are fine enough for percents.
        let die = u32::try_from(self.clock.random() % 100_000).unwrap_or(0);
        f64::from(die) < percent * 1_000.0
    }

    async fn remember(&self, request: &PayoutRequest) -> Result<Payout> {
        let key = Key::new(Partition::FIRST, SIMULATED_PAYOUT, request.key.as_str());
        let reference = format!("po_{}", &self.clock.random_id()[..16]);
        let pretended = Pretended {
            user: request.user.to_string(),
            amount: request.amount.to_string(),
            currency: request.amount.currency().code().into(),
            destination: request.destination.clone(),
            reference: reference.clone(),
        };
        let value = serde_json::to_vec(&pretended).map_err(defect)?;
        // Without a digest of the record: whoever tries destinations would find the masked one by it.
        let entry = Entry::new("payout", &request.key, "simulated")
            .with("user", pretended.user.as_str())
            .with("amount", pretended.amount.as_str())
            .with("currency", pretended.currency.as_str())
            .with("destination", pretended.destination.as_str())
            .with("reference", pretended.reference.as_str());
        let mut writes: Vec<Write> = self.scribe.enter(&entry).into_iter().collect();
        let guard = Guard::Absent(key.clone());
        writes.push(Write::Put { key, value, deadline: Deadline::Never });
        let commit = Commit::new(Partition::FIRST, vec![guard], writes, Vec::new())?;
        match self.store.commit(&commit).await? {
            Reply::Committed { .. } => Ok(Payout::Paid { reference }),
            Reply::Conflict { found, .. } => {
                let found = found.map(|record| serde_json::from_slice(&record.value));
                let found: Option<Pretended> = found.transpose().map_err(defect)?;
                let reference = found.map(|pretended| pretended.reference).unwrap_or_default();
                Ok(Payout::Paid { reference })
            }
        }
    }

    async fn paid_before(&self, request: &PayoutRequest) -> Result<bool> {
        let key = Key::new(Partition::FIRST, SIMULATED_PAYOUT, request.key.as_str());
        let read = self.store.get(&[key]).await?;
        Ok(read.records.iter().any(Option::is_some))
    }
}

#[async_trait]
impl PayoutProvider for SimulatedProvider {
    fn name(&self) -> &str {
        "simulated"
    }

    async fn pay(&self, request: &PayoutRequest) -> Payout {
        self.clock.sleep(self.mischief.delay).await;
        let lost = self.happens(self.mischief.unknown);
        if lost && self.happens(50.0) {
            return Payout::Unknown { reason: "simulated: the request was lost".into() };
        }
        // What was paid once is paid, whatever the dice say now.
        match self.paid_before(request).await {
            Ok(false) if self.happens(self.mischief.refused) => {
                let reason = "simulated: the bank refuses".into();
                return Payout::Refused { reason, retryable: false };
            }
            Ok(_) => {}
            Err(error) => return unasked(&error),
        }
        match self.remember(request).await {
            Ok(_) if lost => Payout::Unknown { reason: "simulated: the answer was lost".into() },
            Ok(payout) => payout,
            Err(error) if error.kind() == ErrorKind::Unknown => {
                Payout::Unknown { reason: error.to_string() }
            }
            Err(error) => unasked(&error),
        }
    }
}

/// The store did not let the simulated provider do anything.
fn unasked(error: &Error) -> Payout {
    Payout::Refused { reason: error.to_string(), retryable: true }
}

fn defect(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, "a simulated payout has no JSON form").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mischief_is_told_in_percent_and_nothing_else_is_taken() {
        let mischief = Mischief::parse("refused=10, unknown=0.5,delay_ms=20").unwrap();
        let delay = Duration::from_millis(20);
        assert_eq!(mischief, Mischief { refused: 10.0, unknown: 0.5, delay });
        assert_eq!(Mischief::parse("").unwrap(), Mischief::default());
        for text in ["refused", "refused=-1", "unknown=101", "x=1", "refused=NaN", "delay_ms=1e9"] {
            assert!(Mischief::parse(text).is_err(), "{text}");
        }
    }
}
