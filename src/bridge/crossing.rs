//! What crosses a tunnel: requests and what belongs to them, and nothing else.

use std::borrow::Cow;

use super::control::{is_error, is_own_failure};
use super::events::Level;
use super::loads::Loads;
use super::state::State;
use super::too_large::{self, Instead};
use super::tunnel::{Broken, Tunnel};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::system::SYSTEM;
use crate::proto::{Envelope, MessageType, members};

/// Returns whether a frame of the own server is meant for the other one. The answers to the link itself are
/// not, and an error among them means that the link does not serve what it should.
pub(super) fn goes_out(state: &mut State, frame: &[u8]) -> Result<bool, Broken> {
    let Ok(envelope) = Envelope::parse_binary(&frame[HEADER_BYTES..]) else { return Ok(false) };
    let is_system = envelope.channel_id().matches(SYSTEM);
    Ok(match envelope.message_type() {
        MessageType::Request => !is_system,
        MessageType::Notification => true,
        MessageType::Response if !is_system && envelope.reply_to().is_some() => true,
        MessageType::Response => {
            if is_error(envelope.payload_str()) {
                let text =
                    format!("the server refused its bridge something: {}", envelope.payload_str());
                state.complain(Level::Warn, "server link", text);
                if is_own_failure(&envelope) {
                    return Err(Broken("the own server refused its link a channel"));
                }
            }
            false
        }
        _ => false,
    })
}

/// Writes the whole frames of the other server to the link.
pub(super) fn pass_in(
    state: &mut State,
    application: &str,
    tunnel: &mut Tunnel,
    loads: &mut Loads,
) -> Result<(), Broken> {
    let link = tunnel.link;
    let (mut written, mut back) = (0, Vec::new());
    while let Some(frame) = tunnel.frame(state.frame_bytes_most)? {
        match check(state, application, frame) {
            Ok(_) if frame.len() - HEADER_BYTES > state.frame_bytes_max => {
                // The other server did not know yet that the limit is lower now.
                let instead = over_limit(state, frame, state.frame_bytes_max);
                back.extend(instead.back);
                written += state.write_link(link, &instead.on);
            }
            Ok(asked) => {
                if let Some(channel) = asked {
                    loads.note_request(application, &channel, state.now);
                }
                written += state.write_link(link, frame);
            }
            Err(why) => state.refuse(why),
        }
    }
    tunnel.wrote(written);
    if !back.is_empty() {
        tunnel.send(&back, state.now);
    }
    Ok(())
}

/// Returns what is said in place of a frame over the limit of the server that it is for.
pub(super) fn over_limit(state: &mut State, frame: &[u8], body_bytes_max: usize) -> Instead {
    let instead = too_large::instead(&mut state.control, frame, body_bytes_max);
    if instead == Instead::default() {
        state.stats.too_large += 1;
        let text = format!(
            "a notification of {} bytes was not sent to another server, which takes no frame over \
             {body_bytes_max}; send less, or raise its --max-frame-bytes",
            frame.len() - HEADER_BYTES
        );
        state.complain(Level::Warn, "frame too large", text);
    }
    instead
}

/// Returns which channel's workers a frame of the other server asks, if it is a request, or why it is refused.
/// The own server checks the rest, as any peer's.
fn check<'a>(
    state: &State,
    application: &str,
    frame: &'a [u8],
) -> Result<Option<Cow<'a, str>>, &'static str> {
    let Ok(envelope) = Envelope::parse_binary(&frame[HEADER_BYTES..]) else {
        return Err("a frame in a tunnel that is no message");
    };
    if !envelope.app_id().matches(application) {
        return Err("a message of another application than its tunnel is for");
    }
    let channel = envelope.channel_id();
    match envelope.message_type() {
        kind @ (MessageType::Request | MessageType::Notification)
            if !channel.matches(SYSTEM) && state.settings.is_shared(&channel.decode()) =>
        {
            Ok((kind == MessageType::Request).then(|| channel.decode()))
        }
        MessageType::Request => Err("a request on a channel that is not shared"),
        MessageType::Response if channel.matches(SYSTEM) || envelope.reply_to().is_none() => {
            Err("a response that answers no request")
        }
        MessageType::Response => Ok(None),
        MessageType::Notification => {
            let action = members(envelope.payload_str(), ["action"]);
            let action = action.and_then(|[action]| action.string());
            let is_known =
                action.is_some_and(|action| action.matches("cancel") || action.matches("credit"));
            if is_known && channel.matches(SYSTEM) {
                Ok(None)
            } else {
                Err(
                    "a notification on a channel that is not shared, and neither a cancel nor credit",
                )
            }
        }
        _ => Err("a message in a tunnel that belongs to no request"),
    }
}
