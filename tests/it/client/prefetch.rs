//! Workers that leave to the server what they have no hand free for.

use std::sync::mpsc;

use ipc_framework::client::{Client, ServeOptions};
use serde_json::{Value, json};

use super::many_threads::{connect, value};
use super::workers::Job;
use crate::support::{HANG, serve_echo};

/// Serves a channel with these options and passes its requests to the test.
fn serve_with(worker: &Client, channel: &str, options: &ServeOptions) -> mpsc::Receiver<Job> {
    let (sender, jobs) = mpsc::channel();
    let pass_on = move |message, responder| drop(sender.send((message, responder)));
    worker.serve_deferred_with(channel, options, pass_on).unwrap();
    jobs
}

/// Returns the numbers of requests that the workers take at a time.
fn concurrency(client: &Client) -> Value {
    let answer = client.request("system", &json!({"action": "list_services"})).unwrap();
    value(&answer)["services"][0]["concurrency"].clone()
}

#[test]
fn a_new_worker_takes_over_what_the_server_keeps() {
    let server = serve_echo();
    let (first, second, client) = (connect(&server), connect(&server), connect(&server));
    let slow = ServeOptions::default().prefetch(1);
    let jobs = serve_with(&first, "model", &slow);
    let (sender, answers) = mpsc::channel();
    for n in 0..6 {
        let sender = sender.clone();
        let tell = move |answer: Result<_, _>| drop(sender.send(value(&answer.unwrap())));
        client.send_request_async("model", &n, tell).unwrap();
    }
    // One is handled, and one waits at the worker.
    server.wait_until("what is kept", |stats| stats.kept_requests == 4);
    let (message, responder) = jobs.recv_timeout(HANG).unwrap();
    assert_eq!(message.payload.decode::<u32>().unwrap(), 0);
    assert!(jobs.try_recv().is_err());
    second
        .serve_with("model", &slow.concurrency(3).prefetch(0), |request| {
            Ok(request.payload.decode::<u32>()? + 100)
        })
        .unwrap();
    let mut taken: Vec<Value> = (0..4).map(|_| answers.recv_timeout(HANG).unwrap()).collect();
    taken.sort_by_key(Value::as_u64);
    assert_eq!(taken, [102, 103, 104, 105]);
    assert_eq!(concurrency(&client), json!([2, 3]));
    responder.reply(&"first").unwrap();
    assert_eq!(answers.recv_timeout(HANG).unwrap(), "first");
    jobs.recv_timeout(HANG).unwrap().1.reply(&"second").unwrap();
    assert_eq!(answers.recv_timeout(HANG).unwrap(), "second");
}

#[test]
fn without_a_prefetch_all_requests_are_handed_out_at_once() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let jobs = serve_with(&worker, "model", &ServeOptions::default());
    for n in 0..6 {
        client.send_request_async("model", &n, |_| ()).unwrap();
    }
    client.flush().unwrap();
    let stats = server.stats();
    assert_eq!((stats.pending_requests, stats.kept_requests), (6, 0));
    assert_eq!(concurrency(&client), Value::Null);
    drop(jobs);
}

/// Serving anew changes the number.
#[test]
fn another_prefetch_replaces_the_first_one() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let options = ServeOptions::default().concurrency(2);
    for (prefetch, announced) in [(Some(0), json!([2])), (Some(5), json!([7])), (None, json!(null))]
    {
        let _jobs = serve_with(&worker, "model", &options.prefetch(prefetch));
        assert_eq!(concurrency(&client), announced);
    }
}
