//! Encodes and sends messages of the server itself, including errors. This module closes no
//! connection: [`closing`](super::closing) sends the errors that close one.

use serde::Serialize;

use super::queues;
use crate::broker::state::connection::Connection;
use crate::broker::state::core::Core;
use crate::broker::state::encoder::{Address, Encoded};
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::refusal::{self, Refusal};
use crate::proto::system::{Failure, SYSTEM};
use crate::proto::{Envelope, EnvelopeError, Head, Json, JsonStr, MessageType, ValueError};

/// Sends an encoded message. Returns whether the connection still takes messages.
pub(crate) fn send(core: &mut Core, to: ConnectionKey, message: Encoded) -> bool {
    let taken = queues::push(core, to, &message.frame());
    core.encoder.recycle(message);
    taken
}

/// Encodes a message with a value of the server's own as its payload.
pub(crate) fn encode_own<T: Serialize + ?Sized>(
    core: &mut Core,
    address: Address<'_>,
    message_type: MessageType,
    reply_to: Option<&[u8]>,
    payload: &T,
) -> Result<Encoded, serde_json::Error> {
    let gauge = core.pool.gauge();
    core.encoder.own_value(gauge, core.turn.now.unix, address, message_type, reply_to, payload)
}

/// Encodes a message with a value of the embedder as its payload, see
/// [`Encoder::value`](crate::broker::state::encoder::Encoder::value).
pub(crate) fn encode<T: Serialize + ?Sized>(
    core: &mut Core,
    address: Address<'_>,
    message_type: MessageType,
    reply_to: Option<&[u8]>,
    payload: &T,
) -> Result<Result<Encoded, Json<'static>>, ValueError> {
    let gauge = core.pool.gauge();
    core.encoder.value(gauge, core.turn.now.unix, address, message_type, reply_to, payload)
}

/// Answers a message that `to` sent with a value of the server's own, which is always JSON.
pub(crate) fn respond<T: Serialize + ?Sized>(
    core: &mut Core,
    to: ConnectionKey,
    envelope: &Envelope<'_>,
    payload: &T,
) {
    let address = Address::of(envelope);
    let reply_to = Some(envelope.message_id().raw().as_bytes());
    let answer = encode_own(core, address, MessageType::Response, reply_to, payload);
    debug_assert!(answer.is_ok(), "a value of the server's own is always JSON");
    if let Ok(answer) = answer {
        send_own(core, to, envelope, answer);
    }
}

/// Sends the server's own answer to a message, or an error if no frame holds it.
pub(crate) fn send_own(
    core: &mut Core,
    to: ConnectionKey,
    envelope: &Envelope<'_>,
    answer: Encoded,
) {
    if answer.body_bytes() > core.limits.frame_bytes_max {
        core.encoder.recycle(answer);
        refuse(core, to, envelope, &refusal::listing_too_large());
    } else {
        send(core, to, answer);
    }
}

/// Answers a message with an error. A response is never answered, so that no two peers can send
/// errors back and forth.
pub(crate) fn refuse(core: &mut Core, to: ConnectionKey, envelope: &Envelope<'_>, why: &Refusal) {
    if envelope.message_type() == MessageType::Response {
        core.counters.responses_ignored += 1;
        return;
    }
    say(core, to, Address::of(envelope), reply_to(envelope), why);
}

/// Answers a message with an error of the application, see [`HandlerError`](crate::HandlerError). A response is never
/// answered.
pub(crate) fn refuse_by_application(
    core: &mut Core,
    to: ConnectionKey,
    envelope: &Envelope<'_>,
    error: &Json<'_>,
) {
    if envelope.message_type() == MessageType::Response {
        core.counters.responses_ignored += 1;
        return;
    }
    let stamp = core.encoder.stamp(core.turn.now.unix);
    let address = Address::of(envelope);
    let head = Head {
        message_id: stamp.id(),
        app_id: address.app_id,
        channel_id: address.channel_id,
        message_type: MessageType::Response,
        timestamp: stamp.time(),
        reply_to: reply_to(envelope),
        meta: None,
    };
    let answer = core.encoder.text(&mut core.pool, &head, error.as_str());
    if answer.body_bytes() > core.limits.frame_bytes_max {
        core.encoder.recycle(answer);
        let failure = refusal::answer_over_frame(core.limits.frame_bytes_max);
        return refuse(core, to, envelope, &refusal::handler_failed(&failure));
    }
    core.counters.count_application_error();
    send(core, to, answer);
}

/// Answers a message that could not be parsed.
pub(crate) fn refuse_unread(core: &mut Core, to: ConnectionKey, error: &EnvelopeError<'_>) {
    if error.message_type == Some(MessageType::Response) {
        core.counters.responses_ignored += 1;
        return;
    }
    let why = Refusal::new(error.fault.code(), error.fault.to_string());
    let application = own_application(core, to);
    let channel_id = error.channel_id.map_or(SYSTEM, JsonStr::raw);
    let reply_to = error.message_id.map(|id| id.raw().as_bytes()).filter(|id| !id.is_empty());
    say(core, to, Address { app_id: &application, channel_id }, reply_to, &why);
}

/// Sends an error that concerns the connection and not one of its messages.
pub(crate) fn report(core: &mut Core, to: ConnectionKey, why: &Refusal) {
    let application = own_application(core, to);
    say(core, to, Address { app_id: &application, channel_id: SYSTEM }, None, why);
}

/// Sends an error after which the connection stays open.
pub(crate) fn say(
    core: &mut Core,
    to: ConnectionKey,
    address: Address<'_>,
    reply_to: Option<&[u8]>,
    why: &Refusal,
) {
    debug_assert!(!why.code.closes_connection(), "{:?} closes its connection", why.code);
    write(core, to, address, reply_to, why);
}

/// Sends an error after which the caller closes the connection.
pub(crate) fn say_last(
    core: &mut Core,
    to: ConnectionKey,
    address: Address<'_>,
    reply_to: Option<&[u8]>,
    why: &Refusal,
) {
    debug_assert!(why.code.closes_connection(), "{:?} leaves its connection open", why.code);
    write(core, to, address, reply_to, why);
}

fn write(
    core: &mut Core,
    to: ConnectionKey,
    address: Address<'_>,
    reply_to: Option<&[u8]>,
    why: &Refusal,
) {
    core.counters.count_error(why.code);
    let payload = Failure::new(why.code, &why.text);
    // Three strings are always JSON.
    if let Ok(message) = encode_own(core, address, MessageType::Response, reply_to, &payload) {
        send(core, to, message);
    }
}

/// Returns the id that an answer refers to, if the message has one.
pub(crate) fn reply_to<'a>(envelope: &Envelope<'a>) -> Option<&'a [u8]> {
    Some(envelope.message_id().raw().as_bytes()).filter(|id| !id.is_empty())
}

/// Returns the application of a connection, as JSON text without the quotes.
pub(crate) fn own_application(core: &Core, key: ConnectionKey) -> Box<str> {
    let session = core.connections.get(key).and_then(Connection::session);
    let application = session.and_then(|found| core.router.applications.get(found.application));
    application.map_or(SYSTEM, |application| &application.id_json).into()
}
