//! The texts of all errors for peers: what happened, whose fault it is, and what to do next.

pub(crate) mod topic;

use std::borrow::Cow;
use std::time::Duration;

use super::buses::BUSES_MAX;
use crate::broker::limits::CONCURRENCY_MAX;
use crate::handler_error::shortened;
use crate::proto::{CREDIT_MAX, ErrorCode, Fault, ID_BYTES_MAX};

/// An error for a peer: the code, and the text.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) text: Cow<'static, str>,
}

/// The reason why the processing of a message stops.
pub(crate) enum Stop {
    Refused(Refusal),
    /// The message waits; it is processed again later.
    Held,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }
}

// The connection.

pub(crate) fn server_full() -> Refusal {
    Refusal::new(
        ErrorCode::ServerFull,
        "the server has reached its limit on connections; try again later, or raise its \
         --max-connections",
    )
}

pub(crate) fn user_not_admitted() -> Refusal {
    Refusal::new(
        ErrorCode::AuthFailed,
        "this user is not admitted; connect as another one, or add it to the server's --allow-uid \
         or --allow-gid",
    )
}

pub(crate) fn wrong_token(app_id: &str) -> Refusal {
    let text = format!(
        "the token of application {} is missing or wrong; connect again with the token that \
         the server was given",
        named(app_id)
    );
    Refusal::new(ErrorCode::AuthFailed, text)
}

pub(crate) fn taken_over() -> Refusal {
    Refusal::new(
        ErrorCode::TakenOver,
        "a newer connection of this application uses the same connection_id; give every connection \
         an id of its own",
    )
}

pub(crate) fn connection_closing() -> Refusal {
    Refusal::new(
        ErrorCode::NotConnected,
        "this connection is closing; connect again and send the message then",
    )
}

pub(crate) fn shutting_down() -> Refusal {
    Refusal::new(
        ErrorCode::ShuttingDown,
        "the server is shutting down and did not process this message; connect again and send it \
         then",
    )
}

/// The notice of a drain, which concerns none of the peer's messages.
pub(crate) fn drain_notice() -> Refusal {
    Refusal::new(
        ErrorCode::ShuttingDown,
        "the server is shutting down and closes this connection once its requests are answered; \
         connect again for new ones",
    )
}

pub(crate) fn frame_too_large(body_bytes: usize, body_bytes_max: usize) -> Refusal {
    let text = format!(
        "the length prefix says {body_bytes} bytes, over the limit of {body_bytes_max}; send \
         smaller messages, or raise the server's --max-frame-bytes, and check that the peer speaks \
         this protocol"
    );
    Refusal::new(ErrorCode::FrameTooLarge, text)
}

// The handshake.

pub(crate) fn connect_first() -> Refusal {
    Refusal::new(
        ErrorCode::NotConnected,
        "the first message of a connection must be a request on channel 'system' with payload \
         {\"action\": \"connect\", \"connection_id\": \"<yours>\"}; connect again and send that \
         first",
    )
}

pub(crate) fn connected_already() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "this connection has already completed its handshake; open another one for another id or \
         application",
    )
}

pub(crate) fn connection_id_missing() -> Refusal {
    let text = format!(
        "connect needs a connection_id in its payload: a string of 1 to {ID_BYTES_MAX} bytes that \
         no other connection has, such as a UUID"
    );
    Refusal::new(ErrorCode::BadMessage, text)
}

// Any message.

pub(crate) fn link_id() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "a connection_id that begins with $link/ belongs to the server's own links to other servers; \
         connect with another one",
    )
}

pub(crate) fn no_link_id() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "this is a link to another server, whose connection_id begins with $link/; connect with such \
         a one",
    )
}

pub(crate) fn bus_is_there() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "this application has a link with the connection_id $link/bus, by which other servers hear it; \
         another one would make them hear everything twice",
    )
}

pub(crate) fn too_many_buses() -> Refusal {
    let text = format!(
        "{BUSES_MAX} applications with clients are shared with other servers, and no more are; start \
         another server for others"
    );
    Refusal::new(ErrorCode::LimitExceeded, text)
}

pub(crate) fn link_hears_patterns() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "this is a link to another server, which subscribes to patterns alone; subscribe with \
         \"pattern\": true, which a channel's name may be, too",
    )
}

pub(crate) fn other_application() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "this connection belongs to another application; open a connection of the application that \
         the message is for",
    )
}

pub(crate) fn message_id_empty() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "message_id is empty; give every message an id of its own, such as a UUID",
    )
}

pub(crate) fn too_many_channels() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "there are too many channels; use fewer, or put the part of their names that varies into the \
         payload",
    )
}

/// The filter refused a message, with a text of its own.
pub(crate) fn filtered(text: String) -> Refusal {
    Refusal::new(ErrorCode::Forbidden, text)
}

pub(crate) fn filter_failed(failure: &str) -> Refusal {
    Refusal::new(
        ErrorCode::HandlerFailed,
        format!("the server's filter failed on this message: {failure}"),
    )
}

// Subscriptions.

pub(crate) fn too_many_subscriptions() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "this connection has too many subscriptions; unsubscribe from some, or open another \
         connection",
    )
}

pub(crate) fn subscribes_another() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "a connection can only subscribe and unsubscribe itself; send its own connection_id",
    )
}

pub(crate) fn subscription_payload() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "the payload of a subscribe or unsubscribe is an object such as {\"connection_id\": \
         \"<your own>\"}",
    )
}

// Requests and their answers.

/// Names that exist, for a requester whose channel does not.
pub(crate) enum Alternatives<'a> {
    /// The served channels of its application, at least one.
    Channels(Vec<&'a str>),
    /// Its application has this many channels, too many to look through.
    ManyChannels(usize),
    /// Its application serves no channel. These are the others that it may know of.
    Applications(Vec<&'a str>),
}

/// Names that an error lists.
const NAMES_MAX: usize = 8;
/// Characters of a name that an error shows. Peers choose the names.
const NAME_CHARS_MAX: usize = 64;

/// Nobody serves the channel.
pub(crate) fn no_handler(
    channel_id: &str,
    app_id: &str,
    alternatives: &Alternatives<'_>,
) -> Refusal {
    let what = format!(
        "nobody serves requests on channel {} of application {}",
        named(channel_id),
        named(app_id)
    );
    let text = match alternatives {
        Alternatives::Channels(names) => format!(
            "{what}, which serves {}; check the name, or start the worker that serves it",
            listed(names)
        ),
        Alternatives::ManyChannels(count) => format!(
            "{what}, which has {count} channels; check the name with list_channels on 'system', or \
             start the worker that serves it"
        ),
        Alternatives::Applications(names) if names.is_empty() => format!(
            "{what}, which serves no channel; check both names, or start the worker that serves it"
        ),
        Alternatives::Applications(names) => format!(
            "{what}, which serves no channel; check both names, or start the worker that serves it; \
             other applications here are {}",
            listed(names)
        ),
    };
    Refusal::new(ErrorCode::NoHandler, text)
}

/// The channel was removed while its request was processed.
pub(crate) fn channel_gone() -> Refusal {
    Refusal::new(
        ErrorCode::NoHandler,
        "the channel of this request has just been removed; check its name, or start the worker \
         that serves it",
    )
}

/// Quotes a name that a peer has chosen.
fn named(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_MAX).map(|name| named(name)).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(crate) fn handler_failed(failure: &str) -> Refusal {
    let failure = shortened(failure);
    Refusal::new(ErrorCode::HandlerFailed, format!("the handler of this channel failed: {failure}"))
}

pub(crate) fn handler_dropped() -> Refusal {
    Refusal::new(
        ErrorCode::HandlerFailed,
        "the handler of this channel dropped the request unanswered",
    )
}

pub(crate) fn notification_failed() -> Refusal {
    Refusal::new(
        ErrorCode::HandlerFailed,
        "the handler of this channel failed on this notification",
    )
}

/// Completes [`handler_failed`], where the handler's answer is the failure.
pub(crate) fn answer_over_frame(frame_bytes_max: usize) -> String {
    format!("its answer exceeds the limit of {frame_bytes_max} bytes for a frame")
}

/// The server's own answer, such as a listing, is too large.
pub(crate) fn listing_too_large() -> Refusal {
    Refusal::new(ErrorCode::LimitExceeded, ANSWER_TOO_LARGE)
}

/// The answer of a worker or of a [`Responder`](crate::Responder) is too large.
pub(crate) fn answer_too_large() -> Refusal {
    Refusal::new(ErrorCode::HandlerFailed, ANSWER_TOO_LARGE)
}

const ANSWER_TOO_LARGE: &str = "the answer exceeds the server's limit for a frame; ask for less, or \
                                raise its --max-frame-bytes";

/// The requester asked for this.
pub(crate) fn cancelled() -> Refusal {
    Refusal::new(
        ErrorCode::Cancelled,
        "this request was cancelled by its requester; it may or may not have been executed",
    )
}

/// The answer, or a part of it, breaks the rules of the protocol.
pub(crate) fn bad_part(why: &str) -> Refusal {
    Refusal::new(
        ErrorCode::HandlerFailed,
        format!("the worker of this channel sent a response that breaks the protocol: {why}"),
    )
}

/// The requester gets the attachments of an answer in base64.
pub(crate) fn answer_in_base64_too_large(frame_bytes_max: usize) -> Refusal {
    let text = format!(
        "the answer has attachments, which a connection without the extension \"binary\" gets in base64, \
         and exceeds the limit of {frame_bytes_max} bytes for a frame that way; ask for the extension \
         in the connect, ask for less, or raise the server's --max-frame-bytes"
    );
    Refusal::new(ErrorCode::Unsupported, text)
}

/// The worker gets the attachments of a message in base64.
pub(crate) fn too_large_in_base64(frame_bytes_max: usize) -> Refusal {
    let text = format!(
        "the worker of this channel has not the extension \"binary\" and gets attachments in base64, \
         which exceed the limit of {frame_bytes_max} bytes for a frame; send smaller ones, use a \
         worker with the extension, or raise the server's --max-frame-bytes"
    );
    Refusal::new(ErrorCode::Unsupported, text)
}

/// Nobody reads attachments of such a message.
pub(crate) fn attachments_unread() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "a message on 'system', a subscribe and an unsubscribe have no attachments; send it as JSON \
         alone",
    )
}

pub(crate) fn no_room_for_part() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "a part of this stream found no room, because this connection does not read what it asked \
         for; read faster, or give less credit",
    )
}

/// All parts of an answer together fit into no frame, and the requester asked for no stream.
pub(crate) fn stream_too_large() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "the parts of this answer together exceed the server's limit for a frame; ask for a stream, \
         or raise its --max-frame-bytes",
    )
}

pub(crate) fn call_id_missing() -> Refusal {
    let text = format!(
        "cancel and credit need the message_id of the request in their payload: a string of 1 to \
         {ID_BYTES_MAX} bytes"
    );
    Refusal::new(ErrorCode::BadMessage, text)
}

pub(crate) fn credit_invalid() -> Refusal {
    let text = format!(
        "credit needs n, the number of parts that are allowed: from 1 to {CREDIT_MAX}, in digits \
         alone and given once"
    );
    Refusal::new(ErrorCode::BadMessage, text)
}

pub(crate) fn too_much_credit() -> Refusal {
    let text = format!(
        "the unused credit of this stream would pass {CREDIT_MAX}; give more when parts have come"
    );
    Refusal::new(ErrorCode::BadMessage, text)
}

pub(crate) fn bad_meta(fault: Fault) -> Refusal {
    Refusal::new(fault.code(), fault.to_string())
}

pub(crate) fn extensions_invalid() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "the extensions of a connect are an array of strings, given once, such as [\"call\"]",
    )
}

pub(crate) fn too_many_requests() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "too many requests wait for their answers; send the next one when one has been answered",
    )
}

pub(crate) fn too_much_kept() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "too many bytes of requests wait for the workers of this channel; send this one again later, \
         or start more workers",
    )
}

pub(crate) fn request_timed_out(timeout: Duration) -> Refusal {
    let after = in_words(timeout);
    let text =
        format!("nobody answered this request within {after}; send it again, or check its worker");
    Refusal::new(ErrorCode::Timeout, text)
}

/// The timeout of a request that was kept to its end.
pub(crate) fn no_worker_free(timeout: Duration) -> Refusal {
    let text = format!(
        "all workers of this channel were at their concurrency for {}, and none of them got this \
         request; it was not executed, so send it again, or start more workers",
        in_words(timeout)
    );
    Refusal::new(ErrorCode::Timeout, text)
}

/// The time that a requester gave its request is over. `was_with_worker` tells whether anybody may
/// have executed it.
pub(crate) fn ttl_over(millis: u32, was_with_worker: bool) -> Refusal {
    let after = in_words(Duration::from_millis(millis.into()));
    let text = if was_with_worker {
        format!("the ttl of this request, {after}, is over; it may or may not have been executed")
    } else {
        format!(
            "the ttl of this request, {after}, was over before anybody got it; it was not executed"
        )
    };
    Refusal::new(ErrorCode::Timeout, text)
}

fn in_words(timeout: Duration) -> String {
    if timeout.subsec_nanos() == 0 {
        format!("{} s", timeout.as_secs())
    } else {
        format!("{} ms", timeout.as_millis())
    }
}

/// The drain ended before an answer came. This is not [`shutting_down`], which says that the request
/// was not executed.
pub(crate) fn cut_off() -> Refusal {
    Refusal::new(
        ErrorCode::Timeout,
        "the server ends before this request was answered; it may or may not have been executed, so \
         send it again if executing it twice does no harm",
    )
}

// Workers.

pub(crate) fn too_many_services() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "this connection serves too many channels, or the channel has too many workers; stop \
         serving one first",
    )
}

pub(crate) fn concurrency_invalid() -> Refusal {
    let text = format!(
        "concurrency is the number of unanswered requests that this worker gets at a time: an \
         integer from 1 to {CONCURRENCY_MAX}, given once; leave it out to get all at once"
    );
    Refusal::new(ErrorCode::BadMessage, text)
}

/// The last worker of a channel left while requests were kept for it.
pub(crate) fn workers_left() -> Refusal {
    Refusal::new(
        ErrorCode::NoHandler,
        "the last worker of this channel left before it got this request; it was not executed, so \
         send it again once a worker serves the channel",
    )
}

pub(crate) fn worker_lost() -> Refusal {
    Refusal::new(
        ErrorCode::WorkerLost,
        "the worker disconnected before it answered and may or may not have executed the request; \
         send it again if executing it twice does no harm",
    )
}

pub(crate) fn too_large_to_forward() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "the message is a little longer in the form that the worker gets, and exceeds the limit for \
         a frame; send a little less",
    )
}

// The system channel.

pub(crate) fn action_missing() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "a request on 'system' needs a payload such as {\"action\": \"ping\"}",
    )
}

pub(crate) fn action_unknown(action: &str) -> Refusal {
    let text = format!(
        "the system channel has no action {action:?}; its actions are ping, get_time, health_check, \
         get_stats, list_applications, list_channels, get_latency, list_services, list_connections, \
         purge_retained, purge_history, serve, stop_serving and share_memory"
    );
    Refusal::new(ErrorCode::NoHandler, text)
}

pub(crate) fn operator_alone() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "this is for the operator alone; connect over the server's Unix socket as the user who runs it",
    )
}

pub(crate) fn application_not_visible() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "this connection cannot see that application; leave app_id out to get its own",
    )
}

pub(crate) fn system_is_served() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "the server itself serves 'system'; serve a channel of another name",
    )
}

pub(crate) fn service_channel_missing() -> Refusal {
    let text = format!(
        "serve and stop_serving need the channel in their payload: a string of 1 to \
         {ID_BYTES_MAX} bytes"
    );
    Refusal::new(ErrorCode::BadMessage, text)
}

// Shared memory. After each of these the socket goes on as before.

pub(crate) fn memory_not_shared() -> Refusal {
    Refusal::new(
        ErrorCode::Unsupported,
        "this connection cannot share memory; go on over the socket, or connect over a Unix socket of \
         a server that has --shm",
    )
}

pub(crate) fn sharing_version_unknown() -> Refusal {
    Refusal::new(
        ErrorCode::Unsupported,
        "the server shares memory in version 1 alone; go on over the socket, or ask for that",
    )
}

pub(crate) fn sharing_without_extension() -> Refusal {
    Refusal::new(
        ErrorCode::Unsupported,
        "only a connection with an extension may share memory; name one in the connect message",
    )
}

pub(crate) fn shares_already() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "this connection shares memory already; ask once for each connection",
    )
}

pub(crate) fn sent_behind_sharing() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "something came behind 'share_memory' before its answer; go on over the socket, or connect \
         again and wait for the answer",
    )
}

pub(crate) fn rings_take_too_much(rings_bytes: usize, bytes_max: usize) -> Refusal {
    let text = format!(
        "the rings of this connection do not fit: those of others take {rings_bytes} of {bytes_max} \
         bytes; go on over the socket, or raise the server's --max-memory or lower its --shm-ring"
    );
    Refusal::new(ErrorCode::LimitExceeded, text)
}

pub(crate) fn no_rings(why: &str) -> Refusal {
    let text = format!(
        "the server's system has no shared memory for this connection ({why}); go on over the socket, \
         or try again later on a new connection"
    );
    Refusal::new(ErrorCode::LimitExceeded, text)
}

// Memory.

pub(crate) fn short_of_memory(code: ErrorCode) -> Refusal {
    Refusal::new(
        code,
        "the server is short of memory and refuses new connections, channels and subscriptions; try \
         again later, or raise its --max-memory",
    )
}

pub(crate) fn holds_the_most() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "the server is out of memory and this connection holds the most; connect again later and \
         send smaller messages, or raise the server's --max-memory",
    )
}

pub(crate) fn message_unfinished(patience: Duration) -> Refusal {
    let text = format!(
        "the server is short of memory, and this message has been unfinished for over {} s; send \
         it again in one go or in smaller parts, or raise the server's --max-memory",
        patience.as_secs()
    );
    Refusal::new(ErrorCode::LimitExceeded, text)
}
