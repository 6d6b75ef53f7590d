//! Events for a `tracing` subscriber. Without the feature they compile to nothing. No event contains
//! a payload, a token or a connection's id.

macro_rules! events {
    ($($(#[$doc:meta])* $level:ident $name:ident($($field:ident: $type:ty),*) = $text:literal;)*) => {
        $(
            $(#[$doc])*
            #[cfg(feature = "tracing")]
            pub(crate) fn $name($($field: $type),*) {
                // Texts chosen by a peer are shown escaped, so that they cannot forge log lines.
                tracing::$level!($($field = ?$field,)* $text);
            }

            $(#[$doc])*
            #[cfg(not(feature = "tracing"))]
            pub(crate) fn $name($($field: $type),*) {
                $(let _ = $field;)*
            }
        )*
    };
}

events! {
    warn handler_failed(reason: &str) = "a handler failed";
    warn unsent(reason: &str) = "a message from another thread was not sent";
    warn slow_consumer(connection: usize, queued_bytes: usize) = "closed a connection that reads too slowly";
    warn refused(connection: usize, code: &str) = "refused a connection";
    warn closed_for(connection: usize, code: &str, reason: &str) = "closed a connection because of what it sent";
    #[cfg(feature = "net")]
    warn garbled(connection: usize, reason: &str) = "closed a connection that does not speak TLS as it should";
    #[cfg(feature = "net")]
    warn not_accepted(reason: &str) = "a newcomer cannot be accepted now";
    warn handshake_timeout(connection: usize) = "closed a connection that did not introduce itself in time";
    warn shed() = "closed a newcomer, for no descriptor was left; raise `ulimit -n`, or lower --max-connections";
    warn memory_short(held_bytes: usize, max_bytes: usize) = "memory runs short";
    warn out_of_memory(connection: usize, held_bytes: usize) = "closed the connection that holds the most memory";
    debug connected(connection: usize, app_id: &str) = "connected";
    debug disconnected(connection: usize, app_id: &str) = "disconnected";
    debug idle_closed(connection: usize) = "closed an idle connection";
    info draining(connections: usize, pending_requests: usize) = "draining";
    info drained(cut_off: usize) = "drained";
}
