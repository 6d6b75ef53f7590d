//! Redis: `ECHO`, `PUBLISH` and `SUBSCRIBE` in RESP2.

use super::fixed_frame::FixedFrame;
use super::message::{
    Exchange, HELD_PATTERNS, PATTERN_CHANNEL, Role, Scan, Template, Until, Wire, Work,
    held_patterns, matching_pattern, payload,
};

#[derive(Debug)]
pub(crate) struct Redis {
    work: Work,
    payload_bytes: usize,
    received: FixedFrame,
}

const CHANNEL: &str = "news";

impl Redis {
    pub(crate) fn new(work: Work, payload_bytes: usize) -> Self {
        const PATTERN_OFFSET: usize = "*4\r\n$8\r\npmessage\r\n$9\r\n".len();
        let prefix = match work {
            Work::Echo => format!("${payload_bytes}\r\n"),
            Work::Fanout | Work::History => {
                format!("*3\r\n$7\r\nmessage\r\n$4\r\n{CHANNEL}\r\n${payload_bytes}\r\n")
            }
            Work::Patterns => format!(
                "*4\r\n$8\r\npmessage\r\n$9\r\n{PATTERN_CHANNEL}\r\n$9\r\n{PATTERN_CHANNEL}\r\n\
                 ${payload_bytes}\r\n"
            ),
        };
        let mut received = FixedFrame::new(prefix.into_bytes(), payload_bytes, b"\r\n");
        if work == Work::Patterns {
            // A message names the pattern of its subscriber first.
            received.varying = PATTERN_OFFSET..PATTERN_OFFSET + PATTERN_CHANNEL.len();
        }
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
            Role::Subscriber if self.work == Work::Patterns => {
                let send = command(&[b"PSUBSCRIBE", matching_pattern(index).as_bytes()]);
                return vec![Exchange { send, until: Until::Text(b":1\r\n") }];
            }
            Role::PatternHolder => {
                let patterns: Vec<String> = held_patterns(index).collect();
                let words = patterns.iter().map(String::as_bytes);
                let words: Vec<&[u8]> = [&b"PSUBSCRIBE"[..]].into_iter().chain(words).collect();
                const { assert!(HELD_PATTERNS == 999) };
                return vec![Exchange { send: command(&words), until: Until::Text(b":999\r\n") }];
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
            Work::Fanout | Work::History => command(&[b"PUBLISH", CHANNEL.as_bytes(), &payload]),
            Work::Patterns => command(&[b"PUBLISH", PATTERN_CHANNEL.as_bytes(), &payload]),
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
