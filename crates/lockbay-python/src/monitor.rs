//! Alerts, and what was measured over time.

use std::sync::Arc;

use lockbay::monitor::alert::rule::Rule;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::de::DeserializeOwned;

use crate::bay::{LockBay, Shared};
use crate::call::awaitable;
use crate::error::{Raise, invalid};
use crate::json::{show, to_json};

/// What is judged, and what fires.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Alerts(Arc<Shared>);

#[pymethods]
impl LockBay {
    /// What is judged, and what fires.
    #[getter]
    fn alerts(&self) -> Alerts {
        Alerts(Arc::clone(&self.0))
    }
}

#[pymethods]
impl Alerts {
    /// Every rule and how it stands.
    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.alerts().list(None).await }, |py, all| show(py, &all))
    }

    /// Every rule.
    fn rules<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.alerts().rules().await }, |py, rules| show(py, &rules))
    }

    /// Creates or replaces a rule, from fields as in HTTP; gives it as it is kept.
    #[pyo3(signature = (name, **fields))]
    fn put_rule<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        fields: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rule: Rule = named(py, "rule", name, fields)?;
        // Refused at once, whether or not the store is at hand.
        rule.check().or_raise(py)?;
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.alerts().put_rule(rule).await }, |py, rule| show(py, &rule))
    }

    /// Has a rule created or replaced now, if the instance is open, and whenever it is opened. What
    /// is wrong with it is raised at once.
    #[pyo3(signature = (name, **fields))]
    fn add_rule<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        fields: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rule: Rule = named(py, "rule", name, fields)?;
        rule.check().or_raise(py)?;
        let wish = move |bay: lockbay::LockBay| -> crate::bay::Told {
            let rule = rule.clone();
            Box::pin(async move { bay.alerts().put_rule(rule).await.map(drop) })
        };
        self.0.wish(py, format!("alert rule {name}"), Arc::new(wish))
    }

    /// Deletes a rule.
    fn delete_rule<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { bay.alerts().delete_rule(&name).await };
        awaitable(py, call, |py, ()| Ok(py.None()))
    }

    /// What a rule would have done over the last minutes.
    #[pyo3(signature = (name, minutes=60, **fields))]
    fn test_rule<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        minutes: u32,
        fields: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rule: Rule = named(py, "rule", name, fields)?;
        let bay = self.0.bay(py)?;
        let call = async move { bay.alerts().test(rule, minutes).await };
        awaitable(py, call, |py, test| show(py, &test))
    }
}

/// What is said by name, as one of the library's values.
pub(crate) fn named<T: DeserializeOwned>(
    py: Python<'_>,
    what: &str,
    name: &str,
    fields: Option<&Bound<'_, PyDict>>,
) -> PyResult<T> {
    let members = fields.map_or_else(|| Ok(PyDict::new(py)), |fields| fields.copy())?;
    members.set_item("name", name)?;
    let json = to_json(what, &members)?;
    // The library's own word for what is wrong with it.
    serde_json::from_str(json.text())
        .map_err(|error| invalid(py, format!("{what} {name:?}: {error}")))
}
