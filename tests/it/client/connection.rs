//! `Connection` against the real server and against one made of a socket.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::Duration;

use ipc_framework::client::{
    ClientOptions, Connection, Endpoint, Error, Execution, Fault, Options,
};
use ipc_framework::{Access, Config, ErrorCode, Json, Message, MessageType, Token, UnixSocket};
use serde_json::{Value, json};

use super::many_threads::value;
use super::scripted::{Scripted, Side, failure};
use crate::scratch::Scratch;
use crate::support::{
    HANG, TestServer, frame, frames, install_echo, reserved_port, serve, serve_echo,
};

pub(crate) fn options(server: &TestServer) -> Options {
    let mut options = Options::new("app");
    let ip = server.address.ip().to_string();
    options.endpoint = Endpoint::tcp(ip, server.address.port());
    options.timeout = HANG;
    options
}

fn connect(server: &TestServer) -> Connection {
    options(server).connect().expect("the server admits")
}

/// Returns the next message, which has to come.
fn receive(connection: &mut Connection) -> Message {
    connection.receive(Some(HANG)).unwrap().expect("a message comes")
}

fn answered(error: &Error) -> ErrorCode {
    match error {
        Error::Answered { code, text } if text.len() > 10 => *code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_of_all_sizes_are_answered_spinning_or_not() {
    let server = serve_echo();
    for spin in [false, true] {
        let mut options = options(&server);
        options.spin = spin;
        let mut connection = options.connect().unwrap();
        for bytes in [0, 1, 1000, 60_000, 70_000, 1 << 20, 5 << 20, 10] {
            let text = "x".repeat(bytes);
            let answer = connection.request("echo", &text).unwrap();
            assert_eq!(answer.payload.decode::<String>().unwrap(), text);
            assert_eq!((&*answer.app_id, &*answer.channel_id), ("app", "echo"));
        }
        let json = Json::parse(r#"{"n":1e400}"#).unwrap();
        assert_eq!(connection.request_json("echo", &json).unwrap().payload, json);
        connection.close().unwrap();
    }
    server.wait_until("the end of both", |stats| stats.total_connections == 0);
}

#[test]
fn a_unix_socket_does_as_well() {
    let scratch = Scratch::new("connection");
    let path = scratch.socket();
    let config = Config::default().unix(UnixSocket::at(&path));
    let server = serve(config, install_echo);
    let mut over_unix = options(&server);
    over_unix.endpoint = Endpoint::unix(&path);
    let mut connection = over_unix.connect().unwrap();
    for text in ["short".to_owned(), "long ".repeat(1 << 18)] {
        let answer = connection.request("echo", &text).unwrap();
        assert_eq!(answer.payload.decode::<String>().unwrap(), text);
    }
    connection.close().unwrap();
    let mut client = ClientOptions::new("app");
    client.connection = over_unix.clone();
    let client = client.connect().unwrap();
    assert_eq!(value(&client.request("echo", &1).unwrap()), 1);
    client.close().unwrap();
    server.stop();
    let error = over_unix.connect().unwrap_err();
    assert!(error.to_string().starts_with("nothing listens on"), "{error}");
}

#[test]
fn an_error_answer_is_an_error_with_its_code() {
    let server = serve_echo();
    let mut connection = connect(&server);
    let error = connection.request("nobody", &1).unwrap_err();
    assert_eq!(answered(&error), ErrorCode::NoHandler);
    assert_eq!((error.fault(), error.execution()), (Fault::Peer, Execution::Never));
    let error = connection.system(&json!({"action": "dance"})).unwrap_err();
    assert_eq!(answered(&error), ErrorCode::NoHandler);
    // A payload that looks like an error but has no code of the protocol is an ordinary payload.
    let own = json!({"status": "error", "code": "out_of_tea", "error": "buy some"});
    assert_eq!(value(&connection.request("echo", &own).unwrap()), own);
    connection.ping().unwrap();
}

#[test]
fn publications_between_request_and_answer_are_kept_in_order() {
    let server = serve_echo();
    let mut connection = connect(&server);
    connection.subscribe("news").unwrap();
    for n in 0..5 {
        connection.publish("news", &n).unwrap();
    }
    assert_eq!(value(&connection.request("echo", &"hi").unwrap()), "hi");
    connection.publish("news", &5).unwrap();
    let got: Vec<Value> = (0..6).map(|_| value(&receive(&mut connection))).collect();
    assert_eq!(got, [0, 1, 2, 3, 4, 5]);
    connection.unsubscribe("news").unwrap();
    connection.publish("news", &6).unwrap();
    connection.ping().unwrap();
    assert!(connection.try_receive().unwrap().is_none());
    assert!(connection.receive(Some(Duration::from_millis(1))).unwrap().is_none());
}

#[test]
fn what_is_kept_is_bounded_and_nothing_is_lost_at_the_bound() {
    let server = serve_echo();
    let mut options = options(&server);
    options.kept_messages_max = 3;
    let mut connection = options.connect().unwrap();
    connection.subscribe_confirmed("news").unwrap();
    for n in 0..5 {
        connection.publish("news", &n).unwrap();
    }
    let error = connection.request("echo", &"late").unwrap_err();
    assert!(matches!(error, Error::Backlog { messages: 3 }), "{error:?}");
    assert_eq!((error.fault(), error.execution()), (Fault::Caller, Execution::Possible));
    let got: Vec<Value> = (0..6).map(|_| value(&receive(&mut connection))).collect();
    assert_eq!(got, [json!(0), json!(1), json!(2), json!(3), json!(4), json!("late")]);
}

#[test]
fn a_worker_answers_and_refuses() {
    let server = serve_echo();
    let mut worker = connect(&server);
    worker.serve("square").unwrap();
    let asking = options(&server);
    let requester = std::thread::spawn(move || {
        let mut connection = asking.connect().unwrap();
        connection.notify("square", &"get ready").unwrap();
        let squared = value(&connection.request("square", &7).unwrap());
        (squared, connection.request("square", &"seven").unwrap_err())
    });
    assert_eq!(receive(&mut worker).message_type, MessageType::Notification);
    let request = receive(&mut worker);
    let x: u64 = request.payload.decode().unwrap();
    worker.respond(&request, &(x * x)).unwrap();
    let request = receive(&mut worker);
    worker.respond_error(&request, ErrorCode::HandlerFailed, "send a number").unwrap();
    let (squared, refused) = requester.join().unwrap();
    assert_eq!(squared, 49);
    assert!(matches!(
        &refused,
        Error::Answered { code: ErrorCode::HandlerFailed, text } if text == "send a number"
    ));
    worker.stop_serving("square").unwrap();
    let refused = connect(&server).request("square", &1).unwrap_err();
    assert_eq!(answered(&refused), ErrorCode::NoHandler);
}

#[test]
fn a_message_sent_as_it_is_keeps_its_id() {
    let server = serve_echo();
    let mut connection = connect(&server);
    let payload = Json::parse("[1]").unwrap();
    let mut message = Message::new(MessageType::Request, "", "echo", payload);
    message.message_id = "my \"id\"".into();
    connection.send_message(&message).unwrap();
    let answer = receive(&mut connection);
    assert_eq!(answer.reply_to.as_deref(), Some("my \"id\""));
    assert_eq!(answer.payload, message.payload);
}

#[test]
fn a_token_is_sent_and_a_wrong_one_says_so() {
    let access = Access::default().token(Token::new("secret"));
    let server = serve(Config::default().access(access), install_echo);
    let error = options(&server).connect().unwrap_err();
    assert_eq!((answered(&error), error.fault()), (ErrorCode::AuthFailed, Fault::Caller));
    let mut with_token = options(&server);
    with_token.token = Some(Token::new("secret"));
    let mut connection = with_token.connect().unwrap();
    assert_eq!(value(&connection.request("echo", &1).unwrap()), 1);
}

#[test]
fn whose_id_is_taken_over_is_told() {
    let server = serve_echo();
    let mut named = options(&server);
    named.connection_id = Some("the same".into());
    let mut first = named.connect().unwrap();
    assert_eq!(first.connection_id(), "the same");
    let mut second = named.connect().unwrap();
    let error = first.receive(Some(HANG)).unwrap_err();
    assert_eq!(answered(&error), ErrorCode::TakenOver);
    let error = first.receive(Some(HANG)).unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    second.ping().unwrap();
}

#[test]
fn nothing_that_listens_is_told_with_what_to_do() {
    let port = reserved_port();
    let mut options = Options::new("app");
    options.endpoint = Endpoint::tcp("127.0.0.1", port);
    let error = options.connect().unwrap_err();
    let text = error.to_string();
    let start = format!("start it with `ipc serve --port {port}`");
    assert_eq!(text, format!("nothing listens on 127.0.0.1:{port}; {start}"));
    assert_eq!((error.fault(), error.execution()), (Fault::Server, Execution::Never));
}

#[test]
fn a_poll_loop_of_ones_own_is_woken() {
    let server = serve_echo();
    let mut connection = connect(&server);
    connection.subscribe_confirmed("news").unwrap();
    let mut poll = mio::Poll::new().unwrap();
    let fd = connection.as_raw_fd();
    let mut source = mio::unix::SourceFd(&fd);
    poll.registry().register(&mut source, mio::Token(7), mio::Interest::READABLE).unwrap();
    server.handle.publish("app", "news", &"flash").unwrap();
    let mut events = mio::Events::with_capacity(8);
    let message = loop {
        poll.poll(&mut events, Some(HANG)).unwrap();
        assert!(events.iter().any(|event| event.token() == mio::Token(7)), "woken for it");
        if let Some(message) = connection.try_receive().unwrap() {
            break message;
        }
    };
    assert_eq!(value(&message), "flash");
}

/// Connects to a server made of a socket, which has sent the welcome. Returns both sides.
fn welcomed(timeout: Duration) -> (Connection, Side) {
    let script = Scripted::new();
    let mut options = script.options().connection;
    options.timeout = timeout;
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let side = script.accept();
    (connecting.join().unwrap(), side)
}

#[test]
fn no_answer_is_a_deadline_and_the_late_answer_is_not_taken_for_the_next() {
    let (mut connection, mut side) = welcomed(Duration::from_millis(20));
    let error = connection.request("slow", &1).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert_eq!((error.fault(), error.execution()), (Fault::Peer, Execution::Possible));
    let request = side.receive();
    side.answer(&request, json!("late"));
    connection.set_timeout(HANG);
    let answering = std::thread::spawn(move || {
        let request = side.receive();
        let mut answer = side.message("response", "quick", &json!("in time"));
        answer["reply_to"] = request["message_id"].clone();
        // The frame is sent byte by byte, because the kernel may deliver it in any pieces.
        for byte in frames([&answer]) {
            side.stream.write_all(&[byte]).unwrap();
        }
        side
    });
    assert_eq!(value(&connection.request("quick", &2).unwrap()), "in time");
    assert_eq!(value(&receive(&mut connection)), "late");
    drop(answering.join().unwrap());
}

#[test]
fn a_server_that_goes_away_in_the_middle_is_told_apart_from_an_error() {
    let (mut connection, mut side) = welcomed(HANG);
    let gone = std::thread::spawn(move || {
        side.receive();
        side.stream.write_all(&[0, 0, 1]).unwrap();
    });
    let error = connection.request("any", &1).unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    assert_eq!((error.fault(), error.execution()), (Fault::Server, Execution::Possible));
    gone.join().unwrap();
}

/// The reset of the connection reaches the client while it still writes.
#[test]
fn who_is_refused_and_cut_off_before_all_is_sent_is_told_why() {
    let script = Scripted::new();
    let mut options = script.options().connection;
    options.token = Some(Token::new("x".repeat(15 << 20)));
    let refusing = std::thread::spawn(move || {
        let mut side = script.accept_bare();
        side.send("response", "system", failure("server_full"));
        // The client waits for room when the socket is closed with many unread bytes.
        std::thread::sleep(Duration::from_millis(100));
    });
    assert_eq!(answered(&options.connect().unwrap_err()), ErrorCode::ServerFull);
    refusing.join().unwrap();
}

#[test]
fn what_is_not_the_protocol_stays_an_error() {
    for garbage in [frame(b"nonsense"), vec![0xff; 4], frame(b"{}")] {
        let (mut connection, mut side) = welcomed(HANG);
        side.stream.write_all(&garbage).unwrap();
        for _ in 0..2 {
            let error = connection.receive(Some(HANG)).unwrap_err();
            assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
        }
    }
}
