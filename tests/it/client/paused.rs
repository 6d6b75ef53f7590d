//! A client whose process is stopped while its answers come, as by a debugger, a paused container
//! or a laptop that sleeps.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipc_framework::client::{Endpoint, Error, Event};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::scripted::{Scripted, Side, patient, picked};
use crate::support::until;

const HEARTBEAT: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(4);
/// Tells the port to the program that is stopped.
const PORT_VARIABLE: &str = "IPC_TEST_PORT";

/// Asks in every way that a client has, and prints what came.
#[test]
#[ignore = "another test runs it as a program of its own"]
fn program() {
    let port = std::env::var(PORT_VARIABLE).unwrap().parse().unwrap();
    let mut options = patient("app", Endpoint::tcp("127.0.0.1", port));
    options.heartbeat = Some(HEARTBEAT);
    options.reconnect = None;
    options.connection.timeout = TIMEOUT;
    let client = options.connect().unwrap();
    let lost = picked(&client, |event| match event {
        Event::Disconnected { error, .. } => Some(error.to_string()),
        _ => None,
    });
    let news = client.subscribe("news").unwrap();
    let mut connection = options.connection.connect().unwrap();
    let (blocking, reading, waiting) = (client.clone(), client.clone(), client.clone());
    let (answered, answer) = std::sync::mpsc::channel();
    client.send_request_async("later", &1, move |came| answered.send(came).unwrap()).unwrap();
    let blocking = std::thread::spawn(move || blocking.request("later", &2));
    let single = std::thread::spawn(move || connection.request("later", &3));
    let subscribed = std::thread::spawn(move || {
        let came = news.next_timeout(TIMEOUT).ok_or(Error::Closed);
        drop(reading);
        came
    });
    let waited = std::thread::spawn(move || {
        waiting.wait_for_message("waited", TIMEOUT).and_then(|came| came.ok_or(Error::Closed))
    });
    for (name, came) in [
        ("callback", answer.recv().unwrap()),
        ("blocking", blocking.join().unwrap()),
        ("connection", single.join().unwrap()),
        ("subscription", subscribed.join().unwrap()),
        ("waiting", waited.join().unwrap()),
    ] {
        match came {
            Ok(message) => println!("{name} got {}", message.payload),
            Err(error) => println!("{name} failed: {error}"),
        }
    }
    // A lost connection would have ended the client.
    println!("lost: {:?}", lost.try_iter().collect::<Vec<_>>());
}

/// Serves one connection until it has sent so many requests on `later`, and returns them.
fn requests(side: &mut Side, count: usize) -> Vec<Value> {
    let mut requests = Vec::new();
    while requests.len() < count {
        let message = side.receive();
        if message["channel_id"] == "later" {
            requests.push(message);
        } else if message["message_type"] == "subscribe" {
            side.answer(&message, json!({"status": "subscribed"}));
        } else {
            side.answer(&message, json!({"status": "pong"}));
        }
    }
    requests
}

fn stop(child: &Child) {
    kill_process(Pid::from_child(child), Signal::STOP).unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    until("a stopped process", state, |state| state.contains(") T "));
}

#[test]
#[cfg(target_os = "linux")]
fn answers_that_came_while_the_process_was_stopped_are_in_time() {
    let script = Scripted::new();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "client::paused::program", "--ignored", "--nocapture"])
        .env(PORT_VARIABLE, script.address().port().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut side = script.accept();
    // The welcome of the second connection comes after the first one's subscription.
    let ping_or_subscribe = [side.receive(), side.receive()];
    for message in &ping_or_subscribe {
        let is_ping = message["payload"] == json!({"action": "ping"});
        let status = if is_ping { "pong" } else { "subscribed" };
        side.answer(message, json!({"status": status}));
    }
    let mut single = script.accept();
    let asked = requests(&mut side, 2);
    let asked_alone = requests(&mut single, 1);
    let ping = side.receive();
    assert_eq!(ping["payload"], json!({"action": "ping"}));
    stop(&child);
    for request in &asked {
        side.answer(request, request["payload"].clone());
    }
    side.answer(&ping, json!({"status": "pong"}));
    side.send("publish", "news", json!("news"));
    side.send("publish", "waited", json!("waited"));
    single.answer(&asked_alone[0], json!(3));
    std::thread::sleep(TIMEOUT + HEARTBEAT / 2);
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    for line in [
        "callback got 1",
        "blocking got 2",
        "connection got 3",
        "subscription got \"news\"",
        "waiting got \"waited\"",
        "lost: []",
    ] {
        assert!(said.contains(line), "{line}:\n{said}");
    }
}

/// The thread that reads was busy, and not the server late.
#[test]
fn answers_that_came_while_a_callback_was_busy_are_in_time() {
    let script = Scripted::new();
    let mut options = script.options();
    options.connection.timeout = Duration::from_millis(300);
    let (client, mut side) = script.connect_with(&options);
    let busy = options.connection.timeout * 3;
    client.on_message(move |_| std::thread::sleep(busy)).unwrap();
    let asking = client.clone();
    let (answered, answer) = std::sync::mpsc::channel();
    client.send_request_async("later", &1, move |came| answered.send(came).unwrap()).unwrap();
    let asked = std::thread::spawn(move || asking.request("later", &2));
    let requests = [side.receive(), side.receive()];
    side.send("publish", "news", json!("be busy"));
    // Long enough for the message above to be read alone, and short enough to be in time.
    std::thread::sleep(options.connection.timeout / 6);
    for request in &requests {
        side.answer(request, json!("in time"));
    }
    for came in [answer.recv().unwrap(), asked.join().unwrap()] {
        assert_eq!(came.unwrap().payload.as_str(), "\"in time\"");
    }
}

/// A server that sends without pause cannot keep a deadline from passing.
#[test]
fn a_flood_of_publications_holds_no_deadline_back() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let mut flooding = side.reader();
    let asked = {
        let asking = client.clone();
        std::thread::spawn(move || {
            let timeout = Duration::from_millis(300);
            let late = asking.send_request("silence", &1, timeout).unwrap_err();
            let (told, heard) = std::sync::mpsc::channel();
            let callback = move |came| told.send(came).unwrap();
            asking.send_request_async_timeout("silence", &2, timeout, callback).unwrap();
            [late, heard.recv().unwrap().unwrap_err()]
        })
    };
    side.receive();
    let message = flooding.message("publish", "news", &json!("x".repeat(1_000)));
    let flood = vec![&message; 500];
    while !asked.is_finished() {
        flooding.send_all(flood.iter().copied());
    }
    for error in asked.join().unwrap() {
        assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    }
}
