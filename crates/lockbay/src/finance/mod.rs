//! The guide's financial sagas: escrow with release and refund, and cash-out, on the ledger.
//!
//! Each is a saga like any other, made of the steps in [`steps`]. Nothing here has a state of its
//! own: money is the ledger's, progress is the saga's. An escrow has the id of the saga that
//! created it.

mod payout;
mod steps;

use std::sync::Arc;

use parking_lot::RwLock;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::ledger::{Amount, Currency, Ledger, UserId};
use crate::name::check_name;
use crate::saga::{SagaRequest, SagaStatus, Sagas, Started, StepSpec};

pub(crate) use payout::SIMULATED_PAYOUT;
pub use payout::{Mischief, Payout, PayoutProvider, PayoutRequest, SimulatedProvider};

use steps::{FinanceStep, Order, Part, enough};

/// The longest destination of a payout.
const MAX_DESTINATION_BYTES: usize = 512;
/// How often a payout is asked for again before a person is: the outcome must be found out.
const PAYOUT_RETRIES: u32 = 10;

/// The name of the saga that creates an escrow.
pub const ESCROW: &str = "escrow";
/// The name of the saga that pays an escrow to its seller.
pub const ESCROW_RELEASE: &str = "escrow_release";
/// The name of the saga that gives an escrow back to its buyer.
pub const ESCROW_REFUND: &str = "escrow_refund";
/// The name of the saga that pays a user out.
pub const CASHOUT: &str = "cashout";

/// The financial sagas of an instance. Cheap to clone.
#[derive(Clone)]
pub struct Finance {
    sagas: Sagas,
    ledger: Ledger,
    provider: Arc<RwLock<Arc<dyn PayoutProvider>>>,
}

impl Finance {
    pub(crate) fn new(sagas: Sagas, ledger: Ledger, provider: Arc<dyn PayoutProvider>) -> Self {
        let finance = Finance { sagas, ledger, provider: Arc::new(RwLock::new(provider)) };
        finance.register();
        finance
    }

    fn register(&self) {
        for part in Part::ALL {
            let provider = Arc::clone(&self.provider.read());
            let step = FinanceStep { part, ledger: self.ledger.clone(), provider };
            let registered = self.sagas.register(&part.handler(), step);
            assert!(registered.is_ok(), "our own handlers have names within the limits");
        }
    }

    /// Pays out through this provider from now on. Say so before the instance starts.
    ///
    /// # Errors
    /// `Invalid` if its name is outside the limits.
    pub fn pay_through(&self, provider: Arc<dyn PayoutProvider>) -> Result<()> {
        check_name("payout provider", provider.name(), 64)?;
        *self.provider.write() = provider;
        self.register();
        Ok(())
    }

    /// Sets a buyer's money apart for a seller: a saga that validates the participants, locks the
    /// funds and creates the escrow, whose id is the saga's.
    ///
    /// # Errors
    /// `Refused` if the buyer has too little now, `Invalid` if buyer and seller are one; nothing
    /// was written. Others as [`Sagas::start`].
    pub async fn escrow(
        &self,
        buyer: &UserId,
        seller: &UserId,
        amount: &Amount,
        key: Option<String>,
    ) -> Result<Started> {
        if buyer == seller {
            return Err(Error::invalid(format!("buyer and seller are both {buyer}")));
        }
        let order = Order { seller_id: Some(text(seller.as_str())?), ..order(buyer, amount)? };
        let parts = [Part::ValidateParticipants, Part::LockFunds, Part::CreateEscrow];
        let request = request(ESCROW, &parts, &order, key)?;
        self.start(request, Some((buyer, amount))).await
    }

    /// Pays a user out: a saga that validates the balance, reserves the funds and has the provider
    /// pay. Once the provider may have paid there is no way back.
    ///
    /// # Errors
    /// `Refused` if the user has too little now; nothing was written. Others as [`Sagas::start`].
    pub async fn cashout(
        &self,
        user: &UserId,
        amount: &Amount,
        destination: &str,
        key: Option<String>,
    ) -> Result<Started> {
        check_name("destination", destination, MAX_DESTINATION_BYTES)?;
        let order = Order { destination: Some(destination.to_owned()), ..order(user, amount)? };
        let parts = [Part::ValidateBalance, Part::ReserveFunds, Part::ProcessWithdrawal];
        let mut request = request(CASHOUT, &parts, &order, key)?;
        if let Some(payout) = request.steps.last_mut() {
            payout.pivot = true;
            payout.max_retries = Some(PAYOUT_RETRIES);
        }
        self.start(request, Some((user, amount))).await
    }

    /// Pays an escrow to its seller. Without a key, the escrow is released once.
    ///
    /// # Errors
    /// `NotFound` if there is no such escrow, `Refused` if it is not there any more.
    pub async fn release(&self, escrow_id: &str, key: Option<String>) -> Result<Started> {
        self.settle(ESCROW_RELEASE, Part::ReleaseFunds, escrow_id, key).await
    }

    /// Gives an escrow back to its buyer. Without a key, the escrow is refunded once.
    ///
    /// # Errors
    /// As [`release`](Finance::release).
    pub async fn refund(&self, escrow_id: &str, key: Option<String>) -> Result<Started> {
        self.settle(ESCROW_REFUND, Part::RefundFunds, escrow_id, key).await
    }

    async fn settle(
        &self,
        name: &str,
        part: Part,
        escrow_id: &str,
        key: Option<String>,
    ) -> Result<Started> {
        let escrow = self.sagas.show(escrow_id).await?;
        if escrow.saga_name != ESCROW {
            let message = format!("saga {escrow_id} is no escrow: it is a {}", escrow.saga_name);
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        if escrow.status != SagaStatus::Completed {
            let status = escrow.status.name();
            let message = format!("escrow {escrow_id} is not there: its saga is {status}");
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let given = escrow.steps.first().map(|step| &step.parameters);
        let given = given.ok_or_else(|| Error::new(ErrorKind::Internal, "an escrow has steps"))?;
        let order = Order { escrow_id: Some(escrow_id.to_owned()), ..given.to_value()? };
        let key = key.unwrap_or_else(|| format!("{name}/{escrow_id}"));
        let request = request(name, &[Part::ValidateEscrow, part], &order, Some(key))?;
        let known = self.sagas.started_with(&request).await?;
        if known.is_none() {
            let currency = Currency::parse(&order.currency)?;
            if self.ledger.escrow(escrow_id, currency).await?.is_none() {
                let message = format!("escrow {escrow_id} has been released or refunded");
                return Err(Error::new(ErrorKind::Refused, message));
            }
        }
        self.sagas.start(request).await
    }

    /// Starts a saga, unless it is clear already that there is too little money. What was started
    /// before is answered whatever the balance is now.
    async fn start(
        &self,
        request: SagaRequest,
        needs: Option<(&UserId, &Amount)>,
    ) -> Result<Started> {
        if let Some((user, amount)) = needs
            && self.sagas.started_with(&request).await?.is_none()
        {
            enough(&self.ledger, user, amount).await?;
        }
        self.sagas.start(request).await
    }
}

fn order(user: &UserId, amount: &Amount) -> Result<Order> {
    Ok(Order {
        user_id: text(user.as_str())?,
        seller_id: None,
        amount: text(&amount.to_string())?,
        currency: amount.currency().code().into(),
        escrow_id: None,
        destination: None,
    })
}

fn request(name: &str, parts: &[Part], order: &Order, key: Option<String>) -> Result<SagaRequest> {
    let parameters = Json::from_value(order)?;
    let steps = parts
        .iter()
        .map(|part| StepSpec::new(part.step(), part.handler(), parameters.clone()))
        .collect();
    Ok(SagaRequest { idempotency_key: key, ..SagaRequest::new(name, steps) })
}

fn text(value: &(impl Serialize + ?Sized)) -> Result<Json> {
    Json::from_value(&value)
}
