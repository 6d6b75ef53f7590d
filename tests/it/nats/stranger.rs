//! A client of NATS that is none of our servers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use super::nats_server::NatsServer;
use crate::support::HANG;

/// A client of NATS that speaks its protocol by hand.
pub(super) struct Stranger {
    stream: TcpStream,
    read: BufReader<TcpStream>,
}

impl Stranger {
    /// Connects, and subscribes to everything.
    pub(super) fn new(nats: &NatsServer) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, nats.port)).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        let mut stranger = Self { read: BufReader::new(stream.try_clone().unwrap()), stream };
        let connect = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB > 1\r\n";
        stranger.stream.write_all(connect.as_bytes()).unwrap();
        stranger.fence();
        stranger
    }

    pub(super) fn publish(&mut self, subject: &str, payload: &[u8]) {
        write!(self.stream, "PUB {subject} {}\r\n", payload.len()).unwrap();
        self.stream.write_all(payload).unwrap();
        self.stream.write_all(b"\r\n").unwrap();
    }

    /// Waits until NATS has taken all that was published.
    pub(super) fn fence(&mut self) {
        self.stream.write_all(b"PING\r\n").unwrap();
        while self.next().is_some() {}
    }

    /// Returns the next message, its subject and its payload, or nothing for the answer to a fence.
    pub(super) fn next(&mut self) -> Option<(String, Vec<u8>)> {
        loop {
            let mut line = String::new();
            self.read.read_line(&mut line).unwrap();
            let words: Vec<&str> = line.trim_end().split(' ').collect();
            match words[..] {
                ["MSG", subject, _, length] => {
                    let mut payload = vec![0; length.parse::<usize>().unwrap() + 2];
                    self.read.read_exact(&mut payload).unwrap();
                    payload.truncate(payload.len() - 2);
                    return Some((subject.to_owned(), payload));
                }
                ["PING"] => self.stream.write_all(b"PONG\r\n").unwrap(),
                ["PONG"] => return None,
                ["INFO", ..] => {}
                _ => panic!("{line}"),
            }
        }
    }
}
