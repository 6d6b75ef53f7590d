//! What anybody may send who reaches NATS.

use super::super::packet::{Kind, Origin, Packet};
use super::super::presence::{About, CHANNELS_MAX, PUBLISHED_BETWEEN_BEATS_MAX, SERVERS_MAX, Word};
use super::super::publications::BUS_BYTES_MAX;
use super::super::standing::Served;
use super::super::tunnel;
use super::*;

const STRANGER: Origin = Origin { id: [99; 16], incarnation: 5 };

fn hear(world: &mut World, subject: &str, payload: &[u8]) {
    world.with(0, |server| {
        server.machine.nats(NatsEvent::Message { subject, payload });
        server.machine.nats(NatsEvent::Drained);
    });
}

fn refused(world: &World) -> u64 {
    world.servers[0].machine.stats().refused
}

fn about(version: u64) -> About {
    let (name, max_payload) = ("stranger".into(), MAX_PAYLOAD);
    About { name, max_payload, session: 1, version, max_frame_bytes: None, published: None }
}

#[test]
fn forged_publications_are_refused_and_counted() {
    let mut world = World::joined(1, 1);
    let client = world.client(0, "c");
    world.send(client, &message("subscribe", ">", "s", &json!({"pattern": true})));
    world.rest();
    world.take(client);
    let good = message("publish", "news", "1", &json!(1));
    let with = |key: &str, value: Value| {
        let mut message = good.clone();
        message[key] = value;
        framed(&message)
    };
    let mut longer = framed(&good);
    longer.push(b' ');
    let forged = [
        ("ipc-pub.app.news", with("app_id", json!("bank"))),
        ("ipc-pub.app.news", with("channel_id", json!("other"))),
        ("ipc-pub.app.news", with("message_type", json!("request"))),
        ("ipc-pub.app.news", with("message_type", json!("subscribe"))),
        ("ipc-pub.app.news", with("meta", json!({"ack": true}))),
        ("ipc-pub.app.news", with("meta", json!({"offset": 1, "epoch": "a"}))),
        ("ipc-pub.app.news", with("meta", json!({"no": 1}))),
        ("ipc-pub.app.system", with("channel_id", json!("system"))),
        ("ipc-pub.app._24own", with("channel_id", json!("$own"))),
        ("ipc-pub.app.news", longer),
        ("ipc-pub.app.news", b"\0\0\0\x05hello".to_vec()),
        ("ipc-pub.app.news", vec![]),
        ("ipc-pub.app._61", framed(&good)),
        ("ipc-all", framed(&good)),
    ];
    for (number, (subject, frame)) in forged.iter().enumerate() {
        let packet = Packet::encode(Kind::Publication, STRANGER, number as u64 + 1, frame);
        hear(&mut world, subject, &packet);
        assert_eq!(refused(&world), number as u64 + 1, "{subject} {number}");
    }
    hear(&mut world, "ipc-pub.app.news", b"something else");
    hear(
        &mut world,
        "ipc-pub.app.news",
        &Packet::encode(Kind::Publication, STRANGER, 0, &framed(&good)),
    );
    assert_eq!(refused(&world), forged.len() as u64 + 2);
    assert_eq!(world.payloads(client), [] as [Value; 0]);
    // The good one is taken, once.
    let packet = Packet::encode(Kind::Publication, STRANGER, 100, &framed(&good));
    hear(&mut world, "ipc-pub.app.news", &packet);
    hear(&mut world, "ipc-pub.app.news", &packet);
    assert_eq!(world.payloads(client), [json!(1)]);
}

#[test]
fn another_version_and_the_own_id_are_told_once() {
    let mut world = World::joined(1, 2);
    let mut other = Packet::encode(Kind::Presence, STRANGER, 0, &Word::Hello(about(0)).encode());
    other[2] = 2;
    let same = Origin { id: [1; 16], incarnation: 5 };
    let same = Packet::encode(Kind::Presence, same, 0, &Word::Hello(about(0)).encode());
    for _ in 0..10 {
        hear(&mut world, "ipc-all", &other);
        hear(&mut world, "ipc-all", &same);
    }
    assert_eq!(refused(&world), 20);
    let count = |text: &str| world.servers[0].log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("version 2"), count("this one's id")), (1, 1));
    assert_eq!(world.servers[0].machine.stats().peers, 0);
}

#[test]
fn two_others_with_one_id_are_one() {
    let mut world = World::joined(1, 3);
    for incarnation in [5, 6, 5, 6] {
        let origin = Origin { incarnation, ..STRANGER };
        hear(
            &mut world,
            "ipc-all",
            &Packet::encode(Kind::Presence, origin, 0, &Word::Beat(about(0)).encode()),
        );
    }
    assert_eq!((refused(&world), world.servers[0].machine.stats().peers), (2, 1));
}

#[test]
fn servers_and_their_channels_are_bounded() {
    let mut world = World::joined(1, 4);
    let client = world.client(0, "c");
    for server in 0..=255_u8 {
        let origin = Origin { id: [server; 16], incarnation: 5 };
        hear(
            &mut world,
            "ipc-all",
            &Packet::encode(Kind::Presence, origin, 0, &Word::Beat(about(0)).encode()),
        );
    }
    assert_eq!(world.servers[0].machine.stats().peers, SERVERS_MAX);
    let origin = Origin { id: [2; 16], incarnation: 5 };
    let channels: Vec<_> =
        (0..CHANNELS_MAX + 5).map(|n| Served::new(("app".to_owned(), format!("c{n}")))).collect();
    let said = Word::Part { about: about(1), part: 0, parts: 1, channels };
    let subject = format!("ipc-srv.{}", "01".repeat(16));
    hear(&mut world, &subject, &Packet::encode(Kind::Presence, origin, 0, &said.encode()));
    assert!(refused(&world) > 0);
    world.send(client, &message("request", &format!("c{}", CHANNELS_MAX + 4), "1", &json!(1)));
    assert_eq!(world.payloads(client)[0]["code"], "no_handler");
    // Parts without an end are no memory without an end.
    for part in 0..1_000 {
        let channels = vec![Served::new(("a".repeat(250), format!("{part}"))); 10];
        let said = Word::Part { about: about(2), part, parts: usize::MAX, channels };
        hear(&mut world, &subject, &Packet::encode(Kind::Presence, origin, 0, &said.encode()));
    }
}

#[test]
fn a_tunnel_lets_only_requests_and_their_answers_through() {
    let mut world = World::joined(1, 5);
    let worker = world.client(0, "worker");
    world.send(
        worker,
        &message("request", "system", "serve", &json!({"action": "serve", "channel": "work"})),
    );
    world.send(worker, &message("subscribe", "news", "s", &json!({})));
    world.rest();
    world.take(worker);
    hear(
        &mut world,
        "ipc-all",
        &Packet::encode(Kind::Presence, STRANGER, 0, &Word::Hello(about(0)).encode()),
    );
    let subject = format!("ipc-srv.{}", "01".repeat(16));
    let say = |world: &mut World, about, to, number, bytes: &[u8]| {
        let application = "app";
        let piece =
            tunnel::Piece { about, application, from: 7, to, number, granted: 1 << 20, bytes };
        hear(world, &subject, &Packet::encode(Kind::Tunnel, STRANGER, 0, &piece.encode()));
    };
    // A tunnel for an application without workers is none.
    let stray = tunnel::Piece {
        about: tunnel::About::Open,
        application: "bank",
        from: 7,
        to: 0,
        number: 0,
        granted: 0,
        bytes: &[],
    };
    hear(&mut world, &subject, &Packet::encode(Kind::Tunnel, STRANGER, 0, &stray.encode()));
    assert_eq!(world.servers[0].machine.stats().tunnels, 0);
    say(&mut world, tunnel::About::Open, 0, 0, &[]);
    assert_eq!(world.servers[0].machine.stats().tunnels, 1);
    let before = refused(&world);
    let stats = json!({"action": "purge_history", "app": "app"});
    let frames = [
        message("request", "system", "1", &stats),
        message("request", "$own", "1", &json!(1)),
        message("publish", "news", "1", &json!(1)),
        message("subscribe", "news", "1", &json!({})),
        message("response", "work", "1", &json!(1)),
        message("notification", "system", "1", &json!({"action": "serve", "channel": "work"})),
        json!({"app_id": "bank", "message_id": "1", "channel_id": "work", "message_type": "request",
               "payload": 1, "timestamp": 0, "reply_to": null}),
        json!(1),
    ];
    for (number, frame) in frames.iter().enumerate() {
        say(&mut world, tunnel::About::Chunk, 1, number as u64, &framed(frame));
        assert_eq!(refused(&world), before + 1 + number as u64, "{frame}");
    }
    assert_eq!(world.payloads(worker), [] as [Value; 0]);
    let good = framed(&message("request", "work", "1", &json!("good")));
    say(&mut world, tunnel::About::Chunk, 1, 8, &good);
    assert_eq!(world.payloads(worker), [json!("good")]);
    // A gap breaks it, and so does a frame that is too large.
    say(&mut world, tunnel::About::Chunk, 1, 10, &good);
    assert_eq!(world.servers[0].machine.stats().tunnels, 0);
    say(&mut world, tunnel::About::Open, 0, 0, &[]);
    say(&mut world, tunnel::About::Chunk, 2, 0, &[0xff; 4]);
    let stats = world.servers[0].machine.stats();
    assert_eq!((stats.tunnels, stats.broken_tunnels), (0, 2));
}

#[test]
fn no_bytes_panic_and_none_make_a_link() {
    let mut world = World::joined(1, 6);
    world.client(0, "c");
    world.rest();
    let links = world.servers[0].links.len();
    let channels = vec![Served::new(("a".into(), "b".into()))];
    let said = Word::Part { about: about(3), part: 0, parts: 2, channels };
    let seeds = [
        Packet::encode(Kind::Presence, STRANGER, 0, &said.encode()),
        Packet::encode(
            Kind::Tunnel,
            STRANGER,
            0,
            &[2, 0, 3, b'a', b'p', b'p', 0, 0, 0, 0, 0, 0, 0, 1],
        ),
        Packet::encode(
            Kind::Publication,
            STRANGER,
            1,
            &framed(&message("publish", "n", "1", &json!(1))),
        ),
    ];
    let subjects = ["ipc-all", "ipc-pub.app.n", "ipc-srv.01010101010101010101010101010101"];
    for round in 0..3_000 {
        let mut bytes = seeds[round % 3].clone();
        for _ in 0..world.random(4) {
            let at = world.random(bytes.len());
            bytes[at] = world.random(256) as u8;
        }
        let length = world.random(bytes.len() * 2);
        bytes.truncate(length.max(3));
        hear(&mut world, subjects[round / 3 % 3], &bytes);
    }
    assert_eq!(world.servers[0].links.len(), links);
}

/// One origin's publications may come by two ways, and the older one later: order goes before completeness.
#[test]
fn an_older_publication_that_comes_later_is_dropped_and_counted_once() {
    let mut world = World::joined(1, 21);
    let client = world.client(0, "c");
    world.send(client, &message("subscribe", "news", "s", &json!({})));
    world.rest();
    world.take(client);
    for number in [5, 4, 6, 4, 5] {
        let frame = framed(&message("publish", "news", "1", &json!(number)));
        let packet = Packet::encode(Kind::Publication, STRANGER, number, &frame);
        hear(&mut world, "ipc-pub.app.news", &packet);
    }
    assert_eq!(world.payloads(client), [5, 6].map(|number| json!(number)));
    let stats = world.servers[0].machine.stats();
    assert_eq!((stats.lost_here, stats.doubled, stats.received), (1, 2, 2));
}

/// What the own server does not take from a bus link is bounded, and the rest is counted.
#[test]
fn publications_that_the_own_server_does_not_take_are_bounded_and_counted() {
    let mut machine = Machine::new(settings(0), Duration::ZERO);
    machine.nats(NatsEvent::Connected { max_payload: MAX_PAYLOAD });
    let link = machine.new_link();
    machine.local(LocalEvent::BusOpened { link, application: "app".to_owned() });
    let frame = framed(&message("publish", "news", "1", &json!("x".repeat(1 << 19))));
    let mut written = 0;
    for number in 1..=100 {
        let payload = Packet::encode(Kind::Publication, STRANGER, number, &frame);
        machine.nats(NatsEvent::Message { subject: "ipc-pub.app.news", payload: &payload });
        machine.nats(NatsEvent::Drained);
        while let Some(command) = machine.next_command() {
            if let Command::WriteLink { bytes, .. } = command {
                written += bytes.len();
            }
        }
    }
    assert!(written <= BUS_BYTES_MAX, "{written}");
    let stats = machine.stats();
    assert_eq!(stats.received + stats.lost_here, 100);
    assert_eq!(stats.received as usize, written / frame.len());
    // Once it is taken, others come.
    machine.local(LocalEvent::LinkTook { link, bytes: written });
    let payload = Packet::encode(Kind::Publication, STRANGER, 101, &frame);
    machine.nats(NatsEvent::Message { subject: "ipc-pub.app.news", payload: &payload });
    machine.nats(NatsEvent::Drained);
    assert_eq!(machine.stats().received, stats.received + 1);
}

/// A change that does not follow the last one is no ground to stand on: a snapshot is asked for.
#[test]
fn a_change_behind_a_gap_is_not_believed() {
    let mut world = World::joined(1, 22);
    let client = world.client(0, "c");
    let tell = |world: &mut World, word: &Word| {
        hear(world, "ipc-all", &Packet::encode(Kind::Presence, STRANGER, 0, &word.encode()));
    };
    let serves = |channel: &str| ("app".to_owned(), channel.to_owned(), true);
    tell(&mut world, &Word::Hello(about(0)));
    let part = Word::Part { about: about(0), part: 0, parts: 1, channels: Vec::new() };
    tell(&mut world, &part);
    let first = Word::Change { about: about(1), channels: vec![serves("first")] };
    tell(&mut world, &first);
    let third = Word::Change { about: about(3), channels: vec![serves("third")] };
    tell(&mut world, &third);
    let ask = |world: &mut World, channel: &str| {
        world.send(client, &message("request", channel, channel, &json!(1)));
        world.payloads(client)
    };
    // The first waits for the stranger, and nobody is known to serve the third.
    assert_eq!(ask(&mut world, "first"), [] as [Value; 0]);
    assert_eq!(ask(&mut world, "third")[0]["code"], "no_handler");
    let part = Served::new(("app".to_owned(), "third".to_owned()));
    let part = Word::Part { about: about(3), part: 0, parts: 1, channels: vec![part] };
    tell(&mut world, &part);
    assert_eq!(ask(&mut world, "third"), [] as [Value; 0]);
}

/// A stranger who copies the id and incarnation of a server takes the place of none of its publications, and stops
/// them up to the next beat at most.
#[test]
fn forged_numbers_stop_the_publications_of_a_server_no_longer_than_up_to_its_beat() {
    let mut world = World::joined(2, 7);
    let subscriber = world.client(0, "s");
    world.send(subscriber, &message("subscribe", "news", "s", &json!({})));
    let publisher = world.client(1, "p");
    world.rest();
    world.take(subscriber);
    let origin = Origin { id: [2; 16], incarnation: 101 };
    let forge = |world: &mut World, sequence: u64, payload: &str| {
        let frame = framed(&message("publish", "news", "f", &json!(payload)));
        let packet = Packet::encode(Kind::Publication, origin, sequence, &frame);
        hear(world, "ipc-pub.app.news", &packet);
    };
    let publish = |world: &mut World, payload: &Value| {
        world.send(publisher, &message("publish", "news", "p", payload));
    };
    let mut heard = Vec::new();
    for number in 1..=20_u64 {
        publish(&mut world, &json!(number));
        world.rest();
        // What was not announced is refused, and what may be is believed.
        let before = refused(&world);
        forge(&mut world, u64::MAX, "far");
        forge(&mut world, number + PUBLISHED_BETWEEN_BEATS_MAX + 1, "far");
        assert_eq!(refused(&world), before + 2);
        forge(&mut world, number + 1, "next");
        forge(&mut world, number + PUBLISHED_BETWEEN_BEATS_MAX, "high");
        if number == 20 {
            publish(&mut world, &json!("stopped"));
            while world.is_under_way() {
                world.step();
            }
            assert_eq!(world.servers[0].machine.stats().lost_here, 1);
        }
        world.rest();
        // Less that is said in its name changes nothing.
        let less = Word::Beat(About { published: Some(0), ..about(1) });
        hear(&mut world, "ipc-all", &Packet::encode(Kind::Presence, origin, 0, &less.encode()));
        heard.extend(world.payloads(subscriber).into_iter().filter(Value::is_u64));
    }
    assert_eq!(heard, (1..=20).map(|number| json!(number)).collect::<Vec<_>>());
    assert_eq!(world.servers[0].machine.stats().lost_here, 1);
}

/// What a server said on a connection that it has given up comes late, and says nothing any more.
#[test]
fn presence_of_an_older_connection_is_ignored() {
    let mut world = World::joined(1, 9);
    let tell = |world: &mut World, session: u64, published: u64| {
        let about = About { session, published: Some(published), ..about(0) };
        let beat = Word::Beat(about).encode();
        hear(world, "ipc-all", &Packet::encode(Kind::Presence, STRANGER, 0, &beat));
    };
    let client = world.client(0, "c");
    world.send(client, &message("subscribe", "news", "s", &json!({})));
    world.rest();
    world.take(client);
    tell(&mut world, 2, 0);
    let publish = |world: &mut World, number: u64| {
        let frame = framed(&message("publish", "news", "1", &json!(number)));
        let packet = Packet::encode(Kind::Publication, STRANGER, number, &frame);
        hear(world, "ipc-pub.app.news", &packet);
    };
    publish(&mut world, 7);
    for _ in 0..2 {
        tell(&mut world, 1, 3);
    }
    publish(&mut world, 5);
    assert_eq!(world.payloads(client), [json!(7)]);
    assert_eq!(world.servers[0].machine.stats().lost_here, 1);
}

/// What the first server sends to another one now: what it says about itself, and about ends of tunnels.
fn told(world: &World, id: [u8; 16]) -> (Vec<Word>, Vec<tunnel::About>) {
    let subject = format!("ipc-srv.{}", super::super::subjects::hex(id));
    let (mut words, mut pieces) = (Vec::new(), Vec::new());
    for up in &world.servers[0].up {
        let Up::Publish(to, payload) = up else { continue };
        let packet = Packet::decode(payload).unwrap();
        if *to != subject {
            continue;
        }
        match packet.kind {
            Kind::Presence => words.push(Word::decode(packet.body).unwrap()),
            _ => pieces.push(tunnel::Piece::decode(packet.body).unwrap().about),
        }
    }
    (words, pieces)
}

#[test]
fn who_opens_a_tunnel_before_it_says_who_it_is_is_asked_at_once_and_not_too_often() {
    let mut world = World::joined(1, 8);
    world.client(0, "c");
    world.rest();
    let subject = format!("ipc-srv.{}", "01".repeat(16));
    let open = tunnel::Piece {
        about: tunnel::About::Open,
        application: "app",
        from: 7,
        to: 0,
        number: 0,
        granted: 0,
        bytes: &[],
    };
    let chunk = tunnel::Piece { about: tunnel::About::Chunk, ..open };
    let say = |world: &mut World, origin, piece: &tunnel::Piece<'_>| {
        hear(world, &subject, &Packet::encode(Kind::Tunnel, origin, 0, &piece.encode()));
    };
    say(&mut world, STRANGER, &chunk);
    assert!(told(&world, STRANGER.id).0.is_empty());
    for _ in 0..3 {
        say(&mut world, STRANGER, &open);
        let (words, pieces) = told(&world, STRANGER.id);
        assert!(matches!(words[..], [Word::Ask(_)]) && pieces.is_empty(), "{words:?}");
    }
    // Forged ids are many.
    let forged = |number: usize| {
        let mut id = [7; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        id
    };
    for number in 0..4 * SERVERS_MAX {
        say(&mut world, Origin { id: forged(number), incarnation: 1 }, &open);
    }
    let asked = (0..4 * SERVERS_MAX).filter(|number| !told(&world, forged(*number)).0.is_empty());
    assert_eq!(asked.count(), SERVERS_MAX - 1);
    // It is asked again later, and no more once it is known.
    world.pass(Duration::from_millis(200));
    say(&mut world, STRANGER, &open);
    assert_eq!(told(&world, STRANGER.id).0.len(), 2);
}

#[test]
fn who_is_asked_says_once_more_where_the_ends_of_its_tunnels_are() {
    let mut world = World::joined(1, 9);
    world.client(0, "c");
    world.rest();
    let say = |world: &mut World, word: &Word| {
        let subject = format!("ipc-srv.{}", "01".repeat(16));
        hear(world, &subject, &Packet::encode(Kind::Presence, STRANGER, 0, &word.encode()));
    };
    let channels = vec![Served::new(("app".into(), "work".into()))];
    say(&mut world, &Word::Part { about: about(1), part: 0, parts: 1, channels });
    assert_eq!(told(&world, STRANGER.id).1, [tunnel::About::Open]);
    for _ in 0..3 {
        say(&mut world, &Word::Ask(about(1)));
        let (words, pieces) = told(&world, STRANGER.id);
        assert!(matches!(words[..], [Word::Part { .. }]), "{words:?}");
        assert_eq!(pieces, [tunnel::About::Open; 2]);
    }
}
