//! Redis: `ECHO`, `PUBLISH` and `SUBSCRIBE` in RESP2.

use super::fixed_frame::FixedFrame;
use super::message::{Exchange, Role, Scan, Template, Until, Wire, Work, payload};

#[derive(Debug)]
pub(crate) struct Redis {
    work: Work,
    payload_bytes: usize,
    received: FixedFrame,
}

const CHANNEL: &str = "news";

impl Redis {
    pub(crate) fn new(work: Work, payload_bytes: usize) -> Self {
        let prefix = match work {
            Work::Echo => format!("${payload_bytes}\r\n"),
            Work::Fanout => {
                format!("*3\r\n$7\r\nmessage\r\n$4\r\n{CHANNEL}\r\n${payload_bytes}\r\n")
            }
        };
        let received = FixedFrame::new(prefix.into_bytes(), payload_bytes, b"\r\n");
        Self { work, payload_bytes, received }
    }
}

impl Wire for Redis {
    fn join(&self, role: Role, index: usize) -> Vec<Exchange> {
        let channel = match role {
            Role::Sender | Role::Idle | Role::Worker => {
                let send = command(&[b"PING"]);
                return vec![Exchange { send, until: Until::Text(b"+PONG\r\n") }];
            }
            Role::Subscriber => CHANNEL.to_owned(),
            Role::IdleSubscriber => format!("{CHANNEL}-{index}"),
        };
        let send = command(&[b"SUBSCRIBE", channel.as_bytes()]);
        vec![Exchange { send, until: Until::Text(b":1\r\n") }]
    }

    fn message(&self, _: usize) -> Template {
        let payload = payload(self.payload_bytes);
        Template::new(match self.work {
            Work::Echo => command(&[b"ECHO", &payload]),
            Work::Fanout => command(&[b"PUBLISH", CHANNEL.as_bytes(), &payload]),
        })
    }

    fn scan(&self, received: &[u8]) -> Result<Scan, String> {
        self.received.scan(received)
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
