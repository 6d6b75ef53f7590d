//! Servers with different limits for a frame.

use super::*;

const SMALL: usize = 50_000;

/// Gives a server another limit, as a reload does.
fn limit(world: &mut World, at: usize, frame_bytes_max: usize) {
    world.with(at, |server| {
        let limits = Limits { frame_bytes_max, ..Limits::default() };
        server.broker.reconfigure(limits, Access::default());
        server.machine.limit_frames(frame_bytes_max);
    });
}

fn serve(world: &mut World, client: Client, channel: &str) {
    let serve = json!({"action": "serve", "channel": channel});
    world.send(client, &message("request", "system", "serve", &serve));
    assert_eq!(world.payloads(client)[0]["status"], "serving");
}

/// Two servers, of which the second one takes small frames only, and a client of each, which serves.
fn pair(seed: u64) -> (World, Client, Client) {
    let mut world = World::joined(2, seed);
    let clients = [0, 1].map(|at| world.client(at, "c"));
    serve(&mut world, clients[0], "here");
    serve(&mut world, clients[1], "there");
    limit(&mut world, 1, SMALL);
    world.rest();
    (world, clients[0], clients[1])
}

fn large() -> Value {
    json!("x".repeat(SMALL))
}

fn answered(request: &Value, payload: &Value, meta: Option<&Value>) -> Value {
    let channel = request["channel_id"].as_str().unwrap();
    let mut answer = message("response", channel, "r", payload);
    answer["reply_to"] = request["message_id"].clone();
    if let Some(meta) = meta {
        answer["meta"] = meta.clone();
    }
    answer
}

fn is_refused(answer: &Value, id: &str) {
    assert_eq!((&answer["reply_to"], &answer["message_type"]), (&json!(id), &json!("response")));
    assert_eq!(answer["payload"]["code"], "frame_too_large");
    assert!(answer["payload"]["error"].as_str().unwrap().contains("50000"), "{answer}");
}

fn no_tunnel_broke(world: &World) {
    for server in &world.servers {
        let stats = server.machine.stats();
        assert_eq!((stats.tunnels, stats.broken_tunnels), (1, 0), "{:?}", server.log);
    }
}

#[test]
fn a_request_over_the_limit_of_the_other_server_is_refused_and_the_others_go_on() {
    let (mut world, here, there) = pair(21);
    for (id, payload) in [("1", json!("first")), ("2", large()), ("3", json!("last"))] {
        world.send(here, &message("request", "there", id, &payload));
    }
    is_refused(&world.take(here)[0], "2");
    world.send(here, &message("notification", "there", "n", &large()));
    world.send(here, &message("notification", "there", "n", &json!("a note")));
    world.rest();
    let requests = world.take(there);
    let payloads: Vec<_> = requests.iter().map(|request| &request["payload"]).collect();
    assert_eq!(payloads, ["first", "last", "a note"]);
    assert_eq!(world.servers[0].machine.stats().too_large, 1, "{:?}", world.servers[0].log);
    for request in &requests[..2] {
        world.send(there, &answered(request, &request["payload"], None));
    }
    world.rest();
    assert_eq!(world.payloads(here), ["first", "last"]);
    no_tunnel_broke(&world);
    // Locally, and in the other direction, it may be as large as ever.
    limit(&mut world, 1, SMALL * 2);
    world.rest();
    world.send(here, &message("request", "there", "4", &large()));
    world.rest();
    assert!(world.payloads(there) == [large()], "the limit was raised");
}

#[test]
fn an_answer_over_the_limit_of_the_server_that_asked_is_told_instead() {
    let (mut world, here, there) = pair(22);
    for id in ["1", "2"] {
        world.send(there, &message("request", "here", id, &json!(id)));
    }
    world.rest();
    let requests = world.take(here);
    world.send(here, &answered(&requests[0], &large(), None));
    world.send(here, &answered(&requests[1], &json!("small"), None));
    world.rest();
    let answers = world.take(there);
    is_refused(&answers[0], "1");
    assert_eq!((&answers[1]["reply_to"], &answers[1]["payload"]), (&json!("2"), &json!("small")));
    no_tunnel_broke(&world);
}

#[test]
fn a_part_over_the_limit_ends_its_stream_and_its_worker_stops() {
    let (mut world, here, there) = pair(23);
    let mut request = message("request", "here", "1", &json!("tale"));
    request["meta"] = json!({"stream": 10});
    world.send(there, &request);
    world.rest();
    // The worker has to know the extension.
    let task = world.take(here).pop().unwrap();
    world.send(here, &answered(&task, &json!("small"), Some(&json!({"seq": 0}))));
    world.send(here, &answered(&task, &large(), Some(&json!({"seq": 1}))));
    world.send(here, &answered(&task, &json!("too late"), Some(&json!({"seq": 2}))));
    world.rest();
    let answers = world.take(there);
    assert_eq!((&answers[0]["payload"], answers.len()), (&json!("small"), 2));
    is_refused(&answers[1], "1");
    let told = world.payloads(here);
    assert_eq!((&told[0]["action"], told.len()), (&json!("cancel"), 1), "{told:?}");
    no_tunnel_broke(&world);
}

/// What was under way when the limit was lowered ends neither the link nor the tunnel.
#[test]
fn a_limit_that_was_lowered_a_moment_ago_refuses_what_was_sent_before() {
    let (mut world, here, there) = pair(24);
    limit(&mut world, 1, SMALL * 2);
    world.rest();
    world.send(there, &message("request", "here", "2", &json!("back")));
    world.rest();
    let request = world.take(here).pop().unwrap();
    world.send(here, &message("request", "there", "1", &large()));
    world.send(here, &answered(&request, &large(), None));
    limit(&mut world, 1, SMALL);
    world.rest();
    is_refused(&world.take(here)[0], "1");
    is_refused(&world.take(there)[0], "2");
    no_tunnel_broke(&world);
}

/// A server that says nothing of its limit is told by its own what is too large, as ever.
#[test]
fn a_server_of_an_older_version_is_sent_everything() {
    let about = r#"{"kind":"beat","name":"old","max_payload":1048576,"session":1,"version":0}"#;
    let Some(crate::bridge::presence::Word::Beat(about)) =
        crate::bridge::presence::Word::decode(about.as_bytes())
    else {
        panic!("a beat")
    };
    assert_eq!(about.max_frame_bytes, None);
    let more = r#"{"kind":"beat","name":"new","max_payload":1048576,"session":1,"version":0,
        "max_frame_bytes":7,"more":[]}"#;
    assert!(crate::bridge::presence::Word::decode(more.as_bytes()).is_some());
}
