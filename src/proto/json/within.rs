//! Reads a document with attachments into a value: each goes where its `null` stands.
//!
//! The containers that lead to attachments are followed by counting their members, and everything else
//! is read as if there were none.

use std::collections::VecDeque;
use std::fmt;

use serde::de::value::{
    BorrowedBytesDeserializer, BytesDeserializer, MapDeserializer, SeqDeserializer,
};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::super::attachments::{Attachment, Attachments};
use super::super::leaves;
use super::super::part::{self, MEMBERS};

/// Reads `text`, whose attachments are these.
pub(super) fn decode<'de, T: Deserialize<'de>>(
    text: &'de str,
    attachments: &Attachments<'de>,
) -> Result<T, serde_json::Error> {
    let places = places(text, attachments);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let below = Below { seed: std::marker::PhantomData, places: &places, depth: 0 };
    let value = below.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// An attachment, and the numbers of the members that lead to it.
struct Place<'de> {
    way: Vec<u32>,
    attachment: Attachment<'de>,
}

fn places<'de>(text: &'de str, attachments: &Attachments<'de>) -> Vec<Place<'de>> {
    let mut wanted: VecDeque<_> =
        attachments.places().into_iter().zip(attachments.iter()).collect();
    let mut places = Vec::with_capacity(wanted.len());
    leaves::each(text, |path, at| {
        if wanted.front().is_some_and(|(place, _)| *place == at) {
            let found = wanted.pop_front().map(|(_, attachment)| attachment);
            places.extend(found.map(|attachment| Place { way: path.places(), attachment }));
        }
        // When all were found, the rest is of no interest.
        wanted.is_empty().then_some(text.len())
    });
    places
}

/// The attachments in a value, to which the first `depth` numbers of their ways lead.
#[derive(Clone, Copy)]
struct Below<'p, 'de, S> {
    seed: S,
    places: &'p [Place<'de>],
    depth: usize,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Below<'_, 'de, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let Self { seed, places, depth } = self;
        match places {
            [] => seed.deserialize(deserializer),
            [only] if only.way.len() == depth => {
                IgnoredAny::deserialize(deserializer)?;
                seed.deserialize(Exactly::new(&only.attachment))
            }
            _ => seed.deserialize(Within { inner: deserializer, places, depth }),
        }
    }
}

/// A deserializer, a visitor or an access of a container in which attachments stand.
#[derive(Clone, Copy)]
struct Within<'p, 'de, D> {
    inner: D,
    places: &'p [Place<'de>],
    depth: usize,
}

impl<'p, 'de, D> Within<'p, 'de, D> {
    fn with<E>(&self, inner: E) -> Within<'p, 'de, E> {
        Within { inner, places: self.places, depth: self.depth }
    }
}

/// Passes the calls on, with a visitor that follows the containers.
macro_rules! pass_on {
    ($($method:ident($($name:ident: $type:ty),*))*) => {
        $(
            fn $method<V: Visitor<'de>>(
                self,
                $($name: $type,)*
                visitor: V,
            ) -> Result<V::Value, D::Error> {
                let visitor = self.with(visitor);
                self.inner.$method($($name,)* visitor)
            }
        )*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Within<'_, 'de, D> {
    type Error = D::Error;

    pass_on! {
        deserialize_any()
        deserialize_bool()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char()
        deserialize_str() deserialize_string() deserialize_bytes() deserialize_byte_buf()
        deserialize_option() deserialize_unit()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize)
        deserialize_map()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier()
    }

    /// Nothing of the value is wanted, its attachments included.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_ignored_any(visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Within<'_, 'de, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let deserializer = self.with(deserializer);
        self.inner.visit_some(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<V::Value, D::Error> {
        let deserializer = self.with(deserializer);
        self.inner.visit_newtype_struct(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let access = Members { within: self.with(access), at: 0 };
        self.inner.visit_seq(access)
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let access = Members { within: self.with(access), at: 0 };
        self.inner.visit_map(access)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let access = self.with(access);
        self.inner.visit_enum(access)
    }
}

/// The members of a container, which are counted.
struct Members<'p, 'de, A> {
    within: Within<'p, 'de, A>,
    at: u32,
}

impl<'p, 'de, A> Members<'p, 'de, A> {
    /// Returns the seed of the next member with the attachments in it.
    fn next<S>(&mut self, seed: S) -> Below<'p, 'de, S> {
        let (places, depth) = (self.within.places, self.within.depth);
        let is_here = |place: &Place<'_>| place.way.get(depth).is_some_and(|at| *at <= self.at);
        let (here, others) = places.split_at(places.partition_point(is_here));
        self.within.places = others;
        self.at += 1;
        Below { seed, places: here, depth: depth + 1 }
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Members<'_, 'de, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let seed = self.next(seed);
        self.within.inner.next_element_seed(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.within.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.within.inner.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let seed = self.next(seed);
        self.within.inner.next_value_seed(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.within.inner.size_hint()
    }
}

/// An enum is an object whose only member is the variant.
impl<'p, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Within<'p, 'de, A> {
    type Error = A::Error;
    type Variant = Within<'p, 'de, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (places, depth) = (self.places, self.depth + 1);
        let (value, inner) = self.inner.variant_seed(seed)?;
        Ok((value, Within { inner, places, depth }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Within<'_, 'de, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        let seed = Below { seed, places: self.places, depth: self.depth };
        self.inner.newtype_variant_seed(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.with(visitor);
        self.inner.tuple_variant(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.with(visitor);
        self.inner.struct_variant(fields, visitor)
    }
}

/// An attachment. A type that knows nothing of attachments finds the object with base64.
struct Exactly<'p, 'de, E> {
    attachment: &'p Attachment<'de>,
    error: std::marker::PhantomData<E>,
}

impl<'p, 'de, E: de::Error> Exactly<'p, 'de, E> {
    fn new(attachment: &'p Attachment<'de>) -> Self {
        Self { attachment, error: std::marker::PhantomData }
    }

    fn refuse<V: Visitor<'de>>(visitor: &V) -> E {
        E::invalid_type(Unexpected::Other("an attachment"), visitor)
    }
}

macro_rules! refuse {
    ($($method:ident($($type:ty),*))*) => {
        $(
            fn $method<V: Visitor<'de>>(self, $(_: $type,)* visitor: V) -> Result<V::Value, E> {
                Err(Self::refuse(&visitor))
            }
        )*
    };
}

macro_rules! as_any {
    ($($method:ident($($type:ty),*))*) => {
        $(
            fn $method<V: Visitor<'de>>(self, $(_: $type,)* visitor: V) -> Result<V::Value, E> {
                self.deserialize_any(visitor)
            }
        )*
    };
}

impl<'de, E: de::Error> Deserializer<'de> for Exactly<'_, 'de, E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        let Attachment { dtype, shape, data, .. } = self.attachment;
        let shape = dtype.map(|_| shape.iter().collect());
        let [base64, of_type, of_shape] = MEMBERS;
        let members = [
            (base64, Member::Base64(data)),
            (of_type, Member::Name(dtype.map(super::super::Dtype::name))),
            (of_shape, Member::Shape(shape)),
        ];
        visitor.visit_map(MapDeserializer::new(members.into_iter()))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, E> {
        if name != part::NAME {
            return visitor.visit_newtype_struct(self);
        }
        let Attachment { dtype, shape, data, .. } = self.attachment;
        let head = part::head(*dtype, &shape.iter().collect::<Vec<_>>());
        let pair = [Half::Head(head), Half::Data(data)];
        visitor.visit_seq(SeqDeserializer::new(pair.into_iter()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_some(self)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_borrowed_bytes(self.attachment.data)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_borrowed_bytes(self.attachment.data)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_unit()
    }

    as_any! {
        deserialize_map()
        deserialize_struct(&'static str, &'static [&'static str])
    }

    refuse! {
        deserialize_bool()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char()
        deserialize_str() deserialize_string() deserialize_unit()
        deserialize_unit_struct(&'static str)
        deserialize_seq()
        deserialize_tuple(usize)
        deserialize_tuple_struct(&'static str, usize)
        deserialize_enum(&'static str, &'static [&'static str])
        deserialize_identifier()
    }
}

/// The head or the data of an attachment.
enum Half<'de> {
    Head(Vec<u8>),
    Data(&'de [u8]),
}

impl<'de, E: de::Error> IntoDeserializer<'de, E> for Half<'de> {
    type Deserializer = HalfDeserializer<'de, E>;

    fn into_deserializer(self) -> Self::Deserializer {
        HalfDeserializer { half: self, error: std::marker::PhantomData }
    }
}

struct HalfDeserializer<'de, E> {
    half: Half<'de>,
    error: std::marker::PhantomData<E>,
}

impl<'de, E: de::Error> Deserializer<'de> for HalfDeserializer<'de, E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        match self.half {
            Half::Head(head) => BytesDeserializer::new(&head).deserialize_any(visitor),
            Half::Data(data) => BorrowedBytesDeserializer::new(data).deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A member of the object with base64.
enum Member<'de> {
    Base64(&'de [u8]),
    Name(Option<&'static str>),
    Shape(Option<Vec<u64>>),
}

impl<'de, E: de::Error> IntoDeserializer<'de, E> for Member<'de> {
    type Deserializer = MemberDeserializer<'de, E>;

    fn into_deserializer(self) -> Self::Deserializer {
        MemberDeserializer { member: self, error: std::marker::PhantomData }
    }
}

struct MemberDeserializer<'de, E> {
    member: Member<'de>,
    error: std::marker::PhantomData<E>,
}

impl<'de, E: de::Error> Deserializer<'de> for MemberDeserializer<'de, E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        match self.member {
            Member::Base64(data) => visitor.visit_string(part::to_base64(data)),
            Member::Name(Some(name)) => visitor.visit_borrowed_str(name),
            Member::Shape(Some(shape)) => {
                visitor.visit_seq(SeqDeserializer::new(shape.into_iter()))
            }
            Member::Name(None) | Member::Shape(None) => visitor.visit_unit(),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        match self.member {
            Member::Name(None) | Member::Shape(None) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
