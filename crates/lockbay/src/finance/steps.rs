//! The steps of the financial sagas: each moves money on the ledger, or only looks.
//!
//! What a step moves is an effect: it is committed with the step's outcome, so it happens exactly
//! once, whatever dies. Its compensation is the inverse movement, and with nothing to undo it does
//! nothing.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::payout::{Payout, PayoutProvider, PayoutRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::ledger::{Amount, Currency, Escrow, Hold, Ledger, Movement, Prepared, UserId};
use crate::saga::{Step, StepContext, StepError, StepOutput};

/// What every financial saga gives its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    /// Who pays, or is paid out.
    pub(super) user_id: Json,
    /// Who is paid from an escrow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seller_id: Option<Json>,
    pub(super) amount: Json,
    pub(super) currency: String,
    /// Of the escrow that is released or refunded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) escrow_id: Option<String>,
    /// Where a payout goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) destination: Option<String>,
}

/// An order, read.
struct Read {
    user: UserId,
    seller: Option<UserId>,
    amount: Amount,
    escrow_id: Option<String>,
    destination: Option<String>,
}

impl Order {
    fn of(context: &StepContext) -> Result<Read, StepError> {
        let read = || -> Result<Read> {
            let order: Order = context.parameters.to_value()?;
            let currency = Currency::parse(&order.currency)?;
            Ok(Read {
                user: UserId::from_json(&order.user_id)?,
                seller: order.seller_id.as_ref().map(UserId::from_json).transpose()?,
                amount: Amount::from_json(&order.amount, currency)?,
                escrow_id: order.escrow_id,
                destination: order.destination,
            })
        };
        // Nothing was done, and other parameters are needed.
        read().map_err(|error| StepError::failed(error.to_string()))
    }
}

/// Which step of which saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    ValidateParticipants,
    LockFunds,
    CreateEscrow,
    ValidateBalance,
    ReserveFunds,
    ProcessWithdrawal,
    ValidateEscrow,
    ReleaseFunds,
    RefundFunds,
}

impl Part {
    pub(super) const ALL: [Part; 9] = [
        Part::ValidateParticipants,
        Part::LockFunds,
        Part::CreateEscrow,
        Part::ValidateBalance,
        Part::ReserveFunds,
        Part::ProcessWithdrawal,
        Part::ValidateEscrow,
        Part::ReleaseFunds,
        Part::RefundFunds,
    ];

    /// The name of its step.
    pub(super) fn step(self) -> &'static str {
        match self {
            Part::ValidateParticipants => "validate_participants",
            Part::LockFunds => "lock_funds",
            Part::CreateEscrow => "create_escrow",
            Part::ValidateBalance => "validate_balance",
            Part::ReserveFunds => "reserve_funds",
            Part::ProcessWithdrawal => "process_withdrawal",
            Part::ValidateEscrow => "validate_escrow",
            Part::ReleaseFunds => "release_funds",
            Part::RefundFunds => "refund_funds",
        }
    }

    /// The name of its handler.
    pub(super) fn handler(self) -> String {
        format!("finance.{}", self.step())
    }
}

/// Does one part.
pub(super) struct FinanceStep {
    pub(super) part: Part,
    pub(super) ledger: Ledger,
    pub(super) provider: Arc<dyn PayoutProvider>,
}

/// What a part moves, forward or back.
struct Moves {
    forward: Movement,
    back: Movement,
    result: Json,
}

impl FinanceStep {
    /// The movements of this part; `None` for one that only looks.
    fn moves(&self, context: &StepContext) -> Result<Option<Moves>, StepError> {
        let order = Order::of(context)?;
        let moves = self.movements(context, &order);
        moves.map_err(|error| StepError::failed(error.to_string()))
    }

    fn movements(&self, context: &StepContext, order: &Read) -> Result<Option<Moves>> {
        let saga = &*context.saga_id;
        let (key, undo) = (context.idempotency_key.as_str(), context.undo_key());
        let undo = undo.as_str();
        let hold = || Hold { id: saga.into(), user: order.user.clone(), amount: order.amount };
        let escrow = || Escrow {
            id: order.escrow_id.clone().unwrap_or_else(|| saga.into()),
            payer: order.user.clone(),
        };
        let (forward, back, result) = match self.part {
            Part::ValidateParticipants | Part::ValidateBalance | Part::ValidateEscrow => {
                return Ok(None);
            }
            Part::LockFunds => (
                Movement::lock(key, &hold())?,
                Movement::void(undo, &hold())?,
                named("hold_id", saga)?,
            ),
            Part::ReserveFunds => (
                Movement::reserve(key, &hold())?,
                Movement::void(undo, &hold())?,
                named("hold_id", saga)?,
            ),
            Part::CreateEscrow => (
                Movement::escrow(key, &hold(), saga)?,
                Movement::undo_escrow(undo, &hold(), saga)?,
                named("escrow_id", saga)?,
            ),
            Part::ProcessWithdrawal => (
                Movement::payout(key, &hold(), self.provider.name())?,
                Movement::undo_payout(undo, &hold(), self.provider.name())?,
                Json::empty_object(),
            ),
            Part::ReleaseFunds => {
                let seller = order.seller.as_ref();
                let seller = seller.ok_or_else(|| Error::invalid("there is no seller_id"))?;
                (
                    Movement::release(key, &escrow(), seller, &order.amount)?,
                    Movement::undo_release(undo, &escrow(), seller, &order.amount)?,
                    named("released_to", seller.as_str())?,
                )
            }
            Part::RefundFunds => (
                Movement::refund(key, &escrow(), &order.amount)?,
                Movement::undo_release(undo, &escrow(), &order.user, &order.amount)?,
                named("refunded_to", order.user.as_str())?,
            ),
        };
        let forward = forward.of_saga(saga, &context.step)?;
        let back = back.of_saga(saga, &context.step)?;
        Ok(Some(Moves { forward, back, result }))
    }

    /// Looks whether it makes sense to begin.
    async fn look(&self, context: &StepContext) -> Result<StepOutput, StepError> {
        let order = Order::of(context)?;
        let found = match self.part {
            Part::ValidateParticipants => self.participants(&order).await,
            Part::ValidateBalance => self.balance(&order).await,
            Part::ValidateEscrow
            | Part::LockFunds
            | Part::CreateEscrow
            | Part::ReserveFunds
            | Part::ProcessWithdrawal
            | Part::ReleaseFunds
            | Part::RefundFunds => self.escrow(&order).await,
        };
        found.map_err(refusal)?;
        Ok(parse(r#"{"valid":true}"#)?.into())
    }

    async fn participants(&self, order: &Read) -> Result<()> {
        if order.seller.is_none() || order.seller.as_ref() == Some(&order.user) {
            return Err(Error::invalid("buyer and seller of an escrow are two users"));
        }
        self.balance(order).await
    }

    async fn balance(&self, order: &Read) -> Result<()> {
        enough(&self.ledger, &order.user, &order.amount).await
    }

    async fn escrow(&self, order: &Read) -> Result<()> {
        let id = order.escrow_id.as_deref().unwrap_or_default();
        let found = self.ledger.escrow(id, order.amount.currency()).await?;
        match found {
            Some(open) if open.amount.sum() == order.amount.sum() => Ok(()),
            Some(open) => Err(refused(format!("escrow {id} holds {}", open.amount))),
            None => Err(refused(format!("escrow {id} is empty or never was"))),
        }
    }

    /// Has the provider pay. What it answers decides, and only then is the ledger touched.
    async fn pay(&self, context: &StepContext) -> Result<Json, StepError> {
        let order = Order::of(context)?;
        let request = PayoutRequest {
            key: context.idempotency_key.clone(),
            user: order.user,
            amount: order.amount,
            destination: order.destination.unwrap_or_default(),
            fencing_token: context.fencing_token,
            attempt: context.attempt,
        };
        match self.provider.pay(&request).await {
            Payout::Paid { reference } => named("reference", &reference).map_err(StepError::from),
            Payout::Refused { reason, retryable: true } => Err(StepError::retryable(reason)),
            Payout::Refused { reason, retryable: false } => Err(StepError::failed(reason)),
            Payout::Unknown { reason } => Err(StepError::unknown(reason)),
        }
    }

    async fn prepare(&self, movement: &Movement, result: Json) -> Result<StepOutput, StepError> {
        match self.ledger.prepare(movement).await.map_err(refusal)? {
            Prepared::Ready(effects) => Ok(StepOutput { result, effects }),
            Prepared::Already(_) => Ok(result.into()),
        }
    }
}

#[async_trait]
impl Step for FinanceStep {
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        let Some(moves) = self.moves(&context)? else { return self.look(&context).await };
        let result = match self.part {
            Part::ProcessWithdrawal => self.pay(&context).await?,
            Part::ValidateParticipants
            | Part::LockFunds
            | Part::CreateEscrow
            | Part::ValidateBalance
            | Part::ReserveFunds
            | Part::ValidateEscrow
            | Part::ReleaseFunds
            | Part::RefundFunds => moves.result,
        };
        let prepared = self.prepare(&moves.forward, result).await;
        match (self.part, prepared) {
            // The money has left, whatever the ledger says now.
            (Part::ProcessWithdrawal, Err(StepError::Failed { error, .. })) => {
                Err(StepError::unknown(format!("paid, and not posted yet: {error}")))
            }
            (_, prepared) => prepared,
        }
    }

    async fn compensate(&self, context: StepContext) -> Result<StepOutput, StepError> {
        let Some(moves) = self.moves(&context)? else { return Ok(StepOutput::default()) };
        if self.ledger.movement(moves.forward.id()).await.map_err(refusal)?.is_none() {
            // It is written with its outcome or not at all, and no outcome of it can come any more.
            return Ok(StepOutput::default());
        }
        self.prepare(&moves.back, named("undone", moves.forward.id())?).await
    }
}

/// Refuses unless the user has as much.
pub(super) async fn enough(ledger: &Ledger, user: &UserId, amount: &Amount) -> Result<()> {
    let balance = ledger.balance(user, amount.currency()).await?;
    if balance.available.covers(amount) {
        return Ok(());
    }
    let code = amount.currency().code();
    Err(refused(format!(
        "user {user} has {} {code} available, and this needs {amount} {code}",
        balance.available
    )))
}

/// What an error of the ledger is to a step: it has written nothing.
fn refusal(error: Error) -> StepError {
    match error.kind() {
        ErrorKind::Refused | ErrorKind::Invalid | ErrorKind::KeyReused => {
            StepError::failed(error.to_string())
        }
        _ => StepError::retryable(error.to_string()),
    }
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Refused, message)
}

fn named(name: &str, value: &str) -> Result<Json> {
    Json::from_value(&std::collections::BTreeMap::from([(name, value)]))
}

fn parse(text: &str) -> Result<Json, StepError> {
    Json::parse(text).map_err(StepError::from)
}
