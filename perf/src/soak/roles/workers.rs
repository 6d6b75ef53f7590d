//! Two workers of a channel answer late and out of order. One sometimes leaves with requests in
//! flight: exactly these fail with `worker_lost`. All requesters use the same ids.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::account::kind;
use super::super::context::{Context, Random, UNREAD_BYTES_MAX};
use super::super::peer::{Peer, answered, excerpt};

const REQUESTERS: usize = 2;
const LATE_MAX_MILLISECONDS: usize = 50;

/// A request that was sent: its requester, its id and its payload.
struct Sent {
    requester: usize,
    number: u64,
    payload: Value,
}

/// A request that a worker has received and not answered.
struct Held {
    sent: Sent,
    request: Value,
}

pub(super) fn round(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let channel = &context.round;
    let mut workers = Vec::new();
    for index in 0..2 {
        let mut worker = context.connect(random, &format!("{channel}-worker-{index}"))?;
        worker.serve(channel)?;
        workers.push(worker);
    }
    let mut requesters = Vec::new();
    for index in 0..REQUESTERS {
        requesters.push(context.connect(random, &format!("{channel}-requester-{index}"))?);
    }
    let sent = ask(channel, random, &mut requesters)?;
    let mut held = take(sent, &mut workers)?;
    for held in &mut held {
        random.shuffle(held);
    }
    if random.below(4) == 0 {
        thread::sleep(Duration::from_millis(random.below(LATE_MAX_MILLISECONDS) as u64));
    }
    let [first, second] = held;
    match random.below(6) {
        0 | 1 => {
            let kept = random.below(first.len() + 1);
            let lost = answer_some(&mut workers[0], &mut requesters, first, kept)?;
            workers[0].expect_nothing_else()?;
            workers.remove(0).hang_up(random.below(2) == 0)?;
            context.fault("a worker gone with requests in its hands");
            expect_lost(lost, &mut requesters)?;
            answer_some(&mut workers[0], &mut requesters, second, usize::MAX)?;
        }
        2 => abandon(context, &mut workers, &mut requesters, [first, second], random)?,
        3 => {
            meddle(context, &mut workers, &first)?;
            answer_some(&mut workers[0], &mut requesters, first, usize::MAX)?;
            answer_some(&mut workers[1], &mut requesters, second, usize::MAX)?;
        }
        _ => {
            answer_some(&mut workers[1], &mut requesters, second, usize::MAX)?;
            answer_some(&mut workers[0], &mut requesters, first, usize::MAX)?;
        }
    }
    workers.iter_mut().chain(&mut requesters).try_for_each(Peer::expect_nothing_else)
}

fn ask(channel: &str, random: &mut Random, requesters: &mut [Peer]) -> Result<Vec<Sent>, String> {
    let mut sent = Vec::new();
    let mut room_bytes = UNREAD_BYTES_MAX;
    for number in 0..=random.below(10) {
        for (index, requester) in requesters.iter_mut().enumerate() {
            let payload = random.payload(number * REQUESTERS + index, &mut room_bytes);
            let number = requester.ask(kind::WORKER, "request", channel, &payload)?;
            sent.push(Sent { requester: index, number, payload });
        }
    }
    Ok(sent)
}

/// Receives all requests. Each must arrive at one worker, and they must be dealt out evenly.
fn take(mut sent: Vec<Sent>, workers: &mut [Peer]) -> Result<[Vec<Held>; 2], String> {
    let mut held = [Vec::new(), Vec::new()];
    let count = sent.len();
    for (worker, held) in workers.iter_mut().zip(&mut held) {
        // None was answered meanwhile, so the worker with fewer requests got the next one.
        for _ in 0..count / 2 {
            let request = worker.receive()?;
            let at = sent.iter().position(|sent| sent.payload == request["payload"]);
            let at = at.ok_or_else(|| {
                format!("a worker got what nobody sent, or got it twice: {}", excerpt(&request))
            })?;
            held.push(Held { sent: sent.swap_remove(at), request });
        }
    }
    Ok(held)
}

/// Answers the first `count` requests. Returns the others.
fn answer_some(
    worker: &mut Peer,
    requesters: &mut [Peer],
    mut held: Vec<Held>,
    count: usize,
) -> Result<Vec<Held>, String> {
    let rest = held.split_off(count.min(held.len()));
    for Held { request, .. } in &held {
        worker.respond(request, &json!({"answer to": request["payload"]}))?;
    }
    for Held { sent, .. } in held {
        let answer = requesters[sent.requester].answer_to(sent.number)?;
        if answer != json!({"answer to": sent.payload}) {
            return Err(format!("a worker's answer was altered: {}", excerpt(&answer)));
        }
    }
    Ok(rest)
}

/// Receives `worker_lost` for all of these requests, in any order.
fn expect_lost(mut lost: Vec<Held>, requesters: &mut [Peer]) -> Result<(), String> {
    while let Some(Held { sent, .. }) = lost.first() {
        let index = sent.requester;
        let answer = requesters[index].receive()?;
        let at = lost.iter().position(|Held { sent, .. }| {
            sent.requester == index && answered(&answer) == Some(sent.number)
        });
        let (Some(at), true) = (at, answer["payload"]["code"] == "worker_lost") else {
            return Err(format!("worker_lost was due, and this came: {}", excerpt(&answer)));
        };
        lost.swap_remove(at);
    }
    Ok(())
}

/// Lets a requester leave, and the workers answer its requests nevertheless.
fn abandon(
    context: &Context<'_>,
    workers: &mut [Peer],
    requesters: &mut Vec<Peer>,
    held: [Vec<Held>; 2],
    random: &mut Random,
) -> Result<(), String> {
    requesters[0].expect_nothing_else()?;
    requesters.remove(0).hang_up(random.below(2) == 0)?;
    context.fault("a requester gone with requests open");
    let left = workers.len() + requesters.len();
    requesters[0].until_connections(left as u64)?;
    for (worker, held) in workers.iter_mut().zip(held) {
        let (abandoned, open): (Vec<Held>, Vec<Held>) =
            held.into_iter().partition(|held| held.sent.requester == 0);
        context.expect("answers_undeliverable", abandoned.len());
        context.expect("responses_ignored", abandoned.len());
        context.expect("cancelled.gone", abandoned.len());
        for held in abandoned {
            worker.respond(&held.request, &Value::Null)?;
        }
        for Held { sent, request } in open {
            worker.respond(&request, &sent.payload)?;
            if requesters[0].answer_to(sent.number)? != sent.payload {
                return Err("a worker's answer was altered".to_owned());
            }
        }
    }
    Ok(())
}

/// Lets the second worker answer requests of the first one, which the server ignores.
fn meddle(context: &Context<'_>, workers: &mut [Peer], held: &[Held]) -> Result<(), String> {
    for Held { request, .. } in held {
        workers[1].respond(request, &json!("not mine"))?;
        context.expect("responses_ignored", 1);
    }
    context.fault("answers to requests of another worker");
    workers[1].expect_nothing_else()
}
