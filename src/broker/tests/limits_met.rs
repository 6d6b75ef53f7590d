//! What is exactly at a limit is allowed, and nothing beyond it, on each way that a message takes.

use super::*;
use crate::broker::limits::WORKERS_PER_CHANNEL_MAX;
use crate::proto::frame::HEADER_BYTES;

const FRAME_BYTES_MAX: usize = 1_500;

/// A way of a message through the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Request,
    Note,
    Answer,
    /// The answer of a handler.
    OwnAnswer,
    Part,
    Publication,
}

/// A member of a message, as JSON text.
type Members<'a> = [(&'a str, String)];

/// In the order of clients, or in another one, in which nothing is passed on as it came.
fn written(members: &Members<'_>, is_usual: bool) -> Vec<u8> {
    let mut members: Vec<String> =
        members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    if !is_usual {
        members.reverse();
    }
    framed_text(&format!("{{{}}}", members.join(",")))
}

fn members<'a>(kind: &str, id: &str, payload: &str, reply_to: &str) -> [(&'a str, String); 7] {
    let text = |text: &str| format!("\"{text}\"");
    [
        ("message_id", text(id)),
        ("app_id", text("app")),
        ("channel_id", text("work")),
        ("message_type", text(kind)),
        ("payload", text(payload)),
        ("timestamp", "1.5".to_owned()),
        ("reply_to", reply_to.to_owned()),
    ]
}

impl World {
    /// The lengths of the bodies with this payload that a connection was sent.
    fn lengths(&mut self, key: ConnectionKey, payload: &str) -> Vec<usize> {
        let bytes = self.received.remove(&key).unwrap_or_default();
        let (mut rest, mut lengths) = (&bytes[..], Vec::new());
        while let Some((header, behind)) = rest.split_first_chunk::<4>() {
            let (body, next) = behind.split_at(u32::from_be_bytes(*header) as usize);
            if !payload.is_empty() && body.windows(payload.len()).any(|it| it == payload.as_bytes())
            {
                lengths.push(body.len());
            }
            rest = next;
        }
        lengths
    }
}

/// The length of the one message that arrives, if one does. Ids get longer on the way there.
fn passes(way: Way, is_usual: bool, payload_bytes: usize) -> Option<usize> {
    let limits = Limits { frame_bytes_max: FRAME_BYTES_MAX, ..Limits::default() };
    let mut world = World::new(limits);
    let mut app = world.broker.application("app", "The App");
    if way == Way::OwnAnswer {
        app.channel("work").on_request(move |request| request.reply(&"x".repeat(payload_bytes)));
    }
    let worker = world.extended("worker");
    if way != Way::OwnAnswer {
        world.serve(worker, "app", "work");
    }
    let asks = world.extended("asks");
    world.subscribe(asks, "app", "work");
    let payload = "x".repeat(payload_bytes);
    let long_id = "i".repeat(90);
    let mut asked = members("request", &long_id, "?", "null").to_vec();
    if way == Way::Part {
        asked.push(("meta", "{\"stream\":9}".to_owned()));
    }
    let (receiver, sender, message) = match way {
        Way::Request => (worker, asks, members("request", "q", &payload, "null").to_vec()),
        Way::Note => (worker, asks, members("notification", "n", &payload, "null").to_vec()),
        Way::Publication => (asks, worker, members("publish", "p", &payload, "null").to_vec()),
        Way::OwnAnswer => (asks, asks, asked),
        Way::Answer | Way::Part => {
            world.deliver(asks, &written(&asked, true));
            let id = world.take_one(worker)["message_id"].to_string();
            let mut response = members("response", "r", &payload, &id).to_vec();
            if way == Way::Part {
                response.push(("meta", "{\"seq\":0}".to_owned()));
            }
            (asks, worker, response)
        }
    };
    world.deliver(sender, &written(&message, is_usual));
    let lengths = world.lengths(receiver, &payload);
    assert!(lengths.len() <= 1, "{way:?}: {lengths:?}");
    // What did not pass through leaves nothing behind.
    if lengths.is_empty() {
        assert_eq!(world.broker.core.requests.len(), 0, "{way:?}");
    }
    lengths.first().copied()
}

#[test]
fn a_frame_of_exactly_the_limit_passes_on_each_way() {
    for way in [Way::Request, Way::Note, Way::Answer, Way::OwnAnswer, Way::Part, Way::Publication] {
        for is_usual in [true, false] {
            let overhead = passes(way, is_usual, 100).expect("it is short") - 100;
            let longest = FRAME_BYTES_MAX - overhead;
            assert_eq!(
                passes(way, is_usual, longest),
                Some(FRAME_BYTES_MAX),
                "{way:?}, {is_usual}"
            );
            assert_eq!(passes(way, is_usual, longest + 1), None, "{way:?}, {is_usual}");
        }
    }
}

/// A queue is closed for the byte beyond its bound, and slow from the byte beyond its mark on.
#[test]
fn a_queue_may_be_filled_to_its_mark_and_to_its_bound() {
    for extra_bytes in [0, 1] {
        let limits = Limits {
            queue_high_water_bytes: 4_000,
            frame_bytes_max: FRAME_BYTES_MAX,
            ..Limits::default()
        };
        let mut world = World::new(limits);
        let slow = world.connected("app", "slow");
        world.subscribe(slow, "app", "news");
        world.stalled.push(slow);
        let bound = world.broker.core.connections.queue_bytes_max;
        let frame = |payload: usize| {
            framed(&message("app", "publish", "news", "p", &json!("x".repeat(payload)))).len()
        };
        // All that is published arrives with another id and time.
        let publish = |world: &mut World, bytes: usize| {
            let mut context = world.broker.context();
            context.publish("app", "news", &"x".repeat(bytes)).unwrap();
            world.pass(Duration::ZERO);
        };
        publish(&mut world, 0);
        let overhead = world.connection(slow).send.len();
        assert!(overhead < frame(0) * 2);
        let fill = |world: &mut World, up_to: usize| loop {
            let left = up_to - world.connection(slow).send.len();
            let bytes = if left <= 1_200 { left } else { 1_000 };
            publish(world, bytes - overhead);
            if bytes == left {
                break;
            }
        };
        fill(&mut world, 4_000 + extra_bytes);
        assert_eq!(world.connection(slow).congested.is_some(), extra_bytes > 0);
        if extra_bytes == 0 {
            publish(&mut world, 0);
        }
        fill(&mut world, bound - 2 * overhead);
        assert!(world.closed.is_empty());
        publish(&mut world, overhead + extra_bytes);
        assert_eq!(world.closed.len(), extra_bytes, "of {bound}");
    }
}

#[test]
fn a_channel_has_as_many_workers_as_it_may() {
    let mut world = World::new(Limits::default());
    let worker = |world: &mut World, at: usize| {
        let key = world.connected("app", &format!("{at}"));
        let serve = json!({"action": "serve", "channel": "work"});
        world.broker.receive(key, &framed(&message("app", "request", "system", "s", &serve)));
        world.act_once();
        (key, world.take(key).pop().expect("an answer")["payload"].clone())
    };
    let workers: Vec<_> = (0..WORKERS_PER_CHANNEL_MAX).map(|at| worker(&mut world, at)).collect();
    assert!(workers.iter().all(|(_, answer)| answer["status"] == "serving"));
    let (_, answer) = worker(&mut world, WORKERS_PER_CHANNEL_MAX);
    assert_eq!(answer["code"], "limit_exceeded");
    // Whoever is one may still change its concurrency, and there is a place when one leaves.
    assert_eq!(world.serve_with(workers[0].0, &json!(3))["status"], "serving");
    world.hang_up(workers[1].0);
    assert_eq!(worker(&mut world, WORKERS_PER_CHANNEL_MAX + 1).1["status"], "serving");
}

/// A queue keeps room for the ends of requests, and parts may take all the rest of it.
#[test]
fn parts_may_fill_a_queue_up_to_the_room_for_ends() {
    let limits = Limits {
        queue_high_water_bytes: 4_000,
        frame_bytes_max: FRAME_BYTES_MAX,
        ..Limits::default()
    };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    world.stalled.push(asks);
    world.call(asks, "a stream", &json!({"stream": 1_000}));
    world.call(asks, "another", &json!({"stream": 1_000}));
    let got = world.take(worker);
    let bound = world.broker.core.connections.queue_bytes_max;
    // Of each of the two requests, by what the server keeps for one: 512 and the names of the first.
    let kept_free = 2 * (512 + "app".len() + "work".len() + "a stream".len());
    let mut seq = 0;
    let mut part = |world: &mut World, bytes: usize| {
        world.part(worker, &got[0], &json!("x".repeat(bytes)), &json!({"seq": seq}));
        seq += 1;
    };
    part(&mut world, 0);
    let overhead = world.connection(asks).send.len();
    while world.connection(asks).send.len() + 2 * FRAME_BYTES_MAX < bound - kept_free {
        part(&mut world, 1_000);
    }
    let left = |world: &World| bound - kept_free - world.connection(asks).send.len();
    // Numbers that are longer make a frame longer.
    while left(&world) > FRAME_BYTES_MAX {
        part(&mut world, 500);
    }
    let digits = format!("{}", world.broker.core.counters.stream_parts).len() - 1;
    let bytes = left(&world) - overhead - digits;
    part(&mut world, bytes);
    assert_eq!((left(&world), world.broker.core.requests.len()), (0, 2));
    part(&mut world, 0);
    assert_eq!(world.broker.core.requests.len(), 1, "it had no room");
    assert_eq!(world.take(worker).len(), 1, "and its worker is told");
    assert!(world.closed.is_empty());
    assert!(HEADER_BYTES < overhead);
}
