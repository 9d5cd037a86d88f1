//! Python values as JSON and back, without loss.
//!
//! What JSON has a form for is written in that form, numbers by their exact text. `Decimal`,
//! `datetime`, `date` and `UUID` are written as strings, dataclasses as objects, members of an
//! `Enum` by their value. Whatever else there is, and numbers that are none, are refused with the
//! place where they stand, before anything is done.
//!
//! What comes back is JSON: whole numbers of any size as `int`; others as `float` where that is the
//! same number, and as `Decimal` where it is not.

use lockbay::{Error, Json};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};

use crate::error::{Raise, invalid};

/// How deep a value may be nested. A value that contains itself is deeper than anything.
const MAX_DEPTH: usize = 100;

/// A Python value as JSON. `what` says in an error what it is.
pub(crate) fn to_json(what: &str, value: &Bound<'_, PyAny>) -> PyResult<Json> {
    let mut writer = Writer { text: String::new(), what, path: Vec::new() };
    writer.value(value)?;
    Json::parse(writer.text).or_raise(value.py())
}

/// The same of nothing as nothing.
pub(crate) fn to_optional(what: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Json> {
    value.map_or_else(|| Ok(Json::null()), |value| to_json(what, value))
}

/// JSON as a Python value.
pub(crate) fn from_json<'py>(py: Python<'py>, json: &Json) -> PyResult<Bound<'py, PyAny>> {
    from_text(py, json.text())
}

/// A value as the text of its JSON, for integrations that keep it in a store of their own.
#[pyfunction]
pub(crate) fn to_text(what: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(to_json(what, value)?.text().to_owned())
}

/// The value of a text of JSON.
#[pyfunction]
#[pyo3(name = "from_text")]
pub(crate) fn value_of<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    from_text(py, text)
}

/// What can be written as JSON, as a Python value.
pub(crate) fn show(py: Python<'_>, value: &impl serde::Serialize) -> PyResult<Py<PyAny>> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|error| Error::invalid(error.to_string())).or_raise(py)?;
    from_text(py, &text).map(Bound::unbind)
}

fn from_text<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    static DECODE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if text == "null" {
        return Ok(py.None().into_bound(py));
    }
    let decode = DECODE.get_or_try_init(py, || {
        let options = PyDict::new(py);
        options.set_item("parse_float", wrap_pyfunction!(exact_number, py)?)?;
        let decoder = py.import("json")?.getattr("JSONDecoder")?.call((), Some(&options))?;
        decoder.getattr("decode").map(Bound::unbind)
    })?;
    decode.bind(py).call1((text,))
}

/// A number with a point or an exponent: a float if that says the same, else a decimal.
#[pyfunction]
fn exact_number<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    static DECIMAL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let float = text.parse::<f64>().ok().filter(|float| float.is_finite());
    if let Some(float) = float.filter(|float| digits(text) == digits(&float.to_string())) {
        return Ok(PyFloat::new(py, float).into_any());
    }
    DECIMAL.import(py, "decimal", "Decimal")?.call1((text,))
}

/// The significant digits of a number, and the power of ten of the last of them.
fn digits(text: &str) -> (bool, String, i64) {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let significant = all.trim_end_matches('0');
    let dropped = all.len() - significant.len();
    // A number whose exponent does not fit is no float either.
    let exponent = exponent.parse::<i64>().unwrap_or(i64::MAX / 2);
    let moved = i64::try_from(dropped).unwrap_or(0) - i64::try_from(fraction.len()).unwrap_or(0);
    let significant = significant.trim_start_matches('0').to_owned();
    let power = if significant.is_empty() { 0 } else { exponent.saturating_add(moved) };
    (negative, significant, power)
}

/// Writes a value, and knows where in it it is.
struct Writer<'a> {
    text: String,
    what: &'a str,
    path: Vec<String>,
}

impl Writer<'_> {
    fn value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.path.len() > MAX_DEPTH {
            self.path.truncate(3);
            return Err(self.refuse(value, &format!("it is nested deeper than {MAX_DEPTH}")));
        }
        if value.is_none() {
            self.text.push_str("null");
        } else if let Ok(value) = value.cast_exact::<PyString>() {
            self.string(value)?;
        } else if let Ok(value) = value.cast_exact::<PyBool>() {
            self.text.push_str(if value.is_true() { "true" } else { "false" });
        } else if let Ok(value) = value.cast_exact::<PyInt>() {
            self.whole(value)?;
        } else if let Ok(float) = value.cast_exact::<PyFloat>() {
            self.float(float)?;
        } else if let Ok(value) = value.cast::<PyDict>() {
            self.dict(value)?;
        } else if let Ok(value) = value.cast::<PyList>() {
            self.items(value.iter())?;
        } else if let Ok(value) = value.cast::<PyTuple>() {
            self.items(value.iter())?;
        } else {
            self.other(value)?;
        }
        Ok(())
    }

    fn string(&mut self, value: &Bound<'_, PyString>) -> PyResult<()> {
        let Ok(text) = value.to_str() else {
            return Err(self.refuse(value, "it is no Unicode text: it has a lone surrogate"));
        };
        // Text as JSON is always text.
        self.text.push_str(&serde_json::to_string(text).unwrap_or_default());
        Ok(())
    }

    fn whole(&mut self, value: &Bound<'_, PyInt>) -> PyResult<()> {
        let Ok(digits) = value.str() else {
            return Err(self.refuse(value, "it has more digits than Python reads back"));
        };
        self.text.push_str(digits.to_str()?);
        Ok(())
    }

    fn float(&mut self, value: &Bound<'_, PyFloat>) -> PyResult<()> {
        let float = value.value();
        if !float.is_finite() {
            return Err(self.refuse(value, "JSON has no such number"));
        }
        self.text.push_str(&serde_json::to_string(&float).unwrap_or_default());
        Ok(())
    }

    fn dict(&mut self, value: &Bound<'_, PyDict>) -> PyResult<()> {
        self.text.push('{');
        // A list of its own: what is called to write a value may change the dict.
        for (place, pair) in value.items().iter().enumerate() {
            let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair.extract()?;
            if place > 0 {
                self.text.push(',');
            }
            let Ok(name) = key.cast::<PyString>() else {
                return Err(self.refuse(&key, "a key of an object is text"));
            };
            self.string(name)?;
            self.text.push(':');
            self.path.push(format!(".{}", name.to_string_lossy()));
            self.value(&value)?;
            self.path.pop();
        }
        self.text.push('}');
        Ok(())
    }

    fn items<'py>(&mut self, items: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<()> {
        self.text.push('[');
        for (place, item) in items.enumerate() {
            if place > 0 {
                self.text.push(',');
            }
            self.path.push(format!("[{place}]"));
            self.value(&item)?;
            self.path.pop();
        }
        self.text.push(']');
        Ok(())
    }

    fn other(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        let kinds = Kinds::get(py)?;
        let is = |kind: &Py<PyType>| value.is_instance(kind.bind(py));
        if is(&kinds.enumeration)? {
            self.value(&value.getattr(intern!(py, "value"))?)
        } else if let Ok(value) = value.cast::<PyString>() {
            self.string(value)
        } else if let Ok(value) = value.cast::<PyInt>() {
            self.value(&py.get_type::<PyInt>().call1((value,))?)
        } else if let Ok(value) = value.cast::<PyFloat>() {
            self.float(value)
        } else if is(&kinds.decimal)? {
            if !value.call_method0(intern!(py, "is_finite"))?.is_truthy()? {
                return Err(self.refuse(value, "it is no number"));
            }
            self.string(&value.str()?)
        } else if is(&kinds.date)? {
            // A datetime is a date as well.
            self.string(value.call_method0(intern!(py, "isoformat"))?.cast::<PyString>()?)
        } else if is(&kinds.uuid)? {
            self.string(&value.str()?)
        } else if kinds.is_dataclass(value)? {
            self.dataclass(value)
        } else {
            let known = "None, bool, int, float, str, dict, list, tuple, Decimal, datetime, date, \
                         UUID, Enum and dataclasses can be written";
            Err(self.refuse(value, known))
        }
    }

    /// Field by field, because a field may hold what only this knows to write.
    fn dataclass(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        static FIELDS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = value.py();
        let fields = FIELDS.import(py, "dataclasses", "fields")?.call1((value,))?;
        let members = PyDict::new(py);
        for field in fields.try_iter()? {
            let name = field?.getattr(intern!(py, "name"))?.cast_into::<PyString>()?;
            members.set_item(&name, value.getattr(&name)?)?;
        }
        self.dict(&members)
    }

    fn refuse(&self, value: &Bound<'_, PyAny>, why: &str) -> PyErr {
        let kind = value.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
        let mut shown = value.repr().map_or_else(|_| "?".into(), |text| text.to_string());
        if let Some((end, _)) = shown.char_indices().nth(60) {
            shown.truncate(end);
            shown.push('…');
        }
        let place = format!("{}{}", self.what, self.path.concat());
        invalid(value.py(), format!("{place} cannot be written as JSON: {why}: {kind} {shown}"))
    }
}

/// The types that are written in a way of their own.
struct Kinds {
    enumeration: Py<PyType>,
    decimal: Py<PyType>,
    date: Py<PyType>,
    uuid: Py<PyType>,
}

impl Kinds {
    fn get(py: Python<'_>) -> PyResult<&Self> {
        static KINDS: PyOnceLock<Kinds> = PyOnceLock::new();
        KINDS.get_or_try_init(py, || {
            let kind = |module: &str, name: &str| -> PyResult<Py<PyType>> {
                Ok(py.import(module)?.getattr(name)?.cast_into::<PyType>()?.unbind())
            };
            Ok(Kinds {
                enumeration: kind("enum", "Enum")?,
                decimal: kind("decimal", "Decimal")?,
                date: kind("datetime", "date")?,
                uuid: kind("uuid", "UUID")?,
            })
        })
    }

    fn is_dataclass(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let is_type = value.is_instance_of::<PyType>();
        Ok(!is_type && value.hasattr(intern!(value.py(), "__dataclass_fields__"))?)
    }
}
