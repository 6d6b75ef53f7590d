//! Frames of this project's protocol whose data is an attachment of plain bytes.

use memchr::memmem;

use super::ipc::{self, Ipc};
use super::message::{
    Exchange, HEADER_BYTES, ID_BYTES, Id, Role, Scan, Template, Wire, Work, excerpt, frame_bytes,
    id,
};

/// Messages with the payload `{"data": null}`, whose null an attachment takes the place of. It begins
/// with the message's number.
#[derive(Debug)]
pub(crate) struct Attached {
    dialect: super::Dialect,
    work: Work,
    data_bytes: usize,
    /// The handshake, which is that of messages of JSON alone.
    plain: Ipc,
    message_bytes: usize,
}

/// The body, and each attachment in it, takes a multiple of this.
const ALIGNMENT: usize = 64;
const LENGTH_BYTES: usize = 4;

impl Attached {
    pub(crate) fn new(dialect: super::Dialect, work: Work, data_bytes: usize) -> Self {
        let plain = Ipc::new(dialect, work, ID_BYTES + 2);
        let mut wire = Self { dialect, work, data_bytes, plain, message_bytes: 0 };
        wire.message_bytes = wire.message(0).bytes().len();
        wire
    }

    /// Reads what a bare loop returns or relays: the bytes that were sent.
    fn scan_verbatim(&self, frame: &[u8]) -> Option<Id> {
        if frame.len() != self.message_bytes {
            return None;
        }
        self.parts(frame).map(|(_, id)| id)
    }

    /// Reads an answer, which names the number in `reply_to` as well.
    fn scan_answer(&self, frame: &[u8]) -> Option<Id> {
        const KEY: &[u8] = b"\"reply_to\":\"";
        let (json, id) = self.parts(frame)?;
        let start = memmem::find(json, KEY)? + KEY.len();
        let length = memchr::memchr(b'"', &json[start..])?;
        let answered = &json[start..start + length];
        (answered.get(answered.len().checked_sub(ID_BYTES)?..)? == id).then_some(id)
    }

    /// Returns the JSON and the number at the beginning of the only attachment, if the layout is that of
    /// a message with one of the right length.
    fn parts<'a>(&self, frame: &'a [u8]) -> Option<(&'a [u8], Id)> {
        let body = frame.get(HEADER_BYTES..)?;
        let (length, rest) = body.split_first_chunk::<LENGTH_BYTES>()?;
        let json = rest.get(..u32::from_be_bytes(*length) as usize)?;
        let start = (LENGTH_BYTES + json.len()).next_multiple_of(ALIGNMENT);
        if body.len() != start + self.data_bytes.next_multiple_of(ALIGNMENT) {
            return None;
        }
        let data = &body[start..start + self.data_bytes];
        (data.last() == Some(&b'x')).then(|| data[..ID_BYTES].try_into().ok())?.map(|id| (json, id))
    }
}

impl Wire for Attached {
    fn join(&self, role: Role, index: usize) -> Vec<Exchange> {
        let mut steps = self.plain.join(role, index);
        if self.dialect != super::Dialect::Bare
            && let Some(connect) = steps.first_mut()
        {
            connect.send = ipc::connect(index, "\"extensions\":[\"binary\"]");
        }
        steps
    }

    fn message(&self, _index: usize) -> Template {
        let (kind, channel) = ipc::kind_and_channel(self.work);
        let meta = format!(",\"meta\":{{\"bin\":[[\"/data\",{},null,null]]}}", self.data_bytes);
        let framed = ipc::frame_with(kind, channel, b"{\"data\":null}", "null", &meta);
        let json = &framed[HEADER_BYTES..];
        let start = (LENGTH_BYTES + json.len()).next_multiple_of(ALIGNMENT);
        let body_bytes = start + self.data_bytes.next_multiple_of(ALIGNMENT);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body_bytes);
        bytes.extend_from_slice(&(body_bytes as u32).to_be_bytes());
        bytes.extend_from_slice(&(json.len() as u32).to_be_bytes());
        bytes.extend_from_slice(json);
        bytes.resize(HEADER_BYTES + start, 0);
        bytes.extend_from_slice(&id(0));
        bytes.resize(HEADER_BYTES + start + self.data_bytes, b'x');
        bytes.resize(HEADER_BYTES + body_bytes, 0);
        Template::new(bytes)
    }

    fn scan(&self, received: &[u8]) -> Result<Scan, String> {
        let Some(bytes) = frame_bytes(received) else { return Ok(Scan::Partial) };
        let Some(frame) = received.get(..bytes) else { return Ok(Scan::Partial) };
        let id = match (self.dialect, self.work) {
            (super::Dialect::Server, Work::Echo) => self.scan_answer(frame),
            _ => self.scan_verbatim(frame),
        };
        match id {
            Some(id) => Ok(Scan::Message { bytes, id }),
            None => Err(format!("the peer sent {}", excerpt(frame))),
        }
    }
}
