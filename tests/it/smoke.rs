use serde_json::json;

use crate::support::{code, serve_echo};

#[test]
fn a_first_conversation() {
    let server = serve_echo();
    let mut alice = server.connected("app", "alice");
    let mut bob = server.connected("app", "bob");
    assert_eq!(alice.request("echo", json!({"x": [1, 2.5, "ü"]})), json!({"x": [1, 2.5, "ü"]}));
    alice.subscribe("news");
    bob.subscribe("news");
    bob.send("publish", "news", json!("hello"));
    assert_eq!(alice.receive()["payload"], "hello");
    assert_eq!(bob.receive()["payload"], "hello");
    bob.serve("square");
    let id = alice.send("request", "square", json!(7));
    let task = bob.receive();
    assert_ne!(task["message_id"], id.as_str());
    bob.answer(&task, json!(49));
    let answer = alice.receive();
    assert_eq!((&answer["payload"], &answer["reply_to"]), (&json!(49), &json!(id)));
    alice.send("request", "nowhere", json!(null));
    assert_eq!(code(&alice.receive()), "no_handler");
    alice.fence();
    server.stop();
}
