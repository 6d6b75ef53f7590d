//! Blobs and tensors through serde: into payloads and out of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::{
    Bf16, Blob, Dtype, Element, F16, Json, NewAttachment, Owned, PAYLOAD_DEPTH_MAX, Tensor,
};

#[derive(Serialize, Deserialize)]
enum Shape<'a> {
    Nothing,
    #[serde(borrow)]
    Image(Blob<'a>),
    Pair(Blob<'a>, u8),
    Named {
        mask: Tensor<'a, bool>,
    },
}

#[derive(Serialize, Deserialize)]
struct Wrapped<'a>(#[serde(borrow)] Blob<'a>);

#[derive(Serialize, Deserialize)]
struct Everything<'a> {
    null: Option<u8>,
    #[serde(borrow)]
    first: Blob<'a>,
    list: Vec<Option<Tensor<'a, f32>>>,
    #[serde(borrow)]
    shapes: Vec<Shape<'a>>,
    name: &'a str,
    map: BTreeMap<&'a str, Wrapped<'a>>,
    #[serde(rename = "a/b~\"ü")]
    odd: Tensor<'a, u64>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Load { weights: Owned<Tensor<'static, f64>> },
}

/// Writes another marker each time.
struct Fickle(std::cell::Cell<u32>);

impl Serialize for Fickle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = self.0.replace(self.0.get() + 1);
        serializer.serialize_str(&format!("$ipc_framework attachment {number}"))
    }
}

#[derive(Deserialize)]
struct Partly {
    data: Owned<Blob<'static>>,
    large: f64,
}

fn everything() -> Everything<'static> {
    let scores = Tensor::new([2, 1], vec![1.5_f32, -0.0]).unwrap();
    Everything {
        null: None,
        first: Blob::new(&b"first"[..]),
        list: vec![None, Some(scores), None],
        shapes: vec![
            Shape::Nothing,
            Shape::Image(Blob::new(vec![1])),
            Shape::Pair(Blob::new(vec![2]), 7),
            Shape::Named { mask: Tensor::flat(vec![true, false]) },
        ],
        name: "x",
        map: BTreeMap::from([("k", Wrapped(Blob::default()))]),
        odd: Tensor::new([], vec![u64::MAX]).unwrap(),
        rest: BTreeMap::from([("other".to_owned(), json!([null, {"n": null}]))]),
    }
}

#[test]
fn a_value_brings_its_attachments_and_is_read_back_without_a_copy() {
    let json = Json::from_serialize(&everything()).unwrap();
    let text = r#"{"null":null,"first":null,"list":[null,null,null],"#.to_owned()
        + r#""shapes":["Nothing",{"Image":null},{"Pair":[null,7]},{"Named":{"mask":null}}],"#
        + r#""name":"x","map":{"k":null},"a/b~\"ü":null,"other":[null,{"n":null}]}"#;
    assert_eq!(json.as_str(), text);
    let attachments = json.attachments();
    let pointers: Vec<_> = attachments.iter().map(|one| one.pointer.into_owned()).collect();
    assert_eq!(
        pointers,
        [
            "/first",
            "/list/1",
            "/shapes/1/Image",
            "/shapes/2/Pair/0",
            "/shapes/3/Named/mask",
            "/map/k",
            "/a~1b~0\"ü",
        ]
    );
    assert_eq!(attachments.check_pointers(), Ok(()));
    let shapes: Vec<Vec<u64>> = attachments.iter().map(|one| one.shape.iter().collect()).collect();
    assert_eq!(shapes, [vec![], vec![2, 1], vec![], vec![], vec![2], vec![], vec![]]);

    let read: Everything<'_> = json.decode_borrowed().unwrap();
    let own = everything();
    assert!(matches!(read.first.clone().into_inner(), Cow::Borrowed(b"first")));
    let [None, Some(scores), None] = &read.list[..] else { panic!("{:?}", read.list) };
    let bits = |scores: &Tensor<'_, f32>| scores.data().iter().map(|x| x.to_bits()).collect();
    let (got, sent): (Vec<u32>, Vec<u32>) = (bits(scores), bits(own.list[1].as_ref().unwrap()));
    assert_eq!((scores.shape(), got), (&[2, 1][..], sent));
    assert!(matches!(&read.shapes[1], Shape::Image(blob) if **blob == [1]));
    assert!(matches!(&read.shapes[2], Shape::Pair(blob, 7) if **blob == [2]));
    assert!(matches!(&read.shapes[3], Shape::Named { mask } if mask.data() == [true, false]));
    assert!(read.map["k"].0.is_empty());
    assert_eq!((read.odd.shape(), read.odd.data()), (&[][..], &[u64::MAX][..]));
    assert_eq!((read.name, &read.rest), ("x", &own.rest));
    let again = Json::from_serialize(&read).unwrap();
    assert_eq!(again, json);
    let copy = json.borrowed().into_owned();
    assert_eq!(copy, json);
    let address = |json: &Json<'_>| json.attachments().get("/first").unwrap().data.as_ptr();
    assert_eq!(address(&copy), address(&json), "shared bytes are not copied");
    assert_ne!(Json::parse(text).unwrap(), json);
}

#[test]
fn what_does_not_know_attachments_finds_base64() {
    let json = Json::from_serialize(&everything()).unwrap();
    let value: Value = json.decode().unwrap();
    let expected = serde_json::to_value(everything()).unwrap();
    assert_eq!(value, expected);
    assert_eq!(expected["first"], json!({"$base64": "Zmlyc3Q=", "dtype": null, "shape": null}));
    let odd = json!({"$base64": "//////////8=", "dtype": "u64", "shape": []});
    assert_eq!(value["a/b~\"ü"], odd);
    let text = json.to_base64();
    assert_eq!(text.decode::<Value>().unwrap(), expected);
    assert!(text.attachments().is_empty());
    assert_eq!(text.from_base64(), json);
    assert_eq!(json.from_base64(), json);
    let plain = Json::parse("[1, null]").unwrap();
    assert_eq!((plain.to_base64(), plain.from_base64()), (plain.clone(), plain));
    // The types read that form as well, from any parser, and where serde has kept a copy.
    let read: Everything<'_> = serde_json::from_str(text.as_str()).unwrap();
    assert_eq!(Json::from_serialize(&read).unwrap(), json);
    assert_eq!(text.decode::<BTreeMap<String, Value>>().unwrap()["null"], Value::Null);
    assert_eq!(json.to_value().unwrap(), text.to_value().unwrap());
    let load = Tagged::Load { weights: Owned(Tensor::flat(vec![2.5])) };
    let json = Json::from_serialize(&load).unwrap();
    assert_eq!(json.as_str(), r#"{"kind":"Load","weights":null}"#);
    let Tagged::Load { weights } = json.decode().unwrap();
    assert_eq!(weights.data(), [2.5]);
}

#[test]
fn members_that_a_type_ignores_may_have_attachments() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Known<'a> {
        a: u32,
        #[serde(borrow)]
        data: Option<Blob<'a>>,
    }

    fn read(text: &str, pointers: &[&str]) -> (u32, Option<Vec<u8>>) {
        let one = |pointer| NewAttachment { pointer, dtype: None, shape: &[], data: b"x" };
        let new: Vec<_> = pointers.iter().map(|pointer| one(*pointer)).collect();
        let json = Json::parse(text).unwrap().with_attachments(&new).unwrap();
        let known: Known<'_> = json.decode_borrowed().unwrap();
        (known.a, known.data.map(|data| data.to_vec()))
    }

    let x = Some(b"x".to_vec());
    assert_eq!(read(r#"{"a":1,"extra":null}"#, &["/extra"]), (1, None));
    assert_eq!(read(r#"{"a":1,"extra":{"img":null}}"#, &["/extra/img"]), (1, None));
    assert_eq!(read(r#"{"extra":[0,null],"a":1}"#, &["/extra/1"]), (1, None));
    let two = r#"{"e":{"b":null,"c":[{"d":null}]},"data":null,"f":[[null]],"a":2}"#;
    assert_eq!(read(two, &["/e/b", "/e/c/0/d", "/data", "/f/0/0"]), (2, x.clone()));
    assert_eq!(read(two, &["/e/c/0/d", "/f/0/0"]), (2, None));
    assert_eq!(read(two, &["/e/b", "/data"]), (2, x));
    // An element of a list.
    let one = NewAttachment { pointer: "/0/img", dtype: None, shape: &[], data: b"x" };
    let json = Json::parse(r#"[{"img":null},7]"#).unwrap().with_attachments(&[one]).unwrap();
    assert_eq!(json.decode::<(serde::de::IgnoredAny, u8)>().unwrap().1, 7);
}

#[test]
fn exact_bits_of_every_type() {
    fn both_ways<T: Element>(elements: &[T], bytes: &[u8]) {
        let tensor = Tensor::flat(elements.to_vec());
        let json = Json::from_serialize(&tensor).unwrap();
        let sent = json.attachments().get("").unwrap();
        assert_eq!(sent.data, bytes, "{:?}", sent.dtype);
        assert_eq!(sent.dtype, Some(super::super::dtype_of::<T>()));
        let read: Tensor<'_, T> = json.decode_borrowed().unwrap();
        let again = Json::from_serialize(&read).unwrap();
        assert_eq!(again.attachments().get("").unwrap().data, bytes);
        // At an odd address nothing is aligned.
        let shifted = [&[0][..], bytes].concat();
        let one = NewAttachment {
            pointer: "",
            dtype: sent.dtype,
            shape: &[elements.len() as u64],
            data: &shifted[1..],
        };
        let json = Json::null().with_attachments(&[one]).unwrap();
        let Owned(read): Owned<Tensor<'static, T>> = json.decode().unwrap();
        let again = Json::from_serialize(&read).unwrap();
        assert_eq!(again.attachments().get("").unwrap().data, bytes);
        let empty = Json::from_serialize(&Tensor::<T>::new([3, 0, 2], vec![]).unwrap()).unwrap();
        let read: Tensor<'_, T> = empty.decode_borrowed().unwrap();
        assert_eq!((read.shape(), read.data().len()), (&[3, 0, 2][..], 0));
    }
    both_ways(&[true, false], &[1, 0]);
    both_ways(&[1_u8, 255], &[1, 255]);
    both_ways(&[-1_i8, 2], &[255, 2]);
    both_ways(&[0x0102_u16], &[2, 1]);
    both_ways(&[-2_i16], &[0xfe, 0xff]);
    both_ways(&[0x0102_0304_u32], &[4, 3, 2, 1]);
    both_ways(&[i32::MIN], &[0, 0, 0, 0x80]);
    both_ways(&[1_u64 << 63], &[0, 0, 0, 0, 0, 0, 0, 0x80]);
    both_ways(&[-1_i64], &[0xff; 8]);
    both_ways(&[F16(0x7e01), F16(1)], &[0x01, 0x7e, 1, 0]);
    both_ways(&[Bf16(0xffc1)], &[0xc1, 0xff]);
    let nan = f32::from_bits(0x7fa0_0001);
    both_ways(&[nan, -0.0, f32::from_bits(1)], &[1, 0, 0xa0, 0x7f, 0, 0, 0, 0x80, 1, 0, 0, 0]);
    let nan = f64::from_bits(0xfff4_0000_0000_0002);
    both_ways(&[nan, -0.0], &[2, 0, 0, 0, 0, 0, 0xf4, 0xff, 0, 0, 0, 0, 0, 0, 0, 0x80]);
    both_ways(&[[1.0_f32, -0.0]], &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x80]);
    both_ways(&[[0.0_f64, 1.0]], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
}

#[test]
fn another_type_is_refused_in_words() {
    let json = Json::from_serialize(&Tensor::flat(vec![1_u8])).unwrap();
    let error = json.decode_borrowed::<Tensor<'_, f32>>().unwrap_err().to_string();
    assert!(error.contains("u8 where a tensor of f32 belongs"), "{error}");
    let error = json.decode_borrowed::<Blob<'_>>().unwrap_err().to_string();
    assert!(error.contains("a tensor of u8 where plain bytes belong"), "{error}");
    let error = json.decode::<u8>().unwrap_err().to_string();
    assert!(error.contains("an attachment"), "{error}");
    let error = Json::null().decode::<Owned<Blob<'static>>>().unwrap_err().to_string();
    assert!(error.contains("an attachment"), "{error}");
    assert!(Tensor::new([2, 2], vec![1_u8]).unwrap_err().to_string().contains("[2, 2]"));
    assert!(Tensor::<u8>::new([usize::MAX, 2, 0], vec![]).is_err());
    assert!(Tensor::<u8>::new(vec![1; 33], vec![0]).is_err());
}

#[test]
fn a_string_of_the_payload_is_no_marker() {
    let strings = ["$ipc_framework attachment 0", "$ipc_framework attachment 1"];
    let json = Json::from_serialize(&(strings, Blob::new(vec![9]), strings)).unwrap();
    let list = json!([strings, null, strings]);
    assert_eq!(json.as_str(), list.to_string());
    assert_eq!(json.attachments().get("/1").unwrap().data, [9]);
    assert_eq!(json.attachments().len(), 1);
    let fickle = Json::from_serialize(&(Fickle(0.into()), Blob::default()));
    assert!(fickle.unwrap_err().to_string().contains("something else each time"));
}

#[test]
fn a_value_that_writes_a_key_twice_has_no_attachment_there() {
    #[derive(Serialize)]
    struct Twice {
        a: Blob<'static>,
        #[serde(flatten)]
        rest: BTreeMap<&'static str, Blob<'static>>,
    }

    let twice = |key| Twice { a: Blob::default(), rest: BTreeMap::from([(key, Blob::default())]) };
    assert_eq!(Json::from_serialize(&twice("b")).unwrap().attachments().len(), 2);
    let error = Json::from_serialize(&twice("a")).unwrap_err().to_string();
    assert!(error.contains("null of its own"), "{error}");
}

#[test]
fn attachments_are_added_to_a_text_and_checked() {
    let text = r#"{"a": [null, {"b": null}], "c": null, "a/": null, "d": 1, "d": null}"#;
    let json = || Json::parse(text).unwrap();
    let one = |pointer| NewAttachment { pointer, dtype: None, shape: &[], data: b"x" };
    for pointers in [&["/a/0", "/a/1/b", "/c"][..], &["/a~1", "/c", "/a/1/b"], &["/c"]] {
        let new: Vec<_> = pointers.iter().map(|pointer| one(pointer)).collect();
        let attached = json().with_attachments(&new).unwrap();
        assert_eq!((attached.as_str(), attached.attachments().len()), (text, pointers.len()));
    }
    assert!(json().with_attachments(&[]).unwrap().attachments().is_empty());
    let two = [one("/c"), one("/c")];
    let tensor = NewAttachment { dtype: Some(Dtype::U16), shape: &[1], ..one("/c") };
    let bad =
        [&[one("")][..], &[one("/x")], &[one("c")], &[one("/a/01")], &[one("/d")], &two, &[tensor]];
    for bad in bad {
        let error = json().with_attachments(bad).unwrap_err().to_string();
        assert!(error.starts_with("the attachments do not fit the payload: "), "{error}");
    }
}

#[test]
fn only_whole_objects_of_base64_are_turned_back() {
    let same = |text: &str| {
        let json = Json::parse(text.to_owned()).unwrap();
        assert_eq!(json.from_base64(), json);
    };
    same(r#"{"$base64": "AA=="}"#);
    same(r#"{"$base64": "AA==", "dtype": null, "shape": null, "x": 1}"#);
    same(r#"{"$base64": "AA==", "dtype": null, "shape": [1]}"#);
    same(r#"{"$base64": "AA", "dtype": null, "shape": null}"#);
    same(r#"{"$base64": "AA==", "dtype": "u8", "shape": [2]}"#);
    same(r#"{"$base64": "AA==", "dtype": "u9", "shape": [1]}"#);
    same(r#"{"$base64": "AA==", "dtype": "u8", "shape": null}"#);
    same(r#"{"$base64": 1, "dtype": null, "shape": null}"#);
    // No pointer leads to a null below a key that is given twice, or that is no text.
    let whole = r#"{"$base64":"AA==","dtype":null,"shape":null}"#;
    for around in [
        r#"{"a":_,"a":_}"#,
        r#"{"a":_,"a":1}"#,
        r#"{"a":1,"\u0061":_}"#,
        r#"[{"a":{"b":_},"c":_,"a":{}}]"#,
        r#"{"\ud800":_}"#,
        r#"[_,{"b":{"x\udfff":[_]}}]"#,
        r#"{"\ufffd":_,"\ud800":_}"#,
    ] {
        let text = around.replace('_', whole);
        same(&text);
        let json = Json::parse(text).unwrap().from_base64();
        assert_eq!(json.to_base64(), json);
    }
    let other = r#"[{"shape":[1],"$base64":"\u002fw==","dtype":"u8"},"#.to_owned()
        + r#"{"$base64":{"$base64":"","dtype":null,"shape":null}}]"#;
    let json = Json::parse(other).unwrap().from_base64();
    assert_eq!(json.as_str(), r#"[null,{"$base64":null}]"#);
    assert_eq!(json.attachments().get("/0").unwrap().data, [255]);
}

#[test]
fn depth_and_numbers_do_not_stop_attachments() {
    let deep = "[".repeat(PAYLOAD_DEPTH_MAX) + "null" + &"]".repeat(PAYLOAD_DEPTH_MAX);
    let pointer = "/0".repeat(PAYLOAD_DEPTH_MAX);
    let one = NewAttachment { pointer: &pointer, dtype: None, shape: &[], data: b"x" };
    let json = Json::parse(deep).unwrap().with_attachments(&[one]).unwrap();
    assert!(json.decode::<Value>().is_ok());
    assert_eq!(json.to_base64().from_base64(), json);
    let one = NewAttachment { pointer: "/data", ..one };
    let text = r#"{"ignored": 1e400, "large": 12345678901234567890123, "data": null}"#;
    let json = Json::parse(text).unwrap().with_attachments(&[one]).unwrap();
    let partly: Partly = json.decode().unwrap();
    assert_eq!((&**partly.data, partly.large), (&b"x"[..], 12_345_678_901_234_567_890_123.0));
}
