//! The bridge's ends of the links to its own server.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::bridge::events::LinkId;
use crate::net::LinkOpener;

/// The most bytes that one read takes.
const READ_BYTES: usize = 64 << 10;
/// Events that wait until the machine takes them. Readers wait when there are more, so that the
/// server's own queues fill and not this one.
const EVENTS_MAX: usize = 64;

/// What happened to a link.
#[derive(Debug)]
pub(super) enum Incoming {
    Bytes(LinkId, Vec<u8>),
    Took(LinkId, usize),
    Closed(LinkId),
}

/// The links that are open.
pub(super) struct Links {
    opener: LinkOpener,
    open: HashMap<LinkId, Link>,
    tell: mpsc::Sender<Incoming>,
    told: mpsc::Receiver<Incoming>,
}

struct Link {
    write: mpsc::UnboundedSender<Vec<u8>>,
    reads: watch::Sender<bool>,
    tasks: [JoinHandle<()>; 2],
}

impl Links {
    pub(super) fn new(opener: LinkOpener) -> Self {
        let (tell, told) = mpsc::channel(EVENTS_MAX);
        Self { opener, open: HashMap::new(), tell, told }
    }

    pub(super) fn open(&mut self, id: LinkId) -> io::Result<()> {
        let end = self.opener.open()?;
        self.adopt(id, end)
    }

    /// Takes the end of a link that is open already.
    pub(super) fn adopt(
        &mut self,
        id: LinkId,
        stream: std::os::unix::net::UnixStream,
    ) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let stream = Arc::new(UnixStream::from_std(stream)?);
        let (write, waiting) = mpsc::unbounded_channel();
        let (reads, is_on) = watch::channel(true);
        let reader = read(id, Arc::clone(&stream), is_on, self.tell.clone());
        let writer = write_all(id, stream, waiting, self.tell.clone());
        let tasks = [tokio::spawn(reader), tokio::spawn(writer)];
        self.open.insert(id, Link { write, reads, tasks });
        Ok(())
    }

    pub(super) fn write(&self, id: LinkId, bytes: Vec<u8>) {
        if let Some(link) = self.open.get(&id) {
            // If the task has ended, `Closed` is on its way.
            let _ = link.write.send(bytes);
        }
    }

    pub(super) fn read(&self, id: LinkId, is_on: bool) {
        if let Some(link) = self.open.get(&id) {
            link.reads.send_replace(is_on);
        }
    }

    pub(super) fn close(&mut self, id: LinkId) {
        if let Some(link) = self.open.remove(&id) {
            link.tasks.iter().for_each(JoinHandle::abort);
        }
    }

    /// Closes the link when its socket has taken what was written. What is read until then is dropped, so that
    /// the server does not wait with its reading until that is taken.
    pub(super) fn finish(&mut self, id: LinkId) {
        if let Some(link) = self.open.remove(&id) {
            link.reads.send_replace(true);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Returns the next event of a link that is open.
    pub(super) async fn next(&mut self) -> Incoming {
        loop {
            let Some(incoming) = self.told.recv().await else {
                return std::future::pending().await;
            };
            if self.is_news(&incoming) {
                return incoming;
            }
        }
    }

    /// Returns the next event if there is one already.
    pub(super) fn try_next(&mut self) -> Option<Incoming> {
        loop {
            let incoming = self.told.try_recv().ok()?;
            if self.is_news(&incoming) {
                return Some(incoming);
            }
        }
    }

    fn is_news(&mut self, incoming: &Incoming) -> bool {
        match incoming {
            Incoming::Bytes(id, _) | Incoming::Took(id, _) => self.open.contains_key(id),
            // The reader and the writer may both tell it.
            Incoming::Closed(id) => {
                let is_open = self.open.contains_key(id);
                self.close(*id);
                is_open
            }
        }
    }
}

/// Reads until the link ends.
async fn read(
    id: LinkId,
    stream: Arc<UnixStream>,
    mut is_on: watch::Receiver<bool>,
    tell: mpsc::Sender<Incoming>,
) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        if is_on.wait_for(|is_on| *is_on).await.is_err() {
            break;
        }
        let read = match stream.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stream.readable().await.is_err() {
                    break;
                }
                continue;
            }
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        if tell.send(Incoming::Bytes(id, buffer[..read].to_vec())).await.is_err() {
            return;
        }
    }
    let _ = tell.send(Incoming::Closed(id)).await;
}

/// Writes what comes, in order.
async fn write_all(
    id: LinkId,
    stream: Arc<UnixStream>,
    mut waiting: mpsc::UnboundedReceiver<Vec<u8>>,
    tell: mpsc::Sender<Incoming>,
) {
    while let Some(bytes) = waiting.recv().await {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match stream.try_write(rest) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stream.writable().await.is_err() {
                        let _ = tell.send(Incoming::Closed(id)).await;
                        return;
                    }
                }
                Ok(0) | Err(_) => {
                    let _ = tell.send(Incoming::Closed(id)).await;
                    return;
                }
                Ok(took) => {
                    rest = &rest[took..];
                    if tell.send(Incoming::Took(id, took)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
    // Nothing comes any more. The reader holds the socket until the server closes its end.
    let _ = rustix::net::shutdown(&*stream, rustix::net::Shutdown::Write);
}
