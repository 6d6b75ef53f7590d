//! What the state machine of the bridge is told, and what it wants done. Neither knows NATS' client, nor sockets.

/// A link: a connection of its own server, made inside the process. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// A subscription at NATS. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SubscriptionId(pub(crate) u64);

/// What the machine has to know of this server.
#[derive(Clone, Debug)]
pub(crate) struct MachineOptions {
    /// Random, and kept for the life of the process.
    pub(crate) id: [u8; 16],
    /// Shown to people, such as the host's name.
    pub(crate) name: String,
    /// What all subjects begin with.
    pub(crate) prefix: String,
    /// Patterns of the channels that are shared, each without a fault.
    pub(crate) channels: Vec<String>,
    /// The bytes of publications that may wait for NATS.
    pub(crate) queue_bytes: usize,
}

/// What an application's local clients want, as the loop tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    /// The application has clients or channels here.
    Application,
    /// A channel has subscribers.
    Channel(String),
    /// A pattern has subscribers.
    Pattern(String),
    /// A channel has workers, or a handler of requests.
    Workers(String),
}

/// What happened on this server's side.
#[derive(Debug)]
pub(crate) enum LocalEvent<'a> {
    /// May repeat what was told before.
    Interest { application: &'a str, wanted: &'a Wanted, is_wanted: bool },
    /// Bytes that the server sent to a link, cut anywhere.
    LinkBytes { link: LinkId, bytes: &'a [u8] },
    /// The link's socket took so many of the bytes that were written.
    LinkTook { link: LinkId, bytes: usize },
    /// The server closed the link, or it could not be opened. It is not heard of again.
    LinkClosed(LinkId),
}

/// What happened on NATS' side.
#[derive(Debug)]
pub(crate) enum NatsEvent<'a> {
    /// All subscriptions have been made again, before anything else is sent.
    Connected {
        max_payload: usize,
    },
    /// No mark that was set before will be confirmed. What was published since the last confirmed
    /// one may be lost.
    Disconnected,
    Message {
        subscription: SubscriptionId,
        subject: &'a str,
        payload: &'a [u8],
    },
    /// All messages that were ready, of all subscriptions, have been passed.
    Batch,
    /// NATS has all that was published before this mark.
    Confirmed {
        mark: u64,
    },
    /// Messages of this subscription were thrown away, because they came faster than they were read.
    SlowConsumer(SubscriptionId),
    /// NATS refused something, such as a subject that the credentials do not allow.
    Refused(&'a str),
}

/// What the machine wants done, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Connects a link to this server. Its handshake is the machine's, by `WriteLink`.
    OpenLink(LinkId),
    WriteLink {
        link: LinkId,
        bytes: Vec<u8>,
    },
    /// Whether the link is read. A new one is.
    ReadLink {
        link: LinkId,
        is_on: bool,
    },
    /// Writes what is waiting, and closes the link. There is no `LinkClosed` for it.
    CloseLink(LinkId),
    Subscribe {
        id: SubscriptionId,
        subject: String,
    },
    Unsubscribe(SubscriptionId),
    /// The driver carries it out at once. The machine keeps what is not confirmed below a bound.
    Publish {
        subject: String,
        payload: Vec<u8>,
    },
    /// Wants to know when NATS has all that was published before.
    Mark(u64),
    Log(Notice),
    /// Nothing is left to do after the machine was told to finish.
    Ended,
}

/// A sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// Something is lost or refused.
    pub(crate) is_warning: bool,
    pub(crate) text: String,
}
