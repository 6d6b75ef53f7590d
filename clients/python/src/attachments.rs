//! Bytes, arrays and tensors of a payload: out of Python objects, and into them.
//!
//! Python's encoder of JSON asks [`attach`] for what stands in the place of each, which is a text
//! that no program can have in a payload. So the encoder alone walks the payload; afterwards the
//! texts are found in the JSON, with the way to each, and become the nulls of the wire.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ffi::c_int;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, OnceLock};

use ipc_framework::Json;
use ipc_framework::proto::{ATTACHMENTS_MAX, BytesOwner, Dtype, SharedAttachment};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyMemoryView, PyTuple};

use crate::aside::aside;

/// A smaller tensor is copied out of its message, so that it does not keep the whole of that in memory.
const VIEW_BYTES_MIN: usize = 16 << 10;

thread_local! {
    /// The attachments of the payload that this thread encodes; `None` where there may be none.
    static FOUND: RefCell<Option<Vec<Found>>> = const { RefCell::new(None) };
}

/// The bytes of an attachment, and what they stand for.
pub(crate) struct Found {
    data: BytesOwner,
    dtype: Option<Dtype>,
    shape: Vec<u64>,
}

/// Runs an encoder that may call [`attach`], and returns its result with what was attached.
pub(crate) fn collect<T>(encode: impl FnOnce() -> PyResult<T>) -> PyResult<(T, Vec<Found>)> {
    // Another payload may be encoded on this thread meanwhile, such as by the handler of a signal.
    let outer = FOUND.replace(Some(Vec::new()));
    let encoded = encode();
    let found = FOUND.replace(outer);
    Ok((encoded?, found.unwrap_or_default()))
}

/// Runs an encoder of JSON alone, whose calls of [`attach`] fail, and returns its result.
pub(crate) fn refuse<T>(encode: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    // It may run within the encoder of a payload, by a value of that or by the handler of a signal.
    let outer = FOUND.replace(None);
    let encoded = encode();
    FOUND.set(outer);
    encoded
}

/// Objects whose bytes never change.
#[derive(FromPyObject)]
pub(crate) enum Data<'py> {
    Received(Bound<'py, Memory>),
    Bytes(PyBackedBytes),
}

/// Adds an attachment to the payload that is being encoded. Returns the text for its place.
///
/// # Errors
/// `TypeError` where only JSON is sent, `ValueError` for an unknown type of elements.
#[pyfunction]
pub(crate) fn attach(data: Data<'_>, dtype: Option<&str>, shape: Vec<u64>) -> PyResult<String> {
    let known = |name| {
        Dtype::from_name(name).ok_or_else(|| PyValueError::new_err(format!("no dtype is {name}")))
    };
    let dtype = dtype.map(known).transpose()?;
    FOUND.with_borrow_mut(|found| {
        let found = found.as_mut().ok_or_else(|| PyTypeError::new_err("only JSON is sent here"))?;
        let number = found.len();
        let data = match data {
            Data::Received(memory) => Arc::clone(&memory.get().bytes),
            // It never changes. It is sent from there, and may be dropped without the GIL.
            Data::Bytes(bytes) => Arc::new(bytes),
        };
        found.push(Found { data, dtype, shape });
        Ok(format!("{}{number}", mark()))
    })
}

/// The beginning of the texts that stand for attachments, which is another one in each process.
fn mark() -> &'static str {
    static MARK: OnceLock<String> = OnceLock::new();
    MARK.get_or_init(|| {
        let random = || RandomState::new().build_hasher().finish();
        format!("attachment-{:016x}{:016x}-", random(), random())
    })
}

fn is_mark_of(string: &str, number: usize) -> bool {
    string.strip_prefix(mark()).is_some_and(|rest| rest == number.to_string())
}

/// Returns the payload for an encoded one: with nulls in place of the texts of [`attach`], and what was
/// attached.
///
/// # Errors
/// `ValueError` for an attachment to which no JSON Pointer leads, or if they are too many; or if the
/// payload nests too deep.
pub(crate) fn payload(json: &str, found: Vec<Found>) -> PyResult<Json<'static>> {
    let (text, pointers) = locate(json, found.len())?;
    let pairs = pointers.into_iter().zip(found);
    let attachments = pairs.map(|(pointer, found)| {
        let Found { data, dtype, shape } = found;
        SharedAttachment { pointer, dtype, shape, data }
    });
    let attachments: Vec<_> = attachments.collect();
    let json = Json::parse(text).and_then(|json| json.with_shared_attachments(&attachments));
    json.map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Replaces the texts by nulls, and returns the pointers to them.
fn locate(json: &str, count: usize) -> PyResult<(String, Vec<String>)> {
    if count > ATTACHMENTS_MAX {
        return Err(PyValueError::new_err(format!(
            "the payload has {count} values of bytes and arrays, and a message has at most \
             {ATTACHMENTS_MAX}; join some of them, such as by numpy.stack, or send several messages"
        )));
    }
    let (mut text, mut pointers) = (String::with_capacity(json.len()), Vec::new());
    let mut levels: Vec<Level<'_>> = Vec::new();
    let (mut at, mut copied) = (0, 0);
    while let Some(byte) = json.as_bytes().get(at) {
        match byte {
            b'{' => levels.push(Level::Object(Members::default())),
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' => {
                if let Some(Level::Object(members)) = levels.pop() {
                    members.check()?;
                }
            }
            b',' => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                Some(Level::Object(members)) => members.key = None,
                None => {}
            },
            b'"' => {
                let inside = at + 1..end_of_string(json, at + 1);
                at = inside.end;
                let string = &json[inside.clone()];
                match levels.last_mut() {
                    Some(Level::Object(members)) if members.key.is_none() => members.begin(string),
                    _ if is_mark_of(string, pointers.len()) => {
                        pointers.push(pointer(&mut levels)?);
                        text.push_str(&json[copied..inside.start - 1]);
                        text.push_str("null");
                        copied = inside.end + 1;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        at += 1;
    }
    if pointers.len() != count {
        return Err(PyValueError::new_err("another thread changed the payload; send a copy of it"));
    }
    text.push_str(&json[copied..]);
    Ok((text, pointers))
}

/// A container on the way to the value at hand.
enum Level<'a> {
    /// With the index of the element.
    Array(usize),
    Object(Members<'a>),
}

/// The members of an object so far. Their keys are JSON without the quotes.
#[derive(Default)]
struct Members<'a> {
    /// The key of the member at hand, once it has been read.
    key: Option<&'a str>,
    /// Those keys that Python may give twice: `1` and `"1"` are one key in JSON.
    literals: HashMap<&'a str, usize>,
    /// The keys that lead to attachments.
    leading: Vec<&'a str>,
}

impl<'a> Members<'a> {
    fn begin(&mut self, key: &'a str) {
        self.key = Some(key);
        let is_number = key.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        if is_number || matches!(key, "true" | "false" | "null") {
            *self.literals.entry(key).or_default() += 1;
        }
    }

    fn check(&self) -> PyResult<()> {
        let is_twice = |key: &&&str| self.literals.get(**key).is_some_and(|count| *count > 1);
        match self.leading.iter().find(is_twice) {
            None => Ok(()),
            Some(key) => Err(PyValueError::new_err(format!(
                "a dict of the payload has two keys that are \"{key}\" in JSON, and bytes or an \
                 array below it; rename one of them"
            ))),
        }
    }
}

/// Returns the JSON Pointer to the value at hand, and notes that its containers lead to one.
fn pointer(levels: &mut [Level<'_>]) -> PyResult<String> {
    let mut pointer = String::new();
    for level in levels {
        pointer.push('/');
        match level {
            Level::Array(index) => pointer.push_str(&index.to_string()),
            Level::Object(members) => {
                let key = members.key.unwrap_or_default();
                members.leading.push(key);
                let key = Json::parse(format!("\"{key}\"")).ok();
                let key = key.and_then(|key| key.decode::<String>().ok()).ok_or_else(|| {
                    PyValueError::new_err(
                        "a key that leads to bytes or an array is not Unicode; rename it",
                    )
                })?;
                for letter in key.chars() {
                    match letter {
                        '~' => pointer.push_str("~0"),
                        '/' => pointer.push_str("~1"),
                        other => pointer.push(other),
                    }
                }
            }
        }
    }
    Ok(pointer)
}

/// Returns where the string that begins here ends.
fn end_of_string(json: &str, mut at: usize) -> usize {
    let bytes = json.as_bytes();
    while let Some(length) = bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        at += length;
        if bytes[at] == b'"' {
            return at;
        }
        at += 2;
    }
    bytes.len()
}

/// Puts the attachments of a received message into their places in its payload.
///
/// # Errors
/// If an array cannot be made of one.
pub(crate) fn place<'py>(
    mut payload: Bound<'py, PyAny>,
    json: &Json<'_>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = payload.py();
    let mut shared = Vec::new();
    for (number, attachment) in json.attachments().iter().enumerate() {
        let value = match attachment.dtype {
            None => PyBytes::new(py, attachment.data).into_any(),
            Some(dtype) => {
                let data = if attachment.data.len() < VIEW_BYTES_MIN {
                    PyBytes::new(py, attachment.data).into_any()
                } else {
                    if shared.is_empty() {
                        shared = json.shared_attachments();
                    }
                    Bound::new(py, Memory { bytes: Arc::clone(&shared[number]) })?.into_any()
                };
                tensor(dtype, attachment.shape.iter().collect(), data)?
            }
        };
        put(&mut payload, &attachment.pointer, value)?;
    }
    Ok(payload)
}

/// Returns the object for a tensor: an array of `numpy`, or a `Tensor` where that has no such type. No code of
/// Python runs here, and so no handler of a signal, whose exception would seem to be one of the message.
fn tensor(dtype: Dtype, shape: Vec<u64>, data: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = data.py();
    let shape = PyTuple::new(py, shape)?;
    if let Some((array, of)) = type_of_numpy(py, dtype)? {
        return array.call1((shape, of, data));
    }
    let class = CLASS.get_or_try_init(py, || {
        let class = py.import("ipc_framework.tensors")?.getattr("Tensor")?;
        Ok::<_, PyErr>(class.unbind())
    })?;
    let class = class.bind(py);
    let tensor = class.getattr(intern!(py, "__new__"))?.call1((class,))?;
    tensor.setattr(intern!(py, "dtype"), dtype.name())?;
    tensor.setattr(intern!(py, "shape"), shape)?;
    tensor.setattr(intern!(py, "data"), PyMemoryView::from(&data)?)?;
    Ok(tensor)
}

type Class<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// Returns the class of arrays of `numpy` and its type of elements, if it has that.
fn type_of_numpy(py: Python<'_>, dtype: Dtype) -> PyResult<Option<Class<'_>>> {
    /// Both by the names of the wire; None for what was not there.
    static TYPES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let types = TYPES.get_or_init(py, || PyDict::new(py).unbind()).bind(py);
    let name = dtype.name();
    if let Some(known) = types.get_item(name)? {
        let module = if dtype == Dtype::Bf16 { "ml_dtypes" } else { "numpy" };
        // The program may have imported it since.
        if !known.is_none() || !is_imported(py, module)? {
            return known.extract();
        }
    }
    let found = aside(py, move |py| {
        let found = py.import("ipc_framework.tensors")?.call_method1("type_of_numpy", (name,))?;
        Ok(found.unbind())
    })?;
    types.set_item(name, &found)?;
    found.extract(py)
}

fn is_imported(py: Python<'_>, module: &str) -> PyResult<bool> {
    let modules = py.import("sys")?.getattr(intern!(py, "modules"))?;
    Ok(modules.cast::<PyDict>()?.get_item(module)?.is_some_and(|found| !found.is_none()))
}

fn put<'py>(
    payload: &mut Bound<'py, PyAny>,
    pointer: &str,
    value: Bound<'py, PyAny>,
) -> PyResult<()> {
    let Some((way, last)) = pointer.rsplit_once('/') else {
        *payload = value;
        return Ok(());
    };
    let mut container = payload.clone();
    for step in way.split('/').skip(1) {
        container = if let Ok(list) = container.cast::<PyList>() {
            list.get_item(step.parse()?)?
        } else {
            container.get_item(unescaped(step))?
        };
    }
    if let Ok(list) = container.cast::<PyList>() {
        list.set_item(last.parse()?, value)
    } else {
        container.set_item(unescaped(last), value)
    }
}

fn unescaped(step: &str) -> Cow<'_, str> {
    if step.contains('~') { step.replace("~1", "/").replace("~0", "~").into() } else { step.into() }
}

/// The bytes of a received tensor, where they are in the memory of its message. Nobody writes to them.
#[pyclass(frozen, module = "ipc_framework._native")]
pub(crate) struct Memory {
    bytes: BytesOwner,
}

#[pymethods]
impl Memory {
    /// Lends the bytes to whoever asks for the buffer of this object.
    ///
    /// # Safety
    /// Python calls it with a buffer to fill in.
    #[expect(unsafe_code, reason = "PyO3 has no safe way to export a buffer")]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        buffer: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let data = (*slf.get().bytes).as_ref();
        let is_read_only = 1;
        // SAFETY: `buffer` is valid. It keeps this object alive, and so the bytes, which never move and
        // never change; Python does not write to what is read-only.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                buffer,
                slf.as_ptr(),
                data.as_ptr().cast_mut().cast(),
                data.len().cast_signed(),
                is_read_only,
                flags,
            )
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
