//! Going over to shared memory, which the server is asked for after its welcome.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::Instant;

use ipc_framework_rings::Descriptors;
use serde::Deserialize;

use super::Connection;
use crate::client::error::{Error, Execution};
use crate::client::wire::answer;
use crate::client::wire::encoder::Heading;
use crate::client::wire::frames::{front, last_words};
use crate::proto::MessageType;
use crate::proto::frame::Frame;
use crate::proto::system::{SYSTEM, ShareMemory};

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// The connection is in shared memory.
    Begun,
    /// The server has none for it, and the socket goes on.
    Refused,
    /// The server has gone over, and this side cannot: the connection is of no use.
    Failed,
}

#[derive(Deserialize)]
struct Shared {
    status: String,
    ring_bytes: usize,
}

impl Connection {
    /// Asks the server for shared memory, and opens what it sends.
    pub(super) fn share(&mut self, deadline: Instant) -> Result<Sharing, Error> {
        let id =
            self.encoder.value(Heading::new(MessageType::Request, SYSTEM), &ShareMemory::V1)?;
        self.send()?;
        let mut came = Vec::new();
        loop {
            while let Frame::Partial { .. } = self.buffer.peek() {
                let room = self.buffer.room();
                match self.socket.recv_with_descriptors(room, &mut came, deadline) {
                    Ok(0) => return Err(Error::lost(Execution::Never, None)),
                    Ok(bytes) => self.buffer.filled(bytes),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return Err(Error::deadline("the server's answer", self.timeout));
                    }
                    Err(error) => return Err(Error::lost(Execution::Never, error)),
                }
            }
            let envelope = front(&self.buffer, self.welcome.extensions)?;
            let frame_bytes = envelope.frame_bytes;
            if envelope.reply_to().is_some_and(|reply_to| reply_to.matches(&id.to_string())) {
                let is_refused = answer::error_of(&envelope).is_some();
                let shared = envelope.payload().decode_text::<Shared>().ok();
                self.buffer.consume(frame_bytes);
                if is_refused {
                    return Ok(Sharing::Refused);
                }
                let shared = shared.filter(|shared| shared.status == "shared");
                return Ok(shared.map_or(Sharing::Failed, |shared| self.go_over(came, &shared)));
            }
            let words = last_words(&envelope);
            let message = envelope.message();
            if let Some(words) = words {
                return Err(words);
            }
            if !self.keep(message, frame_bytes) {
                return Err(Error::Backlog { messages: self.kept.len() });
            }
        }
    }

    fn go_over(&mut self, came: Vec<OwnedFd>, shared: &Shared) -> Sharing {
        let Ok([memory, to_server, to_client]) = <[OwnedFd; 3]>::try_from(came) else {
            return Sharing::Failed;
        };
        let descriptors = Descriptors { memory, to_server, to_client };
        let opened = self.socket.share(descriptors, shared.ring_bytes, self.timeout);
        if opened.is_ok() { Sharing::Begun } else { Sharing::Failed }
    }
}
