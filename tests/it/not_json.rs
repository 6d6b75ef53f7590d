//! Values that JSON cannot express, sent in every way that a Rust program has.

use std::sync::mpsc;

use ipc_framework::client::{Client, Error};
use ipc_framework::{Config, HandlerError, Json, Server};
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::many_threads::connect;
use crate::support::{HANG, Peer, install_echo, serve, serve_echo};

#[derive(Serialize)]
struct Reading {
    sensor: &'static str,
    values: Vec<f64>,
}

const SENSOR: Reading = Reading { sensor: "s1", values: Vec::new() };

fn broken() -> Reading {
    Reading { values: vec![0.5, f64::NAN], ..SENSOR }
}

const FAULT: &str = "payload.values[1] is NaN, and JSON has no NaN";

fn says_where<E: ToString>(refused: Result<impl Sized, E>) {
    let error = refused.err().expect("it is refused").to_string();
    assert!(error.starts_with(FAULT), "{error}");
}

fn install(server: &mut Server) {
    install_echo(server);
    let mut app = server.application("app", "The App");
    app.channel("now").on_request(|request| request.reply(&broken()));
    app.channel("publish").on_request(|mut request| {
        says_where(request.publish("news", &broken()));
        says_where(request.notify("news", &broken()));
        says_where(request.context().publish("app", "news", &broken()));
        request.reply(&"all of them are refused")
    });
    app.channel("later").on_request(|request| {
        let (reply, responder) = request.defer()?;
        says_where(responder.reply(&broken()));
        Ok(reply)
    });
}

fn failure(peer: &mut Peer, channel: &str) -> String {
    let answer = peer.request(channel, json!(null));
    assert_eq!(answer["code"], "handler_failed", "{channel}: {answer}");
    answer["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_refuses_to_write_them() {
    let server = serve(Config::default(), install);
    let mut peer = server.connected("app", "asks");
    let refused = failure(&mut peer, "now");
    assert!(refused.contains(FAULT), "{refused}");
    assert_eq!(peer.request("publish", json!(null)), "all of them are refused");
    let refused = failure(&mut peer, "later");
    assert!(refused.contains(FAULT), "{refused}");

    says_where(server.handle.publish("app", "news", &broken()));
    says_where(server.handle.publisher("app", "news").publish(&broken()));
    says_where(Json::from_serialize(&broken()));
}

#[test]
fn a_client_refuses_to_send_them_and_goes_on() {
    let server = serve(Config::default(), install);
    let client = connect(&server);
    says_where(client.publish("news", &broken()));
    says_where(client.notify("news", &broken()));
    says_where(client.request("echo", &broken()));
    says_where(client.request_as::<Value, _>("echo", &broken()));
    says_where(client.send_request("echo", &broken(), HANG));
    says_where(client.send_request_async("echo", &broken(), |_answer| {}));
    assert_eq!(client.connection_info().pending_requests, 0);
    let answer: Vec<Option<f64>> = client.request_as("echo", &[None, Some(0.5)]).unwrap();
    assert_eq!(answer, [None, Some(0.5)], "null is no fault");
}

#[test]
fn a_worker_answers_that_it_cannot_send_them() {
    let server = serve_echo();
    let (worker, client): (Client, Client) = (connect(&server), connect(&server));
    worker.serve("now", 1, |_request| Ok::<_, HandlerError>(broken())).unwrap();
    let (tell, told) = mpsc::channel();
    worker
        .serve_deferred("later", 1, move |_request, responder| {
            says_where(responder.reply(&broken()));
            tell.send(()).unwrap();
        })
        .unwrap();
    for channel in ["now", "later"] {
        let error = client.request(channel, &1).unwrap_err();
        assert!(matches!(&error, Error::Answered { .. }), "{error:?}");
        assert!(error.to_string().contains(FAULT), "{error}");
    }
    told.recv_timeout(HANG).unwrap();
}
