//! A step of sagas that is written as functions: `@bay.step("name")`.
//!
//! What that decorator makes is the step. It is called like the function, takes the functions that
//! undo it and find out about it, and may stand among the steps of a saga. Who calls it when is the
//! business of `saga.rs`.

use std::sync::Arc;

use lockbay::Json;
use lockbay::saga::StepSpec;
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::bay::{LockBay, Shared};
use crate::error::{Raise, invalid};
use crate::saga::Handler;

#[pymethods]
impl LockBay {
    /// Makes a function the step of this name in this process; it is called with one `StepCall`.
    /// Without a function, gives what takes one: `@bay.step("reserve")`.
    #[pyo3(signature = (name, execute=None))]
    fn step<'py>(
        slf: &Bound<'py, Self>,
        name: String,
        execute: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let Some(execute) = execute else {
            let make = slf.getattr(intern!(py, "step"))?;
            return py.import("functools")?.getattr("partial")?.call1((make, name));
        };
        let functions = Functions { execute: callable(execute)?, compensate: None, probe: None };
        let shared = Arc::clone(&slf.get().0);
        let step = Step { shared, name, functions: Mutex::new(functions) };
        step.register(py)?;
        Bound::new(py, step).map(Bound::into_any)
    }
}

/// A step that is written as functions.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Step {
    shared: Arc<Shared>,
    name: String,
    functions: Mutex<Functions>,
}

#[derive(Clone)]
struct Functions {
    execute: Arc<Py<PyAny>>,
    compensate: Option<Arc<Py<PyAny>>>,
    probe: Option<Arc<Py<PyAny>>>,
}

#[pymethods]
impl Step {
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Makes a function what undoes the step, and gives it back.
    fn compensate<'py>(&self, function: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.functions.lock().compensate = Some(callable(function.clone())?);
        self.register(function.py())?;
        Ok(function)
    }

    /// Makes a function what finds out whether the step was done, and gives it back. It returns the
    /// result, or `NOT_DONE`.
    fn probe<'py>(&self, function: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.functions.lock().probe = Some(callable(function.clone())?);
        self.register(function.py())?;
        Ok(function)
    }

    /// Calls the function, outside of any saga.
    #[pyo3(signature = (*arguments, **keywords))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        arguments: &Bound<'py, PyTuple>,
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let execute = Arc::clone(&self.functions.lock().execute);
        execute.bind(py).call(arguments, keywords)
    }

    fn __repr__(&self) -> String {
        format!("<Step {:?}>", self.name)
    }
}

impl Step {
    fn register(&self, py: Python<'_>) -> PyResult<()> {
        let Functions { execute, compensate, probe } = self.functions.lock().clone();
        let handler = Handler::of_functions(execute, compensate, probe);
        self.shared.put_handler(self.name.clone(), handler).or_raise(py)
    }

    /// It among the steps of a saga: without parameters, after the step before it.
    pub(crate) fn spec(&self) -> StepSpec {
        StepSpec::new(self.name.clone(), self.name.clone(), Json::null())
    }
}

fn callable(function: Bound<'_, PyAny>) -> PyResult<Arc<Py<PyAny>>> {
    if function.is_callable() {
        return Ok(Arc::new(function.unbind()));
    }
    let shown = function.repr()?;
    Err(invalid(function.py(), format!("a step is made of functions, and {shown} is none")))
}
