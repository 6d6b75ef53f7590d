//! Messages that wait for others, to leave in one write with them.

use serde_json::json;

use super::many_threads::value;
use super::scripted::Scripted;

#[test]
fn they_leave_by_themselves_in_their_order() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    client.set_batching(true);
    for n in 0..200 {
        client.publish("news", &n).unwrap();
    }
    for n in 0..200 {
        assert_eq!(side.receive()["payload"], n);
    }
    let asking = std::thread::spawn({
        let client = client.clone();
        move || {
            client.publish("news", &200).unwrap();
            client.set_batching(false);
            client.request("work", &201).unwrap()
        }
    });
    assert_eq!(side.receive()["payload"], 200);
    let request = side.receive();
    assert_eq!(request["payload"], 201);
    side.answer(&request, json!("done"));
    assert_eq!(value(&asking.join().unwrap()), "done");
}

#[test]
fn many_bytes_leave_in_their_order_while_the_server_reads_slowly() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let publishing = std::thread::spawn(move || {
        client.set_batching(true);
        for n in 0..1_000 {
            client.publish("news", &json!([n, "x".repeat(20 * (n % 1_000))])).unwrap();
        }
        client.close().unwrap();
    });
    for n in 0..1_000 {
        let message = side.receive();
        assert_eq!(message["payload"][0], n);
        assert_eq!(message["payload"][1].as_str().unwrap().len(), 20 * n);
    }
    // A server that is gone before the client ends proves nothing about the last messages.
    side.expect_end();
    drop(side);
    publishing.join().unwrap();
}

#[test]
fn they_leave_before_the_end_of_a_client_that_is_dropped() {
    let script = Scripted::new();
    for _ in 0..20 {
        let (client, mut side) = script.connect();
        client.set_batching(true);
        for n in 0..3 {
            client.publish("news", &n).unwrap();
        }
        drop(client);
        for n in 0..3 {
            assert_eq!(side.receive()["payload"], n);
        }
    }
}
