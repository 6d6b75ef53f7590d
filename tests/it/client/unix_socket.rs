//! The clients over Unix sockets.

use std::path::Path;
use std::sync::mpsc::channel;

use ipc_framework::client::{ClientOptions, Endpoint, Pool};
use serde_json::Value;

use super::many_threads::value;
use super::scripted::{Told, losses, next, patient};
use crate::cli::{Running, serve};
use crate::scratch::Scratch;
use crate::support::{HANG, together};

pub(super) fn start(path: &Path) -> Running {
    let path = path.to_str().unwrap();
    Running::start(serve(&["--demo", "--host", "127.0.0.1", "--port", "0", "--unix", path]))
}

pub(super) fn options(path: &Path) -> ClientOptions {
    patient("bench", Endpoint::unix(path))
}

#[test]
fn all_that_a_client_does_and_a_server_that_is_killed_and_comes_back() {
    let scratch = Scratch::new("client-unix");
    let path = scratch.socket();
    let server = start(&path);
    let client = options(&path).connect().unwrap();
    let told = losses(&client);
    let mut news = client.subscribe("news").unwrap();
    client.serve("mine", 2, |request| Ok(request.payload.clone())).unwrap();
    let (sender, answers) = channel();
    client.send_request_async("mine", &"all", move |answer| sender.send(answer).unwrap()).unwrap();
    assert_eq!(value(&answers.recv_timeout(HANG).unwrap().unwrap()), "all");
    client.publish("news", &1).unwrap();
    assert_eq!(value(&news.next().unwrap()), 1);

    server.signal("KILL");
    drop(server);
    assert!(matches!(next(&told), Told::Lost { unanswered: 0, .. }));
    for n in 2..50 {
        client.publish("news", &n).unwrap();
    }
    let server = start(&path);
    assert_eq!(next(&told), Told::Connected);
    let got: Vec<Value> = news.by_ref().take(48).map(|message| value(&message)).collect();
    assert_eq!(got, (2..50).map(Value::from).collect::<Vec<_>>());
    assert_eq!(value(&client.request("mine", &"again").unwrap()), "again");

    server.signal("TERM");
    assert_eq!(next(&told), Told::Leaving);
    assert!(server.end().0.success());
    assert!(matches!(next(&told), Told::Lost { unanswered: 0, unconfirmed: 0, waiting: 0 }));
    let _server = start(&path);
    assert_eq!(next(&told), Told::Connected);
    assert_eq!(value(&client.request("mine", &"a third time").unwrap()), "a third time");
    client.close().unwrap();
    assert_eq!(next(&told), Told::Closed { unsent: 0 });
}

#[test]
fn large_messages_and_a_pool() {
    let scratch = Scratch::new("client-unix-pool");
    let path = scratch.socket();
    let _server = start(&path);
    let pool = Pool::connect(&options(&path), 3).unwrap();
    together(6, |thread| {
        for n in 0..5 {
            let large = format!("{thread} {n} {}", "x".repeat(300_000));
            assert_eq!(pool.request_as::<String, _>("echo", &large).unwrap(), large);
        }
    });
    pool.close().unwrap();
}
