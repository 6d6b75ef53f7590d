//! A peer over rings: a stream as a socket is one, for the same peer.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ipc_framework_rings::{Descriptors, End};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::raw;
use crate::support::{HANG, Peer, frame};

pub(super) type RingPeer = Peer<RingLine>;

/// The rings of a connection, and the socket that tells of its end.
pub(super) struct RingLine {
    pub(super) end: End,
    pub(super) socket: UnixStream,
}

pub(super) fn ask(version: u32) -> Value {
    json!({"action": "share_memory", "version": version})
}

/// Connects a peer to a server that shares memory, and goes over to rings.
pub(super) fn shared(path: &Path, id: &str) -> RingPeer {
    let socket = raw(path, id);
    let (descriptors, ring_bytes) = descriptors(&socket);
    let end = End::open(descriptors, ring_bytes, &socket).unwrap();
    Peer::speaking(RingLine { end, socket }).called("app", id)
}

/// Asks for shared memory. Returns the descriptors, and the size of a ring.
pub(super) fn descriptors(mut socket: &UnixStream) -> (Descriptors, usize) {
    let request = json!({"message_id": "s", "app_id": "app", "channel_id": "system",
        "message_type": "request", "timestamp": 0, "payload": ask(1)});
    socket.write_all(&frame(request.to_string().as_bytes())).unwrap();
    let mut received = Vec::new();
    let mut taken: Vec<OwnedFd> = Vec::new();
    while !is_whole(&received) {
        let mut bytes = [0; 4_096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(socket, &mut slices, &mut along, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert!(got.bytes > 0, "an answer before the end: {received:?}");
        received.extend_from_slice(&bytes[..got.bytes]);
        for message in along.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                taken.extend(rights);
            }
        }
    }
    let answer: Value = serde_json::from_slice(&received[4..]).unwrap();
    assert_eq!(answer["payload"]["status"], "shared", "{answer}");
    let ring_bytes = answer["payload"]["ring_bytes"].as_u64().unwrap() as usize;
    let [memory, to_server, to_client] = taken.try_into().expect("three descriptors");
    (Descriptors { memory, to_server, to_client }, ring_bytes)
}

fn is_whole(received: &[u8]) -> bool {
    let header = received.first_chunk::<4>();
    header.is_some_and(|header| received.len() >= 4 + u32::from_be_bytes(*header) as usize)
}

impl Peer {
    /// Goes over to shared memory, and returns the size of a ring, but says nothing more.
    pub(super) fn stream_shares(&self) -> usize {
        let socket = OwnedFd::from(self.stream.try_clone().unwrap());
        descriptors(&UnixStream::from(socket)).1
    }
}

impl RingLine {
    /// Sends a frame, and returns the one that comes back, reading and writing at the same time.
    pub(super) fn exchange(&mut self, frame: &[u8]) -> Value {
        let (mut sent, mut received) = (0, Vec::new());
        let until = Instant::now() + HANG;
        while !is_whole(&received) {
            sent += self.end.write(&[IoSlice::new(&frame[sent..])]).unwrap();
            let mut bytes = vec![0; 64 << 10];
            let got = self.end.read(&mut bytes).unwrap();
            received.extend_from_slice(&bytes[..got]);
            if got == 0 {
                std::thread::yield_now();
            }
            assert!(Instant::now() < until, "the answer does not come");
        }
        serde_json::from_slice(&received[4..]).unwrap()
    }

    /// Sleeps until there is something to do. Returns whether the socket has something.
    fn wait(&self) -> io::Result<bool> {
        let watch = self.end.watch();
        if !watch.sleep() {
            return Ok(false);
        }
        let by_socket = watch.wait(Some(HANG));
        watch.awake();
        by_socket
    }
}

fn broken(why: ipc_framework_rings::Broken) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

impl Read for RingLine {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let until = Instant::now() + HANG;
        while Instant::now() < until {
            let bytes = self.end.read(buffer).map_err(broken)?;
            if bytes > 0 {
                return Ok(bytes);
            }
            if self.wait()? {
                // Whoever sees the end of the socket reads the ring to its end.
                return self.end.read(buffer).map_err(broken);
            }
        }
        Err(ErrorKind::TimedOut.into())
    }
}

impl Write for RingLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let until = Instant::now() + HANG;
        while Instant::now() < until {
            let written = self.end.write(&[IoSlice::new(bytes)]).map_err(broken)?;
            if written > 0 {
                return Ok(written);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Err(ErrorKind::TimedOut.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
