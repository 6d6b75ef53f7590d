//! How requests are spread over servers.

use super::super::loads::CHANNELS_PER_LOOK;
use super::super::packet::{Kind, Packet};
use super::super::presence::Word;
use super::super::standing::Served;
use super::*;

fn serve(world: &mut World, at: usize, id: &str, payload: &Value) -> Client {
    let client = world.client(at, id);
    world.send(client, &message("request", "system", "serve", payload));
    assert_eq!(world.payloads(client)[0]["status"], "serving");
    client
}

fn workers(world: &mut World, at: usize, count: usize) -> Vec<Client> {
    let payload = json!({"action": "serve", "channel": "work"});
    (0..count).map(|n| serve(world, at, &format!("worker {n}"), &payload)).collect()
}

fn ask(world: &mut World, client: Client, ids: std::ops::Range<usize>) {
    for id in ids {
        world.send(client, &message("request", "work", &id.to_string(), &json!(id)));
    }
    world.rest();
}

fn answer(world: &mut World, worker: Client, requests: Vec<Value>) {
    for request in requests {
        let mut answer = message("response", "work", "r", &request["payload"]);
        answer["reply_to"] = request["message_id"].clone();
        world.send(worker, &answer);
    }
    for _ in 0..24 {
        world.pass(Duration::from_millis(50));
        while world.is_under_way() {
            world.step();
        }
    }
}

/// Takes what workers got, and returns how many each.
fn counts(world: &mut World, workers: &[Client]) -> Vec<usize> {
    workers.iter().map(|worker| world.take(*worker).len()).collect()
}

#[test]
fn a_server_with_four_workers_gets_four_times_what_one_with_one_gets() {
    let mut world = World::joined(3, 1);
    let four = workers(&mut world, 1, 4);
    let one = workers(&mut world, 2, 1);
    let client = world.client(0, "client");
    world.rest();
    // Nothing is answered, so that what each has is certain, also after the servers have told of it.
    for round in 0..4 {
        ask(&mut world, client, round * 50..round * 50 + 50);
        assert_eq!(counts(&mut world, &four), [10; 4], "{round}");
        assert_eq!(counts(&mut world, &one), [10], "{round}");
    }
    // Workers that leave take their part with them.
    for worker in &four[..3] {
        world.hang_up(*worker);
    }
    // The one has answered nothing for long, as the last of the four had, which is tried again by now.
    let fresh = [serve(&mut world, 2, "fresh", &json!({"action": "serve", "channel": "work"}))];
    world.hang_up(one[0]);
    world.rest();
    world.take(client);
    ask(&mut world, client, 200..280);
    assert_eq!((counts(&mut world, &four[3..]), counts(&mut world, &fresh)), (vec![20], vec![60]));
}

#[test]
fn a_server_that_is_busy_with_requests_of_its_own_clients_gets_less() {
    let mut world = World::joined(3, 2);
    let busy = workers(&mut world, 1, 2);
    let idle = workers(&mut world, 2, 2);
    let local = world.client(1, "local");
    ask(&mut world, local, 0..20);
    assert_eq!(counts(&mut world, &busy), [10, 10]);
    let client = world.client(0, "client");
    world.rest();
    ask(&mut world, client, 0..20);
    assert_eq!((counts(&mut world, &busy), counts(&mut world, &idle)), (vec![0, 0], vec![10, 10]));
    // From here on both have the same.
    ask(&mut world, client, 20..40);
    assert_eq!((counts(&mut world, &busy), counts(&mut world, &idle)), (vec![5, 5], vec![5, 5]));
    // What a third server has sent counts for this one, and not twice for itself.
    let workless = world.client(2, "workless");
    for worker in &idle {
        world.hang_up(*worker);
    }
    world.rest();
    let third = workers(&mut world, 0, 1);
    world.rest();
    ask(&mut world, workless, 0..16);
    // There, each of the two has 15.
    let of_busy: usize = counts(&mut world, &busy).iter().sum();
    assert_eq!((counts(&mut world, &third), of_busy), (vec![15], 1));
}

#[test]
fn a_load_that_goes_is_told_too() {
    let mut world = World::joined(3, 3);
    let [busy, other] = [1, 2].map(|at| workers(&mut world, at, 1)[0]);
    let local = world.client(1, "local");
    ask(&mut world, local, 0..30);
    let client = world.client(0, "client");
    ask(&mut world, client, 0..10);
    assert_eq!(counts(&mut world, &[other]), [10]);
    let held = world.take(busy);
    assert_eq!(held.len(), 30);
    answer(&mut world, busy, held);
    ask(&mut world, client, 10..20);
    assert_eq!((counts(&mut world, &[busy]), counts(&mut world, &[other])), (vec![10], vec![0]));
}

#[test]
fn local_workers_come_first_until_each_has_eight_more_than_those_elsewhere() {
    let mut world = World::joined(2, 4);
    let elsewhere = workers(&mut world, 1, 2);
    let local = workers(&mut world, 0, 1);
    let client = world.client(0, "client");
    world.rest();
    ask(&mut world, client, 0..8);
    assert_eq!((counts(&mut world, &local), counts(&mut world, &elsewhere)), (vec![8], vec![0, 0]));
    ask(&mut world, client, 8..38);
    assert_eq!(
        (counts(&mut world, &local), counts(&mut world, &elsewhere)),
        (vec![10], vec![10, 10])
    );
}

#[test]
fn workers_with_a_concurrency_elsewhere_get_one_more_each_and_the_rest_waits_here() {
    let mut world = World::joined(2, 5);
    let serve_two = json!({"action": "serve", "channel": "work", "concurrency": 2});
    let bounded = ["a", "b"].map(|id| serve(&mut world, 1, id, &serve_two));
    let client = world.client(0, "client");
    world.rest();
    ask(&mut world, client, 0..20);
    let kept = |world: &mut World, at: usize| {
        world.servers[at].broker.context().list_channels("app")["work"].kept_requests
    };
    assert_eq!((kept(&mut world, 0), kept(&mut world, 1)), (14, 2));
    let mut answered = 0;
    while answered < 20 {
        for worker in bounded {
            let requests = world.take(worker);
            assert!(requests.len() <= 4, "each answer made room for one: {requests:?}");
            answered += requests.len();
            answer(&mut world, worker, requests);
        }
    }
    let mut numbers: Vec<_> = world.payloads(client).iter().map(Value::to_string).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((numbers.len(), kept(&mut world, 0), kept(&mut world, 1)), (20, 0, 0));
}

/// The presence that a server sent to all since the last time: how many messages, and those of loads.
fn told(world: &mut World, at: usize) -> (usize, Vec<Vec<Served>>) {
    let (mut count, mut loads) = (0, Vec::new());
    for up in &world.servers[at].up {
        let Up::Publish(subject, payload) = up else { continue };
        let packet = Packet::decode(payload).unwrap();
        if subject != "ipc-all" || packet.kind != Kind::Presence {
            continue;
        }
        count += 1;
        if let Some(Word::Load { channels, .. }) = Word::decode(packet.body) {
            loads.push(channels);
        }
    }
    while !world.servers[at].up.is_empty() {
        world.take_up(at);
    }
    (count, loads)
}

#[test]
fn loads_are_told_rarely_and_little_by_little() {
    let mut world = World::joined(2, 6);
    let worker = workers(&mut world, 1, 1)[0];
    let local = world.client(1, "local");
    world.rest();
    told(&mut world, 1);
    // As long as requests come, they are told ten times a second, however many there are.
    let mut messages = 0;
    for turn in 0..100 {
        for id in 0..10 {
            let id = format!("{turn} {id}");
            world.send(local, &message("request", "work", &id, &json!(1)));
        }
        world.pass(Duration::from_millis(10));
        messages += told(&mut world, 1).1.len();
    }
    assert!((1..=11).contains(&messages), "{messages}");
    // Nothing changes any more.
    world.rest();
    told(&mut world, 1);
    for _ in 0..30 {
        world.pass(Duration::from_millis(100));
    }
    let (beats, loads) = told(&mut world, 1);
    assert_eq!((beats, loads.len()), (3, 0));
    assert_eq!(world.take(worker).len(), 1_000);
}

#[test]
fn each_of_many_channels_has_its_turn() {
    let mut world = World::joined(2, 7);
    let channels = CHANNELS_PER_LOOK * 2 + 50;
    for first in (0..channels).step_by(100) {
        for id in ["one", "two"] {
            let client = world.client(1, &format!("{id} {first}"));
            for number in first..channels.min(first + 100) {
                let serve = json!({"action": "serve", "channel": format!("c{number}")});
                world.send(client, &message("request", "system", "serve", &serve));
            }
        }
    }
    world.rest();
    world.rest();
    let peer = world.servers[0].machine.standings([2; 16], "app");
    assert_eq!(peer.len(), channels);
    assert!(peer.values().all(|standing| standing.workers == 2));
}

#[test]
fn forged_loads_are_bounded_and_unknown_channels_ignored() {
    let mut world = World::joined(2, 8);
    let one = workers(&mut world, 1, 1);
    let client = world.client(0, "client");
    world.rest();
    let origin = super::super::packet::Origin { id: [2; 16], incarnation: 101 };
    let about = super::super::presence::About {
        name: "server-1".into(),
        max_payload: MAX_PAYLOAD,
        max_frame_bytes: None,
        published: None,
        session: 1,
        version: 1,
    };
    let said = |workers, room, in_flight, channel: &str| {
        let own = BTreeMap::from([("01".repeat(16), u32::MAX)]);
        Served("app".into(), channel.into(), workers, room, in_flight, own)
    };
    for channels in [
        vec![said(0, Some(i64::MIN), 0, "work")],
        vec![said(u32::MAX, Some(i64::MAX), u32::MAX, "work")],
        vec![said(1, None, 1, "other"), said(1, None, 1, &"x".repeat(300))],
    ] {
        let load = Word::Load { about: about.clone(), channels };
        let packet = Packet::encode(Kind::Presence, origin, 0, &load.encode());
        world.with(0, |server| {
            server.machine.nats(NatsEvent::Message { subject: "ipc-all", payload: &packet });
        });
        ask(&mut world, client, 0..3);
        assert_eq!(counts(&mut world, &one), [3]);
    }
    assert_eq!(world.servers[0].machine.standings([2; 16], "app").len(), 1);
    world.send(client, &message("request", "other", "1", &json!(1)));
    assert_eq!(world.payloads(client)[0]["code"], "no_handler");
}
