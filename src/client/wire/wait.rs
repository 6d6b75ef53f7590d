//! Waiting for bytes: not at all, until a deadline, or forever.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::socket::Socket;

/// The time to wait for bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    Not,
    Forever,
    Until {
        deadline: Instant,
        /// The whole timeout, which the first read uses. Setting the same timeout again costs no
        /// system call.
        whole: Duration,
        is_first: bool,
    },
}

impl Wait {
    pub(crate) fn at_most(timeout: Duration) -> Self {
        match Instant::now().checked_add(timeout) {
            Some(_) if timeout.is_zero() => Self::Not,
            Some(deadline) => Self::Until { deadline, whole: timeout, is_first: true },
            None => Self::Forever,
        }
    }

    /// Reads available bytes; [`ErrorKind::WouldBlock`] if none come in time.
    pub(crate) fn read(
        &mut self,
        socket: &mut Socket,
        room: &mut [u8],
        spin: bool,
    ) -> io::Result<usize> {
        loop {
            let timeout = match self {
                Self::Not => {
                    // A record of TLS itself may be followed by the server's bytes.
                    match socket.try_recv(room) {
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        read => return read,
                    }
                }
                Self::Forever => None,
                Self::Until { whole, is_first, .. } if *is_first => {
                    *is_first = false;
                    Some(*whole)
                }
                Self::Until { deadline, .. } => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        *self = Self::Not;
                        continue;
                    }
                    Some(left)
                }
            };
            let read = if spin {
                match socket.spin(room) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::hint::spin_loop();
                        continue;
                    }
                    read => read,
                }
            } else {
                // Below a microsecond the kernel's timeout would round down to forever.
                socket.recv(room, timeout.map(|left| left.max(Duration::from_micros(1))))
            };
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}
