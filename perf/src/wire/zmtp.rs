//! ZMTP 3.1, the protocol of `ZeroMQ` sockets: the mechanism NULL, and messages of one part.

use super::fixed_frame::FixedFrame;
use super::message::{Exchange, Role, Scan, Template, Until, Wire, Work, payload};

#[derive(Debug)]
pub(crate) struct Zmtp {
    work: Work,
    payload_bytes: usize,
    received: FixedFrame,
}

const GREETING_BYTES: usize = 64;
const FLAG_LONG: u8 = 2;
const FLAG_COMMAND: u8 = 4;

impl Zmtp {
    pub(crate) fn new(work: Work, payload_bytes: usize) -> Self {
        let received = FixedFrame::new(header(payload_bytes), payload_bytes, b"");
        Self { work, payload_bytes, received }
    }

    fn socket_type(&self, role: Role) -> &'static str {
        match (self.work, role) {
            (_, Role::Subscriber | Role::IdleSubscriber) => "SUB",
            (Work::Fanout | Work::Patterns | Work::History, _) => "PUB",
            (Work::Echo, _) => "DEALER",
        }
    }
}

impl Wire for Zmtp {
    fn join(&self, role: Role, _: usize) -> Vec<Exchange> {
        let mut steps = vec![
            Exchange { send: greeting(), until: Until::Bytes(GREETING_BYTES) },
            Exchange { send: ready(self.socket_type(role)), until: Until::ShortFrame },
        ];
        if self.socket_type(role) == "SUB" {
            // This subscribes to everything, and is not acknowledged.
            steps.push(Exchange { send: vec![0, 1, 1], until: Until::Bytes(0) });
        }
        steps
    }

    fn message(&self, _: usize) -> Template {
        let mut bytes = header(self.payload_bytes);
        bytes.extend_from_slice(&payload(self.payload_bytes));
        Template::new(bytes)
    }

    fn scan(&self, received: &[u8]) -> Result<Scan, String> {
        self.received.scan(received)
    }
}

fn header(payload_bytes: usize) -> Vec<u8> {
    if let Ok(bytes) = u8::try_from(payload_bytes) {
        return vec![0, bytes];
    }
    let mut header = vec![FLAG_LONG];
    header.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
    header
}

fn greeting() -> Vec<u8> {
    let mut bytes = vec![0; GREETING_BYTES];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = 3;
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

fn ready(socket_type: &str) -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type".to_vec();
    body.extend_from_slice(&(socket_type.len() as u32).to_be_bytes());
    body.extend_from_slice(socket_type.as_bytes());
    let mut bytes = vec![FLAG_COMMAND, body.len() as u8];
    bytes.extend_from_slice(&body);
    bytes
}
