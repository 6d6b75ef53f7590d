//! Links: connections of the process to other servers.

use super::*;
use crate::broker::{Peer, Verdict};

/// A link of an application, whose other end the test is.
fn link(world: &mut World, app_id: &str) -> ConnectionKey {
    let key = world.broker.accept_from(Peer::Link).expect("there is always room");
    let connect = json!({"action": "connect", "connection_id": "$link/1"});
    world.send(key, &message(app_id, "request", "system", "c", &connect));
    assert_eq!(world.take(key)[0]["payload"]["status"], "connected");
    key
}

/// A link that hears all of the application `app`.
fn bus(world: &mut World) -> ConnectionKey {
    let key = link(world, "app");
    world.send(key, &message("app", "subscribe", ">", "s", &json!({"pattern": true})));
    key
}

fn topical(world: &mut World, id: &str) -> ConnectionKey {
    let key = world.accept();
    let connect = json!({"action": "connect", "connection_id": id, "extensions": ["topic"]});
    world.send(key, &message("app", "request", "system", "c", &connect));
    assert_eq!(world.take(key)[0]["payload"]["status"], "connected");
    key
}

fn publish(world: &mut World, from: ConnectionKey, channel: &str, payload: &Value) {
    world.send(from, &message("app", "publish", channel, "p", payload));
}

/// Has a link serve a channel, without an answer.
fn link_serves(world: &mut World, link: ConnectionKey, channel: &str) {
    let serve = json!({"action": "serve", "channel": channel});
    world.send(link, &message("app", "notification", "system", "serve", &serve));
    assert_eq!(world.take(link), [] as [Value; 0]);
}

#[test]
fn a_link_needs_no_token_and_counts_towards_no_limit() {
    let mut world = World::new(Limits {
        connections_max: 1,
        channels_per_connection_max: 1,
        subscriptions_per_connection_max: 1,
        services_per_connection_max: 1,
        idle_timeout: Some(Duration::from_secs(3)),
        ..Limits::default()
    });
    let access = Access::default().token(crate::Token::new("secret")).uids(vec![7u32]);
    world.broker.reconfigure(world.broker.limits().clone(), access);
    let links = [(); 3].map(|()| link(&mut world, "app"));
    for channel in ["a", "b", "c"] {
        for link in links {
            link_serves(&mut world, link, channel);
            let pattern = json!({"pattern": true, "ack": true});
            world.send(link, &message("app", "subscribe", channel, "s", &pattern));
            assert_eq!(payloads(&world.take(link)), [json!({"status": "subscribed"})]);
        }
    }
    let limits = world.broker.limits().clone().idle_timeout(Duration::from_secs(1));
    let access = Access::default().token(crate::Token::new("secret"));
    world.broker.reconfigure(limits, access);
    // Links that have not said anything yet are not evicted for others either.
    let newest = world.broker.accept_from(Peer::Link).unwrap();
    world.pass(Duration::from_secs(2));
    let client = world.accept();
    let connect = json!({"action": "connect", "connection_id": "1", "token": "secret"});
    world.send(client, &message("app", "request", "system", "c", &connect));
    assert_eq!(world.take(client)[0]["payload"]["status"], "connected");
    let refused = world.accept();
    world.act();
    world.expect_error(refused, "server_full", Value::Null);
    assert!(!world.closed.contains(&newest) && !links.iter().any(|it| world.closed.contains(it)));
    let stats = world.broker.context().stats();
    assert_eq!((stats.total_connections, stats.total_patterns), (1, 0));
    for link in links {
        world.hang_up(link);
    }
    world.hang_up(client);
    assert_eq!(world.broker.context().list_applications().len(), 0);
}

#[test]
fn the_ids_of_links_are_theirs_alone() {
    let mut world = World::new(Limits::default());
    let own = link(&mut world, "app");
    let client = world.accept();
    let connect = |id: &str| json!({"action": "connect", "connection_id": id});
    world.send(client, &message("app", "request", "system", "c", &connect("$link/1")));
    world.expect_error(client, "forbidden", "c");
    world.send(client, &message("app", "request", "system", "c", &connect("$links")));
    assert_eq!(world.take(client)[0]["payload"]["status"], "connected");
    let other = world.broker.accept_from(Peer::Link).unwrap();
    world.send(other, &message("app", "request", "system", "c", &connect("1")));
    world.expect_error(other, "forbidden", "c");
    // Not even another link takes one over.
    let same = link(&mut world, "app");
    publish(&mut world, same, "news", &json!(1));
    assert_eq!(world.closed, []);
    assert!(world.connection(own).session().is_some());
}

#[test]
fn a_link_is_refused_by_a_server_that_drains_and_where_memory_is_short() {
    let mut world = World::new(Limits::default());
    let client = world.connected("app", "1");
    let own = link(&mut world, "app");
    world.broker.core.budget.pressure = crate::broker::MemoryPressure::Refusing;
    // It is there, but hears and serves nothing.
    let subscribe = message("app", "subscribe", ">", "s", &json!({"pattern": true, "ack": true}));
    world.broker.receive(own, &framed(&subscribe));
    let serve = json!({"action": "serve", "channel": "work"});
    world.broker.core.budget.pressure = crate::broker::MemoryPressure::Refusing;
    world.broker.receive(own, &framed(&message("app", "notification", "system", "n", &serve)));
    world.act();
    let refused = world.take(own);
    let codes: Vec<_> = refused.iter().map(|refusal| &refusal["payload"]["code"]).collect();
    assert_eq!(codes, ["limit_exceeded", "limit_exceeded"]);
    assert_eq!((&refused[0]["reply_to"], &refused[1]["reply_to"]), (&json!("s"), &json!("n")));
    publish(&mut world, client, "news", &json!(1));
    assert_eq!(world.take(own), [] as [Value; 0]);
    link_serves(&mut world, own, "work");
    world.request(client, "1", &json!(1));
    world.broker.begin_drain();
    let late = world.broker.accept_from(Peer::Link).unwrap();
    let connect = json!({"action": "connect", "connection_id": "$link/1"});
    world.send(late, &message("app", "request", "system", "c", &connect));
    world.expect_error(late, "shutting_down", "c");
    assert!(world.shut.contains(&late) && world.connection(own).session().is_some());
}

#[test]
fn a_link_is_announced_to_nobody() {
    let mut world = World::new(Limits::default());
    world.broker.on_connect(|info, _| assert_eq!(info.connection_id, "1"));
    world.broker.on_disconnect(|_, _| panic!("no client has left"));
    let link = bus(&mut world);
    link_serves(&mut world, link, "work");
    let client = world.connected("app", "1");
    let context = world.broker.context();
    assert_eq!(context.list_connections().len(), 1);
    assert_eq!(context.connections_of("app"), [client]);
    assert_eq!(context.get_connection("app", "$link/1"), None);
    assert_eq!(context.list_applications()["app"].connections, 1);
    assert_eq!(context.list_channels("app")["work"].workers, 1);
    world.hang_up(link);
    assert_eq!(world.broker.core.counters.handler_panics, 0);
}

#[test]
fn a_publication_reaches_links_and_counts_them_for_nobody() {
    let mut world = World::new(Limits::default());
    let bus = bus(&mut world);
    let publisher = world.connected("app", "1");
    publish(&mut world, publisher, "news", &json!(1));
    let context = &mut world.broker.context();
    assert_eq!(context.publish("app", "news", &2).unwrap(), 0);
    world.act();
    assert_eq!(payloads(&world.take(bus)), [json!(1), json!(2)]);
    let counters = world.broker.context().stats().counters;
    assert_eq!(
        (counters.publications, counters.publications_unheard, counters.deliveries),
        (2, 2, 0)
    );
    world.subscribe(publisher, "app", "news");
    publish(&mut world, publisher, "news", &json!(3));
    assert_eq!(payloads(&world.take(bus)), [json!(3)]);
    assert_eq!(payloads(&world.take(publisher)), [json!(3)]);
    assert_eq!(world.broker.context().subscribers("app", "news"), [publisher]);
    // What clients do not match by `>` does not leave the server either.
    publish(&mut world, publisher, "$own", &json!(4));
    assert_eq!(payloads(&world.take(bus)), [] as [Value; 0]);
}

#[test]
fn each_publication_of_several_that_come_at_once_counts_as_a_frame_for_a_link() {
    let mut world = World::new(Limits::default());
    let client = world.connected("app", "1");
    let link = bus(&mut world);
    world.subscribe(client, "app", "news");
    let before = world.broker.core.counters.frames_out;
    let publication = framed(&message("app", "publish", "news", "p", &json!(1)));
    world.deliver(client, &publication.repeat(3));
    assert_eq!((world.take(link).len(), world.take(client).len()), (3, 3));
    assert_eq!(world.broker.core.counters.frames_out - before, 6);
}

#[test]
fn what_a_link_publishes_reaches_no_link() {
    let mut world = World::new(Limits::default());
    let [one, two] = [bus(&mut world), bus(&mut world)];
    let plain = world.connected("app", "1");
    world.subscribe(plain, "app", "news");
    let patterned = topical(&mut world, "2");
    world.send(patterned, &message("app", "subscribe", "*", "s", &json!({"pattern": true})));
    let conflating = topical(&mut world, "3");
    let conflate = json!({"pattern": true, "conflate": true});
    // A run that is read at once, publications by themselves, and one that nobody hears.
    for round in 0..2 {
        let frames = [1, 2, 3].map(|n| framed(&message("app", "publish", "news", "p", &json!(n))));
        world.deliver(one, &frames.concat());
        let mut kept = message("app", "publish", "news", "p", &json!(4));
        kept["meta"] = json!({"retain": true});
        world.send(one, &kept);
        publish(&mut world, one, "un.heard", &json!(5));
        publish(&mut world, one, "new", &json!(6));
        let heard = [1, 2, 3, 4].map(|n| json!(n));
        assert_eq!(payloads(&world.take(plain)), heard);
        assert_eq!(payloads(&world.take(patterned)), [&heard[..], &[json!(6)]].concat());
        assert_eq!(payloads(&world.take(two)), [] as [Value; 0]);
        assert_eq!(payloads(&world.take(one)), [] as [Value; 0]);
        if round > 0 {
            assert!(payloads(&world.take(conflating)).len() >= 4);
        }
        world.send(conflating, &message("app", "subscribe", "*", "s", &conflate));
        // The next one of the process itself reaches all.
        world.broker.context().publish("app", "news", &7).unwrap();
        world.act();
        for key in [one, two, plain, patterned] {
            assert_eq!(payloads(&world.take(key)), [json!(7)]);
        }
    }
    assert_eq!(world.broker.core.counters.publications_unheard, 2);
}

/// The other server takes it as a publication, so it has neither a place nor a wish for an answer.
#[test]
fn a_link_gets_publications_as_they_were_sent() {
    let rule = crate::HistoryRule::new("app", "news").messages(10);
    let mut world = World::new(Limits { histories: vec![rule], ..Limits::default() });
    let [bus, other] = [bus(&mut world), bus(&mut world)];
    let client = topical(&mut world, "1");
    world.subscribe(client, "app", "news");
    publish(&mut world, client, "news", &json!(1));
    assert_eq!(world.take(client)[0]["meta"]["offset"], 1);
    for meta in [json!({"retain": true}), json!({"retain": true, "ack": true})] {
        let mut kept = message("app", "publish", "news", "p", &json!(2));
        kept["meta"] = meta;
        world.send(client, &kept);
    }
    world.take(client);
    let sent = world.take(bus);
    assert_eq!(payloads(&sent), [json!(1), json!(2), json!(2)]);
    let metas: Vec<_> = sent.iter().map(|sent| sent["meta"].clone()).collect();
    assert_eq!(metas, [Value::Null, json!({"retain": true}), json!({"retain": true})]);
    // So the link of another server may publish them.
    for publication in &sent {
        world.send(other, publication);
    }
    assert_eq!(payloads(&world.take(client)), payloads(&sent));
    assert_eq!(payloads(&world.take(other)).len(), 3, "its own came before");
}

#[test]
fn a_link_subscribes_with_patterns_alone_and_no_filter_is_asked() {
    let mut world = World::new(Limits::default());
    let own = link(&mut world, "app");
    world.subscribe(own, "app", "news");
    world.expect_error(own, "forbidden", "s");
    world.broker.filter(|delivery| {
        let message = delivery.message();
        let is_publication = message.message_type() == crate::MessageType::Publish;
        if is_publication { Ok(Verdict::CarryOut) } else { Err("no".into()) }
    });
    let bus = bus(&mut world);
    assert_eq!(payloads(&world.take(bus)), [] as [Value; 0]);
    assert!(!world.broker.context().subscribe(bus, "news"));
    let client = world.connected("app", "1");
    publish(&mut world, client, "news", &json!(1));
    assert_eq!(payloads(&world.take(bus)), [json!(1)]);
}

#[test]
fn a_slow_link_holds_publishers_back_and_is_closed_after_its_grace() {
    let limits = Limits { queue_high_water_bytes: 1_000, ..Limits::default() };
    let mut world = World::new(limits);
    let bus = bus(&mut world);
    let client = world.connected("app", "1");
    world.stalled.push(bus);
    for _ in 0..3 {
        publish(&mut world, client, "news", &json!("x".repeat(900)));
    }
    assert!(world.is_parked(client));
    world.pass(world.broker.limits().slow_consumer_grace);
    assert_eq!(world.closed, [bus]);
    assert!(!world.is_parked(client));
}

#[test]
fn a_request_of_a_link_goes_to_no_link() {
    let mut world = World::new(Limits::default());
    let [one, two] = [link(&mut world, "app"), link(&mut world, "app")];
    for link in [one, two] {
        link_serves(&mut world, link, "work");
    }
    world.request(one, "r", &json!(1));
    world.expect_error(one, "no_handler", "r");
    let note = message("app", "notification", "work", "n", &json!(1));
    world.send(one, &note);
    assert_eq!(world.broker.core.counters.notifications_unhandled, 1);
    let worker = world.worker("work");
    for _ in 0..30 {
        world.request(one, "r", &json!(1));
        world.send(two, &note);
    }
    assert_eq!(world.take(worker).len(), 60);
    assert!(world.take(two).is_empty());
    // With the last worker that is no link, what waits for it is over.
    world.hang_up(worker);
    assert_eq!(world.take(one).len(), 30);
    world.request(one, "r", &json!(1));
    world.expect_error(one, "no_handler", "r");
}

#[test]
fn what_waits_for_a_worker_and_comes_from_a_link_is_never_handed_to_one() {
    let mut world = World::new(Limits::default());
    let [one, two] = [link(&mut world, "app"), link(&mut world, "app")];
    let worker = world.connected("app", "worker");
    let serve = json!({"action": "serve", "channel": "work", "concurrency": 1});
    world.send(worker, &message("app", "request", "system", "serve", &serve));
    link_serves(&mut world, two, "work");
    for id in ["1", "2"] {
        world.request(one, id, &json!(id));
    }
    let handed = world.take(worker);
    assert_eq!(payloads(&handed[1..]), [json!("1")]);
    // A link has room for what a client asks meanwhile.
    let client = world.connected("app", "client");
    world.request(client, "3", &json!("3"));
    assert_eq!(payloads(&world.take(two)), [json!("3")]);
    link_serves(&mut world, two, "work");
    world.answer(worker, &handed[1], &json!("done"));
    assert_eq!(payloads(&world.take(worker)), [json!("2")]);
    assert_eq!(payloads(&world.take(one)), [json!("done")]);
    // One more waits, until only links serve the channel.
    world.request(one, "4", &json!("4"));
    world.hang_up(worker);
    let lost: Vec<_> = world.take(one).iter().map(|it| it["payload"]["code"].clone()).collect();
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(world.take(two).is_empty());
}

/// Links that read too slowly get what a client asks once they read on, also from behind what a link asks.
#[test]
fn what_clients_ask_goes_to_a_link_from_behind_what_a_link_asks() {
    let limits = Limits { queue_high_water_bytes: 1_000, ..Limits::default() };
    let mut world = World::new(limits);
    let [one, two] = [link(&mut world, "app"), link(&mut world, "app")];
    let worker = world.connected("app", "worker");
    let serve = json!({"action": "serve", "channel": "work", "concurrency": 1});
    world.send(worker, &message("app", "request", "system", "serve", &serve));
    link_serves(&mut world, two, "work");
    world.stalled.push(two);
    world.broker.context().send_to_connection(two, &note(&"x".repeat(2_000))).unwrap();
    for id in ["1", "2", "3"] {
        world.request(one, id, &json!(id));
    }
    let client = world.connected("app", "client");
    world.request(client, "4", &json!("4"));
    let tasks = world.take(worker);
    assert_eq!(payloads(&tasks[1..]), [json!("1")]);
    world.stalled.clear();
    world.relieve(two);
    world.act();
    assert_eq!(world.take(two).len(), 1, "the first that waits is of a link");
    // The ones of the link end, one by its worker and one by the link.
    world.answer(worker, &tasks[1], &json!("done"));
    assert_eq!(payloads(&world.take(worker)), [json!("2")]);
    let cancel = json!({"action": "cancel", "message_id": "3"});
    world.send(one, &message("app", "notification", "system", "c", &cancel));
    assert_eq!(payloads(&world.take(two)), [json!("4")]);
}

fn note(text: &str) -> Message {
    let payload = crate::Json::from_serialize(text).unwrap();
    Message::new(crate::MessageType::Notification, "app", "work", payload)
}

#[test]
fn local_workers_come_first_while_they_keep_up() {
    let mut world = World::new(Limits::default());
    let link = link(&mut world, "app");
    link_serves(&mut world, link, "work");
    let worker = world.worker("work");
    let client = world.connected("app", "client");
    for id in 0..9 {
        world.request(client, &id.to_string(), &json!(id));
    }
    assert_eq!((world.take(worker).len(), world.take(link).len()), (9, 0));
    for id in 9..19 {
        world.request(client, &id.to_string(), &json!(id));
    }
    assert_eq!((world.take(worker).len(), world.take(link).len()), (5, 5));
    // Nothing is answered for so long that the local one is stuck, and the link is, too.
    world.pass(limits::WORKER_STUCK_AFTER + Duration::from_secs(1));
    let fresh = self::link(&mut world, "app");
    link_serves(&mut world, fresh, "work");
    for id in 19..40 {
        world.request(client, &id.to_string(), &json!(id));
    }
    assert_eq!((world.take(worker).len(), world.take(fresh).len()), (0, 21));
}

#[test]
fn the_loss_of_a_link_is_that_of_a_worker() {
    let mut world = World::new(Limits::default());
    let own = link(&mut world, "app");
    link_serves(&mut world, own, "work");
    let client = world.accept();
    let connect = json!({"action": "connect", "connection_id": "1", "extensions": ["call"]});
    world.send(client, &message("app", "request", "system", "c", &connect));
    world.take(client);
    world.request(client, "1", &json!(1));
    let mut again = message("app", "request", "work", "2", &json!(2));
    again["meta"] = json!({"idempotent": true, "ttl": 5_000});
    world.send(client, &again);
    let asked = world.take(own);
    // The other server may give it to another worker, too.
    assert_eq!(asked[1]["meta"], json!({"idempotent": true, "ttl": 5_000}));
    let worker = world.worker("work");
    world.hang_up(own);
    world.expect_error(client, "worker_lost", "1");
    let asked = world.take(worker);
    assert_eq!(payloads(&asked), [json!(2)]);
    assert_eq!(asked[0]["meta"], Value::Null, "this one speaks the base protocol");
}

#[test]
fn a_link_that_ends_its_service_gets_no_more() {
    let mut world = World::new(Limits::default());
    let link = link(&mut world, "app");
    link_serves(&mut world, link, "work");
    let client = world.connected("app", "1");
    world.request(client, "1", &json!(1));
    assert_eq!(world.take(link).len(), 1);
    let stop = json!({"action": "stop_serving", "channel": "work"});
    world.send(link, &message("app", "notification", "system", "s", &stop));
    world.request(client, "2", &json!(2));
    world.expect_error(client, "no_handler", "2");
    assert!(world.take(link).is_empty());
    // A client that says the same as a notification says nothing.
    world.send(client, &message("app", "notification", "system", "s", &stop));
    assert!(world.take(client).is_empty());
}

/// Has a link say what its other end has for a channel.
fn link_stands(world: &mut World, link: ConnectionKey, standing: &Value) {
    let mut serve = json!({"action": "serve", "channel": "work"});
    serve.as_object_mut().unwrap().extend(standing.as_object().unwrap().clone());
    world.send(link, &message("app", "notification", "system", "serve", &serve));
}

#[test]
fn what_a_link_says_of_its_other_end_decides_how_much_it_gets() {
    let mut world = World::new(Limits::default());
    let links = [(); 3].map(|()| link(&mut world, "app"));
    let say = |world: &mut World, standings: [Value; 3]| {
        for (link, standing) in links.iter().zip(standings) {
            link_stands(world, *link, &standing);
        }
    };
    let client = world.connected("app", "client");
    let mut id = 0;
    let mut ask = |world: &mut World, count: usize| {
        for _ in 0..count {
            id += 1;
            world.request(client, &id.to_string(), &json!(id));
        }
        links.map(|link| world.take(link).len())
    };
    say(&mut world, [json!({"workers": 4}), json!({"workers": 1}), json!({})]);
    assert_eq!(ask(&mut world, 60), [40, 10, 10]);
    // What is said again replaces what was said, and what is in flight still counts.
    let busy = json!({"workers": 1, "in_flight": 20});
    say(&mut world, [json!({"workers": 2}), busy, json!({"workers": 1})]);
    assert_eq!(ask(&mut world, 40), [20, 0, 20], "there are 30 for each worker");
    for strange in [json!(0), json!(-1), json!(1e9), json!("4"), json!(null), json!([4])] {
        say(&mut world, [1, 2, 3].map(|_| json!({"workers": strange, "in_flight": strange})));
    }
    // Beyond its number, a link gets nothing while another one has room, and nothing is lost.
    let full = json!({"concurrency": 1});
    say(&mut world, [full.clone(), full.clone(), json!({})]);
    assert_eq!(ask(&mut world, 10), [0, 0, 10]);
    say(&mut world, [full.clone(), full.clone(), full]);
    assert_eq!(ask(&mut world, 10), [0, 0, 0]);
    link_stands(&mut world, links[1], &json!({"concurrency": 13}));
    world.act();
    assert_eq!(world.take(links[1]).len(), 3);
    link_stands(&mut world, links[0], &json!({}));
    world.act();
    assert_eq!(links.map(|link| world.take(link).len()), [7, 0, 0]);
    assert_eq!(world.take(client), [] as [Value; 0]);
}

#[test]
fn a_client_says_nothing_of_other_ends() {
    let mut world = World::new(Limits::default());
    let [one, two] = ["one", "two"].map(|id| world.connected("app", id));
    for (worker, workers) in [(one, 9), (two, 1)] {
        let serve = json!({"action": "serve", "channel": "work", "workers": workers});
        world.send(worker, &message("app", "request", "system", "serve", &serve));
        world.take(worker);
    }
    let client = world.connected("app", "client");
    for id in 0..10 {
        world.request(client, &id.to_string(), &json!(id));
    }
    assert_eq!([one, two].map(|worker| world.take(worker).len()), [5, 5]);
}
