//! The clients against the unmodified server of the `PyPI` package. tests/interop/run.py runs these
//! tests: it installs the package and names its interpreter.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipc_framework::client::{ClientOptions, Endpoint, Error, Options, Pool, RequestOptions};
use ipc_framework::{Json, Message, MessageType};
use serde_json::{Value, json};

use super::many_threads::value;
use super::scripted::{Told, losses, next, patient};
use crate::support::{HANG, reserved_port, together, until};

pub(crate) struct Published {
    child: Child,
    port: u16,
}

impl Published {
    pub(crate) fn start() -> Self {
        Self::start_at(reserved_port())
    }

    fn start_at(port: u16) -> Self {
        let python = std::env::var("IPC_PYTHON").expect("IPC_PYTHON: start tests/interop/run.py");
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/published_server.py");
        let mut child = Command::new(python)
            .arg(script)
            .args([&port.to_string(), "app"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the interpreter runs");
        let mut words = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let port = loop {
            assert!(stderr.read_line(&mut words).unwrap() > 0, "it does not start: {words}");
            let address =
                words.lines().find_map(|line| line.strip_prefix("listening on 127.0.0.1:"));
            if let Some(port) = address {
                break port.trim().parse().unwrap();
            }
        };
        Self { child, port }
    }

    fn client_options(&self) -> ClientOptions {
        patient("app", Endpoint::tcp("127.0.0.1", self.port))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn options(&self) -> Options {
        self.client_options().connection
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs the published package: tests/interop/run.py runs it"]
fn a_connection_asks_publishes_and_notifies() {
    let server = Published::start();
    let mut connection = server.options().connect().unwrap();
    for payload in [json!(null), json!({"tea": [1, 2.5, "ü"]}), json!("x".repeat(100_000))] {
        assert_eq!(value(&connection.request("echo", &payload).unwrap()), payload);
    }
    connection.notify("notes", &"remember").unwrap();
    assert_eq!(value(&connection.request("notes", &()).unwrap()), json!(["remember"]));
    connection.subscribe("news").unwrap();
    for n in 0..10 {
        connection.publish("news", &n).unwrap();
    }
    let got: Vec<Value> =
        (0..10).map(|_| value(&connection.receive(Some(HANG)).unwrap().unwrap())).collect();
    assert_eq!(got, (0..10).map(Value::from).collect::<Vec<_>>());
    connection.unsubscribe("news").unwrap();
    connection.publish("news", &10).unwrap();
    // The connection is processed in order, so a publication would come before this answer.
    connection.request("echo", &1).unwrap();
    assert!(connection.try_receive().unwrap().is_none());
    connection.set_timeout(Duration::from_millis(50));
    assert!(matches!(connection.ping(), Err(Error::Deadline { .. })), "it knows no ping");
    connection.set_timeout(HANG);
    connection.close().unwrap();
}

#[test]
#[ignore = "needs the published package: tests/interop/run.py runs it"]
fn a_client_takes_its_silence_for_what_it_is() {
    let server = Published::start();
    let mut options = server.client_options();
    options.heartbeat = Some(Duration::from_millis(500));
    let client = options.connect().unwrap();
    let mut news = client.subscribe("news").unwrap();
    // Only the heartbeat is pending. The client tries it and gives it up.
    for is_asked in [true, false] {
        let pending = || client.connection_info().pending_requests;
        until("the heartbeat", pending, |pending| (*pending > 0) == is_asked);
    }
    together(4, |thread| {
        for n in 0..20 {
            let question = json!([thread, n]);
            assert_eq!(value(&client.request("echo", &question).unwrap()), question);
        }
    });
    client.publish("news", &"flash").unwrap();
    assert_eq!(value(&news.next().unwrap()), "flash");
    let info = client.connection_info();
    assert!(info.is_connected && info.connections == 1, "{info:?}");
    client.close().unwrap();
}

#[test]
#[ignore = "needs the published package: tests/interop/run.py runs it"]
fn a_client_comes_back_to_one_that_was_killed_and_nothing_comes_twice() {
    let server = Published::start();
    let client = server.client_options().connect().unwrap();
    let told = losses(&client);
    let mut news = client.subscribe("news").unwrap();
    client.publish("news", &"before").unwrap();
    assert_eq!(value(&news.next().unwrap()), "before");
    // The answer proves that the server has processed everything before it.
    client.request("echo", &1).unwrap();
    let port = server.port;
    drop(server);
    assert_eq!(next(&told), Told::Lost { unanswered: 0, unconfirmed: 0, waiting: 0 });
    for n in 0..50 {
        client.publish("news", &n).unwrap();
    }
    let asking = client.clone();
    let asked = std::thread::spawn(move || asking.request_as::<String, _>("echo", "patience"));
    let _server = Published::start_at(port);
    assert_eq!(next(&told), Told::Connected);
    let got: Vec<Value> = news.by_ref().take(50).map(|message| value(&message)).collect();
    assert_eq!(got, (0..50).map(Value::from).collect::<Vec<_>>());
    assert_eq!(asked.join().unwrap().unwrap(), "patience");
    assert!(news.next_timeout(Duration::ZERO).is_none());
    client.close().unwrap();
    assert_eq!(next(&told), Told::Closed { unsent: 0 });
}

#[test]
#[ignore = "needs the published package: tests/interop/run.py runs it"]
fn a_client_sends_messages_as_they_are_waits_for_some_and_drains() {
    let server = Published::start();
    let client = server.client_options().connect().unwrap();
    let (sender, rest) = std::sync::mpsc::channel();
    client.on_message(move |message| drop(sender.send(message))).unwrap();
    let payload = Json::parse(r#"{"raw":  true}"#).unwrap();
    let message = Message::new(MessageType::Request, "", "echo", payload);
    let id = client.send_message(&message).unwrap();
    let answer = rest.recv_timeout(HANG).unwrap();
    assert_eq!(value(&answer), json!({"raw": true}));
    assert_eq!(answer.reply_to, Some(id));
    for n in 0..20 {
        client.notify("notes", &n).unwrap();
    }
    client.close().unwrap();
    let pool = Pool::connect(&server.client_options(), 2).unwrap();
    let noted: Vec<u64> = pool.request_as("notes", &()).unwrap();
    assert_eq!(noted, (0..20).collect::<Vec<_>>(), "all that was sent before the end");
    pool.close().unwrap();
}

#[test]
#[ignore = "needs the published package: tests/interop/run.py runs it"]
fn it_is_told_no_more_than_before_and_streams_from_it_are_refused() {
    let server = Published::start();
    let client = server.client_options().connect().unwrap();
    assert!(!client.has_call() && client.server_limits().is_none());
    let options = RequestOptions::default().timeout(HANG).idempotent(true);
    let headed = options.clone().header("a", "b");
    let refused = client.request_with("echo", &[1], &headed).unwrap_err();
    assert_eq!(refused.code(), Some("unsupported"));
    assert_eq!(value(&client.request_with("echo", &[1], &options).unwrap()), json!([1]));
    assert_eq!(client.request_stream("echo", &1).unwrap_err().code(), Some("unsupported"));
    let soon = RequestOptions::default().timeout(Duration::from_millis(20));
    let error = client.request_with("silence", &1, &soon).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    drop(client.request_future("silence", &1).unwrap());
    // A key that it does not know would have ended it.
    assert_eq!(value(&client.request("echo", &2).unwrap()), 2);
    let mut connection = server.options().connect().unwrap();
    let refused = connection.request_with("echo", &3, &headed).unwrap_err();
    assert_eq!(refused.code(), Some("unsupported"));
    assert_eq!(value(&connection.request_with("echo", &3, &options).unwrap()), 3);
    assert_eq!(connection.request_stream("echo", &1).unwrap_err().code(), Some("unsupported"));
    assert_eq!(client.connection_info().connections, 1);
}
