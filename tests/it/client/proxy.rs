//! A proxy between client and server that delays, cuts and corrupts what the server says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use ipc_framework::client::{Client, Endpoint, Error, Event, Execution, Reconnect};

use super::many_threads::{client_options, value};
use crate::support::{HANG, TestServer, serve_echo};

/// What happens to the server's bytes of one connection.
#[derive(Clone, Copy, Debug)]
enum Harm {
    None,
    /// One byte at a time.
    Crumble,
    /// So many bytes pass, then the connection ends.
    Cut(usize),
    /// After so many bytes nothing is as it was.
    Corrupt(usize),
}

/// Passes connections on, one after another, each with the next harm; the last holds for all
/// that follow.
fn harm(server: SocketAddr, harms: Vec<Harm>) -> SocketAddr {
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
            std::thread::spawn(move || pump(up, outward, Harm::None));
            std::thread::spawn(move || pump(down, inward, harm));
        }
    });
    address
}

/// Whoever is gone ends it; that is what it is there to show.
fn pump(mut from: TcpStream, mut to: TcpStream, harm: Harm) {
    let mut passed = 0;
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        let chunk = &mut buffer[..bytes];
        let written = match harm {
            Harm::Crumble => chunk.chunks(1).try_for_each(|byte| to.write_all(byte)),
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

fn connect(server: &TestServer, harms: Vec<Harm>) -> Client {
    let proxy = harm(server.address, harms);
    let mut options = client_options(server);
    options.connection.endpoint = Endpoint::tcp(proxy.ip().to_string(), proxy.port());
    options.heartbeat = None;
    let (pause_min, pause_max) = (Duration::from_millis(1), Duration::from_millis(10));
    options.reconnect = Some(Reconnect { pause_min, pause_max });
    options.connect().unwrap()
}

/// The welcome is some 230 bytes long: from here on harm is done to answers.
const WELCOMED: usize = 400;

#[test]
fn bytes_one_at_a_time_are_the_same_messages() {
    let server = serve_echo();
    let client = connect(&server, vec![Harm::Crumble]);
    for n in 0..50 {
        assert_eq!(value(&client.request("echo", &n).unwrap()), n);
    }
    assert_eq!(client.connection_info().connections, 1);
}

#[test]
fn a_cut_fails_what_is_in_flight_and_nothing_else() {
    let server = serve_echo();
    for after in [WELCOMED, WELCOMED + 1, WELCOMED + 3, WELCOMED + 77, 2000] {
        let client = connect(&server, vec![Harm::Cut(after), Harm::None]);
        let (sender, losses) = channel();
        client.on_event(move |event| {
            if let Event::Disconnected { unanswered, .. } = event {
                let _ = sender.send(*unanswered);
            }
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
        assert_eq!(losses.recv_timeout(HANG).unwrap(), failed, "cut after {after}");
        assert!(failed <= 1, "one thread has one request in flight");
        assert_eq!(client.connection_info().connections, 2);
    }
}

#[test]
fn corruption_is_told_from_messages_and_the_client_comes_back() {
    let server = serve_echo();
    for after in [WELCOMED, WELCOMED + 1, WELCOMED + 50, 2000] {
        let client = connect(&server, vec![Harm::Corrupt(after), Harm::None]);
        let (sender, whys) = channel();
        client.on_event(move |event| {
            if let Event::Disconnected { error, .. } = event {
                let _ = sender.send(matches!(error, Error::Protocol { .. }));
            }
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
