//! The end of a client, orderly and otherwise.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ipc_framework::client::{Client, Error, Execution};
use serde_json::{Value, json};

use super::many_threads::connect;
use super::scripted::{
    Scripted, Side, Told, admit, losses, next, publish_until_some_wait, read_all, refuse,
};
use super::workers::deferred;
use crate::support::{HANG, serve_echo, together};

/// Has a client serve a channel, which the scripted server confirms.
fn serve_on(client: &Client, side: &mut Side, channel: &str) -> Result<(), Error> {
    let (serving, channel) = (client.clone(), channel.to_owned());
    admit(side, move || serving.serve_deferred(&channel, 1, |_, _| ()))
}

#[test]
fn a_full_queue_is_drained_and_a_channel_given_up_all_the_same() {
    let script = Scripted::new();
    let mut options = script.options();
    options.queue_bytes_max = 500_000;
    let (client, mut side) = script.connect_with(&options);
    serve_on(&client, &mut side, "mine").unwrap();
    let sent = publish_until_some_wait(&client);
    let closing = std::thread::spawn(move || client.close());
    let mut published = 0;
    loop {
        let message = side.receive();
        if message["message_type"] == "publish" {
            published += 1;
        } else {
            let stop = json!({"action": "stop_serving", "channel": "mine"});
            assert_eq!(message["payload"], stop);
            side.answer(&message, json!({"status": "stopped"}));
            break;
        }
    }
    published += read_all(&mut side).len();
    assert_eq!(published, sent);
    drop(side);
    closing.join().unwrap().unwrap();
}

#[test]
fn a_server_that_refuses_to_let_a_worker_go_is_told_of_and_the_rest_is_drained() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    serve_on(&client, &mut side, "mine").unwrap();
    let closing = client.clone();
    let closed = std::thread::spawn(move || closing.close());
    let stop = side.receive();
    client.publish("news", &"still").unwrap();
    refuse(&mut side, &stop, "limit_exceeded");
    assert_eq!(side.receive()["payload"], "still");
    side.expect_end();
    drop(side);
    let error = closed.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Answered { .. }), "{error:?}");
    assert!(matches!(client.publish("news", &1), Err(Error::Closed)));
}

#[test]
fn an_end_that_does_not_prove_all_was_processed_is_an_error() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    client.publish("news", &1).unwrap();
    let closing = std::thread::spawn(move || client.close());
    assert_eq!(read_all(&mut side).len(), 1);
    // The connection ends with a reset.
    socket2::SockRef::from(&side.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(side);
    let error = closing.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
}

#[test]
fn two_threads_that_close_both_return_after_the_end() {
    let server = serve_echo();
    let client = connect(&server);
    client.publish("news", &1).unwrap();
    together(2, |_| client.close().unwrap());
    client.close().unwrap();
    server.wait_until("the end", |stats| stats.total_connections == 0);
}

#[test]
fn a_handler_of_a_served_channel_cannot_close_its_own_client() {
    let server = serve_echo();
    let client = connect(&server);
    let inside = client.downgrade();
    let by_thread = move |_: &ipc_framework::client::Request| {
        let refused = matches!(inside.upgrade().unwrap().close(), Err(Error::OnClientThread));
        Ok(refused)
    };
    client.serve("threads", 1, by_thread).unwrap();
    let inside = client.downgrade();
    client
        .serve_deferred("deferred", 1, move |_, responder| {
            let refused = matches!(inside.upgrade().unwrap().close(), Err(Error::OnClientThread));
            responder.reply(&refused).unwrap();
        })
        .unwrap();
    for channel in ["threads", "deferred"] {
        assert!(client.request_as::<bool, _>(channel, &()).unwrap());
    }
    client.close().unwrap();
}

/// Returns a value that a handler owns, and a weak reference that shows whether it still lives.
fn guard() -> (Arc<()>, Weak<()>) {
    let guard = Arc::new(());
    let weak = Arc::downgrade(&guard);
    (guard, weak)
}

#[test]
fn closing_drops_all_handlers_and_joins_their_threads() {
    let server = serve_echo();
    let client = connect(&server);
    let mut guards = Vec::new();
    let mut owned = || {
        let (guard, weak) = guard();
        guards.push(weak);
        // The handler also owns a clone of the client.
        (guard, client.clone())
    };
    let own = owned();
    client.on_event(move |_| drop(Arc::clone(&own.0)));
    let own = owned();
    client.on_message(move |_| drop(Arc::clone(&own.0))).unwrap();
    let own = owned();
    client.on_publication("news", move |_| drop(Arc::clone(&own.0))).unwrap();
    let own = owned();
    client.serve("threads", 3, move |_| Ok(Arc::strong_count(&own.0))).unwrap();
    let own = owned();
    client
        .serve_deferred("deferred", 3, move |_, responder| {
            responder.reply(&Arc::strong_count(&own.0)).unwrap();
        })
        .unwrap();
    for channel in ["threads", "deferred"] {
        client.request(channel, &()).unwrap();
    }
    client.close().unwrap();
    let alive: Vec<usize> = guards.iter().map(Weak::strong_count).collect();
    assert_eq!(alive, [0; 5], "events, rest, subscription, threads, deferred");
}

/// A value whose drop takes some time.
struct Slow(Arc<AtomicBool>);

impl Drop for Slow {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_threads_of_a_served_channel_have_ended_when_closing_returns() {
    let server = serve_echo();
    let client = connect(&server);
    let is_dropped = Arc::new(AtomicBool::new(false));
    let slow = Slow(Arc::clone(&is_dropped));
    let handler = move |request: &ipc_framework::client::Request| {
        let _ = &slow;
        Ok(request.payload.clone())
    };
    client.serve("threads", 2, handler).unwrap();
    client.close().unwrap();
    assert!(is_dropped.load(Ordering::SeqCst));
}

#[test]
fn a_handler_with_a_weak_client_does_not_keep_the_connection() {
    let server = serve_echo();
    let client = connect(&server);
    let (sender, seen) = channel();
    let weak = client.downgrade();
    client
        .on_publication("news", move |message| {
            let client = weak.upgrade().unwrap();
            client.publish("log", &message.payload).unwrap();
            sender.send(()).unwrap();
        })
        .unwrap();
    client.publish("news", &1).unwrap();
    seen.recv_timeout(HANG).unwrap();
    let weak = client.downgrade();
    drop(client);
    server.wait_until("the end", |stats| stats.total_connections == 0);
    assert!(weak.upgrade().is_none());
}

#[test]
fn what_is_published_by_many_before_the_end_all_arrives() {
    let server = serve_echo();
    let heard = connect(&server);
    let mut news = heard.subscribe("news").unwrap();
    heard.flush().unwrap();
    for round in 0..20 {
        let client = connect(&server);
        for n in 0..50 {
            client.publish("news", &json!([round, n])).unwrap();
        }
        client.close().unwrap();
        let got: Vec<Value> =
            news.by_ref().take(50).map(|message| super::many_threads::value(&message)).collect();
        assert_eq!(got, (0..50).map(|n| json!([round, n])).collect::<Vec<_>>());
    }
}

#[test]
fn closing_after_a_final_loss_tells_what_may_be_lost() {
    let script = Scripted::new();
    let mut options = script.options();
    options.reconnect = None;
    let lose = |publications: usize| {
        let (client, mut side) = script.connect_with(&options);
        let told = losses(&client);
        for n in 0..publications {
            client.publish("news", &n).unwrap();
            side.receive();
        }
        drop(side);
        let unconfirmed = publications as u64;
        assert_eq!(next(&told), Told::Lost { unanswered: 0, unconfirmed, waiting: 0 });
        assert_eq!(next(&told), Told::Closed { unsent: 0 });
        client.close()
    };
    let error = lose(3).unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    assert_eq!(error.execution(), Execution::Possible);
    // Nothing was in flight, so nothing can be lost.
    lose(0).unwrap();
}

#[test]
fn a_server_that_lets_no_worker_go_is_waited_for_once_and_not_for_every_channel() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let script = Scripted::new();
    let mut options = script.options();
    options.connection.timeout = TIMEOUT;
    let (client, mut side) = script.connect_with(&options);
    // One after another they would take longer than any step may.
    let channels = 3 * HANG.as_millis() / TIMEOUT.as_millis();
    for n in 0..channels {
        // A busy machine may exceed the timeout, which does not matter here.
        let _ = serve_on(&client, &mut side, &format!("mine {n}"));
    }
    let (sender, closed) = channel();
    std::thread::spawn(move || sender.send(client.close()));
    let error = closed.recv_timeout(HANG).expect("the end").unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    // Nevertheless every channel was given up.
    let stops = read_all(&mut side).into_iter();
    let stops = stops.filter(|message| message["payload"]["action"] == "stop_serving");
    assert!(stops.count() as u128 > channels / 2);
}

#[test]
fn a_server_that_never_stops_talking_does_not_keep_a_connection_from_closing() {
    let script = Scripted::new();
    let mut options = script.options().connection;
    options.timeout = Duration::from_millis(300);
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let side = script.accept();
    let connection = connecting.join().unwrap();
    let mut stream = side.stream.try_clone().unwrap();
    // Writes until the connection is closed.
    let many = vec![0; 65536];
    std::thread::spawn(move || while stream.write_all(&many).is_ok() {});
    let (sender, closed) = channel();
    std::thread::spawn(move || sender.send(connection.close().is_err()));
    assert!(closed.recv_timeout(HANG).expect("the end"));
}

#[test]
fn all_threads_that_wait_for_a_message_see_the_end() {
    let script = Scripted::new();
    let (client, _side) = script.connect();
    let news = Arc::new(client.subscribe("news").unwrap());
    let (sender, ended) = channel();
    for _ in 0..3 {
        let (news, sender) = (Arc::clone(&news), sender.clone());
        std::thread::spawn(move || sender.send(news.next_timeout(2 * HANG).is_none()));
    }
    // No event tells that they wait. One that does not wait yet sees the end as well.
    std::thread::sleep(Duration::from_millis(300));
    client.unsubscribe("news");
    for _ in 0..3 {
        assert!(ended.recv_timeout(HANG).expect("all see it"));
    }
}

#[test]
fn work_for_a_connection_that_was_lost_does_not_hold_up_the_end() {
    let script = Scripted::new();
    let mut options = script.options();
    options.connection.timeout = Duration::from_secs(5);
    let (client, mut side) = script.connect_with(&options);
    let told = losses(&client);
    let serving = client.clone();
    let jobs = admit(&mut side, move || deferred(&serving, "work", 2));
    side.send("request", "work", json!(1));
    side.send("request", "work", json!(2));
    let (_, ends) = jobs.recv_timeout(HANG).unwrap();
    let (_, _goes_on) = jobs.recv_timeout(HANG).unwrap();
    drop(side);
    assert_eq!(next(&told), Told::Lost { unanswered: 0, unconfirmed: 0, waiting: 0 });
    let mut side = script.accept();
    assert_eq!(next(&told), Told::Connected);
    let serve = side.receive();
    side.answer(&serve, json!({"status": "serving", "channel": "work"}));
    ends.reply(&"nobody waits for it").unwrap();
    let closing = std::thread::spawn(move || client.close());
    let stop = side.receive();
    assert_eq!(stop["payload"]["action"], "stop_serving");
    side.answer(&stop, json!({"status": "stopped", "channel": "work"}));
    assert_eq!(read_all(&mut side), [json!(null); 0], "and nobody gets it");
    drop(side);
    closing.join().unwrap().unwrap();
}
