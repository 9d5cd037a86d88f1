//! Errors of the library as exceptions, and the other way round.
//!
//! The classes are in `lockbay/errors.py`, one for each kind. A coroutine that fails with one of
//! them inside of a handler is judged by its class; see [`failure`].

use lockbay::job::JobFailure;
use lockbay::saga::StepError;
use lockbay::{Error, ErrorKind, Result};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

/// Makes an error of the library the exception of its kind.
pub(crate) trait Raise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raise<T> for Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| raise(py, &error))
    }
}

/// The exception of an error.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let make = || -> PyResult<Bound<'_, PyAny>> {
        let class = class(py, error.kind().name())?;
        let options = PyDict::new(py);
        options.set_item("retry_after", error.retry_after().map(|after| after.as_secs_f64()))?;
        class.call((error.to_string(),), Some(&options))
    };
    make().map_or_else(|failed| failed, PyErr::from_value)
}

/// The exception that refuses a value.
pub(crate) fn invalid(py: Python<'_>, message: impl Into<String>) -> PyErr {
    raise(py, &Error::invalid(message.into()))
}

fn class<'py>(py: Python<'py>, kind: &str) -> PyResult<Bound<'py, PyAny>> {
    static CLASSES: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASSES.import(py, "lockbay.errors", "BY_KIND")?.get_item(kind)
}

/// What an exception says of itself: its class and its message.
pub(crate) fn told(py: Python<'_>, error: &PyErr) -> String {
    let kind = error.get_type(py).name().map_or_else(|_| "?".into(), |name| name.to_string());
    let text = error.value(py).str().map_or_else(|_| String::new(), |text| text.to_string());
    if text.is_empty() { kind } else { format!("{kind}: {text}") }
}

/// What a handler's exception means to a saga: without effect if it says so, else unknown.
/// `what` says for the log what failed.
pub(crate) fn step_error(py: Python<'_>, error: &PyErr, what: &str) -> StepError {
    match without_effect(py, error) {
        Some(retryable) => StepError::Failed { error: message(py, error), retryable },
        None => {
            report(py, what, error);
            StepError::unknown(told(py, error))
        }
    }
}

/// What a handler's exception means to a job: it may be tried again, unless it says not to.
/// `what` says for the log what failed.
pub(crate) fn job_failure(py: Python<'_>, error: &PyErr, what: &str) -> JobFailure {
    match without_effect(py, error) {
        Some(false) => JobFailure::permanent(message(py, error)),
        Some(true) => JobFailure::retryable(message(py, error)),
        None => {
            report(py, what, error);
            JobFailure::retryable(told(py, error))
        }
    }
}

/// Whether it is a `Failed`, and then whether another attempt may help.
fn without_effect(py: Python<'_>, error: &PyErr) -> Option<bool> {
    static FAILED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let failed = FAILED.import(py, "lockbay.errors", "Failed").ok()?;
    let value = error.value(py);
    if !value.is_instance(failed).unwrap_or(false) {
        return None;
    }
    let retryable = value.getattr(intern!(py, "retryable")).and_then(|flag| flag.is_truthy());
    Some(retryable.unwrap_or(false))
}

fn message(py: Python<'_>, error: &PyErr) -> String {
    error.value(py).str().map_or_else(|_| told(py, error), |text| text.to_string())
}

/// What is said of a call that nobody saw through.
pub(crate) fn unknown(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unknown, message.into())
}

/// Tells the application's log of an exception of its own code that is not raised to it, with where
/// it came from.
pub(crate) fn report(py: Python<'_>, what: &str, error: &PyErr) {
    static REPORT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let told = REPORT
        .import(py, "lockbay._loop", "report")
        .and_then(|report| report.call1((what, error.value(py))));
    if let Err(failed) = told {
        failed.write_unraisable(py, None);
    }
}

/// What is said where nobody leads, nothing is open, or the like.
pub(crate) fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, message.into())
}
