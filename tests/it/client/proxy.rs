//! A proxy between client and server that delays, cuts and corrupts the bytes of either side.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use ipc_framework::client::{Client, Endpoint, Error, Event, Execution};

use super::many_threads::{client_options, value};
use super::scripted::{picked, soon};
use crate::support::{HANG, TestServer, serve_echo, succeeds_once};

/// The damage to the bytes of one connection in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Harm {
    None,
    /// Chunks of odd sizes arrive, each a little later.
    Delay,
    /// One byte arrives at a time.
    Crumble,
    /// The connection ends after so many bytes.
    Cut(usize),
    /// All bytes are changed after so many bytes.
    Corrupt(usize),
}

/// The direction whose bytes are damaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    FromServer,
    ToServer,
}

/// Forwards connections one after another, each with the next damage. The last one holds for all
/// that follow.
pub(crate) fn harm(server: SocketAddr, way: Way, harms: Vec<Harm>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (at, inward) in listener.incoming().enumerate() {
            let (Ok(inward), Ok(outward)) = (inward, TcpStream::connect(server)) else { return };
            for stream in [&inward, &outward] {
                stream.set_nodelay(true).unwrap();
            }
            let harm = harms.get(at).or(harms.last()).copied().unwrap();
            let (up, down) = (inward.try_clone().unwrap(), outward.try_clone().unwrap());
            let harm_if = |is_meant: bool| if is_meant { harm } else { Harm::None };
            let (to, from) = (harm_if(way == Way::ToServer), harm_if(way == Way::FromServer));
            std::thread::spawn(move || pump(up, outward, to));
            std::thread::spawn(move || pump(down, inward, from));
        }
    });
    address
}

/// Forwards bytes until either side closes.
fn pump(mut from: TcpStream, mut to: TcpStream, harm: Harm) {
    let mut passed = 0;
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        let chunk = &mut buffer[..bytes];
        let written = match harm {
            Harm::Crumble => chunk.chunks(1).try_for_each(|byte| to.write_all(byte)),
            Harm::Delay => chunk.chunks(777).try_for_each(|part| {
                std::thread::sleep(Duration::from_millis(3));
                to.write_all(part)
            }),
            Harm::Cut(after) if passed + bytes >= after => {
                let _ = to.write_all(&chunk[..after - passed]);
                break;
            }
            Harm::Corrupt(after) if passed + bytes >= after => {
                for byte in &mut chunk[after.saturating_sub(passed)..] {
                    *byte = 0xff;
                }
                to.write_all(chunk)
            }
            Harm::None | Harm::Cut(_) | Harm::Corrupt(_) => to.write_all(chunk),
        };
        passed += bytes;
        if written.is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

fn connect(server: &TestServer, way: Way, harms: Vec<Harm>) -> Client {
    let proxy = harm(server.address, way, harms);
    let mut options = client_options(server);
    options.connection.endpoint = Endpoint::tcp(proxy.ip().to_string(), proxy.port());
    options.heartbeat = None;
    options.reconnect = Some(soon(10));
    options.connect().unwrap()
}

/// The connect and the welcome are shorter, so damage from here on hits requests and answers.
const WELCOMED: usize = 422;
const WAYS: [Way; 2] = [Way::FromServer, Way::ToServer];

#[test]
fn bytes_one_at_a_time_are_the_same_messages() {
    let server = serve_echo();
    for way in WAYS {
        let client = connect(&server, way, vec![Harm::Crumble]);
        for n in 0..50 {
            assert_eq!(value(&client.request("echo", &n).unwrap()), n);
        }
        assert_eq!(client.connection_info().connections, 1);
    }
}

#[test]
fn bytes_that_come_late_are_the_same_messages_in_the_same_order() {
    let server = serve_echo();
    for way in WAYS {
        let client = connect(&server, way, vec![Harm::Delay]);
        let news = client.subscribe("news").unwrap();
        let (sender, answers) = channel();
        for n in 0..20 {
            let sender = sender.clone();
            let large = (n, "x".repeat(1_000));
            client.publish("news", &large).unwrap();
            client
                .send_request_async("echo", &large, move |answer| sender.send(answer).unwrap())
                .unwrap();
        }
        for n in 0..20 {
            let answer = answers.recv_timeout(HANG).unwrap().unwrap();
            assert_eq!(value(&answer)[0], n);
            assert_eq!(value(&news.next_timeout(HANG).unwrap())[0], n);
        }
        // A request whose time is over fails, although its answer is under way; unless a busy
        // machine let the answer come before anybody looked.
        match client.send_request("echo", &0, Duration::from_millis(1)) {
            Ok(answer) => assert_eq!(value(&answer), 0),
            Err(error) => assert!(matches!(error, Error::Deadline { .. }), "{error:?}"),
        }
        assert_eq!(value(&client.request("echo", &1).unwrap()), 1);
        assert_eq!(client.connection_info().connections, 1);
        client.close().unwrap();
    }
}

#[test]
fn a_cut_fails_what_is_in_flight_and_nothing_else() {
    let server = serve_echo();
    let cuts = [WELCOMED, WELCOMED + 1, WELCOMED + 3, WELCOMED + 77, 2000];
    for (way, after) in WAYS.into_iter().flat_map(|way| cuts.map(|after| (way, after))) {
        let client = connect(&server, way, vec![Harm::Cut(after), Harm::None]);
        let losses = picked(&client, |event| match event {
            Event::Disconnected { unanswered, .. } => Some(*unanswered),
            _ => None,
        });
        let mut failed = 0;
        for n in 0..50 {
            match client.request("echo", &n) {
                Ok(answer) => assert_eq!(value(&answer), n),
                Err(error) => {
                    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
                    assert_eq!(error.execution(), Execution::Possible);
                    failed += 1;
                }
            }
        }
        assert_eq!(losses.recv_timeout(HANG).unwrap(), failed, "{way:?} cut after {after}");
        assert!(failed <= 1, "one thread has one request in flight");
        assert_eq!(client.connection_info().connections, 2);
    }
}

#[test]
fn corruption_is_told_from_messages_and_the_client_comes_back() {
    let server = serve_echo();
    for after in [WELCOMED, WELCOMED + 1, WELCOMED + 50, 2000] {
        let client = connect(&server, Way::FromServer, vec![Harm::Corrupt(after), Harm::None]);
        let whys = picked(&client, |event| match event {
            Event::Disconnected { error, .. } => Some(matches!(error, Error::Protocol { .. })),
            _ => None,
        });
        for n in 0..50 {
            match client.send_request("echo", &n, HANG) {
                Ok(answer) => assert_eq!(value(&answer), n),
                Err(error) => assert_eq!(error.execution(), Execution::Possible, "{error:?}"),
            }
        }
        assert!(whys.recv_timeout(HANG).unwrap(), "corrupted after {after}");
    }
}

/// The server reports messages that it cannot read. If it cannot find the next message, it closes.
#[test]
fn corruption_on_the_way_to_the_server_is_told_and_the_client_comes_back() {
    let server = serve_echo();
    // At none of these places a length becomes one that the server waits for.
    for after in [WELCOMED, WELCOMED + 1, WELCOMED + 50, 2022] {
        // On a busy machine more requests run out of time.
        succeeds_once(|| corrupted_on_the_way_to(&server, after));
    }
}

fn corrupted_on_the_way_to(server: &TestServer, after: usize) -> Result<(), String> {
    let client = connect(server, Way::ToServer, vec![Harm::Corrupt(after), Harm::None]);
    let told = picked(&client, |event| match event {
        Event::Refused { error, .. } | Event::Disconnected { error, .. } => Some(error.to_string()),
        _ => None,
    });
    let mut failed = 0;
    for n in 0..50 {
        match client.send_request("echo", &n, Duration::from_secs(1)) {
            Ok(answer) => assert_eq!(value(&answer), n),
            Err(error) => {
                assert_eq!(error.execution(), Execution::Possible, "{error:?}");
                failed += 1;
            }
        }
    }
    if !(1..=3).contains(&failed) {
        return Err(format!("{failed} of 50 failed, corrupted after {after}"));
    }
    let mut words = String::new();
    while !words.contains("frame_too_large") {
        words += &told.recv_timeout(HANG).unwrap_or_else(|_| panic!("only {words}"));
    }
    assert_eq!(client.connection_info().connections, 2);
    assert_eq!(value(&client.request("echo", &"well again").unwrap()), "well again");
    Ok(())
}
