//! Leadership of this instance's service, and named leases.

use std::sync::Arc;
use std::time::Duration;

use lockbay::lease::HeldLease;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;
use tokio::runtime::Handle;

use crate::bay::{LockBay, Shared};
use crate::call::awaitable;
use crate::error::unknown;
use crate::job::seconds;
use crate::json::show;

/// Who leads, and whether it is this instance.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Leader(Arc<Shared>);

#[pymethods]
impl Leader {
    /// Whether this instance may believe that it leads. Never true when it may not.
    #[getter]
    fn is_leader(&self) -> bool {
        self.0.at_home().is_some_and(|(bay, _)| bay.is_leader())
    }

    /// The number of the election that this instance has won, while it leads.
    #[getter]
    fn term(&self) -> Option<u64> {
        self.0.at_home().and_then(|(bay, _)| bay.leadership().term())
    }

    /// Grows with every election: hand it to what only the leader may write to.
    #[getter]
    fn fencing_token(&self) -> Option<u64> {
        let fence = self.0.at_home().and_then(|(bay, _)| bay.leadership().fence())?;
        Some(fence.token.number())
    }

    /// Who leads; `None` if nobody does.
    fn current<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.leadership().current().await }, |py, who| show(py, &who))
    }

    /// Gives leadership up; another instance, or this one, is elected soon.
    fn resign<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.leadership().resign().await }, |py, ()| Ok(py.None()))
    }
}

#[pymethods]
impl LockBay {
    /// Leadership of this instance's service.
    #[getter]
    fn leader(&self) -> Leader {
        Leader(Arc::clone(&self.0))
    }

    /// A named lease: a distributed lock with a fencing token. Awaited or entered, it is taken, or
    /// `Held` is raised; it is renewed until it is released.
    #[pyo3(signature = (name, ttl=10.0, *, holder=None))]
    fn lease(
        &self,
        py: Python<'_>,
        name: String,
        ttl: f64,
        holder: Option<String>,
    ) -> PyResult<Lease> {
        let ttl = seconds(py, "ttl", Some(ttl))?.unwrap_or_default();
        Ok(Lease { shared: Arc::clone(&self.0), name, ttl, holder, held: Arc::default() })
    }
}

/// A lease that was taken, on its way to whoever asked for it. It is given back if it does not arrive.
struct Taken {
    lease: Option<HeldLease>,
    runtime: Handle,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            // If it cannot be given back it lapses.
            self.runtime.spawn(lease.release());
        }
    }
}

/// A named lease of this instance.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Lease {
    shared: Arc<Shared>,
    name: String,
    ttl: Duration,
    holder: Option<String>,
    held: Arc<Mutex<Option<HeldLease>>>,
}

#[pymethods]
impl Lease {
    /// Takes it. Who is cancelled meanwhile has not taken it.
    fn acquire<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static ACQUIRE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        ACQUIRE.import(slf.py(), "lockbay._loop", "acquire")?.call1((slf,))
    }

    /// A future of it, taken. Cancelled when it is done already, it has been taken all the same.
    fn _take<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, lease) = (slf.py(), slf.get());
        let bay = lease.shared.bay(py)?;
        let (name, ttl, held) = (lease.name.clone(), lease.ttl, Arc::clone(&lease.held));
        let holder = lease.holder.clone().or_else(|| bay.config().instance_name.clone());
        let this = slf.unbind().into_any();
        let runtime = crate::runtime::handle(py)?;
        let call = async move {
            let holder = holder.unwrap_or_else(|| bay.instance_id().to_owned());
            let releaser = runtime.clone();
            // Seen through also if nobody waits any more, because it may be taken by then.
            let taken = runtime.spawn(async move {
                let lease = bay.leases().hold(&name, &holder, ttl).await?;
                Ok(Taken { lease: Some(lease), runtime: releaser })
            });
            taken.await.unwrap_or_else(|_| Err(unknown("the lease may have been taken")))
        };
        awaitable(py, call, move |_, mut taken| {
            *held.lock() = taken.lease.take();
            Ok(this)
        })
    }

    /// Gives it up. Called again, it does nothing.
    fn release<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let held = self.held.lock().take();
        let call = async move {
            match held {
                Some(lease) => lease.release().await,
                None => Ok(()),
            }
        };
        awaitable(py, call, |py, ()| Ok(py.None()))
    }

    /// Whether it may be believed to be held.
    #[getter]
    fn held(&self) -> bool {
        self.held.lock().as_ref().is_some_and(|lease| lease.right().is_held())
    }

    /// Grows with every holder: hand it to what the lease protects.
    #[getter]
    fn fencing_token(&self) -> Option<u64> {
        self.held.lock().as_ref().map(|lease| lease.right().fence().token.number())
    }

    fn __aenter__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::acquire(slf)
    }

    fn __await__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::acquire(slf)?.call_method0("__await__")
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        _exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.release(py)
    }
}
