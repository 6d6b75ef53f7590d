//! Sentences that refuse what the extension `topic` adds.

use super::Refusal;
use crate::proto::ErrorCode;

pub(crate) fn wanted_invalid(name: &str, expected: &str) -> Refusal {
    let text = format!("{name} of a subscribe or unsubscribe is not usable; send {expected}");
    Refusal::new(ErrorCode::BadMessage, text)
}

pub(crate) fn since_with_pattern() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "a pattern has no place in a history, for each channel has its own; subscribe to the channels \
         with since, or to the pattern with last",
    )
}

pub(crate) fn past_of_subscribed() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "this connection hears the channel already, so that what was kept would come too late; \
         unsubscribe first, or leave out last and since",
    )
}

pub(crate) fn too_large_with_place(bytes: usize, bytes_max: usize) -> Refusal {
    let text = format!(
        "with its place in the history of the channel, the publication has up to {bytes} bytes, and \
         {bytes_max} are allowed; publish less at once, or raise the server's --max-frame-bytes"
    );
    Refusal::new(ErrorCode::LimitExceeded, text)
}

pub(crate) fn retained_full() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "no more last values are kept; forget some by publishing null with retain, publish without it, \
         or raise the server's --retained-max",
    )
}

pub(crate) fn no_pattern(why: &str) -> Refusal {
    Refusal::new(ErrorCode::BadMessage, format!("this is no pattern: {why}"))
}

pub(crate) fn purge_invalid() -> Refusal {
    Refusal::new(
        ErrorCode::BadMessage,
        "a purge names no application; send \"app\", and \"channel\" for one channel alone",
    )
}
