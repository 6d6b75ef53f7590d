//! A client whose server is killed, restarted, stopped and replaced.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ipc_framework::Message;
use ipc_framework::client::{
    Client, ClientOptions, Endpoint, Error, Event, Execution, Request, ServeOptions,
    WhileDisconnected,
};
use serde_json::{Value, json};

use super::many_threads::value;
use super::scripted::{Scripted, Told, admit, losses, next, patient, picked};
use crate::cli::{Running, serve};
use crate::support::{HANG, reserved_port};

struct Served {
    server: Option<Running>,
    port: u16,
}

impl Served {
    fn new() -> Self {
        let port = reserved_port();
        Self { server: Some(start(port)), port }
    }

    fn options(&self) -> ClientOptions {
        patient("bench", Endpoint::tcp("127.0.0.1", self.port))
    }

    fn running(&self) -> &Running {
        self.server.as_ref().unwrap()
    }

    /// Ends the server as a power failure would.
    fn kill(&mut self) {
        self.running().signal("KILL");
        self.server = None;
    }

    fn restart(&mut self) {
        self.server = Some(start(self.port));
    }
}

fn start(port: u16) -> Running {
    Running::start(serve(&["--demo", "--host", "127.0.0.1", "--port", &port.to_string()]))
}

/// The connection is lost with so many requests unanswered.
fn expect_loss(told: &Receiver<Told>, expected: usize) {
    let told = next(told);
    assert!(matches!(told, Told::Lost { unanswered, .. } if unanswered == expected), "{told:?}");
}

#[test]
fn subscriptions_and_served_channels_are_back_before_what_waited_is_sent() {
    let mut served = Served::new();
    let client = served.options().connect().unwrap();
    let events = losses(&client);
    let mut news = client.subscribe("news").unwrap();
    client.serve("mine", 1, |request| Ok(value(request))).unwrap();
    client.publish("news", &"before").unwrap();
    assert_eq!(value(&news.next().unwrap()), "before");
    let first_id = client.connection_info().connection_id;

    served.kill();
    expect_loss(&events, 0);
    // These are sent while the server is away. They wait behind the subscriptions that have to be
    // restored.
    for n in 0..100 {
        client.publish("news", &n).unwrap();
    }
    let waiting = client.clone();
    let asked = std::thread::spawn(move || waiting.request("mine", &"own worker"));
    served.restart();
    assert_eq!(next(&events), Told::Connected);
    let got: Vec<Value> = (0..100).map(|_| value(&news.next().unwrap())).collect();
    assert_eq!(got, (0..100).map(Value::from).collect::<Vec<_>>());
    assert_eq!(value(&asked.join().unwrap().unwrap()), "own worker");
    client.flush().unwrap();
    assert!(news.next_timeout(Duration::ZERO).is_none(), "nothing twice");
    let info = client.connection_info();
    assert_eq!(info.connections, 2);
    assert_ne!(info.connection_id, first_id);
    client.close().unwrap();
    assert_eq!(next(&events), Told::Closed { unsent: 0 });
}

/// Neither what is only waited for, nor what was given up.
#[test]
fn what_is_not_subscribed_or_served_any_more_is_not_restored() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let told = losses(&client);
    let (_news, dropped) =
        (client.subscribe("news").unwrap(), client.subscribe("dropped").unwrap());
    client.on_publication("left", drop).unwrap();
    (0..3).for_each(|_| assert_eq!(side.receive()["message_type"], "subscribe"));
    for channel in ["mine", "stopped"] {
        let serving = client.clone();
        admit(&mut side, move || serving.serve(channel, 1, |_| Ok(1))).unwrap();
    }
    drop(dropped);
    client.unsubscribe("left");
    let stopping = client.clone();
    let stopped = std::thread::spawn(move || stopping.stop_serving("stopped"));
    let stop = loop {
        let message = side.receive();
        if message["payload"]["action"] == "stop_serving" {
            break message;
        }
    };
    side.answer(&stop, json!({"status": "stopped", "channel": "stopped"}));
    stopped.join().unwrap().unwrap();
    let waiting = client.clone();
    let waited = std::thread::spawn(move || waiting.wait_for_message("waited", HANG));
    for round in 0.. {
        if waited.is_finished() {
            break;
        }
        drop(side);
        expect_loss(&told, 0);
        side = script.accept();
        assert_eq!(next(&told), Told::Connected);
        let restored = [side.receive(), side.receive()];
        let of = |message: &Value| {
            (
                message["message_type"].clone(),
                message["channel_id"].clone(),
                message["payload"]["channel"].clone(),
            )
        };
        let expected = [
            (json!("subscribe"), json!("news"), json!(null)),
            (json!("request"), json!("system"), json!("mine")),
        ];
        assert_eq!(restored.each_ref().map(of), expected);
        side.answer(&restored[1], json!({"status": "serving", "channel": "mine"}));
        // Nothing stands between those and what is asked next.
        client.publish("ends", &1).unwrap();
        assert_eq!(side.receive()["channel_id"], "ends");
        // By then it waits.
        if round > 3 {
            side.send("publish", "waited", json!("here"));
        }
        client.publish("ends", &2).unwrap();
        assert_eq!(side.receive()["channel_id"], "ends");
    }
    assert_eq!(value(&waited.join().unwrap().unwrap().unwrap()), "here");
}

#[test]
fn a_request_in_flight_fails_at_once_and_says_that_it_may_have_been_executed() {
    let mut served = Served::new();
    let client = served.options().connect().unwrap();
    let events = losses(&client);
    let mut silent = served.running().connected("bench", "silent").serving("silence");
    let asking = client.clone();
    let asked = std::thread::spawn(move || {
        asking.send_request("silence", &1, Duration::from_secs(1_000_000))
    });
    // The request is in flight once the worker has it.
    assert_eq!(silent.receive()["payload"], 1);
    served.kill();
    let error = asked.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    assert_eq!(error.execution(), Execution::Possible);
    expect_loss(&events, 1);
}

#[test]
fn a_request_whose_time_is_over_before_the_server_is_back_is_never_sent() {
    let mut served = Served::new();
    let client = served.options().connect().unwrap();
    let events = losses(&client);
    let (report, seen) = channel();
    let handler = move |request: &Request| Ok(report.send(value(request))?);
    client.serve("mine", 1, handler).unwrap();
    served.kill();
    expect_loss(&events, 0);
    let error = client.send_request("mine", &"late", Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    let asking = client.clone();
    let asked = std::thread::spawn(move || asking.request("mine", &"in time"));
    served.restart();
    asked.join().unwrap().unwrap();
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), ["in time"]);
}

#[test]
fn a_served_channel_is_announced_again_with_its_number() {
    let mut served = Served::new();
    let client = served.options().connect().unwrap();
    let events = losses(&client);
    let options = ServeOptions::default().concurrency(2).prefetch(3);
    client.serve_with("model", &options, |_| Ok("done")).unwrap();
    assert_eq!(concurrency(&client), 5);
    served.kill();
    expect_loss(&events, 0);
    served.restart();
    assert_eq!(next(&events), Told::Connected);
    client.flush().unwrap();
    assert_eq!(concurrency(&client), 5);
}

/// Returns the only number of requests that workers of the demo's application take at a time.
fn concurrency(client: &Client) -> u64 {
    let list = serde_json::json!({"action": "list_services"});
    let answer = value(&client.request("system", &list).unwrap());
    let services = answer["services"].as_array().unwrap();
    let given: Vec<&Value> =
        services.iter().filter_map(|service| service.get("concurrency")).collect();
    assert_eq!(given.len(), 1, "{answer}");
    given[0][0].as_u64().unwrap()
}

#[test]
fn what_cannot_wait_fails_as_configured() {
    let mut served = Served::new();
    let mut options = served.options();
    options.while_disconnected = WhileDisconnected::Fail;
    let failing = options.connect().unwrap();
    options.while_disconnected = WhileDisconnected::Wait;
    options.queue_bytes_max = 1000;
    let waiting = options.connect().unwrap();
    let events = [losses(&failing), losses(&waiting)];
    served.kill();
    for events in &events {
        expect_loss(events, 0);
    }
    let error = failing.request("echo", &1).unwrap_err();
    assert!(matches!(error, Error::Disconnected), "{error:?}");
    assert_eq!(error.execution(), Execution::Never);
    let sent = (0..).find_map(|n| waiting.publish("news", &n).err().map(|error| (n, error)));
    let (accepted, error) = sent.unwrap();
    assert!(matches!(error, Error::QueueFull { bytes_max: 1000 }), "{error:?}");
    assert!(accepted > 0);
    drop(waiting);
    assert_eq!(next(&events[1]), Told::Closed { unsent: accepted });
}

#[test]
fn without_reconnect_the_first_loss_is_the_end() {
    let mut served = Served::new();
    let mut options = served.options();
    options.reconnect = None;
    let client = options.connect().unwrap();
    let events = losses(&client);
    let mut news = client.subscribe("news").unwrap();
    served.kill();
    expect_loss(&events, 0);
    assert_eq!(next(&events), Told::Closed { unsent: 0 });
    assert!(news.next().is_none());
    assert!(matches!(client.request("echo", &1), Err(Error::Closed)));
}

#[test]
fn a_server_that_stands_still_is_found_dead_and_one_that_comes_back_is_found() {
    let served = Served::new();
    let mut options = served.options();
    options.heartbeat = Some(Duration::from_secs(1));
    let client = options.connect().unwrap();
    let events = losses(&client);
    // The server has answered a ping, so its silence means that it is dead.
    client.ping().unwrap();
    served.running().signal("STOP");
    expect_loss(&events, 0);
    served.running().signal("CONT");
    assert_eq!(next(&events), Told::Connected);
    assert_eq!(value(&client.request("echo", &"again").unwrap()), "again");
}

#[test]
fn a_server_that_ends_in_good_order_is_left_without_an_error_for_its_successor() {
    let mut served = Served::new();
    let client = served.options().connect().unwrap();
    let events = losses(&client);
    let mut news = client.subscribe("news").unwrap();
    client.flush().unwrap();
    served.running().signal("TERM");
    assert_eq!(next(&events), Told::Leaving);
    let (status, _) = served.server.take().unwrap().end();
    assert!(status.success());
    client.publish("news", &"for the next one").unwrap();
    let asking = client.clone();
    let asked = std::thread::spawn(move || asking.request("echo", &"patience"));
    served.restart();
    expect_loss(&events, 0);
    assert_eq!(next(&events), Told::Connected);
    assert_eq!(value(&asked.join().unwrap().unwrap()), "patience");
    assert_eq!(value(&news.next().unwrap()), "for the next one");
}

/// The result of numbered publications to a subscription of the same client, while `disturb`
/// disturbed the server.
struct Delivered {
    got: Vec<u64>,
    sent: u64,
    reported: u64,
}

const ROUNDS: u64 = 3;

fn deliver_under(options: &ClientOptions, mut disturb: impl FnMut(&Receiver<Told>)) -> Delivered {
    let client = options.connect().unwrap();
    let events = losses(&client);
    let reports = picked(&client, |event| match event {
        Event::Disconnected { unconfirmed, .. } => Some(*unconfirmed),
        _ => None,
    });
    let mut news = client.subscribe("news").unwrap();
    client.ping().unwrap();
    let (stop, stopped) = channel::<()>();
    let publishing = client.clone();
    let publisher = std::thread::spawn(move || {
        let mut sent = 0u64;
        while stopped.try_recv().is_err() && sent < 200_000 {
            match publishing.publish("news", &sent) {
                Ok(()) => sent += 1,
                // The queue is full while the server is away.
                Err(Error::QueueFull { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error:?}"),
            }
        }
        sent
    });
    let number = |message: Message| message.payload.decode::<u64>().unwrap();
    let mut got = Vec::new();
    for _ in 0..ROUNDS {
        got.push(number(news.next_timeout(HANG).expect("traffic")));
        disturb(&events);
    }
    drop(stop);
    let sent = publisher.join().unwrap();
    client.publish("news", &u64::MAX).unwrap();
    got.extend(news.by_ref().map(number).take_while(|n| *n != u64::MAX));
    Delivered { got, sent, reported: reports.try_iter().sum::<u64>() + news.missed() }
}

impl Delivered {
    fn check_losses(&self) {
        let Self { got, sent, reported } = self;
        assert!(got.iter().all(|n| n < sent));
        let lost = sent - got.len() as u64;
        assert!(lost <= *reported, "{lost} of {sent} lost, {reported} reported");
    }
}

#[test]
fn what_is_delivered_under_restarts_is_delivered_once_and_in_order() {
    let mut served = Served::new();
    let options = served.options();
    let delivered = deliver_under(&options, |events| {
        served.kill();
        expect_loss(events, 0);
        served.restart();
        assert_eq!(next(events), Told::Connected);
    });
    let in_order = delivered.got.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(in_order, "each once, in order");
    delivered.check_losses();
}

/// The server still reads messages from connections that were given up meanwhile, so these may
/// arrive after messages that were sent later.
#[test]
fn what_is_delivered_by_a_server_that_stood_still_is_delivered_once() {
    let served = Served::new();
    let mut options = served.options();
    options.heartbeat = Some(Duration::from_secs(1));
    let delivered = deliver_under(&options, |events| {
        served.running().signal("STOP");
        expect_loss(events, 0);
        served.running().signal("CONT");
        assert_eq!(next(events), Told::Connected);
    });
    let distinct: std::collections::HashSet<&u64> = delivered.got.iter().collect();
    assert_eq!(distinct.len(), delivered.got.len(), "each once");
    delivered.check_losses();
}
