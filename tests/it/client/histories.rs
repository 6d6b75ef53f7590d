//! Patterns, last values and histories, between a client and a real server whose line is cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ipc_framework::client::{
    Client, ClientOptions, Endpoint, Event, Position, PublishOptions, SubscribeOptions,
};
use ipc_framework::{Config, HistoryRule, Limits, Message};

use super::many_threads::client_options;
use super::proxy::{Harm, Way, harm};
use super::scripted::{picked, soon};
use crate::support::{HANG, TestServer, eventually, serve};

fn start(messages: usize) -> TestServer {
    let rule = HistoryRule::new("app", "kept.*").messages(messages);
    let limits = Limits::default().histories([rule]);
    serve(Config::default().limits(limits), |_| {})
}

/// Returns the options of a client behind a line that is cut again and again.
fn behind_cuts(server: &TestServer, every: usize, cuts: usize) -> ClientOptions {
    let harms = (0..cuts).map(|at| Harm::Cut(every + 97 * at)).chain([Harm::None]);
    let proxy = harm(server.address, Way::FromServer, harms.collect());
    let mut options = client_options(server);
    options.connection.endpoint = Endpoint::tcp(proxy.ip().to_string(), proxy.port());
    options.heartbeat = None;
    options.reconnect = Some(soon(10));
    options
}

fn number(message: &Message) -> u64 {
    message.payload.decode().unwrap()
}

/// Publishes so many numbers, each acknowledged, and returns the place of the last one.
fn publish(client: &Client, numbers: std::ops::Range<u64>) -> Position {
    let mut last = None;
    for number in numbers {
        last = client.publish_acknowledged("kept.a", &number).unwrap();
    }
    last.unwrap()
}

#[test]
fn however_often_the_line_is_cut_each_publication_comes_once_and_in_order() {
    const COUNT: u64 = 3_000;
    let server = start(COUNT as usize);
    let publisher = client_options(&server).connect().unwrap();
    let reader = behind_cuts(&server, 20_000, 15).connect().unwrap();
    let resumed = picked(&reader, |event| matches!(event, Event::Resumed { .. }).then_some(()));
    let gaps = picked(&reader, |event| match event {
        Event::Gap { .. } => Some(format!("{event:?}")),
        _ => None,
    });
    let kept = reader.subscribe("kept.a").unwrap();
    reader.flush().unwrap();
    let last = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(&publisher, 1..COUNT + 1));
        for expected in 1..=COUNT {
            let message = kept.next_timeout(HANG).expect("all of them come");
            assert_eq!(number(&message), expected);
            assert_eq!(message.position().unwrap().offset, expected);
        }
        publishing.join().unwrap()
    });
    assert_eq!(last.offset, COUNT);
    assert!(reader.connection_info().connections > 5, "{:?}", reader.connection_info());
    assert!(resumed.try_iter().count() >= 5);
    assert_eq!(gaps.try_iter().collect::<Vec<_>>(), Vec::<String>::new());
}

/// The ring holds fewer than are published while the reader is away.
#[test]
fn what_the_ring_has_lost_is_a_gap_of_known_size() {
    let server = start(10);
    let publisher = client_options(&server).connect().unwrap();
    let reader = behind_cuts(&server, 3_000, 1).connect().unwrap();
    let told = picked(&reader, |event| match event {
        Event::Gap { seen, newest, missed, .. } => {
            Some(Ok((seen.clone().unwrap(), newest.clone().unwrap(), *missed)))
        }
        Event::Disconnected { .. } => Some(Err(())),
        _ => None,
    });
    let is_away = Arc::new(AtomicBool::new(false));
    let away = Arc::clone(&is_away);
    let (seen, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(())));
    let (noted, closed) = (Arc::clone(&seen), Arc::clone(&gate));
    // While its own thread is held up the client does not come back.
    reader.on_event(move |event| {
        if matches!(event, Event::Disconnected { .. }) {
            away.store(true, Ordering::SeqCst);
            drop(closed.lock().unwrap());
        }
    });
    let options = SubscribeOptions::default().last(3);
    let note = move |message: Message| noted.lock().unwrap().push(number(&message));
    reader.on_publication_with("kept.a", &options, note).unwrap();
    reader.flush().unwrap();
    let guard = gate.lock().unwrap();
    let mut next = 1;
    while !is_away.load(Ordering::SeqCst) {
        publish(&publisher, next..next + 1);
        next += 1;
    }
    let last = publish(&publisher, next..next + 50);
    drop(guard);
    assert_eq!(told.recv_timeout(HANG).unwrap(), Err(()));
    let (before, newest, missed) = told.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(newest, last);
    assert_eq!(missed, Some(last.offset - before.offset));
    let got = eventually("the newest", || {
        let seen = seen.lock().unwrap().clone();
        (seen.last() == Some(&last.offset)).then_some(seen)
    });
    let before: Vec<u64> = (1..=before.offset).collect();
    let expected = [&before[..], &[last.offset - 2, last.offset - 1, last.offset]].concat();
    assert_eq!(got, expected);
}

#[test]
fn last_values_and_patterns_are_there_for_those_who_come_later() {
    let server = start(100);
    let client = client_options(&server).connect().unwrap();
    let retained = PublishOptions::default().retain(true).header("unit", "EUR");
    client.publish_with("prices.tea", &3_u64, &retained).unwrap();
    client.publish_with("prices.milk", &1_u64, &retained).unwrap();
    let first = publish(&client, 1..2);
    publish(&client, 2..6);
    let late = client_options(&server).connect().unwrap();
    let options = SubscribeOptions::default().pattern(true).last(1);
    let prices = late.subscribe_with("prices.*", &options).unwrap();
    let mut got: Vec<(String, u64)> = (0..2)
        .map(|_| {
            let message = prices.next_timeout(HANG).unwrap();
            assert!(message.is_retained());
            assert_eq!(message.publication.as_ref().unwrap().headers()["unit"], "EUR");
            (message.channel_id.clone(), number(&message))
        })
        .collect();
    got.sort();
    assert_eq!(got, [("prices.milk".to_owned(), 1), ("prices.tea".to_owned(), 3)]);
    let resumed = picked(&late, |event| matches!(event, Event::Resumed { .. }).then_some(()));
    let since = SubscribeOptions::default().since(first);
    let kept = late.subscribe_with("kept.a", &since).unwrap();
    let got: Vec<u64> = (0..4).map(|_| number(&kept.next_timeout(HANG).unwrap())).collect();
    assert_eq!(got, [2, 3, 4, 5]);
    resumed.recv_timeout(HANG).unwrap();
    // A null is delivered, and forgets the value.
    client.publish_with("prices.tea", &(), &PublishOptions::default().retain(true)).unwrap();
    assert!(prices.next_timeout(HANG).unwrap().payload.as_str() == "null");
    let mut alone = client_options(&server).connection.connect().unwrap();
    alone.subscribe_with("prices.*", &options).unwrap();
    let message = alone.receive(Some(HANG)).unwrap().unwrap();
    assert_eq!(message.channel_id, "prices.milk");
    alone.ping().unwrap();
    assert!(alone.try_receive().unwrap().is_none());
}
