//! What the machine is told, and what it wants done.

use super::standing::Name;
use crate::broker::ChannelLoad;

/// A link: a connection of the process's own server that the bridge holds the other end of. The machine
/// counts them up and never uses a number again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// Whether the local clients of an application want something, as the server's hook on interest tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalInterest {
    /// The application.
    pub(crate) application: String,
    /// What of it.
    pub(crate) subject: LocalSubject,
    /// True from the first one that wants it, false from the last one on.
    pub(crate) is_wanted: bool,
}

/// What is wanted, or there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LocalSubject {
    /// The application has local clients.
    Application,
    /// The channel has local subscribers.
    Channel(String),
    /// The pattern has local subscribers.
    Pattern(String),
    /// The channel has local workers, or a handler in the process.
    Workers(String),
}

/// What happened on this side.
#[derive(Clone, Debug)]
pub(crate) enum LocalEvent<'a> {
    /// The hook on interest was called.
    Interest(LocalInterest),
    /// The server has opened the bus link of an application itself and subscribed it already: nothing is said
    /// to introduce it. It did so when the application got its first client, and closes the link once it had
    /// none for a while.
    BusOpened {
        /// The link, by [`Machine::new_link`](super::machine::Machine::new_link).
        link: LinkId,
        /// Whose it is.
        application: String,
    },
    /// Bytes came from the server over a link.
    LinkBytes {
        /// Over which one.
        link: LinkId,
        /// Any piece of the stream.
        bytes: &'a [u8],
    },
    /// The socket of a link took bytes of [`Command::WriteLink`], so that there is room for others.
    LinkTook {
        /// Whose socket.
        link: LinkId,
        /// How many bytes.
        bytes: usize,
    },
    /// The answer to [`Command::AskLoads`].
    Loads(Vec<ChannelLoad>),
    /// A link ended, or could not be opened. Not told about one that the machine closed itself.
    LinkClosed(LinkId),
}

/// What happened at NATS.
#[derive(Clone, Debug)]
pub(crate) enum NatsEvent<'a> {
    /// There is a connection without any subscriptions. `max_payload` is what its server said, in bytes.
    Connected {
        /// The largest message.
        max_payload: usize,
    },
    /// The connection is gone, its subscriptions with it, and all that was not confirmed.
    Disconnected,
    /// A message. Messages come in batches that [`NatsEvent::Drained`] ends.
    Message {
        /// Its subject.
        subject: &'a str,
        /// Its payload.
        payload: &'a [u8],
    },
    /// All subscriptions were emptied without any waiting between them, so that what comes later is
    /// younger. Publications of the batch go on in the order of their origin, by whichever subscription
    /// they came.
    Drained,
    /// NATS has processed everything up to [`Command::Mark`] with this number.
    Confirmed {
        /// The number.
        mark: u64,
    },
    /// The client or its server dropped messages, because they were not taken in time.
    SlowConsumer,
    /// NATS did not allow a message or a subscription.
    Denied {
        /// What it was.
        what: Denied,
        /// Its subject.
        subject: &'a str,
    },
}

/// What NATS does not allow on a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// To publish there.
    Publish,
    /// To subscribe to it.
    Subscribe,
}

/// What the driver has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Open a connection to the process's own server. Writes to it may follow at once.
    OpenLink {
        /// Its name from now on.
        link: LinkId,
    },
    /// Write to a link. What its socket does not take waits in the driver; the machine counts it and
    /// bounds it, by what [`LocalEvent::LinkTook`] tells.
    WriteLink {
        /// To which one.
        link: LinkId,
        /// Whole frames.
        bytes: Vec<u8>,
    },
    /// Read no more from a link, or read on.
    ReadLink {
        /// From which one.
        link: LinkId,
        /// True: read. A link is read from the beginning.
        is_on: bool,
    },
    /// Close a link at once. What waits for its socket is dropped.
    CloseLink(LinkId),
    /// Close a link once its socket has taken what was written. Nothing more is told about it.
    FinishLink(LinkId),
    /// Subscribe at NATS.
    Subscribe {
        /// The name of the subscription.
        id: u64,
        /// A subject, perhaps with wildcards.
        subject: String,
    },
    /// End a subscription.
    Unsubscribe(u64),
    /// Publish at NATS. The machine hands over at most
    /// [`UNCONFIRMED_MAX`](super::outbox::UNCONFIRMED_MAX) messages before one is confirmed.
    Publish {
        /// The subject.
        subject: String,
        /// The payload.
        payload: Vec<u8>,
    },
    /// Find out when NATS has processed all that was published before (a PING and its PONG), and tell it
    /// with [`NatsEvent::Confirmed`].
    Mark(u64),
    /// Find out how busy the local workers of these channels of applications are, and tell it with
    /// [`LocalEvent::Loads`].
    AskLoads(Vec<Name>),
    /// Tell the operator.
    Log {
        /// How grave it is.
        level: Level,
        /// One sentence or two.
        text: String,
    },
}

/// How grave a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// As it should be.
    Info,
    /// Something was lost or refused.
    Warn,
    /// The operator has to change something.
    Error,
}
