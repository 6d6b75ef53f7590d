//! Writes values of Rust as JSON, and refuses what JSON cannot express: `serde_json` alone would
//! write NaN and the infinities as `null`.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::ser::{self, Serialize, Serializer};

use super::carried::Carried;
use super::part;

mod draft;

pub(super) use draft::Draft;

/// Writes `value` as JSON text, and its [`Blob`](super::Blob)s and [`Tensor`](super::Tensor)s beside it.
///
/// # Errors
/// If JSON cannot express the value, with the path to its part that it cannot.
pub(super) fn write_value<T: Serialize + ?Sized>(value: &T) -> Result<Written<String>, ValueError> {
    let trail = Trail::default();
    let text = serde_json::to_string(&Part { value, trail: &trail });
    match text {
        Ok(text) => match trail.draft.into_inner() {
            None => Ok((text, None)),
            Some(draft) => write_carried(value, text, *draft),
        },
        Err(source) => Err(ValueError::new(trail, source)),
    }
}

/// Does what [`write_value`] does at the end of `out`, where an error leaves an unfinished text.
#[cfg(feature = "broker")]
pub(crate) fn append_value<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
) -> Result<Option<Box<Carried<'static>>>, ValueError> {
    let trail = Trail::default();
    let start = out.len();
    match serde_json::to_writer(&mut *out, &Part { value, trail: &trail }) {
        Ok(()) => match trail.draft.into_inner() {
            None => Ok(None),
            Some(draft) => append_carried(out, start, value, *draft),
        },
        Err(source) => Err(ValueError::new(trail, source)),
    }
}

/// A text, and the attachments that stand for nulls in it.
pub(super) type Written<T> = (T, Option<Box<Carried<'static>>>);

#[cfg(feature = "broker")]
#[cold]
fn append_carried<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    start: usize,
    value: &T,
    draft: Draft,
) -> Result<Option<Box<Carried<'static>>>, ValueError> {
    let text = String::from_utf8(out.split_off(start)).unwrap_or_default();
    let (text, carried) = write_carried(value, text, draft)?;
    out.extend_from_slice(text.as_bytes());
    Ok(carried)
}

/// Finishes a text with markers. If one of the value's own strings is the marker, it is written once more
/// with another one.
#[cold]
fn write_carried<T: Serialize + ?Sized>(
    value: &T,
    mut text: String,
    mut draft: Draft,
) -> Result<Written<String>, ValueError> {
    let bad = |what: &dyn fmt::Display| {
        ValueError::new(Trail::default(), <serde_json::Error as ser::Error>::custom(what))
    };
    for _ in 0..2 {
        let number = match draft.finish(&text) {
            Ok((text, Ok(carried))) => {
                // A value may write a key twice, and no pointer leads through that.
                let checked = carried.view(&text).check_pointers();
                return checked.map(|()| (text, Some(carried))).map_err(|fault| bad(&fault));
            }
            Ok((_text, Err(fault))) => return Err(bad(&fault)),
            Err(number) => number,
        };
        let trail = Trail::default();
        trail.draft.replace(Some(Box::new(Draft::new(number))));
        text = match serde_json::to_string(&Part { value, trail: &trail }) {
            Ok(text) => text,
            Err(source) => return Err(ValueError::new(trail, source)),
        };
        draft = trail.draft.into_inner().map_or_else(|| Draft::new(number), |draft| *draft);
    }
    Err(bad(&"its Serialize writes something else each time"))
}

/// A value that cannot be written as JSON.
#[derive(Debug)]
pub(crate) struct ValueError(Box<Details>);

#[derive(Debug)]
struct Details {
    path: String,
    number: Option<f64>,
    source: serde_json::Error,
}

impl ValueError {
    #[cold]
    fn new(trail: Trail, source: serde_json::Error) -> Self {
        let steps = trail.steps.into_inner();
        let path = steps.into_iter().rev().fold("payload".to_owned(), |path, step| path + &step);
        Self(Box::new(Details { path, number: trail.number.into_inner(), source }))
    }
}

impl std::error::Error for ValueError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0.source)
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { path, number, source } = &*self.0;
        match number {
            Some(number) => write!(
                f,
                "{path} is {number}, and JSON has no NaN and no infinity: send null, a string or \
                 another number"
            ),
            None => write!(
                f,
                "{path} cannot be written as JSON ({source}): change its Serialize, or what it \
                 holds"
            ),
        }
    }
}

/// The way from a value that cannot be written to the whole payload. It is recorded while the error
/// is passed outwards, so that a value without faults costs nothing.
#[derive(Debug, Default)]
struct Trail {
    /// The innermost step comes first.
    steps: RefCell<Vec<String>>,
    /// The number that JSON cannot express, if that is the fault.
    number: Cell<Option<f64>>,
    /// The attachments so far.
    draft: RefCell<Option<Box<Draft>>>,
}

impl Trail {
    /// Takes an attachment in, and writes the string that marks its place.
    #[cold]
    fn attach<T: Serialize + ?Sized, S: Serializer>(
        &self,
        value: &T,
        inner: S,
    ) -> Result<S::Ok, S::Error> {
        let mut draft = self.draft.borrow_mut();
        let draft = draft.get_or_insert_with(|| Box::new(Draft::new(0)));
        draft.take(value).map_err(ser::Error::custom)?;
        inner.serialize_str(draft.marker())
    }

    #[cold]
    fn not_finite<E: ser::Error>(&self, number: f64) -> E {
        self.steps.borrow_mut().clear();
        self.number.set(Some(number));
        E::custom(format_args!("JSON has no {number}"))
    }

    #[cold]
    fn index(&self, at: usize) {
        self.steps.borrow_mut().push(format!("[{at}]"));
    }

    #[cold]
    fn name(&self, name: &str) {
        let is_plain = !name.is_empty()
            && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
            && !name.as_bytes()[0].is_ascii_digit();
        let step = if is_plain { format!(".{name}") } else { format!("[{name:?}]") };
        self.steps.borrow_mut().push(step);
    }

    /// Records a key of a map, which has been written as JSON before its value failed.
    #[cold]
    fn key<K: Serialize + ?Sized>(&self, key: &K) {
        match serde_json::to_value(key) {
            Ok(serde_json::Value::String(name)) => self.name(&name),
            Ok(other) => self.name(&other.to_string()),
            Err(_) => self.unknown_key(),
        }
    }

    #[cold]
    fn unknown_key(&self) {
        self.steps.borrow_mut().push("[…]".to_owned());
    }
}

/// A serializer that refuses the floats which JSON does not have, and passes on everything else.
struct Strict<'t, S> {
    inner: S,
    trail: &'t Trail,
}

/// A part of a value, which is written by [`Strict`] as well.
struct Part<'t, 'v, T: ?Sized> {
    value: &'v T,
    trail: &'t Trail,
}

impl<T: Serialize + ?Sized> Serialize for Part<'_, '_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Strict { inner: serializer, trail: self.trail })
    }
}

/// The parts of a sequence, a map or a struct.
struct Parts<'t, C> {
    inner: C,
    trail: &'t Trail,
    /// The number of parts that have been written.
    at: usize,
    /// The variant of an enum that the parts belong to, which JSON writes as a key.
    variant: Option<&'static str>,
}

impl<'t, C> Parts<'t, C> {
    #[inline]
    fn new(inner: C, trail: &'t Trail) -> Self {
        Self { inner, trail, at: 0, variant: None }
    }

    #[inline]
    fn of_variant(inner: C, trail: &'t Trail, variant: &'static str) -> Self {
        Self { inner, trail, at: 0, variant: Some(variant) }
    }

    /// Writes the next item of a sequence.
    #[inline]
    fn item<T: Serialize + ?Sized, E>(
        &mut self,
        value: &T,
        write: impl FnOnce(&mut C, &Part<'_, '_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let trail = self.trail;
        let written = write(&mut self.inner, &Part { value, trail });
        if written.is_err() {
            trail.index(self.at);
            self.end_of_error();
        }
        self.at += 1;
        written
    }

    /// Writes a field of a struct.
    #[inline]
    fn field<T: Serialize + ?Sized, E>(
        &mut self,
        name: &'static str,
        value: &T,
        write: impl FnOnce(&mut C, &Part<'_, '_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let trail = self.trail;
        let written = write(&mut self.inner, &Part { value, trail });
        if written.is_err() {
            trail.name(name);
            self.end_of_error();
        }
        written
    }

    #[cold]
    fn end_of_error(&self) {
        if let Some(variant) = self.variant {
            self.trail.name(variant);
        }
    }
}

/// Passes scalars on.
macro_rules! pass_on {
    ($($method:ident($type:ty))*) => {
        $(
            #[inline]
            fn $method(self, value: $type) -> Result<Self::Ok, Self::Error> {
                self.inner.$method(value)
            }
        )*
    };
}

impl<'t, S: Serializer> Serializer for Strict<'t, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Parts<'t, S::SerializeSeq>;
    type SerializeTuple = Parts<'t, S::SerializeTuple>;
    type SerializeTupleStruct = Parts<'t, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Parts<'t, S::SerializeTupleVariant>;
    type SerializeMap = Parts<'t, S::SerializeMap>;
    type SerializeStruct = Parts<'t, S::SerializeStruct>;
    type SerializeStructVariant = Parts<'t, S::SerializeStructVariant>;

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        if !value.is_finite() {
            return Err(self.trail.not_finite(f64::from(value)));
        }
        self.inner.serialize_f32(value)
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        if !value.is_finite() {
            return Err(self.trail.not_finite(value));
        }
        self.inner.serialize_f64(value)
    }

    pass_on! {
        serialize_bool(bool)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
        serialize_i128(i128) serialize_u128(u128)
        serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_unit_struct(&'static str)
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&Part { value, trail: self.trail })
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        if name == part::NAME {
            return self.trail.attach(value, self.inner);
        }
        self.inner.serialize_newtype_struct(name, &Part { value, trail: self.trail })
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let trail = self.trail;
        let part = Part { value, trail };
        let written = self.inner.serialize_newtype_variant(name, index, variant, &part);
        written.inspect_err(|_| trail.name(variant))
    }

    #[inline]
    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        Ok(Parts::new(self.inner.serialize_seq(length)?, self.trail))
    }

    #[inline]
    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        Ok(Parts::new(self.inner.serialize_tuple(length)?, self.trail))
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        Ok(Parts::new(self.inner.serialize_tuple_struct(name, length)?, self.trail))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let inner = self.inner.serialize_tuple_variant(name, index, variant, length)?;
        Ok(Parts::of_variant(inner, self.trail, variant))
    }

    #[inline]
    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Ok(Parts::new(self.inner.serialize_map(length)?, self.trail))
    }

    #[inline]
    fn serialize_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        Ok(Parts::new(self.inner.serialize_struct(name, length)?, self.trail))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let inner = self.inner.serialize_struct_variant(name, index, variant, length)?;
        Ok(Parts::of_variant(inner, self.trail, variant))
    }

    #[inline]
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// The kinds of sequences differ by the names of their methods alone.
macro_rules! items {
    ($($trait:ident::$method:ident)*) => {
        $(
            impl<C: ser::$trait> ser::$trait for Parts<'_, C> {
                type Ok = C::Ok;
                type Error = C::Error;

                #[inline]
                fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                    self.item(value, |inner, part| inner.$method(part))
                }

                #[inline]
                fn end(self) -> Result<C::Ok, C::Error> {
                    self.inner.end()
                }
            }
        )*
    };
}

items! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

macro_rules! fields {
    ($($trait:ident)*) => {
        $(
            impl<C: ser::$trait> ser::$trait for Parts<'_, C> {
                type Ok = C::Ok;
                type Error = C::Error;

                #[inline]
                fn serialize_field<T: Serialize + ?Sized>(
                    &mut self,
                    name: &'static str,
                    value: &T,
                ) -> Result<(), C::Error> {
                    self.field(name, value, |inner, part| inner.serialize_field(name, part))
                }

                #[inline]
                fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
                    self.inner.skip_field(name)
                }

                #[inline]
                fn end(self) -> Result<C::Ok, C::Error> {
                    self.inner.end()
                }
            }
        )*
    };
}

fields! { SerializeStruct SerializeStructVariant }

impl<C: ser::SerializeMap> ser::SerializeMap for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.inner.serialize_key(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let trail = self.trail;
        let written = self.inner.serialize_value(&Part { value, trail });
        written.inspect_err(|_| trail.unknown_key())
    }

    #[inline]
    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &V,
    ) -> Result<(), C::Error> {
        let trail = self.trail;
        self.inner.serialize_key(key)?;
        let written = self.inner.serialize_value(&Part { value, trail });
        written.inspect_err(|_| trail.key(key))
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;
    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Serialize)]
    enum Shape {
        Point,
        Circle(f64),
        Line(f64, f64),
        Arc { radius: f64, angle: f64 },
    }

    #[derive(Serialize)]
    struct Meter(f64);

    #[derive(Serialize)]
    struct Pair(f32, f32);

    #[derive(Serialize)]
    struct Everything<'a> {
        flag: bool,
        numbers: (i8, i16, i32, i64, u8, u16, u32, u64),
        large: (i128, u128),
        floats: (f32, f64),
        text: (char, &'a str),
        none: Option<f64>,
        some: Option<f64>,
        unit: (),
        shapes: [Shape; 4],
        meter: Meter,
        pair: Pair,
        keys: (BTreeMap<i32, bool>, BTreeMap<bool, u8>),
        bytes: BTreeMap<char, [u8; 2]>,
        raw: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        left_out: Option<u8>,
        #[serde(flatten)]
        rest: BTreeMap<&'a str, f64>,
    }

    #[test]
    fn what_json_can_express_is_written_as_serde_json_does() {
        let everything = Everything {
            flag: true,
            numbers: (-1, -2, -3, i64::MIN, 1, 2, 3, u64::MAX),
            large: (i128::MIN, u128::MAX),
            floats: (0.1, -0.0),
            text: ('ü', "a \"b\"\n"),
            none: None,
            some: Some(1e300),
            unit: (),
            shapes: [
                Shape::Point,
                Shape::Circle(1.5),
                Shape::Line(1.0, 2.0),
                Shape::Arc { radius: 1.0, angle: 0.5 },
            ],
            meter: Meter(2.5),
            pair: Pair(1.0, 2.0),
            keys: (BTreeMap::from([(-7, false)]), BTreeMap::from([(true, 1)])),
            bytes: BTreeMap::from([('k', [1, 255])]),
            raw: &RawValue::from_string("{\"a\":  1e999}".to_owned()).unwrap(),
            left_out: None,
            rest: BTreeMap::from([("x", 1.0), ("y", 2.0)]),
        };
        let (text, carried) = write_value(&everything).unwrap();
        assert!(carried.is_none());
        assert_eq!(text, serde_json::to_string(&everything).unwrap());
        assert!(text.contains(r#""raw":{"a":  1e999}"#), "{text}");
    }

    #[test]
    fn floats_that_json_does_not_have_are_refused_with_their_place() {
        fn fault<T: Serialize>(value: T) -> String {
            assert!(serde_json::to_string(&value).is_ok(), "serde_json writes them as null");
            let text = write_value(&value).unwrap_err().to_string();
            let (place, rest) = text.split_once(", and JSON has no NaN").unwrap();
            assert!(rest.contains("send null"), "{text}");
            place.to_owned()
        }
        const BAD: f64 = f64::NAN;
        let flattened = |value: f64| BTreeMap::from([("outer", BTreeMap::from([(3, value)]))]);
        assert_eq!(fault(BAD), "payload is NaN");
        assert_eq!(fault(f32::NEG_INFINITY), "payload is -inf");
        assert_eq!(fault(Some(f64::INFINITY)), "payload is inf");
        assert_eq!(fault([1.0, BAD]), "payload[1] is NaN");
        assert_eq!(fault(vec![vec![], vec![0.0, 1.0, BAD]]), "payload[1][2] is NaN");
        assert_eq!(fault((1, ("a", Meter(BAD)))), "payload[1][1] is NaN");
        assert_eq!(fault(Pair(1.0, f32::NAN)), "payload[1] is NaN");
        assert_eq!(fault(Shape::Circle(BAD)), "payload.Circle is NaN");
        assert_eq!(fault([Shape::Point, Shape::Line(0.0, BAD)]), "payload[1].Line[1] is NaN");
        assert_eq!(fault(Shape::Arc { radius: 0.0, angle: BAD }), "payload.Arc.angle is NaN");
        assert_eq!(fault(BTreeMap::from([("1st try", BAD)])), "payload[\"1st try\"] is NaN");
        assert_eq!(fault(flattened(BAD)), "payload.outer[\"3\"] is NaN");
    }

    /// A map that writes keys and values by separate calls.
    struct Split;

    impl Serialize for Split {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeMap;
            let mut map = serializer.serialize_map(None)?;
            map.serialize_key("a")?;
            map.serialize_value(&json!([1]))?;
            map.serialize_key("b")?;
            map.serialize_value(&[f64::NAN])?;
            map.end()
        }
    }

    #[test]
    fn other_faults_are_told_with_their_place_as_well() {
        let place = |error: ValueError| {
            let text = error.to_string();
            text.split_once(": change its Serialize").unwrap().0.to_owned()
        };
        let keys = [("ok", BTreeMap::new()), ("bad", BTreeMap::from([((1, 2), 3)]))];
        assert_eq!(
            place(write_value(&keys).unwrap_err()),
            "payload[1][1] cannot be written as JSON (key must be a string)"
        );
        let error = append_error(&[Split]);
        assert!(error.starts_with("payload[0][…][0] is NaN"), "{error}");
    }

    #[cfg(feature = "broker")]
    fn append_error<T: Serialize>(value: &T) -> String {
        append_value(&mut Vec::new(), value).unwrap_err().to_string()
    }

    #[cfg(not(feature = "broker"))]
    fn append_error<T: Serialize>(value: &T) -> String {
        write_value(value).unwrap_err().to_string()
    }
}
