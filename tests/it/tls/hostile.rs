//! Bytes on a TLS port that are not TLS, or do not remain so.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use ipc_framework::Limits;
use rustls::ClientConnection;
use serde_json::json;

use super::certificates::Certificates;
use super::peer::TlsPeer;
use super::serve_tls;
use crate::support::{HANG, frame};

fn socket(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    socket
}

/// Expects that the server closes, whatever it sends before.
fn expect_closed(socket: &mut TcpStream) {
    let mut said = Vec::new();
    // The server resets a connection with unread bytes, which is an end as well.
    let _ = socket.read_to_end(&mut said);
    assert!(said.len() < 10_000, "{} bytes", said.len());
    socket.set_nonblocking(true).unwrap();
    assert!(!matches!(socket.read(&mut [0]), Ok(1..)));
}

/// Returns the first message of a client.
fn client_hello(certificates: &Certificates) -> Vec<u8> {
    let name = "localhost".try_into().unwrap();
    let mut session = ClientConnection::new(certificates.client(), name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn garbage_is_closed_and_counted_and_nobody_else_notices() {
    let certificates = Certificates::new("garbage");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let mut bystander = TlsPeer::connected(server.address, &certificates.client(), "bystander");
    let hello = client_hello(&certificates);
    let connect = json!({"action": "connect", "connection_id": "plain"}).to_string();
    let mut garbled = hello.clone();
    garbled[60..].fill(0xff);
    let mut overlong = hello.clone();
    overlong[6..9].fill(0xff);
    let twice = [hello.clone(), hello.clone()].concat();
    let all: Vec<Vec<u8>> = vec![
        // A client without TLS, and a browser.
        frame(connect.as_bytes()),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0; 1 << 20],
        vec![0xff; 1 << 20],
        // A record of the greatest length, followed by more than it may have.
        [&[22, 3, 1, 0xff, 0xff][..], &[1; 70_000]].concat(),
        // A hello that is too long, although each of its records is valid.
        [22, 3, 1, 1, 0]
            .iter()
            .chain(&[1, 0, 0xf0, 0])
            .chain(&[0; 252])
            .copied()
            .chain([&[22, 3, 1, 1, 0][..], &[0; 256]].concat().repeat(80))
            .collect(),
        // Endless empty records.
        [22, 3, 3, 0, 0].repeat(50_000),
        [23, 3, 3, 0, 0].repeat(50_000),
        garbled,
        overlong,
        twice,
    ];
    let count = all.len() as u64;
    for bytes in all {
        let mut socket = socket(server.address);
        // The server may close before all of it is sent.
        let _ = socket.write_all(&bytes);
        expect_closed(&mut socket);
        bystander.fence();
    }
    let stats =
        server.wait_until("all of them", |stats| stats.counters.transport_failures == count);
    assert_eq!((stats.total_connections, stats.buffered_bytes), (1, 0));
}

#[test]
fn a_handshake_that_does_not_end_is_ended_however_it_trickles() {
    let certificates = Certificates::new("slow");
    let limits = Limits::default().handshake_timeout(Duration::from_millis(500));
    let server = serve_tls(&certificates.tls(), limits);
    let empty_bytes = server.stats().memory_bytes;
    let hello = client_hello(&certificates);
    let mut silent = socket(server.address);
    let mut half = socket(server.address);
    half.write_all(&hello[..hello.len() / 2]).unwrap();
    // This client gets the server's part of the handshake and does not go on.
    let mut answered = socket(server.address);
    answered.write_all(&hello).unwrap();
    let mut trickling = socket(server.address);
    let trickle = {
        let (mut socket, hello) = (trickling.try_clone().unwrap(), hello.clone());
        std::thread::spawn(move || {
            // Writes until the server has closed. All of it would take longer.
            for byte in &hello {
                if socket.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    for socket in [&mut silent, &mut half, &mut answered, &mut trickling] {
        expect_closed(socket);
    }
    trickle.join().unwrap();
    // After the handshake of TLS, the server's own handshake has to be done within the same time.
    let mut mute = TlsPeer::over_tls(server.address, &certificates.client());
    mute.expect_any_end();
    let stats = server.wait_until("nobody", |stats| stats.memory_bytes == empty_bytes);
    assert_eq!(stats.counters.accepted, 5);
}

#[test]
fn a_hello_byte_by_byte_is_a_hello() {
    let certificates = Certificates::new("bytes");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let mut socket = socket(server.address);
    for byte in client_hello(&certificates) {
        socket.write_all(&[byte]).unwrap();
    }
    let mut record = [0; 5];
    socket.read_exact(&mut record).unwrap();
    assert_eq!(record[0], 22, "the server's hello");
}

#[test]
fn who_leaves_in_the_middle_leaves_nothing_behind() {
    let certificates = Certificates::new("leaving");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let hello = client_hello(&certificates);
    for bytes in [0, 1, hello.len() / 2, hello.len()] {
        let mut socket = socket(server.address);
        socket.write_all(&hello[..bytes]).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        expect_closed(&mut socket);
    }
    // This socket is closed without the notice of TLS.
    drop(TlsPeer::connected(server.address, &certificates.client(), "one"));
    server
        .wait_until("nobody", |stats| stats.counters.accepted == 5 && stats.total_connections == 0);
}

#[test]
fn many_handshakes_at_once_hold_nobody_up_for_good() {
    const STALLED: usize = 200;
    let certificates = Certificates::new("flood");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let mut quiet = TlsPeer::connected(server.address, &certificates.client(), "quiet");
    let hello = client_hello(&certificates);
    let mut stalled: Vec<TcpStream> = (0..STALLED).map(|_| socket(server.address)).collect();
    for socket in &mut stalled {
        socket.write_all(&hello).unwrap();
    }
    quiet.fence();
    // Each handshake is answered, although few are in each turn.
    for socket in &mut stalled {
        let mut record = [0; 5];
        socket.read_exact(&mut record).unwrap();
        assert_eq!(record[0], 22);
    }
    quiet.fence();
}
