//! Joins connections in pairs: what one of a pair sends, the other one gets.

use std::io::{self, Read};

use socket2::Socket;

use super::socket::write;
use crate::endpoint::Listener;
use crate::poller::{Interest, Poller, Wait};

const READ_BYTES: usize = 256 << 10;
const LISTENER: usize = usize::MAX;

#[derive(Debug)]
struct Peer {
    socket: Socket,
    /// What the other one sent and the kernel has no room for.
    unsent: Vec<u8>,
}

/// Makes one read and one write for every event. Connections number 0 and 1 are a pair, 2 and 3 the next
/// one.
pub(super) fn event_loop(listener: &Listener) -> Result<(), String> {
    let mut poller = Poller::new()?;
    poller.add(listener, LISTENER)?;
    let mut peers: Vec<Peer> = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        for at in 0..poller.wait_forever(Wait::Block)? {
            let ready = poller.ready(at);
            if ready.token == LISTENER {
                let socket = listener.accept().map_err(|error| format!("accept: {error}"))?;
                socket.set_nonblocking(true).map_err(|error| format!("accept: {error}"))?;
                peers.push(Peer { socket, unsent: Vec::new() });
                // The first of a pair is not read before there is somebody to get it.
                if let [.., first, second] = &peers[..]
                    && peers.len().is_multiple_of(2)
                {
                    poller.add(&first.socket, peers.len() - 2)?;
                    poller.add(&second.socket, peers.len() - 1)?;
                }
                continue;
            }
            if ready.writable {
                flush(&mut peers[ready.token], ready.token, &poller)?;
            }
            if ready.readable {
                let bytes = match peers[ready.token].socket.read(&mut buffer) {
                    // A run ends when any connection does.
                    Ok(0) => return Ok(()),
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(error) => return Err(gone(error)),
                };
                let other = ready.token ^ 1;
                pass_on(&mut peers[other], other, &buffer[..bytes], &poller)?;
            }
        }
    }
}

fn pass_on(peer: &mut Peer, token: usize, bytes: &[u8], poller: &Poller) -> Result<(), String> {
    if !peer.unsent.is_empty() {
        peer.unsent.extend_from_slice(bytes);
        return Ok(());
    }
    let sent = write(&peer.socket, bytes).map_err(gone)?;
    if sent < bytes.len() {
        peer.unsent.extend_from_slice(&bytes[sent..]);
        poller.set_interest(&peer.socket, token, Interest::Both)?;
    }
    Ok(())
}

fn flush(peer: &mut Peer, token: usize, poller: &Poller) -> Result<(), String> {
    if peer.unsent.is_empty() {
        return Ok(());
    }
    let sent = write(&peer.socket, &peer.unsent).map_err(gone)?;
    peer.unsent.drain(..sent);
    if peer.unsent.is_empty() {
        poller.set_interest(&peer.socket, token, Interest::Read)?;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn gone(error: io::Error) -> String {
    format!("a peer is gone: {error}")
}
