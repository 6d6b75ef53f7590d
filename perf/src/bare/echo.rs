//! Returns what it reads.

use std::io::{self, Read};

use socket2::Socket;

use super::socket::{whole_frames, write};
use crate::endpoint::Listener;
use crate::poller::{Interest, Poller, Wait};

const READ_BYTES: usize = 256 << 10;
const LISTENER: usize = usize::MAX;

#[derive(Debug)]
struct Client {
    socket: Socket,
    /// Bytes that were read and are not a whole frame yet, or that the kernel has no room for.
    kept: Vec<u8>,
    waits_for_room: bool,
}

/// Makes one read and one write for every event. With `by_frame`, it keeps a frame until all of it
/// has arrived.
pub(super) fn event_loop(listener: &Listener, wait: Wait, by_frame: bool) -> Result<(), String> {
    let mut poller = Poller::new()?;
    poller.add(listener, LISTENER)?;
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        for at in 0..poller.wait_forever(wait)? {
            let ready = poller.ready(at);
            if ready.token == LISTENER {
                let socket = listener.accept().map_err(|error| format!("accept: {error}"))?;
                socket.set_nonblocking(true).map_err(|error| format!("accept: {error}"))?;
                poller.add(&socket, clients.len())?;
                let client = Client { socket, kept: Vec::new(), waits_for_room: false };
                clients.push(Some(client));
                continue;
            }
            let Some(client) = &mut clients[ready.token] else { continue };
            // A client that leaves is removed, and the others stay.
            let Ok(waits_for_room) = client.turn(&mut buffer, by_frame) else {
                clients[ready.token] = None;
                continue;
            };
            if waits_for_room != client.waits_for_room {
                client.waits_for_room = waits_for_room;
                let interest = if waits_for_room { Interest::Write } else { Interest::Read };
                poller.set_interest(&client.socket, ready.token, interest)?;
            }
        }
    }
}

impl Client {
    /// Returns whether bytes are left that the kernel has no room for.
    fn turn(&mut self, buffer: &mut [u8], by_frame: bool) -> io::Result<bool> {
        if self.waits_for_room {
            return self.flush(by_frame);
        }
        let bytes = match self.socket.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let read = &buffer[..bytes];
        if by_frame && !(self.kept.is_empty() && whole_frames(read) == bytes) {
            self.kept.extend_from_slice(read);
            return self.flush(by_frame);
        }
        let sent = write(&self.socket, read)?;
        self.kept.extend_from_slice(&read[sent..]);
        Ok(sent < bytes)
    }

    fn flush(&mut self, by_frame: bool) -> io::Result<bool> {
        let waits_for_more = by_frame && !self.waits_for_room;
        let due = if waits_for_more { whole_frames(&self.kept) } else { self.kept.len() };
        let sent = write(&self.socket, &self.kept[..due])?;
        self.kept.drain(..sent);
        Ok(sent < due)
    }
}

/// The minimum: one thread that sleeps in `read`.
pub(super) fn read_write(listener: &Listener) -> Result<(), String> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let mut socket = listener.accept().map_err(|error| format!("accept: {error}"))?;
        while let Ok(bytes) = socket.read(&mut buffer) {
            if bytes == 0 || write(&socket, &buffer[..bytes]).is_err() {
                break;
            }
        }
    }
}
