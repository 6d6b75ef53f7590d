//! Requests to a handler inside the server, several in flight. They are answered in order and
//! unaltered.

use serde_json::json;

use super::super::account::kind;
use super::super::context::{Context, Random, UNREAD_BYTES_MAX};
use super::super::peer::excerpt;

pub(super) fn round(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let id = format!("{}-{}", context.application, context.round);
    let mut peer = context.connect_to(random, "bench", &id)?;
    for _ in 0..20 {
        let mut due = Vec::new();
        let mut room_bytes = UNREAD_BYTES_MAX;
        for number in 0..=random.below(4) {
            let payload = random.payload(number, &mut room_bytes);
            due.push((peer.ask(kind::HANDLER, "request", "echo", &payload)?, payload));
        }
        for (number, payload) in due {
            let answer = peer.answer_to(number)?;
            if answer != payload {
                return Err(format!("an echo was altered: {}", excerpt(&answer)));
            }
        }
    }
    peer.expect_nothing_else()?;
    drop(peer);
    failing(context, random)
}

/// Sends a payload that the handler cannot read.
fn failing(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let id = format!("{}-{}", context.application, context.round);
    let mut peer = context.connect_to(random, "file_share", &id)?;
    let number = peer.ask(kind::FAILING, "request", "upload", &json!("no object"))?;
    let answer = peer.answer_to(number)?;
    if answer["code"] != "handler_failed" {
        return Err(format!("handler_failed was due, and this came: {}", excerpt(&answer)));
    }
    context.expect("handler_failures", 1);
    peer.expect_nothing_else()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::path::Path;
    use std::rc::Rc;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use rustix::process::getpid;
    use serde_json::Value;

    use super::super::super::context::Harness;
    use super::*;
    use crate::endpoint::Endpoint;

    fn read(stream: &mut impl Read) -> Option<Value> {
        let mut header = [0; 4];
        stream.read_exact(&mut header).ok()?;
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        stream.read_exact(&mut body).ok()?;
        serde_json::from_slice(&body).ok()
    }

    /// Returns the error of a round against a server that alters its first echo.
    fn said_of(alter: fn(&mut Value)) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = Endpoint::Tcp(listener.local_addr().expect("an address"));
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut number = 0;
            while let Some(mut message) = read(&mut stream) {
                message["message_type"] = "response".into();
                if message["payload"]["action"] == "connect" {
                    message["payload"]["status"] = "connected".into();
                } else {
                    message["reply_to"] = message["message_id"].take();
                    message["message_id"] = "an answer".into();
                }
                if number == 1 {
                    alter(&mut message);
                }
                number += 1;
                let body = message.to_string();
                let length = u32::try_from(body.len()).expect("short").to_be_bytes();
                if stream.write_all(&[&length[..], body.as_bytes()].concat()).is_err() {
                    return;
                }
            }
        });
        let stop = AtomicBool::new(false);
        let harness = Harness {
            targets: &[target],
            server: getpid(),
            settings: Path::new("none"),
            stop: &stop,
        };
        let context = Context {
            harness,
            application: "a".to_owned(),
            round: "0".to_owned(),
            account: Rc::default(),
        };
        let said = round(&context, &mut Random::new(1, 0));
        server.join().expect("the server ends");
        said.err().unwrap_or_default()
    }

    #[test]
    fn an_honest_echo_passes() {
        // It does not know what a ping is.
        assert!(said_of(|_| ()).starts_with("ping: "));
    }

    #[test]
    fn an_altered_echo_is_seen() {
        assert!(said_of(|message| message["payload"]["nonce"] = 7.into()).contains("altered"));
    }

    #[test]
    fn another_ones_answer_is_seen() {
        let said = said_of(|message| message["reply_to"] = "99".into());
        assert!(said.contains("nobody waits for this"), "{said}");
    }

    #[test]
    fn another_applications_message_is_seen() {
        let said = said_of(|message| message["app_id"] = "b".into());
        assert!(said.contains("for another application"), "{said}");
    }
}
