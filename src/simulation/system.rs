//! The handles through which the event loop sees the simulated kernel.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::kernel::SharedKernel;
use super::stream::SimulatedStream;
use crate::broker::Peer;
use crate::net::{Event, System};

pub(super) struct SimulatedSystem {
    kernel: SharedKernel,
    /// Set by handles, as other threads would.
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

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool> {
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

    fn accept(&mut self, listener: &mut SimulatedListener) -> io::Result<(SimulatedStream, Peer)> {
        let id = self.kernel.borrow_mut().accept(listener.at)?;
        let peer = self.kernel.borrow().pipes[id].client;
        Ok((SimulatedStream::new(id, self.kernel.clone()), peer))
    }

    fn attach(&mut self, application: &str) -> io::Result<SimulatedStream> {
        let id = self.kernel.borrow_mut().attach(application)?;
        Ok(SimulatedStream::new(id, self.kernel.clone()))
    }

    fn has_handshakes(listener: &SimulatedListener) -> bool {
        listener.kernel.borrow().backlogs[listener.at].has_handshakes
    }

    fn spare(&mut self) -> Option<SpareDescriptor> {
        self.kernel.borrow_mut().open_descriptor().ok()?;
        Some(SpareDescriptor { kernel: self.kernel.clone() })
    }

    fn watch(&mut self, stream: &mut SimulatedStream, token: usize) -> io::Result<()> {
        self.kernel.borrow_mut().watch(stream.id(), token)
    }

    fn watch_writable(
        &mut self,
        stream: &mut SimulatedStream,
        _token: usize,
        wanted: bool,
    ) -> io::Result<()> {
        self.kernel.borrow_mut().watch_writable(stream.id(), wanted)
    }

    fn share(&mut self, _: &mut SimulatedStream, _: usize, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
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
