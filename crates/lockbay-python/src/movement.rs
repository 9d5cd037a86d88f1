//! Movements of the ledger that a handler returns, to be written in the commit of its outcome.
//!
//! A handler says *what* is to move; under which id is decided here, by the key of the step or job,
//! so that an attempt that comes again means the same movement. Whether it may move is decided by
//! the ledger.

use std::collections::HashSet;
use std::time::Duration;

use lockbay::job::{JobFailure, JobSuccess};
use lockbay::ledger::{self, Amount, Escrow, Hold, Ledger, Prepared, UserId};
use lockbay::saga::{StepError, StepOutput};
use lockbay::store::{Effects, Write};
use lockbay::{Error, ErrorKind, Json, Result};
use pyo3::prelude::*;

use crate::error::{Raise, invalid};
use crate::job::seconds;
use crate::json::{to_json, to_optional};
use crate::money::{money, user};

/// The most movements of one outcome.
const MAX_MOVEMENTS: usize = 64;

/// Money that is to move between accounts of the ledger. Users are given by number or text, an
/// amount as everywhere.
#[pyclass(frozen, module = "lockbay")]
#[derive(Debug, Clone)]
pub(crate) struct Movement(Wish);

#[derive(Debug, Clone)]
enum Wish {
    Deposit { provider: String, user: UserId, amount: Amount },
    Lock { hold: Hold, lapses_after: Option<Duration> },
    Reserve { hold: Hold, lapses_after: Option<Duration> },
    Void { hold: Hold },
    Escrow { hold: Hold, escrow_id: String },
    Release { escrow: Escrow, to: UserId, amount: Amount },
    Refund { escrow: Escrow, amount: Amount },
    Payout { hold: Hold, provider: String },
    ReturnPayout { provider: String, user: UserId, amount: Amount },
}

fn hold(
    hold_id: String,
    user_id: &Bound<'_, PyAny>,
    amount: &Bound<'_, PyAny>,
    currency: &str,
) -> PyResult<Hold> {
    Ok(Hold { id: hold_id, user: user("user_id", user_id)?, amount: money(amount, currency)? })
}

#[pymethods]
impl Movement {
    /// Money comes in from a provider, to a user.
    #[staticmethod]
    #[pyo3(signature = (user_id, amount, currency, *, provider))]
    fn deposit(
        user_id: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        currency: &str,
        provider: String,
    ) -> PyResult<Self> {
        let (user, amount) = (user("user_id", user_id)?, money(amount, currency)?);
        Ok(Movement(Wish::Deposit { provider, user, amount }))
    }

    /// A user's money is set apart for an escrow. With `lapses_after`, in seconds, it can then only
    /// be given back.
    #[staticmethod]
    #[pyo3(signature = (hold_id, user_id, amount, currency, *, lapses_after=None))]
    fn lock(
        hold_id: String,
        user_id: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        currency: &str,
        lapses_after: Option<f64>,
    ) -> PyResult<Self> {
        let lapses_after = seconds(user_id.py(), "lapses_after", lapses_after)?;
        Ok(Movement(Wish::Lock { hold: hold(hold_id, user_id, amount, currency)?, lapses_after }))
    }

    /// A user's money is set apart for a payout.
    #[staticmethod]
    #[pyo3(signature = (hold_id, user_id, amount, currency, *, lapses_after=None))]
    fn reserve(
        hold_id: String,
        user_id: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        currency: &str,
        lapses_after: Option<f64>,
    ) -> PyResult<Self> {
        let lapses_after = seconds(user_id.py(), "lapses_after", lapses_after)?;
        let hold = hold(hold_id, user_id, amount, currency)?;
        Ok(Movement(Wish::Reserve { hold, lapses_after }))
    }

    /// What was locked or reserved goes back to its user.
    #[staticmethod]
    fn void(
        hold_id: String,
        user_id: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        currency: &str,
    ) -> PyResult<Self> {
        Ok(Movement(Wish::Void { hold: hold(hold_id, user_id, amount, currency)? }))
    }

    /// What was locked becomes an escrow.
    #[staticmethod]
    #[pyo3(signature = (hold_id, user_id, amount, currency, *, escrow_id))]
    fn escrow(
        hold_id: String,
        user_id: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        currency: &str,
        escrow_id: String,
    ) -> PyResult<Self> {
        let hold = hold(hold_id, user_id, amount, currency)?;
        Ok(Movement(Wish::Escrow { hold, escrow_id }))
    }

    /// An escrow, or a part of it, goes to a user.
    #[staticmethod]
    #[pyo3(signature = (escrow_id, payer_id, to_user_id, amount, currency))]
    fn release(
        escrow_id: String,
        payer_id: &Bound<'_, PyAny>,
        to_user_id: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        currency: &str,
    ) -> PyResult<Self> {
        let escrow = Escrow { id: escrow_id, payer: user("payer_id", payer_id)? };
        let (to, amount) = (user("to_user_id", to_user_id)?, money(amount, currency)?);
        Ok(Movement(Wish::Release { escrow, to, amount }))
    }

    /// An escrow, or a part of it, goes back to who paid it in.
    #[staticmethod]
    fn refund(
        escrow_id: String,
        payer_id: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        currency: &str,
    ) -> PyResult<Self> {
        let escrow = Escrow { id: escrow_id, payer: user("payer_id", payer_id)? };
        Ok(Movement(Wish::Refund { escrow, amount: money(amount, currency)? }))
    }

    /// What was reserved has left through a provider.
    #[staticmethod]
    #[pyo3(signature = (hold_id, user_id, amount, currency, *, provider))]
    fn payout(
        hold_id: String,
        user_id: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        currency: &str,
        provider: String,
    ) -> PyResult<Self> {
        let hold = hold(hold_id, user_id, amount, currency)?;
        Ok(Movement(Wish::Payout { hold, provider }))
    }

    /// A payout came back from its provider, to its user.
    #[staticmethod]
    #[pyo3(signature = (user_id, amount, currency, *, provider))]
    fn return_payout(
        user_id: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        currency: &str,
        provider: String,
    ) -> PyResult<Self> {
        let (user, amount) = (user("user_id", user_id)?, money(amount, currency)?);
        Ok(Movement(Wish::ReturnPayout { provider, user, amount }))
    }

    /// What it is for, as the ledger calls it.
    #[getter]
    fn kind(&self) -> &'static str {
        match &self.0 {
            Wish::Deposit { .. } => "deposit",
            Wish::Lock { .. } => "lock",
            Wish::Reserve { .. } => "reserve",
            Wish::Void { .. } => "void",
            Wish::Escrow { .. } => "escrow",
            Wish::Release { .. } => "release",
            Wish::Refund { .. } => "refund",
            Wish::Payout { .. } => "payout",
            Wish::ReturnPayout { .. } => "return_payout",
        }
    }

    fn __repr__(&self) -> String {
        let amount = match &self.0 {
            Wish::Deposit { amount, .. }
            | Wish::Release { amount, .. }
            | Wish::Refund { amount, .. }
            | Wish::ReturnPayout { amount, .. } => amount,
            Wish::Lock { hold, .. }
            | Wish::Reserve { hold, .. }
            | Wish::Void { hold }
            | Wish::Escrow { hold, .. }
            | Wish::Payout { hold, .. } => &hold.amount,
        };
        format!("<Movement {} {amount} {}>", self.kind(), amount.currency().code())
    }
}

impl Movement {
    fn forward(&self, id: &str) -> Result<ledger::Movement> {
        let lapsing = |movement: ledger::Movement, after: &Option<Duration>| match after {
            Some(after) => movement.lapsing_after(*after),
            None => Ok(movement),
        };
        match &self.0 {
            Wish::Deposit { provider, user, amount } => {
                ledger::Movement::deposit(id, provider, user, amount)
            }
            Wish::Lock { hold, lapses_after } => {
                lapsing(ledger::Movement::lock(id, hold)?, lapses_after)
            }
            Wish::Reserve { hold, lapses_after } => {
                lapsing(ledger::Movement::reserve(id, hold)?, lapses_after)
            }
            Wish::Void { hold } => ledger::Movement::void(id, hold),
            Wish::Escrow { hold, escrow_id } => ledger::Movement::escrow(id, hold, escrow_id),
            Wish::Release { escrow, to, amount } => {
                ledger::Movement::release(id, escrow, to, amount)
            }
            Wish::Refund { escrow, amount } => ledger::Movement::refund(id, escrow, amount),
            Wish::Payout { hold, provider } => ledger::Movement::payout(id, hold, provider),
            Wish::ReturnPayout { provider, user, amount } => {
                ledger::Movement::return_payout(id, provider, user, amount)
            }
        }
    }

    /// Its exact inverse.
    fn back(&self, id: &str) -> Result<ledger::Movement> {
        match &self.0 {
            Wish::Deposit { provider, user, amount } => {
                ledger::Movement::undo_deposit(id, provider, user, amount)
            }
            Wish::Lock { hold, .. } | Wish::Reserve { hold, .. } => {
                ledger::Movement::void(id, hold)
            }
            Wish::Escrow { hold, escrow_id } => ledger::Movement::undo_escrow(id, hold, escrow_id),
            Wish::Release { escrow, to, amount } => {
                ledger::Movement::undo_release(id, escrow, to, amount)
            }
            Wish::Refund { escrow, amount } => {
                ledger::Movement::undo_release(id, escrow, &escrow.payer, amount)
            }
            Wish::Payout { hold, provider } => ledger::Movement::undo_payout(id, hold, provider),
            Wish::Void { .. } | Wish::ReturnPayout { .. } => {
                Err(Error::invalid(format!("there is no way back from a {}", self.kind())))
            }
        }
    }
}

/// What a handler returns that moves money.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Done {
    result: Option<Py<PyAny>>,
    movements: Vec<Movement>,
    way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The movements happen.
    Forward,
    /// The same, and nothing else has.
    Only,
    /// Those that happened are undone.
    Back,
}

/// What a handler returns to have money move on the ledger, in the commit that records its outcome:
/// both happen, once, or neither. If accounts of it changed meanwhile, the handler is asked again
/// under the same key.
///
/// Where the ledger refuses a movement, nothing moves. The step then counts as unknown, since the
/// handler may have done more; with `only=True` it has not, and the step has failed.
#[pyfunction]
#[pyo3(signature = (result=None, *, movements, only=false))]
pub(crate) fn done(
    py: Python<'_>,
    result: Option<Py<PyAny>>,
    movements: Vec<PyRef<'_, Movement>>,
    only: bool,
) -> PyResult<Done> {
    let way = if only { Way::Only } else { Way::Forward };
    Done::new(py, result, &movements, way)
}

/// What a compensation returns to have the movements undone that its execution was to make: the
/// same ones, in the same order. Those that did not happen are passed over.
#[pyfunction]
#[pyo3(signature = (movements, result=None))]
pub(crate) fn undone(
    py: Python<'_>,
    movements: Vec<PyRef<'_, Movement>>,
    result: Option<Py<PyAny>>,
) -> PyResult<Done> {
    for movement in &movements {
        movement.back("checked").or_raise(py)?;
    }
    Done::new(py, result, &movements, Way::Back)
}

impl Done {
    fn new(
        py: Python<'_>,
        result: Option<Py<PyAny>>,
        movements: &[PyRef<'_, Movement>],
        way: Way,
    ) -> PyResult<Self> {
        if movements.len() > MAX_MOVEMENTS {
            let count = movements.len();
            let message = format!("one outcome has at most {MAX_MOVEMENTS} movements, not {count}");
            return Err(invalid(py, message));
        }
        for movement in movements {
            // So that a mistake is found where it was made.
            movement.forward("checked").or_raise(py)?;
        }
        let movements = movements.iter().map(|movement| (**movement).clone()).collect();
        Ok(Done { result, movements, way })
    }
}

/// What a handler answered: a result, and what is to move with it.
pub(crate) struct Answer {
    result: Json,
    movements: Vec<Movement>,
    way: Way,
}

impl Answer {
    pub(crate) fn read(result: &Bound<'_, PyAny>) -> PyResult<Self> {
        let Ok(done) = result.cast::<Done>() else {
            let result = to_json("the result", result)?;
            return Ok(Answer { result, movements: Vec::new(), way: Way::Forward });
        };
        let done = done.get();
        let value = done.result.as_ref().map(|value| value.bind(result.py()));
        let value = to_optional("the result", value)?;
        Ok(Answer { result: value, movements: done.movements.clone(), way: done.way })
    }

    /// What a step returns so.
    pub(crate) async fn of_step(self, ledger: &Ledger, ids: &Ids) -> Result<StepOutput, StepError> {
        match self.effects(ledger, ids).await {
            Ok(effects) => Ok(StepOutput { result: self.result, effects }),
            Err(error) if self.way == Way::Forward => Err(StepError::unknown(format!(
                "it ran, and what is to move is not written: {error}"
            ))),
            Err(error) if is_refused(&error) => Err(StepError::failed(error.to_string())),
            // Nothing has moved, and it can be tried again.
            Err(error) => Err(StepError::retryable(error.to_string())),
        }
    }

    /// What a job returns so.
    pub(crate) async fn of_job(self, ledger: &Ledger, ids: &Ids) -> Result<JobSuccess, JobFailure> {
        if self.way == Way::Back {
            return Err(JobFailure::permanent("only the compensation of a step returns undone()"));
        }
        match self.effects(ledger, ids).await {
            Ok(effects) => Ok(JobSuccess { result: self.result, effects }),
            Err(error) if is_refused(&error) => Err(JobFailure::permanent(error.to_string())),
            Err(error) => Err(JobFailure::retryable(error.to_string())),
        }
    }

    async fn effects(&self, ledger: &Ledger, ids: &Ids) -> Result<Effects> {
        let mut effects = Effects::default();
        for (place, movement) in self.movements.iter().enumerate() {
            let Some(movement) = self.movement(ledger, ids, place, movement).await? else {
                continue;
            };
            if let Prepared::Ready(ready) = ledger.prepare(&movement).await? {
                effects = effects.join(ready);
            }
        }
        let replaced = effects.writes.iter().filter(|write| !matches!(write, Write::Append { .. }));
        let mut keys = HashSet::new();
        for write in replaced {
            if !keys.insert(write.key().clone()) {
                let message = "two movements of one outcome change the same account: make them in \
                               two steps";
                return Err(Error::invalid(message));
            }
        }
        Ok(effects)
    }

    /// The movement at a place; `None` if there is nothing to undo.
    async fn movement(
        &self,
        ledger: &Ledger,
        ids: &Ids,
        place: usize,
        movement: &Movement,
    ) -> Result<Option<ledger::Movement>> {
        let forward = ids.of_saga(movement.forward(&at(&ids.key, place))?)?;
        if self.way != Way::Back {
            // What a compensation moves has an id of its own.
            let id = at(if ids.goes_back { &ids.undo_key } else { &ids.key }, place);
            return ids.of_saga(movement.forward(&id)?).map(Some);
        }
        match ledger.prepare(&forward).await {
            Ok(Prepared::Already(_)) => {}
            // It is written with its outcome or not at all, and no outcome of it can come any more.
            Ok(Prepared::Ready(_)) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Refused => return Ok(None),
            Err(error) => return Err(error),
        }
        ids.of_saga(movement.back(&at(&ids.undo_key, place))?).map(Some)
    }
}

/// By which keys movements are named.
pub(crate) struct Ids {
    pub(crate) key: String,
    pub(crate) undo_key: String,
    /// Whether it is a compensation that moves.
    pub(crate) goes_back: bool,
    /// The saga and the step, if it is one.
    pub(crate) step: Option<(String, String)>,
}

impl Ids {
    /// Those of a job, whose movements belong to no saga.
    pub(crate) fn of_job(token: &str) -> Self {
        Ids {
            key: token.to_owned(),
            undo_key: format!("{token}/undo"),
            goes_back: false,
            step: None,
        }
    }

    fn of_saga(&self, movement: ledger::Movement) -> Result<ledger::Movement> {
        match &self.step {
            Some((saga_id, step)) => movement.of_saga(saga_id, step),
            None => Ok(movement),
        }
    }
}

/// The id of the movement at a place.
fn at(key: &str, place: usize) -> String {
    if place == 0 { key.to_owned() } else { format!("{key}#{}", place + 1) }
}

/// Whether asking again would only repeat it.
fn is_refused(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Refused | ErrorKind::Invalid | ErrorKind::KeyReused)
}
