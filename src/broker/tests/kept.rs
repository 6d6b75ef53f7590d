//! A request that is kept for a busy worker, or written anew for one, loses nothing of what it came
//! with.

use super::*;

impl World {
    /// Connects a worker of `work` that asks for `call` and takes one request at a time.
    fn single(&mut self, id: &str) -> ConnectionKey {
        let key = self.extended(id);
        assert_eq!(self.serve_with(key, &json!(1))["status"], "serving");
        self.received.remove(&key);
        key
    }

    fn longest_micros(&mut self, from: ConnectionKey, measure: &str) -> f64 {
        let asked = json!({"action": "get_latency"});
        self.send(from, &message("app", "request", "system", "latency", &asked));
        let listed = self.take(from).pop().unwrap();
        listed["payload"]["channels"]["work"][measure]["max_us"].as_f64().unwrap()
    }
}

#[test]
fn a_request_that_was_kept_is_given_to_another_worker_too() {
    let mut world = World::new(Limits::default());
    let first = world.single("first");
    let asks = world.extended("asks");
    world.call(asks, "occupies", &json!({"ttl": 9_000}));
    let occupies = world.take_one(first);
    world.call(asks, "q", &json!({"idempotent": true, "ttl": 9_000, "stream": 2}));
    world.notify(asks, &json!({"action": "credit", "message_id": "q", "n": 3}));
    assert_eq!(world.take(first), [json!(null); 0], "it is kept");
    world.answer(first, &occupies, &json!("done"));
    let got = world.take(first);
    assert_eq!((got.len(), &got[1]["payload"]["n"]), (2, &json!(3)), "{got:?}");
    world.take(asks);
    let second = world.single("second");
    world.pass(Duration::from_secs(2));
    world.hang_up(first);
    let again = world.take(second);
    let what = |message: &Value| [message["payload"].clone(), message["message_id"].clone()];
    assert_eq!(what(&again[0]), what(&got[0]));
    assert_eq!(again[0]["meta"], json!({"ttl": 7_000, "stream": 2}));
    assert_eq!(again[1]["payload"]["n"], 3);
    // It is tried twice, however it came to its first worker.
    let third = world.single("third");
    world.hang_up(second);
    world.expect_error(asks, "worker_lost", "q");
    assert_eq!(world.take(third), [json!(null); 0]);
    world.assert_empty(&[asks, third]);
}

#[test]
fn a_request_that_names_an_answer_reaches_its_worker_as_a_request() {
    let mut world = World::new(Limits::default());
    let worker = world.single("worker");
    let asks = world.extended("asks");
    for meta in ["", ",\"meta\":{\"ttl\":9000}", ",\"meta\":{\"idempotent\":true}"] {
        // The second one is kept meanwhile.
        for id in ["q1", "q2"] {
            // The layout of all clients, which is relayed as it came where that is possible.
            let body = format!(
                "{{\"message_id\":\"{id}\",\"app_id\":\"app\",\"channel_id\":\"work\",\
                 \"message_type\":\"request\",\"payload\":\"{id}\",\"timestamp\":1.5,\
                 \"reply_to\":\"an answer\"{meta}}}"
            );
            let mut frame = (body.len() as u32).to_be_bytes().to_vec();
            frame.extend_from_slice(body.as_bytes());
            world.deliver(asks, &frame);
        }
        for id in ["q1", "q2"] {
            let got = world.take_one(worker);
            assert_eq!((&got["reply_to"], &got["payload"]), (&json!(null), &json!(id)), "{meta}");
            world.answer(worker, &got, &json!("done"));
            assert_eq!(world.take_one(asks)["reply_to"], id);
        }
    }
    world.assert_empty(&[asks, worker]);
}

#[test]
fn the_time_of_a_request_that_no_worker_got_is_no_handlers() {
    let mut world = World::new(Limits::default());
    let worker = world.single("worker");
    let asks = world.extended("asks");
    world.call(asks, "occupies", &json!({"ttl": 9_000}));
    let occupies = world.take_one(worker);
    world.call(asks, "q", &json!({"ttl": 1_000}));
    world.pass(Duration::from_secs(1));
    world.expect_error(asks, "timeout", "q");
    world.answer(worker, &occupies, &json!("done"));
    world.take(asks);
    let queue_seconds = world.longest_micros(asks, "queue") / 1e6;
    assert!((queue_seconds - 1.0).abs() < 0.01, "{queue_seconds} s until its time was over");

    world.broker.context().reset_latencies();
    world.call(asks, "occupies", &json!({"ttl": 9_000}));
    world.take(worker);
    world.call(asks, "q", &json!({"ttl": 1_000}));
    world.pass(Duration::from_secs(1));
    world.expect_error(asks, "timeout", "q");
    let handler_micros = world.longest_micros(asks, "handler");
    assert!(handler_micros < 1.0, "a handler took {handler_micros} us, and there was none");
    world.assert_empty(&[asks, worker]);
}
