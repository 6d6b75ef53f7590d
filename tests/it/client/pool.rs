//! Several connections that are used as one.

use std::sync::mpsc::channel;

use ipc_framework::client::{Error, Pool};

use super::many_threads::{client_options, value};
use crate::support::{HANG, serve_echo, together};

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
