//! Values with versions, tags and times to live.

use std::sync::Arc;

use lockbay::ErrorKind;
use lockbay::state::{IfVersion, Invalidation, SetOptions, parse_version};
use pyo3::prelude::*;

use crate::bay::{LockBay, Shared};
use crate::call::{awaitable, awaitable_here};
use crate::error::Raise;
use crate::job::seconds;
use crate::json::{from_json, show, to_json};
use crate::mailbox::Mailbox;

/// The state of a namespace.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct State(Arc<Shared>);

#[pymethods]
impl LockBay {
    /// Values with versions, tags and times to live.
    #[getter]
    fn state(&self) -> State {
        State(Arc::clone(&self.0))
    }
}

#[pymethods]
impl State {
    /// The value of a key, or the default if there is none.
    #[pyo3(signature = (key, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: String,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable_here(
            &Mailbox::running(py)?,
            async move { bay.state().get(&key).await },
            move |py, found| match found {
                Some(found) => Ok(from_json(py, &found.value)?.unbind()),
                None => Ok(default.unwrap_or_else(|| py.None())),
            },
        )
    }

    /// A value with its version, tags and times, or `None`.
    fn entry<'py>(&self, py: Python<'py>, key: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable_here(
            &Mailbox::running(py)?,
            async move { bay.state().get(&key).await },
            |py, found| match found {
                Some(found) => show(py, &*found),
                None => Ok(py.None()),
            },
        )
    }

    /// Sets a value and invalidates what depends on it; gives its version. `if_version` is the
    /// version that must be there, or `"absent"`.
    #[pyo3(signature = (key, value, *, ttl=None, tags=None, source=None, if_version=None))]
    #[allow(clippy::too_many_arguments)] // by keyword, most of them
    fn set<'py>(
        &self,
        py: Python<'py>,
        key: String,
        value: &Bound<'py, PyAny>,
        ttl: Option<f64>,
        tags: Option<Vec<String>>,
        source: Option<String>,
        if_version: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let value = to_json("value", value)?;
        let if_version = match if_version {
            None => IfVersion::Any,
            Some("absent") => IfVersion::Absent,
            Some(version) => parse_version(version).or_raise(py)?,
        };
        let ttl = seconds(py, "ttl", ttl)?;
        let options = SetOptions { ttl, tags: tags.unwrap_or_default(), source, if_version };
        awaitable(py, async move { bay.state().set(&key, value, options).await }, |py, written| {
            Ok(written.version.into_pyobject(py)?.into_any().unbind())
        })
    }

    /// Deletes a value; whether there was one.
    fn delete<'py>(&self, py: Python<'py>, key: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        awaitable(py, async move { bay.state().delete(&key).await }, |py, was| {
            Ok(was.into_pyobject(py)?.to_owned().into_any().unbind())
        })
    }

    /// Invalidates keys, tags, a pattern, and whatever follows; how many.
    #[pyo3(signature = (*, keys=None, tags=None, pattern=None, updated_key=None, reason=None))]
    #[allow(clippy::too_many_arguments)] // by keyword, each of them
    fn invalidate<'py>(
        &self,
        py: Python<'py>,
        keys: Option<Vec<String>>,
        tags: Option<Vec<String>>,
        pattern: Option<String>,
        updated_key: Option<String>,
        reason: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let wish = Invalidation {
            keys: keys.unwrap_or_default(),
            tags: tags.unwrap_or_default(),
            pattern,
            updated_key,
            reason,
        };
        awaitable(py, async move { bay.state().invalidate(&wish).await }, |py, done| {
            Ok(done.invalidated.into_pyobject(py)?.into_any().unbind())
        })
    }

    /// What is invalidated when a key of this form changes.
    fn put_rule<'py>(
        &self,
        py: Python<'py>,
        name: String,
        update_pattern: String,
        invalidate_patterns: Vec<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let rule = lockbay::state::Rule { name, update_pattern, invalidate_patterns };
        awaitable(py, async move { bay.state().put_rule(rule).await }, |py, ()| Ok(py.None()))
    }

    /// Has a rule put now, if the instance is open, and whenever it is opened.
    fn add_rule<'py>(
        &self,
        py: Python<'py>,
        name: String,
        update_pattern: String,
        invalidate_patterns: Vec<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let about = format!("what follows from changes, {name}");
        let rule = lockbay::state::Rule { name, update_pattern, invalidate_patterns };
        let wish = move |bay: lockbay::LockBay| -> crate::bay::Told {
            let rule = rule.clone();
            Box::pin(async move { bay.state().put_rule(rule).await })
        };
        self.0.wish(py, about, Arc::new(wish))
    }

    /// Deletes a rule.
    fn delete_rule<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move {
            if bay.state().delete_rule(&name).await? {
                return Ok(());
            }
            Err(lockbay::Error::new(ErrorKind::NotFound, format!("there is no rule {name:?}")))
        };
        awaitable(py, call, |py, ()| Ok(py.None()))
    }

    /// Says on which other keys a key depends; it goes when they change.
    fn set_dependencies<'py>(
        &self,
        py: Python<'py>,
        key: String,
        depends_on: Vec<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bay = self.0.bay(py)?;
        let call = async move { bay.state().set_depends_on(&key, &depends_on).await };
        awaitable(py, call, |py, ()| Ok(py.None()))
    }
}
