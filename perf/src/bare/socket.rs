//! Writes, and the ends of frames, for the bare servers.

use std::io::{self, Write};

use socket2::Socket;

/// Writes as much as the kernel takes.
pub(super) fn write(mut socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Ok(more) => sent += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Returns the length of the complete frames at the beginning of `bytes`.
pub(super) fn whole_frames(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(header) = bytes.get(end..end + 4) {
        let header = [header[0], header[1], header[2], header[3]];
        let next = end + 4 + u32::from_be_bytes(header) as usize;
        if next > bytes.len() {
            break;
        }
        end = next;
    }
    end
}
