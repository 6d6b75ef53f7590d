//! Requests that a served channel has in hand when something ends: they are finished, or given back
//! to the server. No end waits for a handler that never returns.

use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipc_framework::client::{Client, Endpoint, Error, Request};
use ipc_framework::{ErrorCode, Message};

use super::many_threads::{connect, value};
use super::scripted::patient;
use crate::support::{HANG, TestServer, serve_echo, until};

/// Tells the port to the program whose handler never returns.
const PORT_VARIABLE: &str = "IPC_TEST_PORT";

/// A handler at work: it says that it has begun, and ends when the test lets it.
struct AtWork {
    begun: Receiver<()>,
    go_on: Sender<()>,
}

/// Serves `work` by one thread or by another thread that answers later.
fn serve(client: &Client, name: &'static str, is_deferred: bool) -> AtWork {
    let (tell, begun) = channel();
    let (go_on, going_on) = channel::<()>();
    let going_on = Arc::new(Mutex::new(going_on));
    let work = move || {
        tell.send(()).unwrap();
        going_on.lock().unwrap().recv_timeout(HANG).unwrap();
    };
    if is_deferred {
        let work = Arc::new(Mutex::new(work));
        let answer = move |_, responder: ipc_framework::client::Responder| {
            let work = work.clone();
            std::thread::spawn(move || {
                work.lock().unwrap()();
                responder.reply(&name)
            });
        };
        client.serve_deferred("work", 1, answer).unwrap();
    } else {
        let work = Mutex::new(work);
        client
            .serve("work", 1, move |_| {
                work.lock().unwrap()();
                Ok(name)
            })
            .unwrap();
    }
    AtWork { begun, go_on }
}

type Asked = std::thread::JoinHandle<Result<Message, Error>>;

/// Has two requests in hand: one that the handler works on, and one that waits for it.
fn two_in_hand(server: &TestServer, worker: &Client, at_work: &AtWork) -> [Asked; 2] {
    let client = connect(server);
    let asked = [1, 2].map(|n| {
        let client = client.clone();
        std::thread::spawn(move || client.request("work", &n))
    });
    at_work.begun.recv_timeout(HANG).unwrap();
    server.wait_until("both at the worker", |stats| stats.counters.forwarded >= 2);
    // The worker has received both, because it has the answer to what was sent after them.
    worker.flush().unwrap();
    asked
}

#[test]
fn what_is_in_hand_is_answered_whatever_ends_the_service() {
    for is_deferred in [false, true] {
        for end in ["stop_serving", "serve anew", "close"] {
            let server = serve_echo();
            let worker = connect(&server);
            let at_work = serve(&worker, "first", is_deferred);
            let asked = two_in_hand(&server, &worker, &at_work);
            let ending = worker.clone();
            let ended = std::thread::spawn(move || match end {
                "stop_serving" => ending.stop_serving("work").map(|()| None),
                "serve anew" => Ok(Some(serve(&ending, "second", is_deferred))),
                _ => ending.close().map(|()| None),
            });
            for _ in 0..2 {
                at_work.go_on.send(()).unwrap();
            }
            for asked in asked {
                assert_eq!(value(&asked.join().unwrap().unwrap()), "first", "{end}");
            }
            let anew = ended.join().unwrap().unwrap();
            if let Some(anew) = anew {
                let client = connect(&server);
                anew.go_on.send(()).unwrap();
                assert_eq!(value(&client.request("work", &3).unwrap()), "second");
            }
        }
    }
}

#[test]
fn what_is_in_hand_is_given_back_at_once_by_an_end_without_a_drain() {
    for is_deferred in [false, true] {
        let server = serve_echo();
        let worker = connect(&server);
        let at_work = serve(&worker, "first", is_deferred);
        let asked = two_in_hand(&server, &worker, &at_work);
        worker.abort();
        for asked in asked {
            let error = asked.join().unwrap().unwrap_err();
            let Error::Answered { code, .. } = error else { panic!("{error:?}") };
            assert_eq!(code, ErrorCode::WorkerLost);
        }
        // The handler still goes on to its end, and its answer reaches nobody.
        at_work.go_on.send(()).unwrap();
    }
}

/// Its handler never returns, and it ends all the same.
#[test]
#[ignore = "another test runs it as a program of its own"]
fn program() {
    let port = std::env::var(PORT_VARIABLE).unwrap().parse().unwrap();
    let mut options = patient("app", Endpoint::tcp("127.0.0.1", port));
    let client = options.connect().unwrap();
    options.connection.timeout = Duration::from_millis(300);
    let worker = options.connect().unwrap();
    let (tell, begun) = channel();
    let tell = Mutex::new(tell);
    let never = move |_: &Request| {
        tell.lock().unwrap().send(()).unwrap();
        loop {
            std::thread::sleep(HANG);
        }
        #[expect(unreachable_code, reason = "it gives the handler its type")]
        Ok(())
    };
    worker.serve("stuck", 1, never).unwrap();
    client.send_request_async("stuck", &1, |_| ()).unwrap();
    begun.recv().unwrap();
    assert!(matches!(worker.close(), Err(Error::Deadline { .. })));
}

#[test]
fn a_handler_that_never_returns_holds_up_neither_close_nor_the_end_of_the_process() {
    let server = serve_echo();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "client::ends::program", "--ignored"])
        .env(PORT_VARIABLE, server.address.port().to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ended = until("its end", || child.try_wait().unwrap(), Option::is_some);
    assert!(ended.unwrap().success(), "{ended:?}");
}
