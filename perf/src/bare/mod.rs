//! The floors: what a server costs that does nothing but move the bytes.

mod echo;
mod relay;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::load::Wait;

/// What a bare server does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BareKind {
    /// Returns bytes as they come; sleeps in epoll.
    Echo,
    /// Returns bytes as they come; asks epoll again and again.
    SpinningEcho,
    /// Returns bytes as they come; one client, which it sleeps for in `read`.
    ReadWriteEcho,
    /// Returns a frame once all of it has come; sleeps in epoll.
    FrameEcho,
    /// Sends every frame to all subscribers; sleeps in epoll.
    Relay,
}

/// Run one of the bare servers.
#[derive(Args, Debug)]
pub(crate) struct Bare {
    kind: BareKind,
    /// Listen on a Unix socket instead of TCP.
    #[arg(long)]
    unix: Option<PathBuf>,
}

impl Bare {
    pub(crate) fn run(self) -> Result<(), String> {
        let listener = Listener::bind(self.unix.as_deref()).map_err(|e| format!("bind: {e}"))?;
        println!("listening on {}", listener.address().map_err(|e| format!("bind: {e}"))?);
        serve(&listener, self.kind)
    }
}

pub(crate) fn serve(listener: &Listener, kind: BareKind) -> Result<(), String> {
    match kind {
        BareKind::Echo => echo::event_loop(listener, Wait::Block, false),
        BareKind::FrameEcho => echo::event_loop(listener, Wait::Block, true),
        BareKind::SpinningEcho => echo::event_loop(listener, Wait::Spin, false),
        BareKind::ReadWriteEcho => echo::read_write(listener),
        BareKind::Relay => relay::event_loop(listener),
    }
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(crate) fn bind(unix: Option<&Path>) -> io::Result<Self> {
        Ok(match unix {
            Some(path) => Self::Unix(UnixListener::bind(path)?),
            None => Self::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?),
        })
    }

    pub(crate) fn address(&self) -> io::Result<String> {
        Ok(match self {
            Self::Tcp(listener) => listener.local_addr()?.to_string(),
            Self::Unix(listener) => {
                let address = listener.local_addr()?;
                address.as_pathname().unwrap_or(Path::new("")).display().to_string()
            }
        })
    }

    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Self::Unix(listener) => Stream::Unix(listener.accept()?.0),
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    /// Writes as much as the kernel takes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            let result = match self {
                Self::Tcp(stream) => stream.write(&bytes[sent..]),
                Self::Unix(stream) => stream.write(&bytes[sent..]),
            };
            match result {
                Ok(more) => sent += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Bytes of the first complete frames in `bytes`.
fn whole_frames(bytes: &[u8]) -> usize {
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
