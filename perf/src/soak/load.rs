//! What goes on at the same time. Each round of each role is a script whose every answer is known.

use serde_json::{Value, json};

use super::peer::{Peer, Target, excerpt};
use super::{Random, Tally};

pub(super) type Role = fn(&[Target], &str, &mut Random, &mut Tally) -> Result<(), String>;

pub(super) const ROLES: [(&str, Role); 4] = [
    ("requests", requests),
    ("workers", workers),
    ("publications", publications),
    ("faults", faults),
];

const LARGE_BYTES_MAX: usize = 1_000_000;
/// What a script sends before anybody reads. With the envelopes it stays below the high-water
/// mark of a queue (1 MiB): past that the server rightly closes the reader as too slow.
const UNREAD_BYTES_MAX: usize = 1_000_000;

fn any<'a>(targets: &'a [Target], random: &mut Random) -> &'a Target {
    &targets[random.below(targets.len())]
}

/// Unlike any other: what is altered or mixed up does not compare equal.
fn payload(number: usize, random: &mut Random, room_bytes: &mut usize) -> Value {
    let bytes = match random.below(100) {
        0 => random.below(LARGE_BYTES_MAX),
        1..10 => random.below(20_000),
        _ => random.below(300),
    };
    let bytes = bytes.min(*room_bytes);
    *room_bytes -= bytes;
    let mut text = String::with_capacity(bytes + 20);
    while text.len() < bytes {
        text.push_str(&random.next().to_string());
    }
    json!({"number": number, "nonce": random.next(), "text": text})
}

/// Requests to a handler inside the server, several under way: answered in order, unaltered.
fn requests(
    targets: &[Target],
    name: &str,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut peer = Peer::connect(any(targets, random), "bench", name)?;
    for _ in 0..20 {
        let mut due = Vec::new();
        let mut room_bytes = UNREAD_BYTES_MAX;
        for number in 0..=random.below(4) {
            let payload = payload(number, random, &mut room_bytes);
            due.push((peer.send("request", "echo", &payload)?, payload));
        }
        for (id, payload) in due {
            let answer = peer.answer_to(&id)?;
            if answer != payload {
                return Err(format!("an echo was altered: {}", excerpt(&answer)));
            }
            tally.add("requests answered by a handler", 1);
        }
    }
    Ok(())
}

/// A worker answers out of order, and sometimes goes with requests in its hands: these are
/// handed back as `worker_lost`, and no others. Its two requesters use the same ids.
fn workers(
    targets: &[Target],
    name: &str,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut worker = Peer::connect(any(targets, random), "soak", &format!("{name}-worker"))?;
    let serve = json!({"action": "serve", "channel": name});
    let serving = worker.request("system", &serve)?;
    if serving["status"] != "serving" {
        return Err(format!("serve was answered {serving}"));
    }
    let mut requesters = Vec::new();
    for index in 0..2 {
        let id = format!("{name}-requester-{index}");
        requesters.push(Peer::connect(any(targets, random), "soak", &id)?);
    }
    let mut sent = Vec::new();
    let mut room_bytes = UNREAD_BYTES_MAX;
    for number in 0..=random.below(10) {
        for (index, requester) in requesters.iter_mut().enumerate() {
            let payload = payload(number * 2 + index, random, &mut room_bytes);
            let id = requester.send("request", name, &payload)?;
            sent.push((index, id, payload));
        }
    }
    let mut held = Vec::new();
    for _ in &sent {
        let request = worker.receive()?;
        let is_sent = |(_, _, payload): &&(usize, String, Value)| *payload == request["payload"];
        let (index, id, _) = sent
            .iter()
            .find(is_sent)
            .ok_or_else(|| format!("a worker got what nobody sent: {}", excerpt(&request)))?;
        held.push((*index, id.clone(), request));
    }
    // Each arrived once, for payloads differ and the counts agree only then.
    held.sort_by_key(|(index, id, _)| (*index, id.clone()));
    if held.windows(2).any(|two| (two[0].0, &two[0].1) == (two[1].0, &two[1].1)) {
        return Err("a worker got a request twice".to_owned());
    }
    random.shuffle(&mut held);
    let is_lost = random.below(3) == 0;
    let answered = if is_lost { random.below(held.len() + 1) } else { held.len() };
    let lost = held.split_off(answered);
    for (_, _, request) in &held {
        worker.respond(request, &json!({"answer to": request["payload"]}))?;
    }
    for (index, id, request) in &held {
        let answer = requesters[*index].answer_to(id)?;
        if answer != json!({"answer to": request["payload"]}) {
            return Err(format!("a worker's answer was altered: {}", excerpt(&answer)));
        }
        tally.add("requests answered by a worker", 1);
    }
    if is_lost {
        drop(worker);
        tally.add("faults: worker gone", 1);
    }
    let mut lost: Vec<(usize, String)> = lost.into_iter().map(|(at, id, _)| (at, id)).collect();
    while !lost.is_empty() {
        // They come back in no promised order.
        let index = lost[0].0;
        let answer = requesters[index].receive()?;
        let is_due = |(at, id): &(usize, String)| *at == index && answer["reply_to"] == **id;
        let at = lost.iter().position(is_due);
        let (Some(at), true) = (at, answer["payload"]["code"] == "worker_lost") else {
            return Err(format!("worker_lost was due, and this came: {}", excerpt(&answer)));
        };
        lost.swap_remove(at);
        tally.add("requests refused: worker_lost", 1);
    }
    requesters.iter_mut().try_for_each(Peer::expect_nothing_else)
}

/// Two publishers, and subscribers that come and go: each gets everything from its
/// acknowledgement on, once, and all in the same order.
fn publications(
    targets: &[Target],
    name: &str,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut publishers = Vec::new();
    for index in 0..2 {
        let id = format!("{name}-publisher-{index}");
        publishers.push(Peer::connect(any(targets, random), "soak", &id)?);
    }
    let mut subscribers = Vec::new();
    for round in 0..10 {
        while subscribers.len() < 2 + random.below(8) {
            let id = format!("{name}-subscriber-{round}-{}", subscribers.len());
            let mut peer = Peer::connect(any(targets, random), "soak", &id)?;
            let message =
                peer.send("subscribe", name, &json!({"connection_id": id, "ack": true}))?;
            if peer.answer_to(&message)?["status"] != "subscribed" {
                return Err("a subscription was not acknowledged".to_owned());
            }
            subscribers.push(peer);
        }
        let mut room_bytes = UNREAD_BYTES_MAX;
        let mut sent: [Vec<Value>; 2] = [Vec::new(), Vec::new()];
        for number in 0..=random.below(10) {
            for (publisher, sent) in publishers.iter_mut().zip(&mut sent) {
                let payload = payload(number, random, &mut room_bytes);
                publisher.send("publish", name, &payload)?;
                sent.push(payload);
            }
        }
        let count = sent[0].len() + sent[1].len();
        tally.add("publications", count);
        let mut order: Option<Vec<Value>> = None;
        for subscriber in &mut subscribers {
            let mut got = Vec::with_capacity(count);
            for _ in 0..count {
                let mut message = subscriber.receive()?;
                if message["message_type"] != "publish" || message["channel_id"] != name {
                    return Err(format!("no publication: {}", excerpt(&message)));
                }
                got.push(message["payload"].take());
            }
            tally.add("deliveries", count);
            if order.as_ref().is_some_and(|order| *order != got) {
                return Err("two subscribers saw different orders".to_owned());
            }
            order.get_or_insert(got);
        }
        for sent in &sent {
            let got = order.iter().flatten().filter(|payload| sent.contains(payload));
            if !got.eq(sent) {
                return Err("publications were lost, doubled or out of order".to_owned());
            }
        }
        subscribers.iter_mut().try_for_each(Peer::expect_nothing_else)?;
        subscribers.swap_remove(random.below(subscribers.len()));
        tally.add("faults: subscriber gone", 1);
    }
    Ok(())
}

/// What a broken or hostile peer does; it is told so, and the others never notice.
fn faults(
    targets: &[Target],
    name: &str,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<(), String> {
    let target = any(targets, random);
    if random.below(4) == 0 {
        let mut peer = Peer::raw(target, "soak")?;
        peer.send("request", "system", &json!({"action": "ping"}))?;
        peer.expect_error("not_connected")?;
        tally.add("faults: not_connected", 1);
        return peer.expect_end();
    }
    let mut peer = Peer::connect(target, "soak", name)?;
    match random.below(7) {
        0 => {
            peer.send_frame(b"{\"garbage\": NaN")?;
            peer.expect_error("bad_frame")?;
            tally.add("faults: bad_frame", 1);
            peer.expect_nothing_else()
        }
        1 => {
            peer.send("no such type", "work", &Value::Null)?;
            peer.expect_error("bad_message")?;
            tally.add("faults: bad_message", 1);
            peer.expect_nothing_else()
        }
        2 => {
            peer.send_bytes(&[0xff; 4])?;
            peer.expect_error("frame_too_large")?;
            tally.add("faults: frame_too_large", 1);
            peer.expect_end()
        }
        3 => {
            peer.send("request", "nobody serves this", &Value::Null)?;
            peer.expect_error("no_handler")?;
            tally.add("faults: no_handler", 1);
            peer.expect_nothing_else()
        }
        4 => {
            peer.send_bytes(b"\0\0\x10\0{\"message_id\": ")?;
            tally.add("faults: gone in the middle of a frame", 1);
            Ok(())
        }
        5 => {
            let mut newer = Peer::connect(target, "soak", name)?;
            peer.expect_error("taken_over")?;
            tally.add("faults: taken_over", 1);
            newer.expect_nothing_else()?;
            peer.expect_end()
        }
        _ => {
            // It goes with an answer unread, which resets a TCP connection.
            peer.send("request", "system", &json!({"action": "get_stats"}))?;
            tally.add("faults: gone with an answer unread", 1);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn read(stream: &mut impl Read) -> Option<Value> {
        let mut header = [0; 4];
        stream.read_exact(&mut header).ok()?;
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        stream.read_exact(&mut body).ok()?;
        serde_json::from_slice(&body).ok()
    }

    /// What `requests` says of a server whose first echo went through `alter`.
    fn said_of(alter: fn(&mut Value)) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = Target::Tcp(listener.local_addr().expect("an address"));
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut number = 0;
            while let Some(mut message) = read(&mut stream) {
                message["message_type"] = "response".into();
                if number == 0 {
                    message["payload"]["status"] = "connected".into();
                } else {
                    message["reply_to"] = message["message_id"].take();
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
        let said = requests(&[target], "a", &mut Random(1), &mut Tally::default());
        server.join().expect("the server ends");
        said.err().unwrap_or_default()
    }

    #[test]
    fn an_honest_echo_passes() {
        assert_eq!(said_of(|_| ()), "");
    }

    #[test]
    fn an_altered_echo_is_seen() {
        assert!(said_of(|message| message["payload"]["nonce"] = 7.into()).contains("altered"));
    }

    #[test]
    fn another_ones_answer_is_seen() {
        let said = said_of(|message| message["reply_to"] = "99".into());
        assert!(said.contains("not an answer to message"), "{said}");
    }
}
