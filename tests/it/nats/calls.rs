//! Streams, cancels, deadlines and attachments between servers, as on one server.

use std::time::Duration;

use ipc_framework::HandlerError;
use ipc_framework::client::{CancelReason, Client, Error, RequestOptions};
use ipc_framework::{Blob, ErrorCode};
use serde_json::json;

use super::nats_server::NatsServer;
use super::{joined, until_served};
use crate::client::many_threads::{connect, value};
use crate::client::workers::deferred;
use crate::support::{HANG, TestServer};

/// Two servers, with a client of each that the other one reaches.
struct Pair {
    worker: Client,
    client: Client,
    servers: [TestServer; 2],
    _nats: NatsServer,
}

impl Pair {
    fn new() -> Self {
        let nats = NatsServer::start();
        let servers = [joined(&nats), joined(&nats)];
        let (client, worker) = (connect(&servers[0]), connect(&servers[1]));
        Self { worker, client, servers, _nats: nats }
    }

    /// Waits until the first server knows all that the worker serves.
    fn know(&self) {
        self.worker.serve("known", 1, |_| Ok(json!("known"))).unwrap();
        let mut asks = self.servers[0].connected("app", "knows");
        assert_eq!(until_served(&mut asks, "known", &json!(0)), "known");
    }
}

#[test]
fn streams_come_in_order_and_end_when_their_requester_leaves() {
    let pair = Pair::new();
    let (tell, ended) = std::sync::mpsc::channel();
    pair.worker
        .serve_stream("count", 2, move |request, parts| {
            let most: u64 = request.payload.decode()?;
            for number in 0..most {
                if let Err(error) = parts.send(&number) {
                    let _ = tell.send(());
                    return Err(error.into());
                }
            }
            Ok(())
        })
        .unwrap();
    pair.know();
    let parts = pair.client.request_stream("count", &5_000).unwrap();
    let numbers: Vec<u64> = parts.map(|part| part.unwrap().payload.decode().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..5_000), "{numbers:?}");
    let mut endless = pair.client.request_stream("count", &u64::MAX).unwrap();
    for number in 0..100 {
        assert_eq!(value(&endless.next().unwrap().unwrap()), number);
    }
    drop(endless);
    ended.recv_timeout(HANG).unwrap();
}

#[test]
fn a_worker_of_another_server_learns_of_cancels_deadlines_and_headers() {
    let pair = Pair::new();
    let jobs = deferred(&pair.worker, "work", 10);
    pair.know();
    let options = RequestOptions::default().timeout(HANG).header("tenant", "acme");
    let future = pair.client.request_future_with("work", &1, &options).unwrap();
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    let call = responder.call();
    assert_eq!(json!(call.headers()), json!({"tenant": "acme"}));
    assert!(call.remaining().is_some_and(|remaining| remaining <= HANG));
    let (tell, told) = std::sync::mpsc::channel();
    let cancelled = call.clone();
    call.on_cancel(move || {
        // The test may have failed and ended before.
        let _ = tell.send(cancelled.cancel_reason());
    });
    drop(future);
    assert_eq!(told.recv_timeout(HANG).unwrap(), Some(CancelReason::Caller));
    responder.give_up();

    let soon = RequestOptions::default().timeout(Duration::from_millis(200));
    let error = pair.client.request_with("work", &2, &soon).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
}

#[test]
fn errors_of_workers_come_as_they_are() {
    let pair = Pair::new();
    pair.worker
        .serve("buy", 1, |_| {
            let error = HandlerError::app("sold_out", "none left").details(&json!({"n": 0}));
            Err::<u8, _>(error)
        })
        .unwrap();
    pair.know();
    let error = pair.client.request("buy", &1).unwrap_err();
    assert_eq!(error.code(), Some("app:sold_out"), "{error:?}");
    assert_eq!(error.details().unwrap().as_str(), r#"{"n":0}"#);
    let error = pair.client.request("nobody", &1).unwrap_err();
    assert!(matches!(error, Error::Answered { code: ErrorCode::NoHandler, .. }), "{error:?}");
}

/// A message of a request is cut in pieces, so that the limit of NATS does not hold for it.
#[test]
fn attachments_and_large_messages_go_both_ways() {
    let pair = Pair::new();
    pair.worker.serve("echo", 2, |request| Ok(request.payload.clone())).unwrap();
    let heard = pair.worker.subscribe("news").unwrap();
    pair.know();
    for length in [0, 1, 70, 300_000, 3_000_000] {
        let bytes: Vec<u8> = (0..length).map(|at: usize| (at % 251) as u8).collect();
        let question = ("a", Blob::new(bytes.clone()));
        let answer = pair.client.request("echo", &question).unwrap();
        let (text, blob): (String, Blob<'_>) = answer.payload.decode_borrowed().unwrap();
        assert!(text == "a" && *blob == bytes[..], "{length}");
    }
    let next = loop {
        pair.client.publish("news", &[Blob::new(vec![7; 100])]).unwrap();
        if let Some(next) = heard.next_timeout(Duration::from_millis(50)) {
            break next;
        }
    };
    assert_eq!(next.payload.attachments().get("/0").unwrap().data, [7; 100]);
}
