//! The clients in shared memory, against the real server and against one made of a socket.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use ipc_framework::client::{Connection, Endpoint, Error, Options};
use ipc_framework::{Config, Limits, Spin, UnixSocket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::many_threads::value;
use super::scripted::patient;
use crate::scratch::Scratch;
use crate::support::{HANG, TestServer, frame, install_echo, serve, together};

/// Rings that large messages go through in many pieces, and those of the default.
const SIZES: [usize; 2] = [4 << 10, 256 << 10];

fn start(path: &Path, ring_bytes: usize) -> TestServer {
    start_as(path, Limits::default().shared_memory(true).ring_bytes(ring_bytes), Spin::Never)
}

fn start_as(path: &Path, limits: Limits, spin: Spin) -> TestServer {
    let config = Config::default().unix(UnixSocket::at(path)).limits(limits).spin(spin);
    serve(config, install_echo)
}

fn options(path: &Path) -> Options {
    let mut options = Options::new("app");
    options.endpoint = Endpoint::unix(path);
    options.timeout = HANG;
    options.shared_memory = true;
    options
}

fn connect(path: &Path) -> Connection {
    let connection = options(path).connect().unwrap();
    assert!(connection.shares_memory());
    connection
}

/// Waits as a poll loop does, until there is something to read.
fn wait_readable(connection: &Connection) {
    let mut descriptor = [PollFd::new(connection, PollFlags::IN)];
    assert_eq!(poll(&mut descriptor, Some(&HANG.try_into().unwrap())).unwrap(), 1);
}

#[test]
fn requests_of_all_sizes_are_answered_spinning_or_not() {
    for (ring_bytes, is_spinning) in
        SIZES.into_iter().flat_map(|bytes| [(bytes, false), (bytes, true)])
    {
        let scratch = Scratch::new(&format!("shared-{ring_bytes}-{is_spinning}"));
        let path = scratch.socket();
        let spin =
            if is_spinning { Spin::AfterWork(Duration::from_micros(50)) } else { Spin::Never };
        let limits = Limits::default().shared_memory(true).ring_bytes(ring_bytes);
        let _server = start_as(&path, limits, spin);
        let mut options = options(&path);
        options.spin = is_spinning;
        let mut connection = options.connect().unwrap();
        assert!(connection.shares_memory());
        for bytes in [0, 1, 1000, 60_000, 70_000, 1 << 20, 5 << 20, 10] {
            let text = "x".repeat(bytes);
            let answer = connection.request("echo", &text).unwrap();
            assert_eq!(answer.payload.decode::<String>().unwrap(), text);
        }
        connection.close().unwrap();
    }
}

#[test]
fn a_poll_loop_sleeps_on_the_descriptor() {
    let scratch = Scratch::new("shared-poll");
    let path = scratch.socket();
    let _server = start(&path, SIZES[1]);
    let (mut reader, mut writer) = (connect(&path), connect(&path));
    reader.subscribe_confirmed("news").unwrap();
    assert!(reader.try_receive().unwrap().is_none());
    assert!(reader.receive(Some(Duration::from_millis(1))).unwrap().is_none());
    assert!(reader.try_receive().unwrap().is_none());
    for n in 0..20 {
        writer.publish("news", &n).unwrap();
        wait_readable(&reader);
        let message = loop {
            if let Some(message) = reader.try_receive().unwrap() {
                break message;
            }
            wait_readable(&reader);
        };
        assert_eq!(value(&message), n);
        assert!(reader.try_receive().unwrap().is_none());
    }
    drop(writer);
}

#[test]
fn what_was_written_before_the_end_is_read_and_then_the_end() {
    let scratch = Scratch::new("shared-end");
    let path = scratch.socket();
    let server = start(&path, SIZES[1]);
    let (mut blocking, mut polling) = (connect(&path), connect(&path));
    for connection in [&mut blocking, &mut polling] {
        connection.subscribe_confirmed("news").unwrap();
    }
    assert!(polling.try_receive().unwrap().is_none());
    let mut writer = connect(&path);
    for n in 0..100 {
        writer.publish("news", &n).unwrap();
    }
    writer.close().unwrap();
    server.stop();
    wait_readable(&polling);
    for connection in [&mut blocking, &mut polling] {
        for n in 0..100 {
            let message = connection.receive(Some(HANG)).unwrap().unwrap();
            assert_eq!(value(&message), n);
        }
        // The server says that it leaves, and closes.
        connection.receive(Some(HANG)).unwrap();
        let end = connection.receive(Some(HANG)).unwrap_err();
        assert!(matches!(end, Error::Lost { .. }), "{end:?}");
        let mut sent = 0;
        // What goes into the ring of a server that is gone is lost, as in a socket's buffer, but not for ever.
        let error = loop {
            sent += 1;
            assert!(sent < 1000, "the server is gone, and nobody notices");
            if let Err(error) = connection.publish("news", &0) {
                break error;
            }
        };
        assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    }
}

#[test]
fn without_shared_memory_at_the_server_the_socket_goes_on() {
    let scratch = Scratch::new("shared-refused");
    let path = scratch.socket();
    let no_room = Limits::default().shared_memory(true).ring_bytes(256 << 20);
    for limits in [Limits::default(), no_room] {
        let server = start_as(&path, limits, Spin::Never);
        let mut connection = options(&path).connect().unwrap();
        assert!(!connection.shares_memory());
        assert_eq!(value(&connection.request("echo", &1).unwrap()), 1);
        connection.close().unwrap();
        let mut over_tcp = options(&path);
        over_tcp.endpoint = Endpoint::tcp("127.0.0.1", server.address.port());
        assert!(!over_tcp.connect().unwrap().shares_memory());
        server.stop();
    }
}

#[test]
fn the_client_of_many_threads_shares_memory() {
    for ring_bytes in SIZES {
        let scratch = Scratch::new(&format!("shared-client-{ring_bytes}"));
        let path = scratch.socket();
        let server = start(&path, ring_bytes);
        let mut options_of_client = patient("app", Endpoint::unix(&path));
        options_of_client.connection.shared_memory = true;
        let client = options_of_client.connect().unwrap();
        let mut news = client.subscribe("news").unwrap();
        client.serve("mine", 2, |request| Ok(request.payload.clone())).unwrap();
        together(4, |thread| {
            for n in 0..30 {
                let text = format!("{thread} {n} {}", "x".repeat(n * 3000));
                assert_eq!(value(&client.request("echo", &text).unwrap()), text);
                assert_eq!(value(&client.request("mine", &n).unwrap()), n);
            }
        });
        for n in 0..50 {
            client.publish("news", &n).unwrap();
        }
        let got: Vec<Value> = news.by_ref().take(50).map(|message| value(&message)).collect();
        assert_eq!(got, (0..50).map(Value::from).collect::<Vec<_>>());
        let shared = server.stats().counters.memory_shared;
        assert_eq!(shared, 1);
        client.close().unwrap();
    }
}

#[test]
fn a_server_that_forgets_descriptors_is_asked_for_a_socket() {
    let scratch = Scratch::new("shared-scripted");
    let path = scratch.socket();
    let listener = UnixListener::bind(&path).unwrap();
    // Two of three descriptors, more than three, three that are no memory, and none.
    let somewhat: [&(dyn Fn() -> Vec<OwnedFd> + Sync); 4] =
        [&|| some(2), &|| some(4), &|| some(3), &Vec::new];
    for descriptors in somewhat {
        std::thread::scope(|scope| {
            let (sender, ends) = channel();
            let listener = &listener;
            scope.spawn(move || {
                let mut first = listener.accept().unwrap().0;
                welcome(&mut first);
                let asked = read_frame(&mut first);
                assert_eq!(asked["payload"], json!({"action": "share_memory", "version": 1}));
                let answer = json!({"status": "shared", "version": 1, "ring_bytes": 4096});
                let answer = frame(answer_to(&asked, &answer).to_string().as_bytes());
                send_with(&first, &answer, &descriptors());
                assert_eq!(first.read(&mut [0]).unwrap(), 0, "it connects anew");
                let mut second = listener.accept().unwrap().0;
                welcome(&mut second);
                let asked = read_frame(&mut second);
                let answer = answer_to(&asked, &json!("by socket"));
                second.write_all(&frame(answer.to_string().as_bytes())).unwrap();
                sender.send(second).unwrap();
            });
            let mut connection = options(&path).connect().unwrap();
            assert!(!connection.shares_memory());
            assert_eq!(value(&connection.request("any", &1).unwrap()), "by socket");
            drop(ends.recv().unwrap());
        });
    }
}

fn some(descriptors: usize) -> Vec<OwnedFd> {
    (0..descriptors).map(|_| UnixStream::pair().unwrap().0.into()).collect()
}

fn read_frame(stream: &mut UnixStream) -> Value {
    let mut header = [0; 4];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    stream.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn answer_to(asked: &Value, payload: &Value) -> Value {
    json!({
        "message_id": "a1", "app_id": "app", "message_type": "response", "channel_id": asked["channel_id"],
        "payload": payload, "timestamp": 0, "reply_to": asked["message_id"],
    })
}

fn welcome(stream: &mut UnixStream) {
    let connect = read_frame(stream);
    let payload = json!({"status": "connected", "server": "scripted", "extensions": ["call"]});
    stream.write_all(&frame(answer_to(&connect, &payload).to_string().as_bytes())).unwrap();
}

fn send_with(stream: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(along.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut along, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}
