//! How a [`Blob`](super::Blob) and a [`Tensor`](super::Tensor) pass through serde.
//!
//! Both are newtype structs of one name, by which the serializer and the deserializer of this crate
//! recognise them. In between they are a head, which names the type and the shape, and the data, each as
//! bytes. In formats for people they are objects with the data as base64.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut};

use base64::Engine;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct, SerializeTuple, Serializer};

use super::dtype::Dtype;

#[cfg(test)]
mod tests;

/// The name of the newtype struct.
pub(super) const NAME: &str = "$ipc_framework::attachment";

/// The members in formats for people, as the server writes them for peers without `binary`.
pub(super) const MEMBERS: [&str; 3] = ["$base64", "dtype", "shape"];

/// A [`Blob`](super::Blob) or [`Tensor`](super::Tensor) that is read as a copy, so that it does not borrow from
/// its message.
///
/// ```
/// use ipc_framework::{Blob, Json, Owned};
///
/// fn read(json: &Json<'_>) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
///     let Owned(blob) = json.decode::<Owned<Blob<'static>>>()?;
///     Ok(blob.into_inner().into_owned())
/// }
/// let json = Json::from_serialize(&Blob::new(vec![1, 2]))?;
/// assert_eq!(read(&json)?, [1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owned<T>(pub T);

impl<T> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Owned<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Serialize> Serialize for Owned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A part on its way out.
#[derive(Clone, Copy)]
pub(super) struct Sent<'a> {
    pub(super) dtype: Option<Dtype>,
    pub(super) shape: &'a [u64],
    pub(super) data: &'a [u8],
}

impl Sent<'_> {
    pub(super) fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(NAME, self)
    }
}

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            let mut pair = serializer.serialize_tuple(2)?;
            pair.serialize_element(&Bytes(head(self.dtype, self.shape).into()))?;
            pair.serialize_element(&Bytes(self.data.into()))?;
            return pair.end();
        }
        let [base64, dtype, shape] = MEMBERS;
        let mut object = serializer.serialize_struct(NAME, 3)?;
        object.serialize_field(base64, &Base64(self.data))?;
        object.serialize_field(dtype, &self.dtype.map(Dtype::name))?;
        object.serialize_field(shape, &self.dtype.map(|_| self.shape))?;
        object.end()
    }
}

/// Bytes as base64, written without a text in between.
pub(super) struct Base64<'a>(pub(super) &'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

pub(super) fn to_base64(data: &[u8]) -> String {
    STANDARD.encode(data)
}

/// Returns the bytes of a base64 text.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// The place of the type in [`Dtype::ALL`], and the dimensions.
pub(super) fn head(dtype: Option<Dtype>, shape: &[u64]) -> Vec<u8> {
    let at = Dtype::ALL.iter().position(|known| Some(*known) == dtype);
    let mut head = vec![at.map_or(NO_DTYPE, |at| at as u8)];
    head.extend(shape.iter().flat_map(|dimension| dimension.to_le_bytes()));
    head
}

pub(super) fn read_head(head: &[u8]) -> Option<(Option<Dtype>, Vec<u64>)> {
    let (first, rest) = head.split_first()?;
    let dtype = Dtype::ALL.get(usize::from(*first)).copied();
    let (dimensions, rest) = rest.as_chunks::<8>();
    let shape = dimensions.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let is_known = dtype.is_some() || *first == NO_DTYPE;
    (is_known && rest.is_empty()).then_some((dtype, shape))
}

const NO_DTYPE: u8 = u8::MAX;

/// Bytes that stay bytes in any format.
struct Bytes<'a>(Cow<'a, [u8]>);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Take;

        impl<'de> Visitor<'de> for Take {
            type Value = Bytes<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Bytes<'de>, E> {
                Ok(Bytes(bytes.into()))
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes<'de>, E> {
                Ok(Bytes(bytes.to_vec().into()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes<'de>, E> {
                Ok(Bytes(bytes.into()))
            }
        }

        deserializer.deserialize_bytes(Take)
    }
}

/// A part that was read.
pub(super) struct Found<'a> {
    pub(super) dtype: Option<Dtype>,
    pub(super) shape: Vec<u64>,
    pub(super) data: Cow<'a, [u8]>,
}

impl<'de> Found<'de> {
    pub(super) fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(NAME, Take)
    }
}

struct Take;

impl<'de> Visitor<'de> for Take {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attachment, or the object with \"$base64\" in place of one")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Found<'de>, D::Error> {
        if inner.is_human_readable() {
            inner.deserialize_map(self)
        } else {
            inner.deserialize_tuple(2, self)
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Found<'de>, A::Error> {
        let mut next = || {
            let bytes = pair.next_element::<Bytes<'de>>()?;
            bytes.ok_or_else(|| de::Error::custom("an attachment has a head and data"))
        };
        let (Bytes(head), Bytes(data)) = (next()?, next()?);
        let (dtype, shape) =
            read_head(&head).ok_or_else(|| de::Error::custom("the head of no attachment"))?;
        Ok(Found { dtype, shape, data })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Found<'de>, A::Error> {
        let (mut data, mut dtype, mut shape) = (None, None, None);
        while let Some(key) = members.next_key::<Cow<'de, str>>()? {
            match MEMBERS.iter().position(|name| *name == key) {
                Some(0) => {
                    let text: Cow<'de, str> = members.next_value()?;
                    let bytes = from_base64(&text);
                    data = Some(bytes.ok_or_else(|| de::Error::custom("the text is no base64"))?);
                }
                Some(1) => {
                    let name: Option<Cow<'de, str>> = members.next_value()?;
                    let known = |name: Cow<'_, str>| {
                        let unknown = || de::Error::custom("the dtype is unknown");
                        Dtype::from_name(&name).ok_or_else(unknown)
                    };
                    dtype = name.map(known).transpose()?;
                }
                Some(_) => shape = members.next_value::<Option<Vec<u64>>>()?,
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        let data = data.ok_or_else(|| de::Error::missing_field(MEMBERS[0]))?;
        Ok(Found { dtype, shape: shape.unwrap_or_default(), data: data.into() })
    }
}
