//! The handles through which the event loop sees the simulated kernel.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::kernel::{Kernel, PipeId};
use crate::net::{Event, Stream, System};

pub(super) type SharedKernel = Rc<RefCell<Kernel>>;

pub(super) struct SimulatedSystem {
    kernel: SharedKernel,
    /// Set by other threads, of which there are none but in name.
    woken: Arc<AtomicBool>,
}

impl SimulatedSystem {
    pub(super) fn new(kernel: SharedKernel) -> Self {
        Self { kernel, woken: Arc::default() }
    }

    pub(super) fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let woken = self.woken.clone();
        move || woken.store(true, Ordering::Relaxed)
    }
}

impl System for SimulatedSystem {
    type Listener = SimulatedListener;
    type Stream = SimulatedStream;
    type Spare = SpareDescriptor;

    // Small, so that their edges are met all the time.
    const READ_BUFFER_BYTES: usize = 1_024;
    const ACCEPTS_PER_TURN_MAX: usize = 2;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        if self.woken.swap(false, Ordering::Relaxed) {
            kernel.wake();
        }
        kernel.poll(events, timeout)
    }

    fn watch_listener(&mut self, listener: &mut SimulatedListener, token: usize) -> io::Result<()> {
        self.kernel.borrow_mut().watch_listener(listener.at, token);
        Ok(())
    }

    fn accept(&mut self, listener: &mut SimulatedListener) -> io::Result<SimulatedStream> {
        let id = self.kernel.borrow_mut().accept(listener.at)?;
        Ok(SimulatedStream::new(id, self.kernel.clone()))
    }

    fn spare(&mut self) -> Option<SpareDescriptor> {
        self.kernel.borrow_mut().open_descriptor().ok()?;
        Some(SpareDescriptor { kernel: self.kernel.clone() })
    }

    fn watch(&mut self, stream: &mut SimulatedStream, token: usize) -> io::Result<()> {
        self.kernel.borrow_mut().watch(stream.id, token)
    }

    fn watch_writable(
        &mut self,
        stream: &mut SimulatedStream,
        _token: usize,
        wanted: bool,
    ) -> io::Result<()> {
        self.kernel.borrow_mut().watch_writable(stream.id, wanted)
    }

    fn monotonic(&self) -> Duration {
        self.kernel.borrow().now()
    }

    fn wall_clock(&self) -> Duration {
        self.kernel.borrow().wall_clock()
    }
}

pub(super) struct SimulatedListener {
    at: usize,
    kernel: SharedKernel,
}

impl SimulatedListener {
    pub(super) fn new(at: usize, kernel: SharedKernel) -> Self {
        Self { at, kernel }
    }
}

impl Drop for SimulatedListener {
    fn drop(&mut self) {
        self.kernel.borrow_mut().close_listener(self.at);
    }
}

pub(super) struct SimulatedStream {
    id: PipeId,
    kernel: SharedKernel,
    /// Taken from the loop and not with the kernel yet, if it is one that keeps bytes, as one
    /// that encrypts does.
    unsent: Option<Vec<u8>>,
    /// The write side is to be shut when everything is sent.
    is_finishing: bool,
}

/// What a stream takes beyond what the kernel takes.
const UNSENT_BYTES_MAX: usize = 600;

impl SimulatedStream {
    fn new(id: PipeId, kernel: SharedKernel) -> Self {
        let keeps_bytes = kernel.borrow_mut().decisions.below(4) == 3;
        Self { id, kernel, unsent: keeps_bytes.then(Vec::new), is_finishing: false }
    }

    /// Returns whether all of it is with the kernel.
    fn send_pending(&mut self) -> io::Result<bool> {
        let Some(unsent) = &mut self.unsent else { return Ok(true) };
        while !unsent.is_empty() {
            match self.kernel.borrow_mut().write(self.id, &[unsent]) {
                Ok(bytes) => drop(unsent.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if std::mem::take(&mut self.is_finishing) {
            self.kernel.borrow_mut().shutdown_write(self.id);
        }
        Ok(true)
    }
}

impl Stream for SimulatedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.kernel.borrow_mut().read(self.id, buffer)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let slices: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
        if self.unsent.is_none() {
            return self.kernel.borrow_mut().write(self.id, &slices);
        }
        if !self.send_pending()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for piece in slices.concat().chunks(UNSENT_BYTES_MAX) {
            self.unsent = Some(piece.to_vec());
            written += piece.len();
            if !self.send_pending()? {
                break;
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.send_pending()
    }

    fn shutdown_write(&mut self) {
        self.is_finishing = true;
        if self.unsent.is_none() {
            self.kernel.borrow_mut().shutdown_write(self.id);
        } else {
            // If the connection is broken, the next read says so.
            let _ = self.send_pending();
        }
    }

    fn acknowledge_at_once(&mut self) {}
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        let is_all_sent = self.unsent.as_ref().is_none_or(Vec::is_empty);
        self.kernel.borrow_mut().close(self.id, !is_all_sent);
    }
}

pub(super) struct SpareDescriptor {
    kernel: SharedKernel,
}

impl Drop for SpareDescriptor {
    fn drop(&mut self) {
        self.kernel.borrow_mut().descriptors -= 1;
    }
}

macro_rules! opaque {
    ($($type:ident)*) => {
        $(impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($type))
            }
        })*
    };
}
opaque!(SimulatedSystem SimulatedListener SimulatedStream SpareDescriptor);
