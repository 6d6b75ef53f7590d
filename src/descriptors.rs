//! The sockets that this library has open in this process, which a forked child has to close.
//!
//! A child of `fork` has only the thread that forked. A lock that another thread held stays locked
//! in it, so the set of descriptors is a bit map without a lock.

use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const BITS: usize = u64::BITS as usize;
const WORDS: usize = 64;
/// With these the map reaches to a million descriptors, the kernel's own limit for a process.
const CHUNKS: usize = 256;

type Chunk = Box<[AtomicU64; WORDS]>;

static OPEN: [OnceLock<Chunk>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];

/// Returns the sockets that clients and servers of this library had open when this process was
/// forked, and forgets them. The child should close these copies of its parent's sockets: as long
/// as it holds them the other ends do not notice that the parent has ended.
///
/// It is called once, in the child, before anything else of this library. The clients and servers
/// of the parent must neither be used nor dropped in the child.
///
/// ```
/// // In a child; a process that has not forked, like this one, must not close its sockets.
/// let of_parent = ipc_framework::forked_sockets();
/// assert!(of_parent.is_empty());
/// ```
pub fn forked_sockets() -> Vec<RawFd> {
    let mut sockets = Vec::new();
    for (of_chunk, chunk) in OPEN.iter().enumerate() {
        let Some(words) = chunk.get() else { continue };
        for (of_word, word) in words.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let number = (of_chunk * WORDS + of_word) * BITS + bit;
                sockets.extend(RawFd::try_from(number));
            }
        }
    }
    sockets
}

/// Notes an open socket. The owner drops this before it closes the socket, so that a noted
/// descriptor never belongs to anything else.
#[derive(Debug)]
pub(crate) struct Noted(RawFd);

impl Noted {
    pub(crate) fn new(socket: &impl AsRawFd) -> Self {
        let descriptor = socket.as_raw_fd();
        if let Some((word, bit)) = place(descriptor) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
        Self(descriptor)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some((word, bit)) = place(self.0) {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    }
}

/// A socket that is noted for as long as it is open.
#[derive(Debug)]
pub(crate) struct NotedSocket<S> {
    /// Dropped before the socket is closed.
    _noted: Noted,
    socket: S,
}

impl<S: AsRawFd> NotedSocket<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { _noted: Noted::new(&socket), socket }
    }
}

impl<S> Deref for NotedSocket<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.socket
    }
}

impl<S: AsFd> AsFd for NotedSocket<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S: AsRawFd> AsRawFd for NotedSocket<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn place(descriptor: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(descriptor).ok()?;
    let chunk = OPEN.get(number / BITS / WORDS)?;
    let words = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]));
    Some((&words[number / BITS % WORDS], 1 << (number % BITS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A descriptor that no other test can have.
    struct Far(RawFd);

    impl AsRawFd for Far {
        fn as_raw_fd(&self) -> RawFd {
            self.0
        }
    }

    fn is_noted(descriptor: RawFd) -> bool {
        place(descriptor).is_some_and(|(word, bit)| word.load(Ordering::SeqCst) & bit != 0)
    }

    #[test]
    fn a_socket_is_noted_until_it_is_closed() {
        let numbers = [1_000_000, 1_000_063, 1_000_064];
        let [first, second, third] = numbers.map(|number| Noted::new(&Far(number)));
        assert!(numbers.into_iter().all(is_noted));
        drop(first);
        assert!(!is_noted(1_000_000) && is_noted(1_000_063) && is_noted(1_000_064));
        drop((second, third));
        assert!(!numbers.into_iter().any(is_noted));
    }

    #[test]
    fn what_is_beyond_the_map_is_not_noted() {
        drop(Noted::new(&Far(RawFd::MAX)));
        drop(Noted::new(&Far(-1)));
        assert!(!is_noted(RawFd::MAX) && !is_noted(-1));
    }
}
