//! Bytes as a part of a payload.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::part::{Found, Owned, Sent};

/// Bytes anywhere in a payload, which travel beside the JSON, as an attachment, and not in it.
///
/// A blob that is read by [`Json::decode_borrowed`](super::Json::decode_borrowed) borrows from the message.
/// [`Owned`] makes a copy, for types that outlive it. Written by anything but this crate, it becomes
/// `{"$base64": "…", "dtype": null, "shape": null}`, as peers without the extension `binary` get it; that
/// form can be read as well.
///
/// ```
/// use ipc_framework::{Blob, Json};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Upload<'a> {
///     name: &'a str,
///     #[serde(borrow)]
///     image: Blob<'a>,
/// }
///
/// let upload = Upload { name: "cat.jpg", image: Blob::new(&b"\xff\xd8"[..]) };
/// let json = Json::from_serialize(&upload)?;
/// assert_eq!(json.as_str(), r#"{"name":"cat.jpg","image":null}"#);
/// let read: Upload<'_> = json.decode_borrowed()?;
/// assert_eq!(*read.image, *b"\xff\xd8");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Blob<'a>(Cow<'a, [u8]>);

impl<'a> Blob<'a> {
    /// Takes a slice or a vector.
    pub fn new(bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the same bytes without a borrow.
    pub fn into_owned(self) -> Blob<'static> {
        Blob(Cow::Owned(self.0.into_owned()))
    }

    /// Returns the bytes, as they were borrowed or owned.
    pub fn into_inner(self) -> Cow<'a, [u8]> {
        self.0
    }
}

impl Deref for Blob<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Blob<'_> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<'a, T: Into<Cow<'a, [u8]>>> From<T> for Blob<'a> {
    fn from(bytes: T) -> Self {
        Self::new(bytes)
    }
}

/// The number of bytes; they may be many.
impl fmt::Debug for Blob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Sent { dtype: None, shape: &[], data: &self.0 }.write(serializer)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Blob<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Found::read(deserializer)?;
        match found.dtype {
            None => Ok(Self(found.data)),
            Some(dtype) => {
                let name = dtype.name();
                Err(de::Error::custom(format_args!("a tensor of {name} where plain bytes belong")))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Owned<Blob<'static>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Blob::deserialize(deserializer).map(|blob| Self(blob.into_owned()))
    }
}
