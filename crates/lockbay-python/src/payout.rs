//! Who pays money out, in Python.
//!
//! A provider is an object with a `name` and a function `pay`, which is asked under a key and pays
//! once under each. Without one, payouts are simulated as the settings say; where the settings name
//! an endpoint, which only the server calls, an instance without a provider takes no part, because
//! it would take payouts over from a server and pay nobody.

use std::sync::Arc;

use async_trait::async_trait;
use lockbay::finance::{Mischief, Payout, PayoutProvider, PayoutRequest};
use lockbay::saga::StepError;
use lockbay::{Config, Error, LockBay as Instance};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::ask::{Question, ask};
use crate::bay::{LockBay, Registry};
use crate::error::{invalid, step_error, told};
use crate::home::Home;

/// What settings call the provider that only pretends.
const SIMULATED: &str = "simulated";

/// A provider as it was given.
#[derive(Clone)]
pub(crate) struct Provider {
    name: String,
    pay: Arc<Py<PyAny>>,
}

impl Provider {
    /// What it calls.
    pub(crate) fn function(&self) -> &Py<PyAny> {
        &self.pay
    }
}

/// A wish to pay somebody.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct PayoutCall(PayoutRequest);

#[pymethods]
impl PayoutCall {
    /// Names the payout: asked again with it, the provider pays once.
    #[getter]
    fn key(&self) -> &str {
        &self.0.key
    }

    #[getter]
    fn user_id(&self) -> &str {
        self.0.user.as_str()
    }

    /// How much, as a `Decimal`.
    #[getter]
    fn amount<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("decimal")?.getattr("Decimal")?.call1((self.0.amount.to_string(),))
    }

    #[getter]
    fn currency(&self) -> &'static str {
        self.0.amount.currency().code()
    }

    /// Where to, in the provider's terms.
    #[getter]
    fn destination(&self) -> &str {
        &self.0.destination
    }

    /// Grows when another executor takes over: a provider that can refuses lower ones.
    #[getter]
    fn fencing_token(&self) -> u64 {
        self.0.fencing_token.number()
    }

    /// How often it is asked for with this, from 1.
    #[getter]
    fn attempt(&self) -> u32 {
        self.0.attempt
    }

    fn __repr__(&self) -> String {
        let PayoutRequest { key, amount, attempt, .. } = &self.0;
        let code = amount.currency().code();
        format!("<PayoutCall {key:?} of {amount} {code} attempt {attempt}>")
    }
}

#[pymethods]
impl LockBay {
    /// Pays out through this provider whenever it is open: an object with `name`, which is that of
    /// its account in the ledger, and `pay`, a coroutine function or a plain one. That gets a
    /// `PayoutCall` and returns the provider's reference. `Failed` says that it is not paid and will
    /// not be; any other exception leaves that open. Say so before it is opened.
    fn pay_through(&self, provider: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = provider.py();
        if self.0.at_home().is_some() {
            let message = "this LockBay is open: say who pays out before that";
            return Err(invalid(py, message));
        }
        let name: String = provider.getattr("name")?.extract()?;
        let pay = Arc::new(provider.getattr("pay")?.unbind());
        let before = self.0.registry.lock().provider.replace(Provider { name, pay });
        drop(before);
        Ok(())
    }
}

/// Refuses that an instance takes part that could pay nobody.
///
/// # Errors
/// `Invalid` where the settings name an endpoint and nobody was given who pays out here.
pub(crate) fn check(registry: &Registry, config: &Config) -> lockbay::Result<()> {
    if registry.provider.is_some() || config.payout_provider.starts_with(SIMULATED) {
        return Ok(());
    }
    Err(Error::invalid(
        "payout_provider (LOCKBAY_PAYOUT_PROVIDER) is an endpoint, and only the server calls one: \
         say with pay_through() who pays out here, or set it to simulated",
    ))
}

/// Has an instance pay out through who was given, or as its settings say.
pub(crate) fn pay_through(registry: &Registry, bay: &Instance, home: &Home) -> lockbay::Result<()> {
    if let Some(provider) = registry.provider.clone() {
        let home = home.clone();
        return bay.finance().pay_through(Arc::new(PythonProvider { provider, home }));
    }
    let setting = &bay.config().payout_provider;
    let Some(mischief) = setting.strip_prefix(SIMULATED) else {
        return bay.finance().pay_through(Arc::new(Nobody));
    };
    let mischief = Mischief::parse(mischief.strip_prefix(':').unwrap_or(mischief))?;
    bay.finance().pay_through(Arc::new(bay.simulated_provider(mischief)))
}

/// In an instance that only looks. What it is asked after all waits for others, or for a person.
struct Nobody;

#[async_trait]
impl PayoutProvider for Nobody {
    fn name(&self) -> &str {
        "nobody"
    }

    async fn pay(&self, _: &PayoutRequest) -> Payout {
        Payout::Unknown { reason: "nobody pays out in this process".into() }
    }
}

struct PythonProvider {
    provider: Provider,
    home: Home,
}

#[async_trait]
impl PayoutProvider for PythonProvider {
    fn name(&self) -> &str {
        &self.provider.name
    }

    async fn pay(&self, request: &PayoutRequest) -> Payout {
        let Some(home) = self.home.open().await else {
            // Nobody was asked now, which says nothing of the attempts before.
            return Payout::Unknown { reason: "the instance was closed before it began".into() };
        };
        let what = format!("payout {:?}, attempt {},", request.key, request.attempt);
        let call = PayoutCall(request.clone());
        let arguments = move |py: Python<'_>| Ok((PyTuple::new(py, [call])?.unbind(), None));
        let question = Question { function: Arc::clone(&self.provider.pay), context: None };
        let read = move |py: Python<'_>, answer: PyResult<Bound<'_, PyAny>>| match answer {
            Ok(reference) => match reference.cast::<PyString>() {
                Ok(reference) => {
                    Payout::Paid { reference: reference.to_string_lossy().into_owned() }
                }
                // It has been asked by now, so what cannot be read is not known.
                Err(error) => Payout::Unknown { reason: told(py, &error.into()) },
            },
            Err(error) => match step_error(py, &error, &what) {
                StepError::Failed { error, retryable } => {
                    Payout::Refused { reason: error, retryable }
                }
                StepError::Unknown { error } | StepError::Missing { what: error } => {
                    Payout::Unknown { reason: error }
                }
            },
        };
        let answer = ask(&home, question, arguments, read).await;
        answer.unwrap_or_else(|| Payout::Unknown { reason: "the event loop has ended".into() })
    }
}
