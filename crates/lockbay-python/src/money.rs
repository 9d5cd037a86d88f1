//! The ledger, and the financial sagas on it.
//!
//! An amount is a `str`, an `int`, a `Decimal`, or a `float`, which counts by its shortest decimal
//! text. What does not fit the decimals of its currency is refused.

use std::sync::Arc;

use lockbay::clock::Timestamp;
use lockbay::ledger::{Amount, Balance, Currency, Totals, TrialBalance, UserId};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};
use serde::Serialize;

use crate::bay::{LockBay, Shared};
use crate::call::awaitable;
use crate::error::{Raise, invalid};
use crate::json::show;

/// Accounts, and the money in them.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Ledger(Arc<Shared>);

#[pymethods]
impl Ledger {
    /// Enters money that has come in; repeated with its key, it is the same deposit. Gives what the
    /// user has then.
    #[pyo3(signature = (user_id, amount, currency, *, idempotency_key))]
    fn deposit<'py>(
        &self,
        py: Python<'py>,
        user_id: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        currency: &str,
        idempotency_key: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let (user, amount) = (user("user_id", user_id)?, money(amount, currency)?);
        let call = async move {
            bay.ledger().deposit(&user, &amount, &idempotency_key).await?;
            bay.ledger().balance(&user, amount.currency()).await
        };
        awaitable(py, call, |py, balance: Balance| show(py, &balance))
    }

    /// What a user has: `available`, `held` and `currency`.
    fn balance<'py>(
        &self,
        py: Python<'py>,
        user_id: &Bound<'py, PyAny>,
        currency: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let (user, currency) = (user("user_id", user_id)?, Currency::parse(currency).or_raise(py)?);
        let call = async move { bay.ledger().balance(&user, currency).await };
        awaitable(py, call, |py, balance| show(py, &balance))
    }

    /// All accounts added up, as they were at one moment: whether they are `balanced`, and by
    /// currency the sum of everything, which is zero, and totals.
    fn trial_balance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { bay.ledger().trial_balance().await };
        awaitable(py, call, |py, trial| show(py, &Trial::of(&trial)))
    }

    /// A movement by its id, which is the key of the step or job that made it; `None` if it did not
    /// happen.
    fn movement<'py>(&self, py: Python<'py>, movement_id: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { bay.ledger().movement(&movement_id).await };
        awaitable(py, call, |py, movement| show(py, &movement))
    }
}

#[pymethods]
impl LockBay {
    /// Accounts, and the money in them.
    #[getter]
    fn ledger(&self) -> Ledger {
        Ledger(Arc::clone(&self.0))
    }

    /// Sets a buyer's money apart for a seller; gives the id of the saga, which is the escrow's.
    #[pyo3(signature = (buyer_id, seller_id, amount, currency, *, idempotency_key=None))]
    fn escrow<'py>(
        &self,
        py: Python<'py>,
        buyer_id: &Bound<'py, PyAny>,
        seller_id: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        currency: &str,
        idempotency_key: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let (buyer, seller) = (user("buyer_id", buyer_id)?, user("seller_id", seller_id)?);
        let amount = money(amount, currency)?;
        let call = async move {
            let started = bay.finance().escrow(&buyer, &seller, &amount, idempotency_key).await?;
            Ok(started.saga_id)
        };
        awaitable(py, call, id)
    }

    /// Pays a user out; gives the id of the saga.
    #[pyo3(signature = (user_id, amount, currency, destination, *, idempotency_key=None))]
    fn cashout<'py>(
        &self,
        py: Python<'py>,
        user_id: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        currency: &str,
        destination: String,
        idempotency_key: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let (user, amount) = (user("user_id", user_id)?, money(amount, currency)?);
        let call = async move {
            let started =
                bay.finance().cashout(&user, &amount, &destination, idempotency_key).await?;
            Ok(started.saga_id)
        };
        awaitable(py, call, id)
    }

    /// Pays an escrow to its seller; gives the id of the saga. Without a key, once.
    #[pyo3(signature = (escrow_id, *, idempotency_key=None))]
    fn release<'py>(
        &self,
        py: Python<'py>,
        escrow_id: String,
        idempotency_key: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call =
            async move { Ok(bay.finance().release(&escrow_id, idempotency_key).await?.saga_id) };
        awaitable(py, call, id)
    }

    /// Gives an escrow back to its buyer; gives the id of the saga. Without a key, once.
    #[pyo3(signature = (escrow_id, *, idempotency_key=None))]
    fn refund<'py>(
        &self,
        py: Python<'py>,
        escrow_id: String,
        idempotency_key: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call =
            async move { Ok(bay.finance().refund(&escrow_id, idempotency_key).await?.saga_id) };
        awaitable(py, call, id)
    }
}

/// A trial balance by the names of the HTTP interface.
#[derive(Serialize)]
struct Trial<'a> {
    balanced: bool,
    as_of: String,
    at: Timestamp,
    currencies: &'a [Totals],
}

impl<'a> Trial<'a> {
    fn of(trial: &'a TrialBalance) -> Self {
        Trial {
            balanced: trial.balanced(),
            as_of: trial.as_of.to_string(),
            at: trial.at,
            currencies: &trial.totals,
        }
    }
}

fn id(py: Python<'_>, saga_id: String) -> PyResult<Py<PyAny>> {
    Ok(saga_id.into_pyobject(py)?.into_any().unbind())
}

/// A user by number or by text.
pub(crate) fn user(what: &str, value: &Bound<'_, PyAny>) -> PyResult<UserId> {
    let py = value.py();
    let is_number = value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>();
    if !is_number && !value.is_instance_of::<PyString>() {
        let shown = value.repr()?;
        return Err(invalid(py, format!("{what} is a number or text, not {shown}")));
    }
    let text = value.str().map_err(|_| invalid(py, format!("{what} has too many digits")))?;
    UserId::parse(text.to_str()?).or_raise(py)
}

/// An amount, exactly.
pub(crate) fn money(value: &Bound<'_, PyAny>, currency: &str) -> PyResult<Amount> {
    let py = value.py();
    let currency = Currency::parse(currency).or_raise(py)?;
    let decimal = py.import("decimal")?.getattr("Decimal")?;
    let text = if let Ok(float) = value.cast::<PyFloat>() {
        if !float.value().is_finite() {
            return Err(invalid(py, format!("an amount is a number, not {}", float.value())));
        }
        // The shortest text that is this float.
        serde_json::to_string(&float.value()).unwrap_or_default()
    } else if value.is_instance(&decimal)? {
        // With an exponent, if it has one: written out, it could have any length.
        value.str()?.to_string()
    } else if value.is_instance_of::<PyString>() {
        value.str()?.to_string()
    } else if value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>() {
        // Python does not write out what has thousands of digits.
        let digits = value.str().map_err(|_| invalid(py, "an amount has fewer digits than this"));
        digits?.to_string()
    } else {
        let shown = value.repr()?;
        let message = format!("an amount is text, a Decimal, an int or a float, not {shown}");
        return Err(invalid(py, message));
    };
    Amount::parse(&text, currency).or_raise(py)
}
