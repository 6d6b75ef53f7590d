//! Arrays of numbers as parts of a payload.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::element::Element;
use super::limits::DIMENSIONS_MAX;
use super::part::{Found, Owned, Sent};

/// An array of numbers anywhere in a payload, which travels beside the JSON, as an attachment, and not in
/// it. Its elements lie in C order: the last index changes first.
///
/// A tensor that is read by [`Json::decode_borrowed`](super::Json::decode_borrowed) borrows from the message
/// where its bytes are aligned for `T`, which all of the wire's tensors are in the memory of this crate as
/// far as the allocator aligns large blocks to 16 bytes, and is a copy elsewhere; see
/// [`data`](Self::data). [`Owned`] is always a copy, for types that outlive the message. Written by anything but
/// this crate, it becomes `{"$base64": "…", "dtype": "f32", "shape": [2, 3]}`, as peers without the extension
/// `binary` get it; that form can be read as well.
///
/// ```
/// use ipc_framework::{Json, Tensor};
///
/// let tensor = Tensor::new([2, 3], vec![0.0_f32, 1.0, 2.0, 3.0, 4.0, f32::NAN])?;
/// let json = Json::from_serialize(&("scores", tensor))?;
/// assert_eq!(json.as_str(), r#"["scores",null]"#);
/// let (_, read): (String, Tensor<'_, f32>) = json.decode_borrowed()?;
/// assert_eq!((read.shape(), read.data()[4]), (&[2, 3][..], 4.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Tensor<'a, T: Element> {
    shape: Vec<usize>,
    data: Cow<'a, [T]>,
}

impl<'a, T: Element> Tensor<'a, T> {
    /// Makes a tensor of a shape, the outermost dimension first, and its elements.
    ///
    /// # Errors
    /// If the number of elements is not the product of the shape, or it has more than 32 dimensions.
    pub fn new(
        shape: impl Into<Vec<usize>>,
        data: impl Into<Cow<'a, [T]>>,
    ) -> Result<Self, ShapeError> {
        let (shape, data) = (shape.into(), data.into());
        let count =
            shape.iter().try_fold(1_usize, |count, dimension| count.checked_mul(*dimension));
        if count != Some(data.len()) || shape.len() > DIMENSIONS_MAX {
            return Err(ShapeError { shape, elements: data.len() });
        }
        Ok(Self { shape, data })
    }

    /// Makes a tensor of one dimension.
    pub fn flat(data: impl Into<Cow<'a, [T]>>) -> Self {
        let data = data.into();
        Self { shape: vec![data.len()], data }
    }

    /// Returns the dimensions, the outermost one first. A single number has none.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the elements.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// Returns the shape and the elements, borrowed from the message or owned.
    pub fn into_parts(self) -> (Vec<usize>, Cow<'a, [T]>) {
        (self.shape, self.data)
    }

    /// Returns the same tensor without a borrow.
    pub fn into_owned(self) -> Tensor<'static, T> {
        Tensor { shape: self.shape, data: Cow::Owned(self.data.into_owned()) }
    }
}

/// The type and the shape; the elements may be many.
impl<T: Element> fmt::Debug for Tensor<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", T::DTYPE.name(), self.shape)
    }
}

/// A shape that does not describe the elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError {
    shape: Vec<usize>,
    elements: usize,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, elements } = self;
        write!(
            f,
            "the shape {shape:?} does not describe {elements} elements: its product has to be their \
             number, and it has at most {DIMENSIONS_MAX} dimensions"
        )
    }
}

impl std::error::Error for ShapeError {}

impl<T: Element> Serialize for Tensor<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shape: Vec<u64> = self.shape.iter().map(|dimension| *dimension as u64).collect();
        let data = T::to_wire(&self.data);
        Sent { dtype: Some(T::DTYPE), shape: &shape, data: &data }.write(serializer)
    }
}

impl<'de: 'a, 'a, T: Element> Deserialize<'de> for Tensor<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Found::read(deserializer)?;
        if found.dtype != Some(T::DTYPE) {
            let came = found.dtype.map_or("plain bytes", super::Dtype::name);
            let wanted = T::DTYPE.name();
            return Err(de::Error::custom(format_args!(
                "{came} where a tensor of {wanted} belongs"
            )));
        }
        let shape: Option<Vec<usize>> =
            found.shape.iter().map(|dimension| usize::try_from(*dimension).ok()).collect();
        let data = match found.data {
            Cow::Borrowed(bytes) => T::from_wire(bytes),
            Cow::Owned(bytes) => Cow::Owned(T::from_wire(&bytes).into_owned()),
        };
        Self::new(shape.unwrap_or_default(), data).map_err(de::Error::custom)
    }
}

impl<'de, T: Element> Deserialize<'de> for Owned<Tensor<'static, T>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Tensor::deserialize(deserializer).map(|tensor| Self(tensor.into_owned()))
    }
}
