//! The attachments of a value that is being written.
//!
//! The text is written without a thought of them: in the place of each stands a string, the marker. Only
//! when a text has any, it is read again, each marker becomes `null`, and the way to it its pointer.

use std::collections::HashSet;
use std::fmt;

use serde::ser::{self, Impossible, Serialize, SerializeTuple, Serializer};

use super::super::attachments::layout::padding;
use super::super::attachments::outgoing::{NewAttachment, append_bin};
use super::super::carried::Carried;
use super::super::dtype::Dtype;
use super::super::fault::Fault;
use super::super::leaves;
use super::super::part;

/// The attachments so far, in the order of their places.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The string that stands for each in the text, with its quotes.
    marker: String,
    /// The bytes of all, each with its padding.
    tail: Vec<u8>,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    dtype: Option<Dtype>,
    shape: Vec<u64>,
    start: usize,
    bytes: usize,
}

const MARKER: &str = "$ipc_framework attachment ";

impl Draft {
    /// `number` makes the marker another one.
    pub(crate) fn new(number: u64) -> Self {
        Self { marker: format!("\"{MARKER}{number}\""), tail: Vec::new(), parts: Vec::new() }
    }

    /// Returns the marker without its quotes.
    pub(super) fn marker(&self) -> &str {
        &self.marker[1..self.marker.len() - 1]
    }

    /// Returns the bytes of all.
    pub(crate) fn bytes(&self) -> usize {
        self.tail.len()
    }

    pub(crate) fn push(&mut self, dtype: Option<Dtype>, shape: Vec<u64>, data: &[u8]) {
        let (start, bytes) = (self.tail.len(), data.len());
        let zeros = padding(bytes);
        self.tail.reserve(bytes + zeros.len());
        self.tail.extend_from_slice(data);
        self.tail.extend_from_slice(zeros);
        self.parts.push(Part { dtype, shape, start, bytes });
    }

    /// Takes in a [`Blob`](super::super::Blob) or a [`Tensor`](super::super::Tensor).
    pub(super) fn take<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotOne> {
        value.serialize(Capture { draft: self, head: None })
    }

    /// Returns the text with `null` for each marker, and the attachments. `Err` is a number for a
    /// marker that is no part of the text: this one is, beside those that were written for attachments.
    pub(crate) fn finish(self, text: &str) -> Result<(String, Finished), u64> {
        let mut pointers = Vec::with_capacity(self.parts.len());
        let mut cleared = String::with_capacity(text.len());
        let mut written = 0;
        leaves::each(text, |path, at| {
            if text.get(at..)?.starts_with(&self.marker) {
                pointers.push(path.pointer());
                cleared.push_str(&text[written..at]);
                cleared.push_str("null");
                written = at + self.marker.len();
                return Some(written);
            }
            None
        });
        if pointers.len() != self.parts.len() {
            return Err(unused_number(text));
        }
        cleared.push_str(&text[written..]);
        Ok((cleared, self.settle(&pointers)))
    }

    /// Returns the attachments in the places to which these pointers lead.
    pub(crate) fn settle(self, pointers: &[String]) -> Finished {
        let parts = self.parts.iter().zip(pointers);
        let new: Vec<_> = parts
            .map(|(part, pointer)| NewAttachment {
                pointer,
                dtype: part.dtype,
                shape: &part.shape,
                data: &self.tail[part.start..part.start + part.bytes],
            })
            .collect();
        let mut bin = Vec::new();
        append_bin(&new, &mut bin)?;
        Ok(Box::new(Carried::of(bin, self.tail, self.parts.len())))
    }
}

/// Attachments with their places, or the fault of one that no peer would take.
type Finished = Result<Box<Carried<'static>>, Fault>;

fn unused_number(text: &str) -> u64 {
    let digits =
        |rest: &str| rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok();
    let used: HashSet<u64> = text.split(MARKER).skip(1).filter_map(digits).collect();
    (0..=used.len() as u64).find(|number| !used.contains(number)).unwrap_or_default()
}

/// The value is no attachment, although it has the name of one.
#[derive(Debug)]
pub(super) struct NotOne;

impl fmt::Display for NotOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is the name of attachments alone", part::NAME)
    }
}

impl std::error::Error for NotOne {}

impl ser::Error for NotOne {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self
    }
}

/// Takes the head and the data of a part, which are written as two byte strings.
struct Capture<'a> {
    draft: &'a mut Draft,
    head: Option<Vec<u8>>,
}

impl SerializeTuple for Capture<'_> {
    type Ok = ();
    type Error = NotOne;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotOne> {
        value.serialize(Element(self))
    }

    fn end(self) -> Result<(), NotOne> {
        Ok(())
    }
}

/// Takes one of the two.
struct Element<'c, 'a>(&'c mut Capture<'a>);

impl Element<'_, '_> {
    fn take(self, bytes: &[u8]) -> Result<(), NotOne> {
        match self.0.head.take() {
            None => self.0.head = Some(bytes.to_vec()),
            Some(head) => {
                let (dtype, shape) = part::read_head(&head).ok_or(NotOne)?;
                self.0.draft.push(dtype, shape, bytes);
            }
        }
        Ok(())
    }
}

/// Refuses everything that is not listed in the calls.
macro_rules! refuse {
    ($($method:ident($($type:ty),*))*) => {
        $(
            fn $method(self, $(_: $type),*) -> Result<(), NotOne> {
                Err(NotOne)
            }
        )*
    };
}

macro_rules! refuse_the_rest {
    () => {
        type Ok = ();
        type Error = NotOne;
        type SerializeSeq = Impossible<(), NotOne>;
        type SerializeTupleStruct = Impossible<(), NotOne>;
        type SerializeTupleVariant = Impossible<(), NotOne>;
        type SerializeMap = Impossible<(), NotOne>;
        type SerializeStruct = Impossible<(), NotOne>;
        type SerializeStructVariant = Impossible<(), NotOne>;

        refuse! {
            serialize_bool(bool)
            serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
            serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
            serialize_f32(f32) serialize_f64(f64) serialize_char(char) serialize_str(&str)
            serialize_none() serialize_unit() serialize_unit_struct(&'static str)
            serialize_unit_variant(&'static str, u32, &'static str)
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), NotOne> {
            Err(NotOne)
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: &T,
        ) -> Result<(), NotOne> {
            Err(NotOne)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<(), NotOne> {
            Err(NotOne)
        }

        fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, NotOne> {
            Err(NotOne)
        }

        fn serialize_tuple_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleStruct, NotOne> {
            Err(NotOne)
        }

        fn serialize_tuple_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleVariant, NotOne> {
            Err(NotOne)
        }

        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, NotOne> {
            Err(NotOne)
        }

        fn serialize_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStruct, NotOne> {
            Err(NotOne)
        }

        fn serialize_struct_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStructVariant, NotOne> {
            Err(NotOne)
        }

        fn is_human_readable(&self) -> bool {
            false
        }
    };
}

impl Serializer for Capture<'_> {
    type SerializeTuple = Self;

    refuse_the_rest!();
    refuse! { serialize_bytes(&[u8]) }

    fn serialize_tuple(self, _length: usize) -> Result<Self, NotOne> {
        Ok(self)
    }
}

impl Serializer for Element<'_, '_> {
    type SerializeTuple = Impossible<(), NotOne>;

    refuse_the_rest!();

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), NotOne> {
        self.take(bytes)
    }

    fn serialize_tuple(self, _length: usize) -> Result<Self::SerializeTuple, NotOne> {
        Err(NotOne)
    }
}
