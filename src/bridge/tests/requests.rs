//! Requests between servers.

use super::*;

fn serve(world: &mut World, client: Client, channel: &str) {
    let serve = json!({"action": "serve", "channel": channel});
    world.send(client, &message("request", "system", "serve", &serve));
    assert_eq!(world.payloads(client)[0]["status"], "serving");
}

fn ask(world: &mut World, client: Client, channel: &str, id: &str, payload: &Value) {
    world.send(client, &message("request", channel, id, payload));
}

fn answer(world: &mut World, worker: Client, request: &Value, payload: &Value) {
    let mut answer = message("response", "work", "r", payload);
    answer["reply_to"] = request["message_id"].clone();
    world.send(worker, &answer);
}

/// A worker at the second server and a client at the first one.
fn pair(seed: u64) -> (World, Client, Client) {
    let mut world = World::joined(2, seed);
    let worker = world.client(1, "worker");
    serve(&mut world, worker, "work");
    let client = world.client(0, "client");
    world.rest();
    (world, client, worker)
}

#[test]
fn a_request_goes_to_the_worker_of_another_server_and_its_answer_comes_back() {
    let (mut world, client, worker) = pair(1);
    ask(&mut world, client, "work", "1", &json!({"x": 2}));
    world.rest();
    let requests = world.take(worker);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0]["payload"], json!({"x": 2}));
    answer(&mut world, worker, &requests[0], &json!(4));
    world.rest();
    let answers = world.take(client);
    assert_eq!((&answers[0]["payload"], &answers[0]["reply_to"]), (&json!(4), &json!("1")));
    assert_eq!(answers.len(), 1);
    for server in &world.servers {
        let stats = server.machine.stats();
        assert_eq!(
            (stats.tunnels, stats.broken_tunnels, stats.refused),
            (1, 0, 0),
            "{:?}",
            server.log
        );
    }
    // Nobody serves this one, and that is known here.
    ask(&mut world, client, "other", "2", &json!(1));
    assert_eq!(world.payloads(client)[0]["code"], "no_handler");
}

#[test]
fn the_first_client_of_an_application_finds_workers_of_other_servers_at_once() {
    let mut world = World::joined(2, 13);
    let worker = world.client(1, "worker");
    serve(&mut world, worker, "work");
    world.rest();
    for round in 0..2 {
        let client = world.client(0, "comes and goes");
        ask(&mut world, client, "work", "1", &json!(round));
        world.rest();
        let requests = world.take(worker);
        answer(&mut world, worker, &requests[0], &json!(round));
        world.rest();
        assert_eq!(world.payloads(client), [json!(round)]);
        world.hang_up(client);
        world.pass(Duration::from_secs(70));
        world.rest();
    }
}

#[test]
fn both_servers_ask_each_other_over_one_pair_of_links() {
    let (mut world, client, worker) = pair(2);
    serve(&mut world, client, "back");
    world.rest();
    for number in 0..20 {
        ask(&mut world, client, "work", &format!("a{number}"), &json!(number));
        ask(&mut world, worker, "back", &format!("b{number}"), &json!(number));
    }
    world.rest();
    for (one, name) in [(client, "b"), (worker, "a")] {
        let requests = world.take(one);
        assert_eq!(requests.len(), 20, "{name}");
        for request in requests {
            answer(&mut world, one, &request, &request["payload"]);
        }
    }
    world.rest();
    for one in [client, worker] {
        let numbers: BTreeSet<_> =
            world.payloads(one).iter().map(|number| number.as_u64().unwrap()).collect();
        assert_eq!(numbers.len(), 20);
    }
    assert_eq!(world.servers[0].machine.stats().tunnels, 1);
}

#[test]
fn a_message_of_many_windows_crosses_both_ways() {
    let (mut world, client, worker) = pair(3);
    let large = json!("x".repeat(5 << 20));
    ask(&mut world, client, "work", "1", &large);
    world.rest();
    let requests = world.take(worker);
    assert!(requests[0]["payload"] == large);
    answer(&mut world, worker, &requests[0], &large);
    world.rest();
    assert!(world.payloads(client) == [large]);
}

#[test]
fn streams_credit_and_cancels_cross() {
    let (mut world, client, worker) = pair(4);
    let mut request = message("request", "work", "1", &json!("tale"));
    request["meta"] = json!({"stream": 1, "ttl": 60_000});
    world.send(client, &request);
    world.rest();
    let given = world.take(worker).pop().unwrap();
    assert_eq!(given["meta"]["stream"], 1);
    let part = |seq: u64| {
        let mut part = message("response", "work", "p", &json!(seq));
        part["reply_to"] = given["message_id"].clone();
        part["meta"] = json!({"seq": seq});
        part
    };
    world.send(worker, &part(0));
    world.rest();
    assert_eq!(world.payloads(client), [json!(0)]);
    let credit = json!({"action": "credit", "message_id": "1", "n": 3});
    world.send(client, &message("notification", "system", "n", &credit));
    world.rest();
    let told = world.take(worker).pop().unwrap();
    assert_eq!(told["payload"]["n"], 3);
    assert_eq!(told["payload"]["message_id"], given["message_id"]);
    world.send(worker, &part(1));
    let cancel = json!({"action": "cancel", "message_id": "1"});
    world.rest();
    world.send(client, &message("notification", "system", "n", &cancel));
    world.rest();
    let got = world.payloads(client);
    assert_eq!((&got[0], &got[1]["code"]), (&json!(1), &json!("cancelled")));
    assert_eq!(world.take(worker).pop().unwrap()["payload"]["action"], "cancel");
}

#[test]
fn a_notification_reaches_the_worker_of_another_server() {
    let (mut world, client, worker) = pair(5);
    world.send(client, &message("notification", "work", "n", &json!("hello")));
    world.rest();
    assert_eq!(world.payloads(worker), [json!("hello")]);
}

#[test]
fn a_server_that_dies_takes_its_requests_with_it_within_its_silence() {
    let (mut world, client, _) = pair(6);
    ask(&mut world, client, "work", "1", &json!(1));
    world.rest();
    // It says nothing any more.
    world.routes.clear();
    world.servers.truncate(1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.payloads(client), [] as [Value; 0]);
    world.pass(Duration::from_millis(2_501));
    assert_eq!(world.payloads(client)[0]["code"], "worker_lost");
    ask(&mut world, client, "work", "2", &json!(1));
    assert_eq!(world.payloads(client)[0]["code"], "no_handler");
    assert_eq!(world.servers[0].machine.stats().peers, 0);
}

#[test]
fn a_goodbye_takes_them_at_once() {
    let (mut world, client, _) = pair(7);
    ask(&mut world, client, "work", "1", &json!(1));
    world.rest();
    world.with(1, |server| server.machine.finish());
    while !world.servers[1].machine.is_finished() {
        world.pass(Duration::from_millis(1));
        world.step();
    }
    world.rest();
    assert_eq!(world.payloads(client)[0]["code"], "worker_lost");
    assert_eq!(world.servers[0].machine.stats().peers, 0);
}

#[test]
fn a_cut_connection_ends_what_is_in_flight_and_the_tunnel_comes_back() {
    for cut in [0, 1] {
        let (mut world, client, worker) = pair(8);
        ask(&mut world, client, "work", "1", &json!(1));
        world.rest();
        world.cut(cut);
        world.pass(Duration::from_millis(100));
        world.connect(cut);
        world.rest();
        assert_eq!(world.payloads(client)[0]["code"], "worker_lost", "{cut}");
        world.take(worker);
        ask(&mut world, client, "work", "2", &json!(2));
        world.rest();
        let request = world.take(worker).pop().unwrap();
        answer(&mut world, worker, &request, &json!("again"));
        world.rest();
        assert_eq!(world.payloads(client), [json!("again")], "{cut}: {:?}", world.servers[0].log);
    }
}

#[test]
fn messages_that_were_dropped_end_what_is_in_flight_and_the_tunnel_comes_back() {
    let (mut world, client, worker) = pair(10);
    ask(&mut world, client, "work", "1", &json!(1));
    world.rest();
    world.with(1, |server| server.machine.nats(NatsEvent::SlowConsumer));
    world.rest();
    assert_eq!(world.payloads(client)[0]["code"], "worker_lost");
    assert_eq!(world.servers[1].machine.stats().slow, 1);
    world.take(worker);
    ask(&mut world, client, "work", "2", &json!(2));
    world.rest();
    assert_eq!(world.payloads(worker), [json!(2)]);
}

#[test]
fn a_link_that_the_server_closes_is_opened_anew() {
    let (mut world, client, worker) = pair(11);
    world.send(worker, &message("subscribe", "news", "s", &json!({})));
    for at in [0, 1] {
        let links: Vec<_> = world.servers[at].links.values().copied().collect();
        assert_eq!(links.len(), 2);
        world.with(at, |server| {
            for link in links {
                server.broker.hang_up(link, HangUp::Reset);
            }
        });
        world.rest();
        ask(&mut world, client, "work", "1", &json!(at));
        world.send(client, &message("publish", "news", "p", &json!("news")));
        world.rest();
        let mut payloads = world.payloads(worker);
        // The second time it is also told that the first requester has gone.
        payloads.retain(|payload| payload["action"] != "cancel");
        payloads.sort_by_key(Value::to_string);
        assert_eq!(payloads, [json!("news"), json!(at)]);
    }
}

#[test]
fn a_server_that_drains_gets_no_more_requests_and_answers_those_it_has() {
    let (mut world, client, worker) = pair(12);
    ask(&mut world, client, "work", "1", &json!(1));
    world.rest();
    world.with(1, |server| server.machine.drain());
    world.rest();
    ask(&mut world, client, "work", "2", &json!(2));
    assert_eq!(world.payloads(client)[0]["code"], "no_handler");
    let request = world.take(worker).pop().unwrap();
    answer(&mut world, worker, &request, &json!("late"));
    world.rest();
    assert_eq!(world.payloads(client), [json!("late")]);
    // Once nothing needs it for long enough, the tunnel goes, too.
    for _ in 0..25 {
        world.rest();
    }
    let tunnels = |world: &World| world.servers[0].machine.stats().tunnels;
    assert_eq!((tunnels(&world), world.servers[1].machine.stats().tunnels), (0, 0));
    assert_eq!(world.servers[0].machine.stats().broken_tunnels, 0);
}

/// The last answers of a server that drains are more than there is credit for.
#[test]
fn what_waits_for_credit_when_a_server_has_drained_still_comes() {
    let (mut world, client, worker) = pair(15);
    ask(&mut world, client, "work", "1", &json!(1));
    world.rest();
    let request = world.take(worker).pop().unwrap();
    world.with(1, |server| {
        server.machine.drain();
        server.broker.begin_drain();
    });
    // A window and a half.
    let large = json!("x".repeat(3 << 19));
    answer(&mut world, worker, &request, &large);
    assert!(world.servers[1].links.is_empty(), "the server has closed them");
    assert_eq!(world.servers[1].machine.stats().tunnels, 1);
    world.rest();
    assert!(world.payloads(client) == [large]);
    assert_eq!(world.servers[1].machine.stats().tunnels, 0);
}

#[test]
fn a_worker_that_leaves_is_no_longer_asked() {
    let (mut world, client, worker) = pair(9);
    world.hang_up(worker);
    world.rest();
    ask(&mut world, client, "work", "1", &json!(1));
    assert_eq!(world.payloads(client)[0]["code"], "no_handler");
}

/// In each run, clients ask while workers answer, and connections are cut.
#[test]
fn nothing_is_answered_twice_and_everything_is_answered() {
    for seed in 0..30 {
        let mut world = World::joined(3, seed);
        let workers = [1, 2].map(|at| world.client(at, "worker"));
        for worker in workers {
            serve(&mut world, worker, "work");
        }
        let client = world.client(0, "client");
        world.rest();
        let (mut asked, mut cuts) = (0, [false; 3]);
        let mut answers: Vec<Value> = Vec::new();
        for _ in 0..400 {
            let at = world.random(3);
            match world.random(10) {
                0 if cuts[at] => {
                    world.connect(at);
                    cuts[at] = false;
                }
                1 if seed % 2 == 1 && !cuts[at] && world.random(6) == 0 => {
                    world.cut(at);
                    cuts[at] = true;
                }
                2..=3 => {
                    let size = if world.random(9) == 0 { 300_000 } else { 10 };
                    let payload = json!([asked, "x".repeat(size)]);
                    ask(&mut world, client, "work", &asked.to_string(), &payload);
                    asked += 1;
                }
                4 => {
                    let worker = workers[world.random(2)];
                    for request in world.take(worker) {
                        if request["message_type"] == "request" {
                            answer(&mut world, worker, &request, &request["payload"][0]);
                        }
                    }
                }
                5 => world.pass(Duration::from_millis(30)),
                _ => world.step(),
            }
            answers.extend(world.take(client));
        }
        for at in (0..3).filter(|at| cuts[*at]) {
            world.connect(at);
        }
        for _ in 0..3 {
            world.rest();
            for worker in workers {
                for request in world.take(worker) {
                    if request["message_type"] == "request" {
                        answer(&mut world, worker, &request, &request["payload"][0]);
                    }
                }
            }
            answers.extend(world.take(client));
        }
        let mut ids = BTreeSet::new();
        for found in &answers {
            let id: u64 = found["reply_to"].as_str().unwrap().parse().unwrap();
            assert!(ids.insert(id), "seed {seed}: {id} is answered twice");
            let code = found["payload"]["code"].as_str();
            match code {
                None => assert_eq!(found["payload"], id, "seed {seed}"),
                Some(code) => {
                    assert!(["worker_lost", "no_handler"].contains(&code), "seed {seed}: {code}");
                    assert!(seed % 2 == 1, "seed {seed}: {code} without a cut");
                }
            }
        }
        assert_eq!(ids.len(), asked, "seed {seed}");
    }
}
