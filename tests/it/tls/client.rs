//! The clients of this crate, over TLS.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ipc_framework::client::{
    Client, ClientOptions, Endpoint, Error, Event, Execution, Options, Tls,
};
use ipc_framework::{Blob, Config, Limits, Server};
use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

use super::certificates::Certificates;
use super::serve_tls;
use crate::client::attachments::{BOTH, split, welcome};
use crate::client::large_attachments::echo;
use crate::client::many_threads::value;
use crate::client::proxy::{Harm, Way, harm};
use crate::client::scripted::{errors, picked, soon};
use crate::support::{
    HANG, Peer, TestServer, frames, install_echo, reserved_port, serve, serve_as_told, together,
};

pub(super) fn options(address: SocketAddr, tls: Tls) -> Options {
    let mut options = Options::new("app");
    options.endpoint = Endpoint::tcp("localhost", address.port());
    options.connect_timeout = HANG;
    options.timeout = HANG;
    options.tls = Some(tls);
    options
}

fn client_options(address: SocketAddr, tls: Tls) -> ClientOptions {
    let mut client_options = ClientOptions::new("app");
    client_options.connection = options(address, tls);
    client_options.reconnect = Some(soon(50));
    client_options
}

/// A server made of rustls, which reads and writes when the test wants it.
struct Side(Peer<StreamOwned<ServerConnection, TcpStream>>);

impl Side {
    /// Accepts a connection and sends the welcome.
    fn accept(listener: &TcpListener, certificates: &Certificates, more: &Value) -> Self {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        let session = ServerConnection::new(certificates.server()).unwrap();
        let peer = Peer::speaking(StreamOwned::new(session, socket));
        let mut side = Self(peer.called("app", "server"));
        let connect = side.receive().expect("a connection says who it is");
        let id = connect["payload"]["connection_id"].clone();
        let mut welcome = json!({"status": "connected", "connection_id": id});
        welcome.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        side.respond(&connect, &welcome);
        side
    }

    fn respond(&mut self, message: &Value, payload: &Value) {
        self.write(message, payload);
        self.0.stream.flush().unwrap();
    }

    /// Queues the message. The next flush or write sends it.
    fn write(&mut self, message: &Value, payload: &Value) {
        let channel_id = message["channel_id"].as_str().unwrap();
        let mut response = self.0.message("response", channel_id, payload);
        response["reply_to"] = message["message_id"].clone();
        self.0.stream.conn.writer().write_all(&frames([&response])).unwrap();
    }

    /// Returns the next message, or `None` at an end that TLS announces.
    fn receive(&mut self) -> Option<Value> {
        let is_end =
            self.0.stream.fill_buf().expect("a message, or the word of the end").is_empty();
        (!is_end).then(|| self.0.receive())
    }

    fn say_the_end(&mut self) {
        self.0.stream.conn.send_close_notify();
        self.0.stream.flush().unwrap();
    }
}

/// Returns a client and the server's side of its connection.
fn pair(certificates: &Certificates, options: impl FnOnce(SocketAddr) -> ClientOptions) -> Pair {
    pair_at(TcpListener::bind("127.0.0.1:0").unwrap(), certificates, &json!({}), options)
}

fn pair_at(
    listener: TcpListener,
    certificates: &Certificates,
    more: &Value,
    options: impl FnOnce(SocketAddr) -> ClientOptions,
) -> Pair {
    let options = options(listener.local_addr().unwrap());
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let side = Side::accept(&listener, certificates, more);
    Pair { client: connecting.join().unwrap(), side, _listener: listener }
}

struct Pair {
    client: Client,
    side: Side,
    _listener: TcpListener,
}

#[test]
fn what_goes_both_ways_arrives_whole_by_every_client() {
    let certificates = Certificates::new("client, whole");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let large = json!("x".repeat(1 << 20));
    let mut spinning = options(server.address, certificates.trust());
    spinning.spin = true;
    for options in [options(server.address, certificates.trust()), spinning] {
        let mut connection = options.connect().unwrap();
        for payload in [&json!({"a": [1]}), &large, &json!(null)] {
            assert_eq!(&value(&connection.request("echo", payload).unwrap()), payload);
        }
        connection.close().unwrap();
    }
    let client = client_options(server.address, certificates.trust()).connect().unwrap();
    together(4, |thread| {
        for n in 0..50 {
            let payload = json!([thread, n, "y".repeat(n * 700)]);
            assert_eq!(value(&client.request("echo", &payload).unwrap()), payload);
        }
        assert_eq!(value(&client.request("echo", &large).unwrap()), large);
    });
    assert_eq!(client.connection_info().connections, 1);
    client.close().unwrap();
    server.wait_until("the ends", |stats| stats.total_connections == 0);
}

#[test]
fn bytes_that_come_one_at_a_time_or_late_are_the_same_messages() {
    let certificates = Certificates::new("client, crumbs");
    let server = serve_tls(&certificates.tls(), Limits::default());
    for way in [Way::FromServer, Way::ToServer] {
        for how in [Harm::Crumble, Harm::Delay] {
            let proxy = harm(server.address, way, vec![how]);
            let mut client_options = client_options(proxy, certificates.trust());
            client_options.heartbeat = None;
            let client = client_options.connect().unwrap();
            for n in 0..5 {
                let payload = json!([n, "z".repeat(n * 1_000)]);
                assert_eq!(value(&client.request("echo", &payload).unwrap()), payload);
            }
            assert_eq!(client.connection_info().connections, 1);
            let mut connection = client_options.connection.connect().unwrap();
            assert_eq!(value(&connection.request("echo", &1).unwrap()), 1);
        }
    }
}

#[test]
fn what_is_changed_on_its_way_ends_the_connection_and_is_asked_on_the_next() {
    let certificates = Certificates::new("client, corrupt");
    let server = serve_tls(&certificates.tls(), Limits::default());
    for way in [Way::FromServer, Way::ToServer] {
        let proxy = harm(server.address, way, vec![Harm::Corrupt(3_000), Harm::None]);
        let mut client_options = client_options(proxy, certificates.trust());
        client_options.heartbeat = None;
        let client = client_options.connect().unwrap();
        let payload = json!("q".repeat(10_000));
        let error = client.request("echo", &payload).unwrap_err();
        assert!(matches!(error, Error::Lost { execution: Execution::Possible, .. }), "{error:?}");
        assert_eq!(value(&client.request("echo", &payload).unwrap()), payload);
        assert_eq!(client.connection_info().connections, 2);
    }
}

/// The server does not read until the client cannot write any more. Nothing is sent afterwards that
/// would push the rest out.
#[test]
fn what_a_slow_server_has_no_room_for_follows_by_itself_whole_and_in_order() {
    let certificates = Certificates::new("client, slow");
    let Pair { client, mut side, .. } = stalled_pair(&certificates, &json!({}));
    for round in 0..20 {
        let mut sent = 0;
        // In every other round messages wait for others, too.
        client.set_batching(round % 2 == 1);
        let waiting_bytes = [1, 100_000][round % 2];
        // The messages end at all places of a record.
        while client.waiting_bytes() < waiting_bytes {
            client.publish("news", &json!([round, sent, "x".repeat(1_000 + 37 * round)])).unwrap();
            sent += 1;
        }
        for n in 0..sent {
            let payload = &side.receive().unwrap()["payload"];
            assert_eq!((&payload[0], &payload[1]), (&json!(round), &json!(n)));
        }
        assert_eq!(client.waiting_bytes(), 0);
    }
    let closing = std::thread::spawn(move || client.close());
    assert_eq!(side.receive(), None);
    side.say_the_end();
    closing.join().unwrap().unwrap();
}

/// Returns a client whose kernel takes little at a time, with a server that does not read.
fn stalled_pair(certificates: &Certificates, more: &Value) -> Pair {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.set_recv_buffer_size(8 << 10).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(1).unwrap();
    let pair = pair_at(listener.into(), certificates, more, |address| {
        let mut options = client_options(address, certificates.trust());
        options.heartbeat = None;
        options
    });
    let socket = pair.client.duplicate_socket().unwrap().unwrap();
    SockRef::from(&socket).set_send_buffer_size(8 << 10).unwrap();
    pair
}

/// Some sizes end in a record that the kernel takes only in part.
#[test]
fn the_end_of_a_message_follows_by_itself_when_nothing_else_is_sent() {
    let certificates = Certificates::new("client, tail");
    let Pair { client, mut side, .. } = stalled_pair(&certificates, &json!({}));
    for size in (1_000..120_000).step_by(3_000) {
        client.publish("news", &"x".repeat(size)).unwrap();
        assert_eq!(side.receive().unwrap()["payload"].as_str().unwrap().len(), size);
    }
}

#[test]
fn attachments_come_back_as_they_went() {
    let certificates = Certificates::new("client, attachments");
    let server = serve_tls(&certificates.tls(), Limits::default());
    echo(&client_options(server.address, certificates.trust()));
}

/// The beginning of the message and its attachment end at all places of a record.
#[test]
fn attachments_follow_by_themselves_whole_and_in_order() {
    let certificates = Certificates::new("client, slow attachments");
    let Pair { client, mut side, .. } = stalled_pair(&certificates, &welcome(BOTH));
    for size in (16_000..120_000_u32).step_by(3_001) {
        let data: Vec<u8> =
            (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for _ in 0..3 {
            client.publish("news", &Blob::new(&data)).unwrap();
        }
        client.publish("news", &size).unwrap();
        for _ in 0..3 {
            let body = side.0.try_receive_body().unwrap();
            assert!(split(&body).1 == [&*data]);
        }
        assert_eq!(side.receive().unwrap()["payload"], size);
    }
}

#[test]
fn a_message_that_is_told_to_be_unsent_does_not_arrive() {
    let certificates = Certificates::new("client, half");
    for size in (20_000..120_000).step_by(10_000) {
        let Pair { client, mut side, .. } = stalled_pair(&certificates, &json!({}));
        let told = picked(&client, |event| match event {
            Event::Closed { unsent, .. } => Some(*unsent),
            _ => None,
        });
        client.publish("news", &"x".repeat(size)).unwrap();
        client.abort();
        let mut arrived = Vec::new();
        // The message may be cut, and mostly is.
        let _ = side.0.stream.read_to_end(&mut arrived);
        drop(side);
        let unsent = told.recv_timeout(HANG).unwrap();
        assert_eq!(unsent == 0, arrived.len() > size, "{unsent} unsent, {} bytes", arrived.len());
    }
}

#[test]
fn closing_sends_everything_however_slowly_it_is_read() {
    const COUNT: usize = 100;
    let certificates = Certificates::new("client, closing");
    let payload = |n: usize| json!([n, "x".repeat(100_000)]);
    let read_all = |side: &mut Side| {
        for n in 0..COUNT {
            assert_eq!(side.receive().unwrap()["payload"][0], n);
        }
        assert_eq!(side.receive(), None, "and TLS says that this is all");
        side.say_the_end();
    };
    let Pair { client, mut side, .. } = pair(&certificates, |address| {
        let mut options = client_options(address, certificates.trust());
        options.queue_bytes_max = 64 << 20;
        options.heartbeat = None;
        options
    });
    for n in 0..COUNT {
        client.publish("news", &payload(n)).unwrap();
    }
    let closing = std::thread::spawn(move || client.close());
    read_all(&mut side);
    closing.join().unwrap().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = options(listener.local_addr().unwrap(), certificates.trust());
    let sending = std::thread::spawn(move || {
        let mut connection = options.connect().unwrap();
        for n in 0..COUNT {
            connection.publish("news", &payload(n)).unwrap();
        }
        connection.close()
    });
    read_all(&mut Side::accept(&listener, &certificates, &json!({})));
    sending.join().unwrap().unwrap();
}

/// This crate's server has processed everything when `close` returns.
#[test]
fn when_closing_has_returned_the_server_has_processed_everything() {
    const COUNT: usize = 500;
    let certificates = Certificates::new("client, processed");
    let config = Config::default().tls(certificates.tls());
    let (sender, taken) = channel();
    let server = serve(config, |server: &mut Server| {
        server.application("app", "The App").channel("log").on_notification(move |message| {
            sender.send(message.json().as_str().len())?;
            Ok(())
        });
    });
    let client = client_options(server.address, certificates.trust()).connect().unwrap();
    let mut connection = options(server.address, certificates.trust()).connect().unwrap();
    let payload = "x".repeat(20_000);
    for _ in 0..COUNT {
        client.notify("log", &payload).unwrap();
        connection.notify("log", &payload).unwrap();
    }
    client.close().unwrap();
    connection.close().unwrap();
    assert_eq!(taken.try_iter().count(), 2 * COUNT);
}

#[test]
fn an_end_that_tls_did_not_announce_proves_nothing() {
    let certificates = Certificates::new("client, cut");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = options(listener.local_addr().unwrap(), certificates.trust());
    let sending = std::thread::spawn(move || {
        let mut connection = options.connect().unwrap();
        connection.publish("news", &1).unwrap();
        connection.close()
    });
    let mut side = Side::accept(&listener, &certificates, &json!({}));
    while side.receive().is_some() {}
    // An attacker on the path can end the TCP connection, but cannot announce it in TLS.
    drop(side);
    let error = sending.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost { execution: Execution::Possible, .. }), "{error:?}");
    assert!(error.to_string().contains("cut"), "{error}");
}

/// The socket stays open. Only TLS announces that nothing more comes.
#[test]
fn an_end_that_comes_with_the_last_message_is_seen() {
    let certificates = Certificates::new("client, word");
    let Pair { client, mut side, .. } = pair(&certificates, |address| {
        let mut options = client_options(address, certificates.trust());
        options.heartbeat = None;
        options
    });
    let told = errors(&client);
    let asked = client.request_future("any", &1).unwrap();
    let request = side.receive().unwrap();
    side.write(&request, &json!("the last"));
    side.say_the_end();
    told.recv_timeout(HANG).expect("the end");
    drop(asked);
}

fn events(client: &Client) -> Receiver<String> {
    picked(client, |event| match event {
        Event::Connected { .. } => Some("connected".to_owned()),
        Event::Unreachable { error, .. } => Some(error.to_string()),
        _ => None,
    })
}

#[test]
fn a_client_comes_back_over_tls_with_whatever_certificates_there_are_by_then() {
    let certificates = Certificates::new("client, again");
    let start = |port, tls| -> TestServer {
        serve_as_told(Config::default().port(port).tls(tls), install_echo)
    };
    let port = reserved_port();
    let first = start(port, certificates.mutual_tls());
    let tls = certificates.trust_and_show();
    let client = client_options(first.address, tls).connect().unwrap();
    let told = events(&client);
    let news = client.subscribe("news").unwrap();
    client.flush().unwrap();
    first.stop();
    // A server with a stranger's certificate takes its place. The client does not accept it, and
    // does not give up.
    let strangers = Certificates::new("client, stranger");
    let stranger = start(port, strangers.tls());
    let trusts_nobody = |error: &str| error.contains("signed by nobody whom this client trusts");
    let until = Instant::now() + HANG;
    let mut told = std::iter::from_fn(|| {
        told.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    });
    told.find(|error| trusts_nobody(error)).expect("the stranger is told of");
    assert_eq!(stranger.stats().total_connections, 0);
    stranger.stop();
    // Everything is renewed: the authority, the server's certificate, the client's.
    certificates.renew(&Certificates::new("client, renewed"));
    let second = start(port, certificates.mutual_tls());
    told.find(|event| event == "connected").expect("it comes back");
    client.flush().unwrap();
    client.publish("news", &7).unwrap();
    assert_eq!(value(&news.next_timeout(HANG).unwrap()), 7);
    client.close().unwrap();
    second.stop();
}

#[test]
fn a_silent_server_is_found_dead_over_tls_as_well() {
    let certificates = Certificates::new("client, silent");
    let Pair { client, mut side, .. } = pair(&certificates, |address| {
        let mut options = client_options(address, certificates.trust());
        options.heartbeat = Some(Duration::from_secs(2));
        options
    });
    let told = errors(&client);
    let ping = side.receive().unwrap();
    assert_eq!(ping["payload"]["action"], "ping");
    side.respond(&ping, &json!({"status": "pong"}));
    told.recv_timeout(HANG).expect("it answers pings, and then no more");
}
