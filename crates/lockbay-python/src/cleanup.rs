//! Retention: what has ended goes, by rule.

use std::sync::Arc;

use lockbay::sweep::{Mode, Rule, RunRequest};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bay::{LockBay, Shared};
use crate::call::awaitable;
use crate::job::seconds;
use crate::json::show;
use crate::monitor::named;

/// Retention of a namespace.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Cleanup(Arc<Shared>);

#[pymethods]
impl LockBay {
    /// Retention: what has ended goes, by rule.
    #[getter]
    fn cleanup(&self) -> Cleanup {
        Cleanup(Arc::clone(&self.0))
    }
}

#[pymethods]
impl Cleanup {
    /// Cleans up now, wherever the leader is: all rules, or one, and only what a pattern matches.
    /// With `dry_run` it only tells what would go.
    #[pyo3(signature = (rule=None, *, pattern=None, dry_run=false, ttl=None))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        rule: Option<String>,
        pattern: Option<String>,
        dry_run: bool,
        ttl: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let mode = if dry_run { Mode::DryRun } else { Mode::Delete };
        let request = RunRequest { rule, pattern, mode, ttl: seconds(py, "ttl", ttl)? };
        awaitable(py, async move { bay.sweeper().run(request).await }, |py, report| {
            show(py, &report)
        })
    }

    /// Gives memory back that the store holds and does not use.
    fn optimize_memory<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { bay.sweeper().optimize_memory().await };
        awaitable(py, call, |py, report| show(py, &report))
    }

    /// Every rule.
    fn rules<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.sweeper().rules().await }, |py, rules| show(py, &rules))
    }

    /// Creates or replaces a rule, from fields as in HTTP.
    #[pyo3(signature = (name, **fields))]
    fn put_rule<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        fields: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rule: Rule = named(py, "rule", name, fields)?;
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.sweeper().put_rule(rule).await }, |py, ()| Ok(py.None()))
    }

    /// Has a rule created or replaced now, if the instance is open, and whenever it is opened.
    #[pyo3(signature = (name, **fields))]
    fn add_rule<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        fields: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rule: Rule = named(py, "rule", name, fields)?;
        let wish = move |bay: lockbay::LockBay| -> crate::bay::Told {
            let rule = rule.clone();
            Box::pin(async move { bay.sweeper().put_rule(rule).await })
        };
        self.0.wish(py, format!("retention rule {name}"), Arc::new(wish))
    }

    /// Deletes a rule.
    fn delete_rule<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { bay.sweeper().delete_rule(&name).await };
        awaitable(py, call, |py, ()| Ok(py.None()))
    }
}
