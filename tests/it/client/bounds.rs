//! Nothing grows without bound, and no code of the caller runs while a lock is held.

use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Wake};

use futures_core::Stream;
use ipc_framework::ErrorCode;
use ipc_framework::client::{Client, Error, WeakClient};
use serde::{Serialize, Serializer};
use serde_json::json;

use super::many_threads::{client_options, connect};
use super::scripted::{Scripted, admit, errors, failure};
use super::workers::deferred;
use crate::support::{HANG, TestServer, frames, serve_echo};

/// Connects a client that keeps few unread bytes.
fn small(server: &TestServer) -> Client {
    let mut options = client_options(server);
    options.unread_bytes_max = 10_000;
    options.connect().unwrap()
}

#[test]
fn what_nobody_reads_is_bounded_by_bytes_and_what_is_missed_is_counted() {
    let server = serve_echo();
    let client = small(&server);
    let news = client.subscribe("news").unwrap();
    let large = "x".repeat(1_000);
    for _ in 0..100 {
        client.publish("news", &large).unwrap();
    }
    client.flush().unwrap();
    let missed = news.missed();
    let read = std::iter::from_fn(|| news.next_timeout(std::time::Duration::ZERO)).count() as u64;
    assert_eq!(read + missed, 100);
    assert!((1..10).contains(&read), "{read} of 1,000 bytes each and more");
    // A single message that is larger than the bound is delivered.
    client.publish("news", &"x".repeat(20_000)).unwrap();
    assert!(news.next_timeout(HANG).is_some());
    client.publish("news", &"x".repeat(5_000)).unwrap();
    client.publish("news", &"x".repeat(5_000)).unwrap();
    client.flush().unwrap();
    assert_eq!(news.missed(), missed + 1);
}

#[test]
fn what_waits_for_a_busy_worker_is_bounded_by_bytes_and_the_rest_is_told() {
    let server = serve_echo();
    let (worker, client) = (small(&server), connect(&server));
    let jobs = deferred(&worker, "work", 1);
    let (tell, answers) = channel();
    let large = "x".repeat(1_000);
    for _ in 0..30 {
        let tell = tell.clone();
        client
            .send_request_async("work", &large, move |answer| tell.send(answer).unwrap())
            .unwrap();
    }
    let (_, busy) = jobs.recv_timeout(HANG).unwrap();
    let next = || answers.recv_timeout(HANG).unwrap();
    // One is at work and nine wait.
    for _ in 0..20 {
        let error = next().unwrap_err();
        let Error::Answered { code: ErrorCode::LimitExceeded, text } = error else {
            panic!("{error:?}")
        };
        assert!(text.contains("too much to do"), "{text}");
    }
    busy.reply(&()).unwrap();
    for _ in 0..9 {
        jobs.recv_timeout(HANG).unwrap().1.reply(&()).unwrap();
    }
    for _ in 0..10 {
        next().unwrap();
    }
}

#[test]
fn notifications_that_a_busy_worker_has_no_room_for_are_counted() {
    let server = serve_echo();
    let (worker, client) = (small(&server), connect(&server));
    let jobs = deferred(&worker, "work", 1);
    let large = "x".repeat(1_000);
    for _ in 0..30 {
        client.notify("work", &large).unwrap();
    }
    client.flush().unwrap();
    worker.flush().unwrap();
    // One is at work and nine wait.
    assert_eq!(worker.connection_info().missed_notifications, 20);
    for _ in 0..10 {
        drop(jobs.recv_timeout(HANG).unwrap());
    }
    worker.close().unwrap();
    assert!(jobs.try_recv().is_err());
}

#[test]
fn a_server_that_asks_on_and_reads_no_refusal_is_left() {
    const BYTES_MAX: usize = 1 << 20;
    for is_leaving in [false, true] {
        for channel in ["nobodys", "mine"] {
            flood(BYTES_MAX, channel, is_leaving);
        }
    }
}

/// Asks for more than the client can send in answers, and reads none of them.
fn flood(bytes_max: usize, channel_id: &str, is_leaving: bool) {
    let script = Scripted::new();
    let mut options = script.options();
    options.queue_bytes_max = bytes_max;
    let (client, mut side) = script.connect_with(&options);
    let serving = client.clone();
    let served = admit(&mut side, move || {
        serving.serve_deferred("mine", 1, |request, responder| {
            // An answer that is too large to wait is refused.
            let _ = responder.reply(&request.payload);
        })
    });
    served.unwrap();
    let told = errors(&client);
    if is_leaving {
        side.send("response", "system", failure("shutting_down"));
    }
    let many = frames([&side.message("request", channel_id, &json!(1))]).repeat(1_000);
    let mut most = 0;
    // This is ten times as much as the kernel and the queue can hold.
    for _ in 0..1_000 {
        most = most.max(client.waiting_bytes());
        if side.stream.write_all(&many).is_err() {
            break;
        }
    }
    let error = told.recv_timeout(HANG).expect("the server is left");
    assert!(error.contains("does not read"), "{error}");
    // The queue, as many bytes of refusals, and the last answer.
    assert!(most <= 3 * bytes_max, "{most} bytes wait");
    drop(side);
    script.accept();
}

/// Uses the client while it is serialized.
struct Meddling(Client);

impl Serialize for Meddling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.publish("inner", &1).unwrap();
        serializer.serialize_u64(self.0.connection_info().connections)
    }
}

#[test]
fn a_value_may_use_the_client_while_it_is_written() {
    let server = serve_echo();
    let client = connect(&server);
    let inner = client.subscribe("inner").unwrap();
    assert_eq!(client.request_as::<u64, _>("echo", &Meddling(client.clone())).unwrap(), 1);
    assert!(inner.next_timeout(HANG).is_some());
}

/// Uses the client while it is woken.
struct Curious(WeakClient);

impl Wake for Curious {
    fn wake(self: Arc<Self>) {
        self.0.upgrade().unwrap().connection_info();
    }
}

#[test]
fn a_waker_may_use_the_client() {
    let server = serve_echo();
    let client = connect(&server);
    let waker = Arc::new(Curious(client.downgrade())).into();
    let mut context = Context::from_waker(&waker);
    let mut news = pin!(client.subscribe("news").unwrap());
    assert!(news.as_mut().poll_next(&mut context).is_pending());
    client.unsubscribe("news");
    assert!(matches!(news.as_mut().poll_next(&mut context), Poll::Ready(None)));
    let mut answer = pin!(client.request_future("echo", &1).unwrap());
    // The waker runs on the client's thread, which can serve the next request afterwards.
    let _ = answer.as_mut().poll(&mut context);
    client.ping().unwrap();
}

/// Uses the client while it is dropped.
struct Clinging(WeakClient);

impl Drop for Clinging {
    fn drop(&mut self) {
        if let Some(client) = self.0.upgrade() {
            client.connection_info();
        }
    }
}

#[test]
fn what_a_callback_owns_may_use_the_client_while_it_is_dropped() {
    let server = serve_echo();
    let client = connect(&server);
    let owned = || Clinging(client.downgrade());
    let own = owned();
    let id = client.send_request_async("echo", &1, move |_| drop(own)).unwrap();
    client.cancel(id);
    for own in [owned(), owned()] {
        client
            .on_message(move |_| {
                let _ = &own;
            })
            .unwrap();
        let own = owned();
        client
            .serve("mine", 1, move |_| {
                let _ = &own;
                Ok(())
            })
            .unwrap();
    }
    let own = owned();
    client
        .on_publication("news", move |_| {
            let _ = &own;
        })
        .unwrap();
    client.unsubscribe("news");
    client.stop_serving("mine").unwrap();
    client.close().unwrap();
    let own = owned();
    assert!(client.send_request_async("echo", &1, move |_| drop(own)).is_err());
    let own = owned();
    assert!(
        client
            .on_message(move |_| {
                let _ = &own;
            })
            .is_err()
    );
}
