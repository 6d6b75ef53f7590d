//! Documents with attachments: bytes and tensors in place of some of their nulls.

use std::sync::Arc;

use serde::Deserialize;

use super::super::attachments::outgoing::{NewAttachment, SharedAttachment, append_bin};
use super::super::attachments::tail::{BytesOwner, Piece};
use super::super::attachments::{Attachment, Attachments};
use super::super::carried::Carried;
use super::super::dtype::Dtype;
use super::super::fault::Fault;
use super::super::leaves;
use super::super::part::{self, MEMBERS};
use super::super::scanner::Scanner;
use super::super::value::Draft;
use super::{DecodeError, Flaw, Json, JsonError, within};

impl<'a> Json<'a> {
    /// The payload of a message, with its attachments.
    pub(crate) fn received(text: &'a str, attachments: &Attachments<'a>) -> Self {
        Self { carried: Carried::borrowed(attachments), ..Self::trusted(text) }
    }

    /// What was written as JSON, with its attachments.
    pub(crate) fn written(text: &[u8], carried: Box<Carried<'static>>) -> Json<'static> {
        let text = String::from_utf8_lossy(text).into_owned().into();
        Json { text, carried: Some(carried) }
    }

    pub(crate) fn carried(&self) -> Option<&Carried<'a>> {
        self.carried.as_deref()
    }

    /// Returns the same text with other attachments, which fit it.
    pub(crate) fn carrying(self, carried: Box<Carried<'static>>) -> Self {
        Self { carried: Some(carried), ..self }
    }

    /// Returns the same document without a borrow. Its attachments lie in this memory and stay there.
    #[cfg(feature = "net")]
    pub(crate) fn sharing(self, memory: &Arc<Vec<u8>>) -> Json<'static> {
        let carried = self.carried.map(|carried| Box::new(carried.within(memory)));
        Json { text: self.text.into_owned().into(), carried }
    }

    /// Returns the attachments that stand in place of nulls of the document, in their order. There are none in
    /// a document that was parsed.
    ///
    /// ```
    /// use ipc_framework::{Json, Tensor};
    ///
    /// let json = Json::from_serialize(&("scores", Tensor::flat(vec![0.5_f32, 2.0])))?;
    /// let scores = json.attachments().get("/1").unwrap();
    /// assert_eq!(scores.data, [0, 0, 0, 0x3f, 0, 0, 0, 0x40]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attachments(&self) -> Attachments<'_> {
        let view = self.carried.as_ref().map(|carried| carried.view(&self.text));
        view.unwrap_or_default()
    }

    /// Returns the bytes of each attachment, in memory that the document shares with others, as that of a
    /// message which a client received. They may be sent on by
    /// [`with_shared_attachments`](Self::with_shared_attachments).
    pub fn shared_attachments(&self) -> Vec<BytesOwner> {
        let Some(carried) = &self.carried else { return Vec::new() };
        carried.owners(self.attachments().iter().map(|one| one.data.len()))
    }

    /// Returns the document with attachments in place of nulls. This is for programs that have the
    /// text of a payload already, such as bindings to other languages; a value with
    /// [`Blob`](super::super::Blob)s and [`Tensor`](super::super::Tensor)s brings them by itself. The bytes are
    /// copied, once.
    ///
    /// Fastest is the order in which the nulls stand in the text.
    ///
    /// # Errors
    /// If a pointer leads to no null of its own, or the bytes are not as many as type and shape say.
    ///
    /// ```
    /// use ipc_framework::Json;
    /// use ipc_framework::proto::NewAttachment;
    ///
    /// let image = NewAttachment { pointer: "/image", dtype: None, shape: &[], data: b"\xff\xd8" };
    /// let json = Json::parse(r#"{"image": null}"#)?.with_attachments(&[image])?;
    /// assert_eq!(json.attachments().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_attachments(self, attachments: &[NewAttachment<'_>]) -> Result<Self, JsonError> {
        if attachments.is_empty() {
            return Ok(Self { carried: None, ..self });
        }
        let mut draft = Draft::new(0);
        for one in attachments {
            draft.push(one.dtype, one.shape.to_vec(), one.data);
        }
        let pointers: Vec<_> = attachments.iter().map(|one| one.pointer.to_owned()).collect();
        let carried = draft.settle(&pointers)?;
        let json = Self { carried: Some(carried), ..self };
        let checked = json.attachments().check_pointers();
        match checked {
            Ok(()) => Ok(json),
            Err(fault) => match in_order(&json.text, attachments) {
                Some(ordered) => json.with_attachments(&ordered),
                None => Err(fault.into()),
            },
        }
    }

    /// Does what [`with_attachments`](Self::with_attachments) does with bytes that have an owner already.
    /// These are not copied: a client sends them from where they lie.
    ///
    /// # Errors
    /// As [`with_attachments`](Self::with_attachments); also if they are not in the order in which their
    /// nulls stand in the text.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use ipc_framework::Json;
    /// use ipc_framework::proto::SharedAttachment;
    ///
    /// let image = Arc::new(vec![0xff, 0xd8]);
    /// let (pointer, data) = ("/image".to_owned(), Arc::clone(&image));
    /// let image_at = SharedAttachment { pointer, dtype: None, shape: Vec::new(), data };
    /// let json = Json::parse(r#"{"image": null}"#)?.with_shared_attachments(&[image_at])?;
    /// let attached = json.attachments().get("/image").unwrap();
    /// assert_eq!(attached.data.as_ptr(), image.as_ptr());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_shared_attachments(
        self,
        attachments: &[SharedAttachment],
    ) -> Result<Self, JsonError> {
        if attachments.is_empty() {
            return Ok(Self { carried: None, ..self });
        }
        let pieces = attachments.iter().map(|one| Piece::new(Arc::clone(&one.data)));
        let pieces: Vec<_> = pieces.collect();
        let pairs = attachments.iter().zip(&pieces);
        let new = pairs.map(|(one, piece)| NewAttachment {
            pointer: &one.pointer,
            dtype: one.dtype,
            shape: &one.shape,
            data: piece.data(),
        });
        let mut bin = Vec::new();
        append_bin(&new.collect::<Vec<_>>(), &mut bin)?;
        let json = Self { carried: Some(Box::new(Carried::of_pieces(bin, pieces))), ..self };
        json.attachments().check_pointers()?;
        Ok(json)
    }

    /// Reads the document as [`decode`](Self::decode) does, into a value that may borrow from it: strings
    /// without escapes, [`Blob`](super::super::Blob)s and [`Tensor`](super::super::Tensor)s.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_borrowed<'s, T: Deserialize<'s>>(&'s self) -> Result<T, DecodeError> {
        match &self.carried {
            Some(carried) => within::decode(&self.text, &carried.view(&self.text)),
            None => serde_json::from_str(&self.text),
        }
        .map_err(DecodeError)
    }

    /// Returns the document as peers without the extension `binary` get it: with
    /// `{"$base64": "…", "dtype": …, "shape": …}` in place of each attachment.
    pub fn to_base64(&self) -> Json<'static> {
        self.substitute(|one| {
            let dtype = one.dtype.map_or("null".to_owned(), |it| format!("\"{}\"", it.name()));
            let (data, shape) = (part::to_base64(one.data), one.shape.as_json());
            let [base64, of_type, of_shape] = MEMBERS;
            let text =
                format!("{{\"{base64}\":\"{data}\",\"{of_type}\":{dtype},\"{of_shape}\":{shape}}}");
            Json { text: text.into(), carried: None }
        })
    }

    /// Returns the document with another value in place of each attachment.
    ///
    /// ```
    /// use ipc_framework::{Blob, Json};
    ///
    /// let json = Json::from_serialize(&[Blob::new(vec![1, 2, 3])])?;
    /// let shown = json.substitute(|one| Json::from_serialize(&one.data.len()).unwrap_or_default());
    /// assert_eq!(shown.as_str(), "[3]");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn substitute(
        &self,
        mut value: impl FnMut(&Attachment<'_>) -> Json<'static>,
    ) -> Json<'static> {
        let attachments = self.attachments();
        if attachments.is_empty() {
            return self.clone().into_owned();
        }
        let mut text = String::with_capacity(self.text.len());
        let mut written = 0;
        for (at, one) in attachments.places().into_iter().zip(attachments.iter()) {
            text.push_str(&self.text[written..at]);
            text.push_str(value(&one).as_str());
            written = at + "null".len();
        }
        text.push_str(&self.text[written..]);
        Json { text: text.into(), carried: None }
    }

    /// Returns the document with an attachment for each of its objects that has the members `$base64`, `dtype`
    /// and `shape` of one, and nothing else. It is for payloads that came by a server or from a peer without
    /// the extension `binary`; nobody does this unasked, because such an object may be what its sender meant.
    ///
    /// An object that contradicts itself stays what it is, because its text is not base64, its type is unknown,
    /// or the bytes are not as many as type and shape say. The whole document stays what it is if its
    /// attachments would be too many, or if no JSON Pointer leads to one of them because a key on the way is
    /// given twice or has half of a surrogate pair.
    ///
    /// ```
    /// use ipc_framework::Json;
    ///
    /// let json = Json::parse(r#"[{"$base64": "/9g=", "dtype": null, "shape": null}, 1]"#)?;
    /// let image = json.from_base64();
    /// assert_eq!(image.as_str(), "[null, 1]");
    /// assert_eq!(image.attachments().get("/0").unwrap().data, b"\xff\xd8");
    /// assert_eq!(image.to_base64().from_base64(), image);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[allow(clippy::wrong_self_convention, reason = "it is named like that of the other clients")]
    pub fn from_base64(&self) -> Json<'static> {
        let (mut draft, mut pointers) = (Draft::new(0), Vec::new());
        let mut text = String::new();
        let mut written = 0;
        leaves::each(&self.text, |path, at| {
            let Encoded { end, dtype, shape, data } = encoded(&self.text, at)?;
            draft.push(dtype, shape, &data);
            pointers.push(path.pointer());
            text.push_str(&self.text[written..at]);
            text.push_str("null");
            written = end;
            Some(end)
        });
        if pointers.is_empty() || self.carried.is_some() {
            return self.clone().into_owned();
        }
        text.push_str(&self.text[written..]);
        let settled = draft.settle(&pointers).and_then(|carried| {
            carried.view(&text).check_pointers()?;
            Ok(carried)
        });
        match settled {
            Ok(carried) => Json { text: text.into(), carried: Some(carried) },
            Err(_fault) => self.clone().into_owned(),
        }
    }
}

impl From<Fault> for JsonError {
    fn from(fault: Fault) -> Self {
        Self(Flaw::Attachments(fault))
    }
}

/// Returns the attachments in the order in which their nulls stand in the text.
fn in_order<'n>(text: &str, attachments: &[NewAttachment<'n>]) -> Option<Vec<NewAttachment<'n>>> {
    let mut places: Vec<_> = attachments
        .iter()
        .map(|one| Some((null_at(text, one.pointer)?, *one)))
        .collect::<Option<_>>()?;
    if places.is_sorted_by_key(|(at, _)| *at) {
        return None;
    }
    places.sort_by_key(|(at, _)| *at);
    Some(places.into_iter().map(|(_, one)| one).collect())
}

/// Returns the place of the null to which a pointer leads.
fn null_at(text: &str, pointer: &str) -> Option<usize> {
    let mut scanner = Scanner::new(text);
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let is_object = match scanner.peek()? {
            b'{' => true,
            b'[' => false,
            _ => return None,
        };
        scanner.bump();
        let mut number = 0_u64;
        loop {
            if matches!(scanner.peek()?, b'}' | b']') {
                return None;
            }
            let is_here = if is_object {
                scanner.key().ok()?.matches(&token)
            } else {
                token.parse() == Ok(number)
            };
            if is_here {
                break;
            }
            scanner.value(1).ok()?;
            number += 1;
            if scanner.peek() == Some(b',') {
                scanner.bump();
            }
        }
    }
    (scanner.peek() == Some(b'n')).then(|| scanner.at())
}

/// An attachment in the form for peers without the extension, and where that ends.
struct Encoded {
    end: usize,
    dtype: Option<Dtype>,
    shape: Vec<u64>,
    data: Vec<u8>,
}

/// Reads the object at a place, if it is one with the members of an attachment and nothing else.
fn encoded(text: &str, at: usize) -> Option<Encoded> {
    let mut scanner = Scanner::new(text.get(at..)?);
    if scanner.peek() != Some(b'{') {
        return None;
    }
    scanner.bump();
    let mut found = [None; MEMBERS.len()];
    loop {
        if scanner.peek() != Some(b'"') {
            return None;
        }
        let key = scanner.key().ok()?;
        let number = MEMBERS.iter().position(|name| key.matches(name))?;
        let value = scanner.value(1).ok()?;
        if found[number].replace(value).is_some() {
            return None;
        }
        match scanner.peek()? {
            b',' => scanner.bump(),
            _ => break,
        }
    }
    scanner.bump();
    let end = at + scanner.at();
    let [Some(base64), Some(dtype), Some(shape)] = found else { return None };
    let inner = base64.strip_prefix('"')?.strip_suffix('"')?;
    // Some writers escape the slashes.
    let data = if inner.contains('\\') {
        part::from_base64(&Json::trusted(base64).decode::<String>().ok()?)?
    } else {
        part::from_base64(inner)?
    };
    let dtype: Option<String> = Json::trusted(dtype).decode().ok()?;
    let dtype = match dtype {
        Some(name) => Some(Dtype::from_name(&name)?),
        None => None,
    };
    let shape: Option<Vec<u64>> = Json::trusted(shape).decode().ok()?;
    if shape.is_some() != dtype.is_some() {
        return None;
    }
    let shape = shape.unwrap_or_default();
    let one = NewAttachment { pointer: "", dtype, shape: &shape, data: &data };
    one.is_consistent().then_some(Encoded { end, dtype, shape, data })
}
