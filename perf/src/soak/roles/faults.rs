//! Faults of a broken or hostile peer. It gets an error for each, and the other peers are not
//! affected.

use serde_json::{Value, json};

use super::super::account::kind;
use super::super::context::{Context, Random};
use super::super::peer::Peer;

pub(super) fn round(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    if random.below(8) == 0 {
        return not_introduced(context, random);
    }
    let id = &context.round;
    let mut peer = context.connect(random, id)?;
    match random.below(9) {
        0 => told_and_kept(context, peer, "bad_frame", "garbage in a frame", |peer| {
            // This is not a message, so the error names none that it answers.
            peer.send_frame(b"{\"garbage\": NaN")
        }),
        1 => told_and_kept(context, peer, "bad_message", "a message of no type", |peer| {
            peer.ask(kind::BROKEN, "no such type", "work", &Value::Null).map(drop)
        }),
        2 => told_and_kept(context, peer, "no_handler", "a request nobody serves", |peer| {
            peer.ask(kind::UNSERVED, "request", "nobody serves this", &Value::Null).map(drop)
        }),
        3 => told_and_kept(context, peer, "forbidden", "to subscribe another one", |peer| {
            let other = json!({"connection_id": "another one"});
            peer.ask(kind::BROKEN, "subscribe", "news", &other).map(drop)
        }),
        4 => {
            peer.send_bytes(&[0xff; 4])?;
            peer.expect_error("frame_too_large")?;
            context.fault("a length of 4 GiB");
            peer.expect_end()
        }
        5 => {
            peer.send_bytes(b"\0\0\x10\0{\"message_id\": ")?;
            context.fault("gone in the middle of a frame");
            peer.hang_up(false)
        }
        6 => {
            peer.send_bytes(b"\0\0\x10\0{\"message_id\": ")?;
            context.fault("reset in the middle of a frame");
            peer.hang_up(true)
        }
        7 => {
            let mut newer = context.connect(random, id)?;
            peer.expect_error("taken_over")?;
            context.fault("an id taken over");
            newer.expect_nothing_else()?;
            peer.expect_end()
        }
        _ => {
            // TCP resets a connection that is closed while an answer is unread.
            peer.ask(kind::SYSTEM, "request", "system", &json!({"action": "get_stats"}))?;
            peer.leave_answer_unread()?;
            context.expect("frames_out", 1);
            context.fault("gone with an answer unread");
            peer.hang_up(random.below(2) == 0)
        }
    }
}

/// Checks that a fault is answered with this code and the connection stays open.
fn told_and_kept(
    context: &Context<'_>,
    mut peer: Peer,
    code: &str,
    what: &'static str,
    fault: impl FnOnce(&mut Peer) -> Result<(), String>,
) -> Result<(), String> {
    fault(&mut peer)?;
    peer.expect_error(code)?;
    context.fault(what);
    peer.expect_nothing_else()
}

fn not_introduced(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let mut peer = Peer::raw(context.target(random), &context.application, &context.account)?;
    if random.below(2) == 0 {
        peer.ask(kind::SYSTEM, "request", "system", &json!({"action": "ping"}))?;
        peer.expect_error("not_connected")?;
        context.fault("a question instead of an introduction");
    } else {
        // The first four bytes of an HTTP request are a length far over the limit.
        peer.send_bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        peer.expect_error("frame_too_large")?;
        context.fault("another protocol");
    }
    peer.expect_end()
}
