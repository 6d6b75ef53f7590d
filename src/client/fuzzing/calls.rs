//! What a server says of streams and of requests that this client serves, in any order, against a
//! naive model.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::client::background::job::{Credit, Extras, Job};
use crate::client::background::parts::Parts;
use crate::client::error::Error;
use crate::proto::system::CancelReason;
use crate::proto::{Envelope, Json, Message, MessageType, Meta};

/// A stream as the protocol describes it.
#[derive(Default)]
struct Model {
    waiting: VecDeque<u8>,
    received: u64,
    credit: u32,
    taken: u32,
    /// Set at the end, to whether that is an error.
    end: Option<bool>,
    is_over: bool,
}

/// Each byte is one thing that the server or the reader does.
pub(super) fn parts(input: &[u8]) {
    let Some((window, script)) = input.split_first() else { return };
    let window = 1 + u32::from(window % 9);
    let parts = Parts::new(window);
    let mut model = Model { credit: window, ..Model::default() };
    for act in script {
        // Once it has ended the client forgets the request, and nothing reaches it any more.
        let is_open = model.end.is_none() && !model.is_over;
        match act % 8 {
            0..=3 if is_open => {
                let next = model.received;
                put(&parts, &mut model, next, *act);
            }
            4 if is_open => put(&parts, &mut model, u64::from(act / 8), *act),
            5 if is_open => {
                let seq = if act & 8 == 0 { model.received } else { u64::from(act / 16) };
                let is_right = seq == model.received;
                let ended = parts.end(seq);
                assert_eq!(ended.is_ok(), is_right);
                if !is_right {
                    parts.finish(Err(Error::broken_stream("the end")));
                }
                model.end = Some(!is_right);
            }
            6 if is_open && act & 8 == 0 => {
                parts.finish(Err(Error::Closed));
                model.end = Some(true);
            }
            6 if is_open => {
                parts.finish(Ok(part(*act)));
                model.end = Some(model.received > 0);
                if model.received == 0 {
                    model.waiting.push_back(*act);
                }
            }
            7 => take(&parts, &mut model, window),
            _ => {}
        }
        assert!(model.waiting.len() <= window as usize, "no more waits than there was credit for");
    }
    while !model.is_over && (!model.waiting.is_empty() || model.end.is_some()) {
        take(&parts, &mut model, window);
    }
}

fn part(payload: u8) -> Message {
    let payload = Json::from_serialize(&payload).expect("a number is JSON");
    Message::new(MessageType::Response, "app", "channel", payload)
}

fn put(parts: &Parts, model: &mut Model, seq: u64, payload: u8) {
    let is_right = seq == model.received && model.credit > 0;
    assert_eq!(parts.put(seq, part(payload)).is_ok(), is_right);
    if is_right {
        model.received += 1;
        model.credit -= 1;
        model.waiting.push_back(payload);
    } else {
        // The client ends the stream, and tells the server.
        parts.finish(Err(Error::broken_stream("a part")));
        model.end = Some(true);
    }
}

fn take(parts: &Parts, model: &mut Model, window: u32) {
    let taken = parts.try_take();
    if model.is_over {
        assert!(taken.is_some_and(|taken| taken.part.is_none() && taken.credit.is_none()));
    } else if let Some(expected) = model.waiting.pop_front() {
        let taken = taken.expect("a part waits");
        let part = taken.part.expect("a part").expect("no error");
        assert_eq!(part.payload.as_str(), expected.to_string());
        model.taken += 1;
        let is_due = model.end.is_none() && model.taken * 2 >= window;
        let credit = is_due.then(|| std::mem::take(&mut model.taken));
        assert_eq!(taken.credit, credit);
        model.credit += credit.unwrap_or_default();
    } else if let Some(is_error) = model.end.take() {
        let taken = taken.expect("an end");
        assert_eq!(taken.part.is_some_and(|end| end.is_err()), is_error);
        model.is_over = true;
    } else {
        assert!(taken.is_none());
    }
    if model.end.is_none() && !model.is_over {
        let waiting = model.waiting.len() as u32;
        assert_eq!(model.credit + waiting + model.taken, window);
    }
}

/// A request to serve with any bytes as its `meta`, and then credit, cancels and parts.
pub(super) fn job(input: &[u8]) {
    let half = input.len() / 2;
    let (meta, script) = input.split_at(half);
    let body = [
        &br#"{"message_id":"67e55044-10b1-426f-9247-bb680e5fe0c8","app_id":"a","channel_id":"c","#
            [..],
        br#""message_type":"request","payload":1,"timestamp":1,"reply_to":null,"meta":"#,
        meta,
        b"}",
    ];
    let with_stream = [body[0], body[1], br#"{"stream":3,"newer":[]}"#, body[3]].concat();
    let own = body.concat();
    let envelope = match Envelope::parse_extended(&own) {
        Ok(envelope) => envelope,
        Err(_) => Envelope::parse_extended(&with_stream).expect("it is a message"),
    };
    let extras = Extras::of(&envelope);
    let meta = envelope.meta();
    let read = meta.as_ref().and_then(|meta| Meta::parse_known(meta.as_str()).ok());
    assert_eq!(extras.is_some(), read.is_some());
    let job = Arc::new(Job::new(&Message::from(&envelope), extras, 1));
    let stream = read.and_then(|meta| meta.stream);
    assert_eq!(job.credit().map(Credit::available), stream);
    let Some(credit) = job.credit() else { return };
    let mut model = stream.unwrap_or_default();
    let mut reason = None;
    for act in script {
        match act % 8 {
            0..=3 => {
                assert_eq!(credit.try_take(), model > 0);
                model = model.saturating_sub(1);
            }
            4 => {
                credit.add(u32::from(*act));
                model = model.saturating_add(u32::from(*act));
            }
            5 => {
                credit.add(u32::MAX);
                model = u32::MAX;
            }
            6 if model > 0 || reason.is_some() => {
                let is_over = || reason.is_some();
                assert_eq!(credit.take(is_over), reason.is_none());
                model -= u32::from(reason.is_none());
            }
            7 => {
                let next = CancelReason::ALL[usize::from(act / 8) % CancelReason::ALL.len()];
                job.cancel(next);
                reason = reason.or(Some(next));
            }
            _ => {}
        }
        assert_eq!(credit.available(), model);
        assert_eq!(job.reason(), reason);
        assert_eq!(job.is_cancelled(), reason.is_some());
    }
}
