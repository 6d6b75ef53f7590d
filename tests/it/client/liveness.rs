//! Heartbeats that find a dead server, and the pauses between attempts to reconnect.

use std::io::Read;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ipc_framework::Json;
use ipc_framework::client::{Error, Event, Reconnect};
use serde_json::{Value, json};

use super::scripted::{Scripted, Side, Told, admit, losses, next, publish_until_some_wait};
use crate::support::{HANG, until};

fn is_ping(message: &Value) -> bool {
    message["payload"] == json!({"action": "ping"})
}

fn pong(side: &mut Side, ping: &Value) {
    assert!(is_ping(ping), "{ping}");
    side.answer(ping, json!({"status": "pong"}));
}

#[test]
fn a_silent_server_is_found_dead_although_the_queue_to_it_is_full() {
    let script = Scripted::new();
    let mut options = script.options();
    // Long enough to fill the queue before the server counts as silent.
    options.heartbeat = Some(Duration::from_secs(2));
    options.queue_bytes_max = 500_000;
    // A publisher does not wait longer than this for room.
    options.connection.timeout = Duration::from_millis(10);
    let (client, mut side) = script.connect_with(&options);
    let told = losses(&client);
    let ping = side.receive();
    pong(&mut side, &ping);
    let filler = "x".repeat(60_000);
    let error = loop {
        if let Err(error) = client.publish("news", &filler) {
            break error;
        }
    };
    assert!(matches!(error, Error::QueueFull { .. }), "{error:?}");
    let Told::Lost { unanswered: 0, waiting, .. } = next(&told) else { panic!("lost") };
    assert!(waiting > 0);
    let mut side = script.accept();
    let came = (0..).map(|_| side.receive()).filter(|message| !is_ping(message));
    assert_eq!(came.take(waiting).filter(|message| message["payload"] == filler).count(), waiting);
}

#[test]
fn a_server_that_reads_slowly_and_says_nothing_is_not_taken_for_dead() {
    // A busy machine keeps the reader from reading for a much shorter time than the client's patience,
    // which is five of these for bytes that the kernels may hold.
    const INTERVAL: Duration = Duration::from_secs(1);
    let script = Scripted::new();
    let mut options = script.options();
    options.heartbeat = Some(INTERVAL);
    options.queue_bytes_max = 64 << 20;
    let (client, mut side) = script.connect_with(&options);
    let told = losses(&client);
    let ping = side.receive();
    pong(&mut side, &ping);
    // Most bytes have to wait here and not in the kernel, where no write shows that the server
    // reads.
    socket2::SockRef::from(&side.stream).set_recv_buffer_size(1 << 18).unwrap();
    // The payload is encoded once. Nobody reads until all of it is queued, and that must not take
    // long enough to count as silence.
    let filler = Json::from_serialize(&"x".repeat(1 << 20)).unwrap();
    for _ in 0..50 {
        client.publish("news", &filler).unwrap();
    }
    let begin = Instant::now();
    let mut megabyte = vec![0; 1 << 20];
    // Beyond that patience, only writes show that the server reads.
    while begin.elapsed() < 8 * INTERVAL {
        side.stream.read_exact(&mut megabyte).unwrap();
        std::thread::sleep(INTERVAL / 5);
    }
    assert!(told.try_recv().is_err(), "the connection holds");
    assert_eq!(client.connection_info().connections, 1);
}

#[test]
fn a_server_that_reads_what_the_kernels_hold_is_given_time_for_it() {
    const INTERVAL: Duration = Duration::from_secs(2);
    const BYTES_PER_SECOND: f64 = 2e6;
    let script = Scripted::new();
    let mut options = script.options();
    options.heartbeat = Some(INTERVAL);
    let (client, mut side) = script.connect_with(&options);
    let told = losses(&client);
    let ping = side.receive();
    pong(&mut side, &ping);
    client.publish("news", &"x".repeat(12 << 20)).unwrap();
    // The kernels hold most of it from the beginning, so no write shows that the server reads.
    let begin = Instant::now();
    let mut read_bytes = 0;
    let mut some = vec![0; 100_000];
    while read_bytes < 12_000_000 {
        side.stream.read_exact(&mut some).unwrap();
        read_bytes += some.len();
        let due = Duration::from_secs_f64(read_bytes as f64 / BYTES_PER_SECOND);
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
    }
    assert!(told.try_recv().is_err(), "the connection holds");
    assert_eq!(client.connection_info().connections, 1);
}

#[test]
fn a_heartbeat_of_no_time_is_no_flood() {
    const PINGS: u32 = 20;
    let script = Scripted::new();
    let mut options = script.options();
    options.heartbeat = Some(Duration::ZERO);
    let (_client, mut side) = script.connect_with(&options);
    let (mut pings, mut connections) = (0, 1);
    let begin = Instant::now();
    while pings < PINGS {
        if let Ok(ping) = side.try_receive() {
            pings += 1;
            pong(&mut side, &ping);
        } else {
            // On a busy machine the answer to one may be too late.
            side = script.accept();
            connections += 1;
        }
    }
    // Those of a connection are at least 10 ms apart, however slow the machine is.
    let took = begin.elapsed();
    let apart = pings.saturating_sub(2 * connections);
    assert!(took > Duration::from_millis(10) * apart, "{took:?}, {connections} connections");
}

#[test]
fn a_server_that_admits_and_closes_at_once_is_asked_ever_less_often() {
    let script = Scripted::new();
    let mut options = script.options();
    let (pause_min, pause_max) = (Duration::from_millis(2), Duration::from_secs(10));
    options.reconnect = Some(Reconnect::new(pause_min, pause_max));
    let (client, side) = script.connect_with(&options);
    drop(side);
    for failures in 1..6 {
        drop(script.accept());
        until("a failure", || client.connection_info().failures, |seen| *seen > failures);
    }
    // A connection that brought an answer was useful, so its loss counts as the first again.
    let mut side = script.accept();
    let asking = client.clone();
    let asked = std::thread::spawn(move || asking.request("work", &1));
    let request = side.receive();
    side.answer(&request, json!(2));
    asked.join().unwrap().unwrap();
    drop(side);
    let _side = script.accept();
    until("the eighth", || client.connection_info().connections, |seen| *seen >= 8);
    assert_eq!(client.connection_info().failures, 0);
}

/// Restored channels and heartbeats are answered before the server closes.
#[test]
fn answers_to_the_client_itself_do_not_prove_a_connection() {
    let script = Scripted::new();
    let mut options = script.options();
    options.reconnect = Some(Reconnect::new(Duration::from_millis(2), Duration::from_secs(10)));
    let (client, mut side) = script.connect_with(&options);
    let serving = client.clone();
    admit(&mut side, move || serving.serve("work", 1, |_| Ok(1)).unwrap());
    drop(side);
    // The first connection was of use, for the caller's own request was answered.
    for failures in 0..6 {
        let mut side = script.accept();
        until("the count", || client.connection_info().failures, |seen| *seen == failures);
        let restoring = side.receive();
        side.answer(&restoring, json!({"status": "serving", "channel": "work"}));
        drop(side);
    }
    let mut side = script.accept();
    side.receive();
    // A request to serve is work, so the loss counts as the first again.
    side.send("request", "work", json!(1));
    assert_eq!(side.receive()["payload"], 1);
    drop(side);
    let _side = script.accept();
    until("the count", || client.connection_info().failures, |seen| *seen == 0);
}

#[test]
fn a_server_replaced_by_one_that_knows_no_ping_is_kept() {
    // A busy machine keeps the test from answering for a much shorter time.
    const INTERVAL: Duration = Duration::from_secs(1);
    let script = Scripted::new();
    let mut options = script.options();
    options.heartbeat = Some(INTERVAL);
    let (client, mut side) = script.connect_with(&options);
    let told = losses(&client);
    let mut news = client.subscribe("news").unwrap();
    // The first server answers pings.
    let begin = Instant::now();
    for _ in 0..3 {
        assert!(begin.elapsed() < HANG);
        let message = side.receive();
        if is_ping(&message) {
            pong(&mut side, &message);
        }
    }
    drop(side);
    assert!(matches!(next(&told), Told::Lost { .. }));
    // The second one is silent for so long that the first one would count as dead.
    let mut side = script.accept();
    assert_eq!(next(&told), Told::Connected);
    assert_eq!(side.receive()["message_type"], "subscribe");
    let ping = side.receive();
    assert!(is_ping(&ping));
    until("the end of the ping", || client.connection_info().pending_requests, |seen| *seen == 0);
    std::thread::sleep(INTERVAL);
    side.send("publish", "news", json!("still here"));
    assert_eq!(news.next().unwrap().payload.as_str(), "\"still here\"");
    assert!(told.try_recv().is_err());
}

#[test]
fn a_listener_may_bring_another() {
    let script = Scripted::new();
    let (client, side) = script.connect();
    let (sender, heard) = channel();
    let weak = client.downgrade();
    client.on_event(move |event| {
        if let (Event::Disconnected { .. }, Some(client)) = (event, weak.upgrade()) {
            let sender = sender.clone();
            client.on_event(move |event| {
                if let Event::Connected { .. } = event {
                    sender.send(()).unwrap();
                }
            });
        }
    });
    publish_until_some_wait(&client);
    drop(side);
    let _side = script.accept();
    heard.recv_timeout(HANG).unwrap();
}
