//! Sends every frame it reads to all subscribers.
//!
//! The first byte of a connection says whether it publishes or subscribes, and is returned. All
//! frames of one read are sent in one `write` to each subscriber.

use std::io::{self, Read};

use socket2::Socket;

use super::socket::{whole_frames, write};
use crate::endpoint::Listener;
use crate::poller::{Interest, Poller, Wait};

const READ_BYTES: usize = 256 << 10;
const LISTENER: usize = usize::MAX;
const SUBSCRIBER: u8 = b'S';

#[derive(Debug)]
struct Peer {
    socket: Socket,
    is_subscriber: bool,
    unsent: Vec<u8>,
}

pub(super) fn event_loop(listener: &Listener) -> Result<(), String> {
    let mut poller = Poller::new()?;
    poller.add(listener, LISTENER)?;
    let mut peers: Vec<Peer> = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut kept = 0;
    loop {
        for at in 0..poller.wait_forever(Wait::Block)? {
            let ready = poller.ready(at);
            if ready.token == LISTENER {
                let peer = greet(listener).map_err(|error| format!("accept: {error}"))?;
                poller.add(&peer.socket, peers.len())?;
                peers.push(peer);
                continue;
            }
            let peer = &mut peers[ready.token];
            if ready.writable && !peer.unsent.is_empty() {
                let sent = write(&peer.socket, &peer.unsent).map_err(gone)?;
                peer.unsent.drain(..sent);
                if peer.unsent.is_empty() {
                    poller.set_interest(&peer.socket, ready.token, Interest::Read)?;
                }
            }
            if !ready.readable {
                continue;
            }
            if kept == buffer.len() {
                // A frame is longer than that.
                buffer.resize(2 * kept, 0);
            }
            kept += match peer.socket.read(&mut buffer[kept..]) {
                // A run ends when any connection does.
                Ok(0) => return Ok(()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(gone(error)),
            };
            let whole = whole_frames(&buffer[..kept]);
            if whole > 0 {
                send_to_all(&mut peers, &buffer[..whole], &poller)?;
            }
            buffer.copy_within(whole..kept, 0);
            kept -= whole;
        }
    }
}

fn greet(listener: &Listener) -> io::Result<Peer> {
    let mut socket = listener.accept()?;
    let mut role = [0];
    socket.read_exact(&mut role)?;
    write(&socket, &role)?;
    socket.set_nonblocking(true)?;
    Ok(Peer { socket, is_subscriber: role[0] == SUBSCRIBER, unsent: Vec::new() })
}

fn send_to_all(peers: &mut [Peer], frames: &[u8], poller: &Poller) -> Result<(), String> {
    for (token, peer) in peers.iter_mut().enumerate().filter(|(_, peer)| peer.is_subscriber) {
        if !peer.unsent.is_empty() {
            peer.unsent.extend_from_slice(frames);
            continue;
        }
        let sent = write(&peer.socket, frames).map_err(gone)?;
        if sent < frames.len() {
            peer.unsent.extend_from_slice(&frames[sent..]);
            poller.set_interest(&peer.socket, token, Interest::Both)?;
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn gone(error: io::Error) -> String {
    format!("a peer is gone: {error}")
}
