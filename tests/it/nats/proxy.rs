//! A proxy between one server and NATS that stands still or trickles, as a network that is cut or slow.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::nats_server::NatsServer;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ToNats,
    FromNats,
}

pub(super) const BOTH: &[Way] = &[Way::ToNats, Way::FromNats];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Full,
    /// A few bytes at a time.
    Trickle,
    /// What was sent stays where it is, and nobody is told.
    Still,
}

#[derive(Debug)]
struct Paces {
    of: [Pace; 2],
    is_over: bool,
}

#[derive(Debug)]
struct Shared {
    paces: Mutex<Paces>,
    changed: Condvar,
}

impl Shared {
    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap()
    }

    /// Waits while nothing goes this way. Returns nothing at the end of the test.
    fn pace(&self, way: Way) -> Option<Pace> {
        let stands = |paces: &mut Paces| !paces.is_over && paces.of[way as usize] == Pace::Still;
        let paces = self.changed.wait_while(self.paces(), stands).unwrap();
        (!paces.is_over).then_some(paces.of[way as usize])
    }
}

/// See above. Everything passes at first.
pub(super) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub(super) fn before(nats: &NatsServer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let paces = Mutex::new(Paces { of: [Pace::Full; 2], is_over: false });
        let shared = Arc::new(Shared { paces, changed: Condvar::new() });
        let (passes, nats) = (Arc::clone(&shared), nats.port);
        std::thread::spawn(move || {
            for server in listener.incoming() {
                if passes.paces().is_over {
                    return;
                }
                // NATS may be away.
                let (Ok(server), Ok(nats)) =
                    (server, TcpStream::connect((Ipv4Addr::LOCALHOST, nats)))
                else {
                    continue;
                };
                let ends = [&server, &nats].map(|end| end.try_clone().unwrap());
                let [to_server, to_nats] = ends;
                for (from, to, way) in
                    [(server, to_nats, Way::ToNats), (nats, to_server, Way::FromNats)]
                {
                    let passes = Arc::clone(&passes);
                    std::thread::spawn(move || pass(from, to, way, &passes));
                }
            }
        });
        Self { port, shared }
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(super) fn set(&self, ways: &[Way], pace: Pace) {
        let mut paces = self.shared.paces();
        for way in ways {
            paces.of[*way as usize] = pace;
        }
        drop(paces);
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.paces().is_over = true;
        self.shared.changed.notify_all();
        // It waits for the next one.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Passes bytes on until either end closes.
fn pass(mut from: TcpStream, mut to: TcpStream, way: Way, shared: &Shared) {
    let mut buffer = [0; 16 << 10];
    while let Some(pace) = shared.pace(way) {
        let most = if pace == Pace::Full { buffer.len() } else { 16 };
        let Ok(bytes @ 1..) = from.read(&mut buffer[..most]) else { break };
        // What was read before the cut stays here, too.
        let Some(pace) = shared.pace(way) else { break };
        if pace == Pace::Trickle {
            std::thread::sleep(Duration::from_millis(1));
        }
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
