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
use pyo3::{PyTraverseError, PyVisit};

use crate::bay::LockBay;
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
        let execute = callable(execute)?;
        let functions = Functions { execute, compensate: None, probe: None, settle: None };
        let bay = slf.clone().unbind();
        let step = Step { bay, name, functions: Mutex::new(functions) };
        step.register(py)?;
        Bound::new(py, step).map(Bound::into_any)
    }
}

/// A step that is written as functions.
#[pyclass(frozen, module = "lockbay")]
pub(crate) struct Step {
    bay: Py<LockBay>,
    name: String,
    functions: Mutex<Functions>,
}

struct Functions {
    execute: Py<PyAny>,
    compensate: Option<Py<PyAny>>,
    probe: Option<Py<PyAny>>,
    settle: Option<Py<PyAny>>,
}

#[pymethods]
impl Step {
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Makes a function what undoes the step, and gives it back.
    fn compensate<'py>(&self, function: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.take(function, |functions| &mut functions.compensate)
    }

    /// Makes a function what finds out whether the step was done, and gives it back. It returns the
    /// result, or `NOT_DONE`.
    fn probe<'py>(&self, function: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.take(function, |functions| &mut functions.probe)
    }

    /// Makes a function what says which money moves when it was found out, or decided by a person,
    /// that the step was done; and gives it back.
    fn settle<'py>(&self, function: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.take(function, |functions| &mut functions.settle)
    }

    /// Calls the function, outside of any saga.
    #[pyo3(signature = (*arguments, **keywords))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        arguments: &Bound<'py, PyTuple>,
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let execute = self.functions.lock().execute.clone_ref(py);
        execute.bind(py).call(arguments, keywords)
    }

    fn __repr__(&self) -> String {
        format!("<Step {:?}>", self.name)
    }

    /// Functions often hold the instance, and so does this.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.bay)?;
        let Some(functions) = self.functions.try_lock() else { return Ok(()) };
        let Functions { execute, compensate, probe, settle } = &*functions;
        visit.call(execute)?;
        [compensate, probe, settle].into_iter().flatten().try_for_each(|it| visit.call(it))
    }
}

impl Step {
    fn take<'py>(
        &self,
        function: Bound<'py, PyAny>,
        place: impl FnOnce(&mut Functions) -> &mut Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let before = place(&mut self.functions.lock()).replace(callable(function.clone())?);
        // It may be the last who holds it, and what that ends may come here again.
        drop(before);
        self.register(function.py())?;
        Ok(function)
    }

    fn register(&self, py: Python<'_>) -> PyResult<()> {
        // References of their own: the collector counts those of this and of the registry apart.
        let handler = {
            let functions = self.functions.lock();
            let mine = |function: &Py<PyAny>| Arc::new(function.clone_ref(py));
            Handler::of_functions(
                mine(&functions.execute),
                functions.compensate.as_ref().map(mine),
                functions.probe.as_ref().map(mine),
                functions.settle.as_ref().map(mine),
            )
        };
        self.bay.get().0.put_handler(self.name.clone(), handler).or_raise(py)
    }

    /// It among the steps of a saga: without parameters, after the step before it.
    pub(crate) fn spec(&self) -> StepSpec {
        StepSpec::new(self.name.clone(), self.name.clone(), Json::null())
    }
}

fn callable(function: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    if function.is_callable() {
        return Ok(function.unbind());
    }
    let shown = function.repr()?;
    Err(invalid(function.py(), format!("a step is made of functions, and {shown} is none")))
}
