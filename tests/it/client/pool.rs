//! Several connections that are used as one.

use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::time::Duration;

use ipc_framework::client::{Error, PartSender, Pool, Reconnect, Request, RequestOptions};

use super::many_threads::{client_options, value};
use super::scripted::{Scripted, failure};
use crate::support::{HANG, serve_echo, together, until};

#[test]
fn it_grows_while_all_wait_and_not_beyond_its_bound() {
    let server = serve_echo();
    let mut worker = server.connected("app", "worker").serving("slow");
    let mut options = client_options(&server);
    options.connection.connection_id = Some("pooled".into());
    options.heartbeat = None;
    let pool = Pool::connect(&options, 3).unwrap();
    for n in 0..20 {
        assert_eq!(value(&pool.request("echo", &n).unwrap()), n);
    }
    assert_eq!(pool.connections(), 1, "nobody waited");
    let (sender, answers) = channel();
    for n in 0..7 {
        let sender = sender.clone();
        let tell = move |answer| sender.send(answer).unwrap();
        pool.client().unwrap().send_request_async("slow", &n, tell).unwrap();
    }
    assert_eq!(pool.connections(), 3);
    // The least loaded connection gets a request: 7 are 3, 2 and 2.
    let next = pool.client().unwrap().connection_info();
    assert_eq!(next.pending_requests, 2, "{next:?}");
    for _ in 0..7 {
        let request = worker.receive();
        worker.answer(&request, request["payload"].clone());
    }
    let mut got: Vec<u64> = (0..7)
        .map(|_| answers.recv_timeout(HANG).unwrap().unwrap().payload.decode().unwrap())
        .collect();
    got.sort_unstable();
    assert_eq!(got, [0, 1, 2, 3, 4, 5, 6]);
    pool.close().unwrap();
    assert!(matches!(pool.request("echo", &1), Err(Error::Closed)));
    server.wait_until("the end of all but the worker", |stats| stats.total_connections == 1);
}

#[test]
fn a_request_with_options_and_a_stream_take_one_of_its_connections() {
    let server = serve_echo();
    let worker = client_options(&server).connect().unwrap();
    let handler =
        |_: &Request, parts: &mut PartSender| Ok((0..3).try_for_each(|n| parts.send(&n))?);
    worker.serve_stream("count", 1, handler).unwrap();
    let pool = Pool::connect(&client_options(&server), 2).unwrap();
    let options = RequestOptions::default().timeout(HANG);
    assert_eq!(value(&pool.request_with("echo", &1, &options).unwrap()), 1);
    let parts = pool.request_stream_with("count", &(), &options).unwrap();
    let parts: Vec<_> = parts.map(|part| value(&part.unwrap())).collect();
    assert_eq!(parts, [0, 1, 2]);
    pool.close().unwrap();
}

#[test]
fn a_member_that_ended_is_replaced() {
    let server = serve_echo();
    let mut options = client_options(&server);
    options.heartbeat = None;
    let pool = Pool::connect(&options, 2).unwrap();
    pool.client().unwrap().close().unwrap();
    assert_eq!(value(&pool.request("echo", &"still here").unwrap()), "still here");
    assert_eq!(pool.connections(), 1);
}

#[test]
fn many_threads_share_few_connections() {
    let server = serve_echo();
    let pool = Pool::connect(&client_options(&server), 4).unwrap();
    together(16, |thread| {
        for n in 0..100 {
            let question = thread * 1000 + n;
            assert_eq!(value(&pool.request("echo", &question).unwrap()), question);
        }
    });
    assert!(pool.connections() <= 4);
    assert!(server.stats().total_connections <= 4);
}

#[test]
fn it_pauses_after_a_server_that_welcomes_and_closes() {
    let server = Scripted::new();
    let mut options = server.options();
    let hour = Duration::from_secs(3_600);
    options.reconnect = Some(Reconnect::new(hour, hour));
    let connecting = std::thread::spawn(move || Pool::connect(&options, 3).unwrap());
    let mut side = server.accept();
    let pool = connecting.join().unwrap();
    // This ends the client for good, so the pool has to replace it.
    side.send("response", "system", failure("taken_over"));
    drop(side);
    let ask = || pool.request("echo", &1).unwrap_err();
    until("the end of the client", ask, |error| matches!(error, Error::Disconnected));
    for _ in 0..1_000 {
        assert!(matches!(ask(), Error::Disconnected));
    }
    assert!(!server.is_asked(), "no second attempt is due");
}

#[test]
fn it_pauses_after_an_attempt_that_failed_and_says_why_it_did() {
    let server = serve_echo();
    let mut options = client_options(&server);
    let hour = Duration::from_secs(3_600);
    options.reconnect = Some(Reconnect::new(hour, hour));
    let pool = Pool::connect(&options, 1).unwrap();
    pool.client().unwrap().close().unwrap();
    let address = server.address;
    server.stop();
    for _ in 0..3 {
        let error = pool.client().unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("nothing listens on"), "{error}");
    }
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    for _ in 0..1_000 {
        assert!(matches!(pool.client(), Err(Error::Unreachable { .. })));
    }
    assert!(listener.accept().is_err(), "no second attempt is due");
}

#[test]
fn callers_without_a_client_wait_for_one_attempt() {
    let server = Scripted::new();
    let options = server.options();
    let connecting = std::thread::spawn(move || Pool::connect(&options, 1).unwrap());
    let mut side = server.accept();
    let pool = connecting.join().unwrap();
    let closing = {
        let client = pool.client().unwrap();
        std::thread::spawn(move || client.close())
    };
    while let Ok(asked) = side.try_receive() {
        side.answer(&asked, serde_json::json!({"status": "alive"}));
    }
    drop(side);
    closing.join().unwrap().unwrap();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(|| pool.client())).collect();
        let _side = server.accept();
        for caller in callers {
            caller.join().unwrap().expect("all get the one client");
        }
    });
    assert_eq!(pool.connections(), 1);
    assert!(!server.is_asked());
}

/// Nobody would close that connection any more.
#[test]
fn a_connection_that_is_made_while_it_closes_is_closed_too() {
    let server = Scripted::new();
    let options = server.options();
    let connecting = std::thread::spawn(move || Pool::connect(&options, 2).unwrap());
    let mut first = server.accept();
    let pool = connecting.join().unwrap();
    // Its client is busy, so that the pool grows.
    let _asked = pool.client().unwrap().request_future("work", &1).unwrap();
    assert_eq!(first.receive()["payload"], 1);
    let growing = {
        let pool = pool.clone();
        std::thread::spawn(move || pool.client())
    };
    let mut second = server.accept_bare();
    let connect = second.receive();
    let closing = {
        let pool = pool.clone();
        std::thread::spawn(move || pool.close())
    };
    while first.try_receive().is_ok() {}
    drop(first);
    closing.join().unwrap().unwrap();
    let id = connect["payload"]["connection_id"].clone();
    let welcome = serde_json::json!({"status": "connected", "connection_id": id});
    second.send("response", "system", welcome);
    while second.try_receive().is_ok() {}
    drop(second);
    let error = growing.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
    assert_eq!(pool.connections(), 0);
    assert!(matches!(pool.client(), Err(Error::Closed)));
}

#[test]
fn a_handler_cannot_close_it_and_is_told_so() {
    let server = serve_echo();
    let pool = Pool::connect(&client_options(&server), 2).unwrap();
    let inside = pool.clone();
    let handler = move |_request: &_| Ok(inside.close().unwrap_err().to_string());
    pool.client().unwrap().serve("closing", 1, handler).unwrap();
    let told = value(&pool.request("closing", &1).unwrap());
    assert!(told.as_str().unwrap().contains("close from another thread"), "{told}");
    assert_eq!(value(&pool.request("echo", &"nothing is done").unwrap()), "nothing is done");
    pool.close().unwrap();
}
