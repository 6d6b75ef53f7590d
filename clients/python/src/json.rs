//! JSON text to Python objects and back, by the accelerated `json` of the standard library.
//!
//! It is called once for each payload, on the text as it came. So programs see exactly what
//! `json.loads` returns: integers of any length, halves of surrogate pairs, the last of two equal
//! keys.

use ipc_framework::Json;
use pyo3::exceptions::{PyRecursionError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use crate::attachments;

const BLOCK_BYTES: usize = 64;

/// Returns the Python object for a JSON document, with its attachments in their places.
pub(crate) fn to_python<'py>(py: Python<'py>, json: &Json<'_>) -> PyResult<Bound<'py, PyAny>> {
    static DECODE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if let Some(plain) = plain_text(json.as_str()) {
        return Ok(PyString::new(py, plain).into_any());
    }
    let decode = DECODE.get_or_try_init(py, || {
        let decoder = py.import("json")?.getattr("JSONDecoder")?.call0()?;
        // This is the scanner of `json.loads` itself, because the text is known to be one document
        // without space around it.
        Ok::<_, PyErr>(decoder.getattr("scan_once")?.unbind())
    })?;
    let text = PyString::new(py, json.as_str());
    let payload = decode.bind(py).call1((text, 0))?.get_item(0)?;
    if json.attachments().is_empty() { Ok(payload) } else { attachments::place(payload, json) }
}

/// Returns the JSON document for a Python object.
///
/// # Errors
/// `TypeError` and `ValueError` as `json.dumps` raises them, with the path to the value that JSON
/// cannot say. NaN and infinities are such values, because parsers of other languages refuse them.
/// `ValueError` for documents that nest too deep for the peers.
pub(crate) fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Json<'static>> {
    match from_plain_text(value) {
        Some(json) => Ok(json),
        None => parse(
            attachments::refuse(|| encode(value)).map_err(|error| explain(value, error, false))?,
        ),
    }
}

/// Returns the payload of a message for a Python object: the JSON document, with bytes, arrays and
/// tensors as its attachments.
///
/// # Errors
/// As [`from_python`].
pub(crate) fn payload(value: &Bound<'_, PyAny>) -> PyResult<Json<'static>> {
    if let Some(json) = from_plain_text(value) {
        return Ok(json);
    }
    let encoded = attachments::collect(|| encode(value));
    let (text, found) = encoded.map_err(|error| explain(value, error, true))?;
    if found.is_empty() { parse(text) } else { attachments::payload(&text, found) }
}

fn encode(value: &Bound<'_, PyAny>) -> PyResult<String> {
    static ENCODE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let encode = ENCODE.get_or_try_init(py, || {
        let options = PyDict::new(py);
        options.set_item("allow_nan", false)?;
        options.set_item("separators", (",", ":"))?;
        options.set_item("default", py.import("ipc_framework._values")?.getattr("plain")?)?;
        let encoder = py.import("json")?.getattr("JSONEncoder")?.call((), Some(&options))?;
        Ok::<_, PyErr>(encoder.getattr("encode")?.unbind())
    })?;
    encode.bind(py).call1((value,))?.extract()
}

fn parse(text: String) -> PyResult<Json<'static>> {
    Json::parse(text).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Returns the JSON text that a payload would have on the wire.
///
/// # Errors
/// As [`from_python`].
#[pyfunction]
pub(crate) fn json_text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(from_python(value)?.as_str().to_owned())
}

/// Returns the inside of a JSON string that has no escapes.
fn plain_text(json: &str) -> Option<&str> {
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    (!inside.as_bytes().contains(&b'\\')).then_some(inside)
}

/// Returns the document for a string of printable ASCII without quotes and backslashes, which the
/// standard library only puts into quotes.
fn from_plain_text(value: &Bound<'_, PyAny>) -> Option<Json<'static>> {
    let text = value.cast_exact::<PyString>().ok()?.encode_utf8().ok()?;
    let bytes = text.as_bytes();
    let needs_escape = |byte: &u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
    // Without a way out of a block, it is looked at all at once.
    let is_plain = |block: &[u8]| !block.iter().fold(false, |is, byte| is | needs_escape(byte));
    if !bytes.chunks(BLOCK_BYTES).all(is_plain) {
        return None;
    }
    let mut json = String::with_capacity(bytes.len() + 2);
    json.push('"');
    json.push_str(std::str::from_utf8(bytes).ok()?);
    json.push('"');
    Json::parse(json).ok()
}

/// Returns whether an error is one of a payload. Others were raised by the handler of a signal meanwhile, such
/// as Ctrl-C or a time limit.
fn is_of_value(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyRecursionError>(py)
}

/// The standard library says what it found, but neither where nor what to do.
fn explain(value: &Bound<'_, PyAny>, error: PyErr, takes_attachments: bool) -> PyErr {
    let py = value.py();
    if !is_of_value(py, &error) {
        return error;
    }
    let what = error.value(py).to_string();
    let text = if error.is_instance_of::<PyRecursionError>(py) {
        format!("the payload cannot be sent as JSON ({what}); flatten it: peers take 127 levels")
    } else {
        let explained = py.import("ipc_framework._values").and_then(|values| {
            values.call_method1("explain", (value, takes_attachments))?.extract::<Option<String>>()
        });
        match explained {
            Ok(Some(explained)) => explained,
            Err(other) if !is_of_value(py, &other) => return other,
            _ => format!("the payload cannot be sent as JSON ({what})"),
        }
    };
    let told = if error.is_instance_of::<PyTypeError>(py) {
        PyTypeError::new_err(text)
    } else {
        PyValueError::new_err(text)
    };
    told.set_cause(py, Some(error));
    told
}
