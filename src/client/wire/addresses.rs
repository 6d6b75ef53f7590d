//! Connecting to a host that may have several addresses, as RFC 8305 describes it: the families
//! take turns, and an address that does not answer delays the next one by a quarter of a second.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::descriptors::NotedSocket;

/// The head start of each address before the next one is tried as well.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the first address that answers, before `deadline`. Returns a blocking socket.
pub(crate) fn connect(
    addresses: impl IntoIterator<Item = SocketAddr>,
    deadline: Instant,
) -> io::Result<NotedSocket<Socket>> {
    let mut untried = in_turn(addresses);
    let mut next = Instant::now();
    // If there is little time, each address still gets its share of it.
    let share = deadline.saturating_duration_since(next) / untried.len().max(1) as u32;
    let delay = ATTEMPT_DELAY.min(share);
    let mut open = Vec::new();
    let mut failed = io::Error::from(ErrorKind::NotFound);
    loop {
        // The clock is read before the sockets are: a process that was stopped until after the
        // deadline still finds the connection that was made in time.
        let now = Instant::now();
        if next <= now
            && let Some(address) = untried.pop_front()
        {
            next = now + delay;
            match begin(address) {
                Ok(socket) => open.push(socket),
                Err(error) => {
                    note(&mut failed, error);
                    next = now;
                }
            }
        }
        if open.is_empty() && untried.is_empty() {
            return Err(failed);
        }
        let wake_up = if untried.is_empty() { deadline } else { deadline.min(next) };
        for at in decided(&open, wake_up.saturating_duration_since(now))?.into_iter().rev() {
            let socket = open.swap_remove(at);
            match socket.take_error().and_then(|error| error.map_or(Ok(()), Err)) {
                Ok(()) => {
                    socket.set_nonblocking(false)?;
                    socket.set_tcp_nodelay(true)?;
                    return Ok(socket);
                }
                Err(error) => {
                    note(&mut failed, error);
                    // A failure leaves nothing to wait for.
                    next = now;
                }
            }
        }
        if deadline <= now {
            return Err(if open.is_empty() { failed } else { ErrorKind::TimedOut.into() });
        }
    }
}

/// Orders the addresses so that the families alternate. The resolver's first address stays first.
fn in_turn(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut addresses = addresses.into_iter().peekable();
    let is_preferred = addresses.peek().is_some_and(SocketAddr::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) =
        addresses.partition(|address| address.is_ipv6() == is_preferred);
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    let mut ordered = VecDeque::new();
    loop {
        let pair = [preferred.next(), others.next()];
        if pair == [None, None] {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

/// Begins to connect, without waiting for the answer.
fn begin(address: SocketAddr) -> io::Result<NotedSocket<Socket>> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    let socket = NotedSocket::new(socket);
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error)
            if error.kind() != ErrorKind::WouldBlock
                && error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) =>
        {
            Err(error)
        }
        _ => Ok(socket),
    }
}

/// Returns the places of the sockets that have connected or failed, in ascending order, and waits
/// for the first one as long as `timeout`.
fn decided(open: &[NotedSocket<Socket>], timeout: Duration) -> io::Result<Vec<usize>> {
    let timeout = Timespec::try_from(timeout).ok();
    let mut polled: Vec<PollFd<'_>> =
        open.iter().map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let is_decided = |(at, fd): (usize, &PollFd<'_>)| (!fd.revents().is_empty()).then_some(at);
    Ok(polled.iter().enumerate().filter_map(is_decided).collect())
}

/// Keeps the error that tells the caller most. A refused connection tells more than a missing route
/// over IPv6.
fn note(failed: &mut io::Error, error: io::Error) {
    if failed.kind() != ErrorKind::ConnectionRefused {
        *failed = error;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const HANG: Duration = Duration::from_secs(60);
    /// Far above the delay, and far below the time after which the kernel repeats an attempt that
    /// nobody answered for the third time.
    const SOON: Duration = Duration::from_secs(4);

    /// An address at which the kernel drops attempts to connect, as a firewall does, until the
    /// queue of the listener is emptied.
    struct Silent {
        listener: TcpListener,
        _queued: Vec<NotedSocket<Socket>>,
    }

    impl Silent {
        fn new() -> Self {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
            socket.listen(0).unwrap();
            let listener = TcpListener::from(socket);
            let address = listener.local_addr().unwrap();
            let queued = (0..3).map(|_| begin(address).unwrap()).collect();
            let silent = Self { listener, _queued: queued };
            // The queue is full once another attempt gets no answer.
            let probe = begin(silent.address()).unwrap();
            assert_eq!(decided(&[probe], Duration::from_millis(50)).unwrap(), [] as [usize; 0]);
            silent
        }

        fn address(&self) -> SocketAddr {
            self.listener.local_addr().unwrap()
        }
    }

    fn refusing() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn within(addresses: &[SocketAddr], timeout: Duration) -> (io::Result<SocketAddr>, Duration) {
        let begin = Instant::now();
        let connected = connect(addresses.iter().copied(), begin + timeout);
        let reached = connected.map(|socket| socket.peer_addr().unwrap().as_socket().unwrap());
        (reached, begin.elapsed())
    }

    #[test]
    fn the_families_alternate_and_the_first_address_stays_first() {
        let v4 = |last| SocketAddr::from(([192, 0, 2, last], 1));
        let v6 = |last| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 1));
        let ordered = in_turn([v6(1), v6(2), v6(3), v4(1), v4(2)]);
        assert_eq!(ordered, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
        assert_eq!(in_turn([v4(1), v6(1), v6(2)]), [v4(1), v6(1), v6(2)]);
        assert_eq!(in_turn([]), []);
    }

    #[test]
    fn an_address_that_swallows_attempts_takes_no_time_from_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        let silent = [Silent::new(), Silent::new()];
        let [first, second] = [silent[0].address(), silent[1].address()];
        for order in [
            vec![first, live],
            vec![live, first],
            vec![first, second, live],
            vec![first, refusing(), live],
            vec![refusing(), first, live],
        ] {
            let (reached, took) = within(&order, HANG);
            assert_eq!(reached.unwrap(), live, "{order:?}");
            assert!(took < SOON, "{order:?} took {took:?}");
        }
    }

    /// Whether it is the kernel here that refuses at once, or a host a moment later.
    #[test]
    fn an_address_that_refuses_takes_no_time_from_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        let (first, second) = (refusing(), refusing());
        for order in [vec![first, live], vec![first, second, live]] {
            let once = |_| {
                let (reached, took) = within(&order, HANG);
                assert_eq!(reached.unwrap(), live);
                took
            };
            // A busy machine may delay each of them, and hardly all.
            let took = (0..10).map(once).min().unwrap();
            assert!(took < ATTEMPT_DELAY, "{order:?} took {took:?}");
        }
        let refused = (0..10).map(|_| within(&[first, second], HANG).1).min().unwrap();
        assert!(
            refused < ATTEMPT_DELAY,
            "that all refuse is told at once, and not after {refused:?}"
        );
    }

    #[test]
    fn a_slow_address_may_still_win_over_a_dead_one() {
        let (slow, dead) = (Silent::new(), Silent::new());
        slow.listener.set_nonblocking(true).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(ATTEMPT_DELAY * 2);
                while !is_over.load(Ordering::Relaxed) {
                    // An accepted connection makes room for the next attempt of the kernel.
                    let _ = slow.listener.accept();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let (reached, _) = within(&[slow.address(), dead.address()], HANG);
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(reached.unwrap(), slow.address());
        });
    }

    #[test]
    fn little_time_is_shared_and_the_end_comes_in_time() {
        let live = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = [Silent::new(), Silent::new()];
        let dead: Vec<SocketAddr> = silent.iter().map(Silent::address).collect();
        let all = [dead[0], dead[1], live.local_addr().unwrap()];
        assert_eq!(within(&all, ATTEMPT_DELAY).0.unwrap(), all[2]);

        let (reached, took) = within(&dead, Duration::from_millis(300));
        assert_eq!(reached.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(took >= Duration::from_millis(300), "{took:?}");
        let refused = within(&[refusing(), refusing()], HANG).0.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(within(&[], HANG).0.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
