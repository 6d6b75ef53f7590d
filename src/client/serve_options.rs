//! Options of a served channel.

use crate::setters::setters;

/// The way in which a [`Client`](super::Client) serves a channel.
///
/// By default the server hands out all requests at once, so that the next one is there when a handler
/// is done: best for handlers that take microseconds. But then each request waits at the worker that
/// it was given to, even if another worker has nothing to do, and a worker that comes later takes none
/// of them over. When a handler takes more than a millisecond, use a prefetch of 0: the worker gets as
/// many requests as it handles at a time, and the server keeps the others for whichever worker is free
/// first.
///
/// ```
/// use ipc_framework::client::ServeOptions;
///
/// let slow = ServeOptions::default().concurrency(2).prefetch(0);
/// assert_eq!(slow.prefetch, Some(0));
/// assert_eq!(ServeOptions::default().concurrency, 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Requests that are handled at a time, 1. For [`serve_with`](super::Client::serve_with) it is
    /// the number of threads.
    pub concurrency: usize,
    /// Requests that the worker holds ahead of those that it handles. With `None`, the default, the
    /// server hands out all at once. Servers that do not know this hand out all at once as well.
    pub prefetch: Option<usize>,
}

setters! {
    ServeOptions {
        [concurrency: usize]
        into [prefetch: Option<usize>]
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { concurrency: 1, prefetch: None }
    }
}

/// The most requests for which a worker may ask the server at a time.
const ANNOUNCED_MAX: u32 = 65_536;

impl ServeOptions {
    /// Returns the number of unanswered requests that the server is to hand out at a time.
    pub(super) fn announced(&self) -> Option<u32> {
        let announced = self.concurrency.max(1).saturating_add(self.prefetch?);
        Some(u32::try_from(announced).unwrap_or(u32::MAX).min(ANNOUNCED_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announced_number_is_one_that_the_server_takes() {
        let announced = |concurrency, prefetch| ServeOptions { concurrency, prefetch }.announced();
        assert_eq!(announced(4, None), None);
        assert_eq!(announced(0, Some(0)), Some(1));
        assert_eq!(announced(4, Some(3)), Some(7));
        assert_eq!(announced(usize::MAX, Some(usize::MAX)), Some(ANNOUNCED_MAX));
    }
}
