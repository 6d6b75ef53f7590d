//! Events for a `tracing` subscriber. Without the feature they compile to nothing. No event contains
//! a payload, a token or a connection's id.

use core::net::SocketAddr;
#[cfg(feature = "tracing")]
use std::fmt;
use std::num::NonZeroU32;

/// The connection that an event is about. Each fact is one field of the event.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "nobody reads the events"))]
pub(crate) struct Who<'a> {
    /// Its place in the table, which tells the events of one connection from those of others.
    pub(crate) connection: usize,
    pub(crate) origin: Origin,
    /// The application that it joined, or asked for in vain.
    pub(crate) application: Option<&'a str>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "nobody reads the events"))]
pub(crate) enum Origin {
    Unknown,
    Tcp(SocketAddr),
    Unix { uid: Option<u32>, pid: Option<NonZeroU32> },
    Link,
}

#[cfg(feature = "tracing")]
impl Origin {
    fn peer(self) -> Option<tracing::field::DisplayValue<Self>> {
        (!matches!(self, Self::Unknown)).then(|| tracing::field::display(self))
    }

    fn uid(self) -> Option<u32> {
        if let Self::Unix { uid, .. } = self { uid } else { None }
    }

    fn pid(self) -> Option<u32> {
        if let Self::Unix { pid, .. } = self { pid.map(NonZeroU32::get) } else { None }
    }
}

#[cfg(feature = "tracing")]
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { .. } => f.write_str("unix"),
            Self::Link => f.write_str("link"),
        }
    }
}

/// An event is a function. Those with `who` are about a connection.
macro_rules! events {
    () => {};
    (
        $(#[$meta:meta])*
        $level:ident $name:ident(who $(, $field:ident: $type:ty)*) = $text:literal;
        $($rest:tt)*
    ) => {
        $(#[$meta])*
        #[cfg(feature = "tracing")]
        pub(crate) fn $name(who: &Who<'_> $(, $field: $type)*) {
            // Text stays a value of its own type: subscribers escape it, so that a peer that chose it
            // cannot forge lines, and write numbers as numbers.
            tracing::$level!(
                connection = who.connection,
                peer = who.origin.peer(),
                uid = who.origin.uid(),
                pid = who.origin.pid(),
                application = who.application,
                $($field,)*
                $text
            );
        }

        $(#[$meta])*
        #[cfg(not(feature = "tracing"))]
        pub(crate) fn $name(_who: &Who<'_> $(, $field: $type)*) {
            $(let _ = $field;)*
        }

        events! { $($rest)* }
    };
    (
        $(#[$meta:meta])*
        $level:ident $name:ident($($field:ident: $type:ty),*) = $text:literal;
        $($rest:tt)*
    ) => {
        $(#[$meta])*
        #[cfg(feature = "tracing")]
        pub(crate) fn $name($($field: $type),*) {
            tracing::$level!($($field,)* $text);
        }

        $(#[$meta])*
        #[cfg(not(feature = "tracing"))]
        pub(crate) fn $name($($field: $type),*) {
            $(let _ = $field;)*
        }

        events! { $($rest)* }
    };
}

events! {
    warn handler_failed(application: &str, channel: Option<&str>, reason: &str) = "a handler failed";
    warn unsent(reason: &str) = "a message from another thread was not sent";
    warn slow_consumer(who, queued_bytes: usize) = "closed a connection that reads too slowly";
    warn refused(who, code: &str, reason: Option<&str>) = "refused a connection";
    warn closed_for(who, code: &str, reason: &str) = "closed a connection because of what it sent";
    #[cfg(feature = "net")]
    warn garbled(who, reason: &str) = "closed a connection whose bytes break the rules of its transport";
    #[cfg(feature = "net")]
    warn not_accepted(reason: &str) = "a new connection cannot be accepted now";
    warn handshake_timeout(who) = "closed a connection that did not complete its handshake in time";
    warn shed() = "closed a new connection, for no descriptor was left; raise `ulimit -n`, or lower --max-connections";
    #[cfg(feature = "nats")]
    info bridge_connected(max_payload: usize) = "connected to NATS";
    #[cfg(feature = "nats")]
    info bridge_info(said: &str) = "the bridge to NATS";
    #[cfg(feature = "nats")]
    warn bridge_warning(said: &str) = "the bridge to NATS";
    #[cfg(feature = "nats")]
    error bridge_error(said: &str) = "the bridge to NATS";
    warn memory_short(held_bytes: usize, max_bytes: usize) = "memory runs short";
    warn out_of_memory(who, held_bytes: usize) = "closed the connection that holds the most memory";
    debug connected(who) = "connected";
    debug disconnected(who) = "disconnected";
    debug idle_closed(who) = "closed an idle connection";
    info draining(connections: usize, pending_requests: usize) = "draining";
    info drained(cut_off: usize) = "drained";
}
