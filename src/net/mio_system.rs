//! The real operating system, by way of mio.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipc_framework_rings::{End, Watch};
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use super::link_opener::Attached;
use super::listener::Listener;
use super::ring::Ring;
use super::rings::Rings;
use super::stream::SocketStream;
use super::system::{Event, System, WAKER};
use crate::Error;
use crate::broker::Peer;

/// The longest sleep: mio passes timeouts on as 32-bit milliseconds.
const SLEEP_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
pub(crate) struct MioSystem {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    start: Instant,
    rings: Rings<Watch>,
    /// For rings, which leave the queue by themselves. Made with the first one.
    registry: Option<Arc<Registry>>,
    /// Rings that have room although somebody began to wait for it, for the next poll.
    has_room: Vec<usize>,
    attached: Attached,
}

/// Distinguishes the token of a ring's descriptor from that of its connection's socket. Connections count
/// from zero, and listeners have the tokens below the waker's.
const RING: usize = 1 << (usize::BITS - 2);
/// The first token of listeners and the waker.
const NO_CONNECTION: usize = 1 << (usize::BITS - 1);

impl MioSystem {
    pub(super) fn new(events_max: usize) -> Result<Self, Error> {
        let poll = Poll::new().map_err(Error::system("an event queue"))?;
        let waker = Waker::new(poll.registry(), Token(WAKER)).map_err(Error::system("a waker"))?;
        Ok(Self {
            poll,
            events: Events::with_capacity(events_max),
            waker: Arc::new(waker),
            start: Instant::now(),
            rings: Rings::default(),
            registry: None,
            has_room: Vec::new(),
            attached: Attached::default(),
        })
    }

    /// Calls `take` with the other end of each link that is attached from now on.
    #[cfg(any(test, feature = "nats"))]
    pub(super) fn on_attach(
        &mut self,
        take: impl FnMut(&str, std::os::unix::net::UnixStream) + Send + 'static,
    ) {
        self.attached.set(take);
    }

    /// Returns the start of the time that [`System::monotonic`] reports.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// Asks the kernel for events while there has never been a ring. It is apart from the function for
    /// rings, so that plain sockets pay for them with one comparison a poll.
    fn poll_sockets(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        let taken_before = events.len();
        self.poll.poll(&mut self.events, timeout.map(|timeout| timeout.min(SLEEP_MAX)))?;
        events.extend(self.events.iter().map(of_socket));
        Ok(events.len() - taken_before >= self.events.capacity())
    }

    /// Asks the kernel for events of sockets, and of rings that sleep.
    fn poll_kernel(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        self.rings.note_sockets_asked();
        self.poll.poll(&mut self.events, timeout.map(|timeout| timeout.min(SLEEP_MAX)))?;
        let mut count = 0;
        for event in &self.events {
            count += 1;
            let token = event.token().0;
            if (RING..NO_CONNECTION).contains(&token) {
                self.rings.wake(token - RING, events);
                continue;
            }
            let mut reported = of_socket(event);
            reported.writable |= self.rings.note_socket(token, event.is_write_closed());
            events.push(reported);
        }
        Ok(count >= self.events.capacity())
    }

    /// Reports rings that have something. Returns how many.
    #[inline]
    fn look_at_rings(&mut self, events: &mut Vec<Event>) -> usize {
        let before = events.len();
        events.extend(self.has_room.drain(..).map(|token| Event {
            token,
            writable: true,
            ..Event::default()
        }));
        self.rings.look(events);
        events.len() - before
    }

    #[cold]
    fn poll_with_rings(
        &mut self,
        events: &mut Vec<Event>,
        mut timeout: Option<Duration>,
    ) -> io::Result<bool> {
        let found = self.look_at_rings(events);
        if found > 0 && self.rings.pass_over(found) {
            return Ok(false);
        }
        if found > 0 || self.rings.sleep(events) {
            timeout = Some(Duration::ZERO);
        }
        self.poll_kernel(events, timeout)
    }

    #[cold]
    fn look_with_rings(&mut self, events: &mut Vec<Event>) -> io::Result<bool> {
        self.look_at_rings(events);
        self.poll_kernel(events, Some(Duration::ZERO))
    }

    #[cold]
    fn spin_with_rings(&mut self, events: &mut Vec<Event>) -> io::Result<bool> {
        let found = self.look_at_rings(events);
        if self.rings.pass_over(found) {
            return Ok(false);
        }
        self.poll_kernel(events, Some(Duration::ZERO))
    }

    /// Returns a function that interrupts a poll from another thread.
    pub(super) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        let waker = self.waker.clone();
        // A wake-up fails only if the descriptor of the event queue is closed, and the loop gone.
        move || drop(waker.wake())
    }
}

impl System for MioSystem {
    type Listener = Listener;
    type Stream = SocketStream;
    type Spare = File;

    #[inline]
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool> {
        if self.rings.are_unused() {
            self.poll_sockets(events, timeout)
        } else {
            self.poll_with_rings(events, timeout)
        }
    }

    #[inline]
    fn look(&mut self, events: &mut Vec<Event>) -> io::Result<bool> {
        if self.rings.are_unused() {
            self.poll_sockets(events, Some(Duration::ZERO))
        } else {
            self.look_with_rings(events)
        }
    }

    #[inline]
    fn spin(&mut self, events: &mut Vec<Event>) -> io::Result<bool> {
        if self.rings.are_unused() {
            self.poll_sockets(events, Some(Duration::ZERO))
        } else {
            self.spin_with_rings(events)
        }
    }

    fn is_awake(&self) -> bool {
        !self.has_room.is_empty() || self.rings.is_any_awake()
    }

    fn share(
        &mut self,
        stream: &mut SocketStream,
        token: usize,
        ring_bytes: usize,
    ) -> io::Result<usize> {
        let registry = match &self.registry {
            Some(registry) => registry.clone(),
            None => Arc::new(self.poll.registry().try_clone()?),
        };
        self.registry = Some(registry.clone());
        let rings = &mut self.rings;
        let watch = |watch| rings.watch(token, watch);
        stream.share(|| Ring::new(ring_bytes, registry, Token(RING | token), watch))?;
        Ok(End::memory_bytes(ring_bytes))
    }

    fn forget(&mut self, token: usize) {
        self.rings.forget(token);
    }

    fn watch_listener(&mut self, listener: &mut Listener, token: usize) -> io::Result<()> {
        self.poll.registry().register(listener.source(), Token(token), Interest::READABLE)
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(SocketStream, Peer)> {
        listener.accept()
    }

    fn attach(&mut self, application: &str) -> io::Result<SocketStream> {
        self.attached.attach(application)
    }

    fn has_handshakes(listener: &Listener) -> bool {
        listener.has_handshakes()
    }

    fn spare(&mut self) -> Option<File> {
        File::open("/dev/null").ok()
    }

    fn watch(&mut self, stream: &mut SocketStream, token: usize) -> io::Result<()> {
        stream.prepare()?;
        self.poll.registry().register(stream.source(), Token(token), Interest::READABLE)
    }

    fn watch_writable(
        &mut self,
        stream: &mut SocketStream,
        token: usize,
        wanted: bool,
    ) -> io::Result<()> {
        if let Some(ring) = stream.ring()
            && !ring.is_turning()
        {
            if wanted && ring.has_room() {
                self.has_room.push(token);
            }
            return Ok(());
        }
        let interest =
            if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.poll.registry().reregister(stream.source(), Token(token), interest)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_clock(&self) -> Duration {
        // A machine whose clock is set before 1970 gets timestamps of 1970.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

#[inline]
fn of_socket(event: &mio::event::Event) -> Event {
    let finished = event.is_read_closed() || event.is_error();
    Event {
        token: event.token().0,
        readable: event.is_readable() || finished,
        writable: event.is_writable(),
        finished,
    }
}

impl AsRawFd for MioSystem {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::super::socket::{Flush, Read, Socket};
    use super::*;
    use crate::broker::{Broker, ConnectionKey, Now};
    use crate::{Access, Json, Limits, Message, MessageType};

    const HANG: Duration = Duration::from_secs(60);

    /// A watched socket of each kind, and its other end.
    fn sockets(system: &mut MioSystem) -> [(Socket<SocketStream>, Box<dyn Peers>); 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let accepted = SocketStream::tcp(mio::net::TcpStream::from_std(accepted));
        let (unix, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = SocketStream::unix(mio::net::UnixStream::from_std(ours));
        let [one, two] = keys();
        [
            (Socket::new(accepted, one, system).unwrap(), Box::new(tcp)),
            (Socket::new(ours, two, system).unwrap(), Box::new(unix)),
        ]
    }

    fn keys() -> [ConnectionKey; 2] {
        let limits = Limits::default();
        let mut broker = Broker::new(limits, Access::default(), [7; 32], Now::default());
        [(); 2].map(|()| broker.accept().unwrap())
    }

    trait Peers: Write {
        fn finish(&self);
    }

    impl Peers for TcpStream {
        fn finish(&self) {
            self.shutdown(Shutdown::Write).unwrap();
        }
    }

    impl Peers for UnixStream {
        fn finish(&self) {
            self.shutdown(Shutdown::Write).unwrap();
        }
    }

    /// Polls until a socket is reported as it should be, and tells the socket.
    fn await_event(
        system: &mut MioSystem,
        socket: &mut Socket<SocketStream>,
        is_it: impl Fn(&Event) -> bool,
    ) -> Event {
        let end = Instant::now() + HANG;
        loop {
            let mut events = Vec::new();
            system.poll(&mut events, Some(HANG)).unwrap();
            events.retain(|event| event.token == socket.key().index());
            for event in &events {
                socket.note(event);
            }
            if let Some(event) = events.into_iter().find(&is_it) {
                return event;
            }
            assert!(Instant::now() < end, "it is never reported");
        }
    }

    /// Edges come once: an end that comes with the last bytes must not wait for another one.
    #[test]
    fn the_end_that_comes_with_the_last_bytes_is_found_behind_them() {
        let mut system = MioSystem::new(16).unwrap();
        for (mut socket, mut peer) in sockets(&mut system) {
            peer.write_all(b"words").unwrap();
            peer.finish();
            let event = await_event(&mut system, &mut socket, |event| event.finished);
            assert!(event.readable, "{event:?}");
            let mut buffer = [0; 64];
            assert!(matches!(socket.receive(&mut buffer), Read::Bytes(5)));
            assert!(socket.is_readable(), "nothing will be reported any more");
            assert!(matches!(socket.receive(&mut buffer), Read::End));
            assert!(!socket.is_readable());
        }
    }

    #[test]
    fn bytes_that_are_not_the_last_are_no_end() {
        let mut system = MioSystem::new(16).unwrap();
        for (mut socket, mut peer) in sockets(&mut system) {
            peer.write_all(b"words").unwrap();
            let event = await_event(&mut system, &mut socket, |event| event.readable);
            assert!(!event.finished && !event.writable, "{event:?}");
            let mut buffer = [0; 64];
            assert!(matches!(socket.receive(&mut buffer), Read::Bytes(5)));
            assert!(!socket.is_readable(), "a short read has emptied it");
            // The end comes alone, and is an edge of its own.
            peer.finish();
            await_event(&mut system, &mut socket, |event| event.finished && event.readable);
            assert!(matches!(socket.receive(&mut buffer), Read::End));
        }
    }

    #[test]
    fn a_connection_that_the_peer_drops_is_readable_and_finished() {
        let mut system = MioSystem::new(16).unwrap();
        for (mut socket, peer) in sockets(&mut system) {
            drop(peer);
            await_event(&mut system, &mut socket, |event| event.finished && event.readable);
            let mut buffer = [0; 64];
            assert!(matches!(socket.receive(&mut buffer), Read::End | Read::Broken(_)));
        }
    }

    #[test]
    fn writability_is_reported_at_once_to_whoever_asks_and_to_nobody_else() {
        let mut system = MioSystem::new(16).unwrap();
        let (unix, _peer) = UnixStream::pair().unwrap();
        unix.set_nonblocking(true).unwrap();
        let mut stream = SocketStream::unix(mio::net::UnixStream::from_std(unix));
        system.watch(&mut stream, 3).unwrap();
        let mut events = Vec::new();
        system.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.iter().all(|event| !event.writable), "{events:?}");
        events.clear();
        system.watch_writable(&mut stream, 3, true).unwrap();
        system.poll(&mut events, Some(HANG)).unwrap();
        assert!(events.iter().any(|event| event.token == 3 && event.writable), "{events:?}");
        events.clear();
        system.watch_writable(&mut stream, 3, false).unwrap();
        system.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.iter().all(|event| !event.writable), "{events:?}");
    }

    /// A reader that was slow once would otherwise wake the loop with every message that it takes.
    #[test]
    fn writability_is_not_reported_any_more_once_everything_is_sent() {
        let mut system = MioSystem::new(16).unwrap();
        let (limits, access) = (Limits::default(), Access::default());
        let mut broker = Broker::new(limits, access, [7; 32], Now::default());
        let key = broker.accept().unwrap();
        let (ours, mut peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        let ours = SocketStream::unix(mio::net::UnixStream::from_std(ours));
        let mut socket = Socket::new(ours, key, &mut system).unwrap();
        let send = |text: &str, broker: &mut Broker| {
            let payload = Json::from_serialize(text).unwrap();
            let message = Message::new(MessageType::Publish, "app", "news", payload);
            broker.context().send_to_connection(key, &message).unwrap();
        };
        let mut buffer = vec![0; 1 << 20];
        send(&"x".repeat(1 << 20), &mut broker);
        assert!(matches!(socket.flush(&mut broker, &mut system), Flush::Blocked));
        while !matches!(socket.flush(&mut broker, &mut system), Flush::Done) {
            while peer.read(&mut buffer).is_ok() {}
        }
        while peer.read(&mut buffer).is_ok() {}
        let mut events = Vec::new();
        system.poll(&mut events, Some(Duration::ZERO)).unwrap();
        events.clear();

        send("a little", &mut broker);
        assert!(matches!(socket.flush(&mut broker, &mut system), Flush::Done));
        assert!(peer.read(&mut buffer).is_ok());
        system.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);
    }

    #[test]
    fn events_that_one_poll_does_not_take_are_announced_and_come_next() {
        const SOCKETS: usize = 5;
        let mut system = MioSystem::new(2).unwrap();
        let mut kept = Vec::new();
        for token in 0..SOCKETS {
            let (mut peer, unix) = UnixStream::pair().unwrap();
            unix.set_nonblocking(true).unwrap();
            let mut stream = SocketStream::unix(mio::net::UnixStream::from_std(unix));
            system.watch(&mut stream, token).unwrap();
            peer.write_all(b"x").unwrap();
            kept.push((stream, peer));
        }
        let (mut events, mut polls) = (Vec::new(), 0);
        while system.poll(&mut events, Some(HANG)).unwrap() {
            polls += 1;
        }
        let mut tokens: Vec<_> = events.iter().map(|event| event.token).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..SOCKETS).collect::<Vec<_>>());
        assert_eq!(polls, SOCKETS / 2, "of two events each");
    }
}
