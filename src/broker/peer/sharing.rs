//! `share_memory`: a connection on a Unix socket goes over to rings in shared memory. The driver makes
//! them; here is decided who gets some, and what is said to him.

use serde::Serialize;

use crate::broker::flow::answers;
use crate::broker::limits::RINGS_MEMORY_PARTS;
use crate::broker::state::connection::Held;
use crate::broker::state::core::Core;
use crate::broker::state::encoder::Address;
use crate::broker::state::events::{Action, Asked, Turnover};
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::refusal::{self, Refusal};
use crate::proto::system::SYSTEM;
use crate::proto::{Envelope, ErrorCode, MessageType, only_member};

/// The layout of the memory that both sides have to agree on.
const VERSION: &str = "1";

#[derive(Serialize)]
struct Shared {
    status: &'static str,
    version: u32,
    ring_bytes: usize,
}

/// A request for shared memory. If nothing speaks against it, it waits for the driver, and so does all
/// that comes behind it.
#[cold]
pub(crate) fn ask(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
) -> Result<(), Refusal> {
    let Some(connection) = core.connections.get(from) else { return Ok(()) };
    if connection.rings_bytes() > 0 {
        return Err(refusal::shares_already());
    }
    if !core.limits.shared_memory || !connection.peer.is_on_unix_socket() {
        return Err(refusal::memory_not_shared());
    }
    if connection.extensions.is_empty() {
        return Err(refusal::sharing_without_extension());
    }
    if only_member(envelope.payload_str(), "version").ok().flatten() != Some(VERSION) {
        return Err(refusal::sharing_version_unknown());
    }
    if core.is_draining() {
        return Err(refusal::shutting_down());
    }
    check_room(core)?;
    let message_id = envelope.message_id().raw().into();
    core.agenda.sharing.push(Asked { key: from, message_id });
    core.agenda.actions.push_back(Action::Share(from));
    if let Some(connection) = core.connections.get_mut(from) {
        connection.held = Held::Sharing;
    }
    Ok(())
}

/// Returns an error if there is no memory for two more rings.
fn check_room(core: &mut Core) -> Result<(), Refusal> {
    core.budget.take_on(ErrorCode::LimitExceeded, &mut core.counters)?;
    let bytes_max = core.limits.memory_bytes_max / RINGS_MEMORY_PARTS;
    let rings_bytes = core.budget.rings_bytes;
    if rings_bytes.saturating_add(2 * core.limits.ring_bytes) > bytes_max {
        return Err(refusal::rings_take_too_much(rings_bytes, bytes_max));
    }
    Ok(())
}

/// Has the driver make the rings, and answers the request. Returns where the connection goes over to
/// them, unless it stays on the socket.
#[cold]
pub(crate) fn carry_out(
    core: &mut Core,
    key: ConnectionKey,
    make: impl FnOnce(usize) -> Result<usize, String>,
) -> Option<Turnover> {
    let at = core.agenda.sharing.iter().position(|asked| asked.key == key)?;
    let Asked { message_id, .. } = core.agenda.sharing.swap_remove(at);
    let connection = core.connections.get_mut(key)?;
    connection.held = Held::No;
    core.agenda.actions.push_back(Action::Resume(key));
    let (before_bytes, ring_bytes) = (connection.send.len(), core.limits.ring_bytes);
    let answered = if connection.recv.is_empty() {
        check_room(core).and_then(|()| make(ring_bytes).map_err(|why| refusal::no_rings(&why)))
    } else {
        Err(refusal::sent_behind_sharing())
    };
    let application = answers::own_application(core, key);
    let address = Address { app_id: &application, channel_id: SYSTEM };
    let reply_to = Some(message_id.as_bytes());
    let taken_bytes = match answered {
        Ok(taken_bytes) => taken_bytes,
        Err(why) => {
            answers::say(core, key, address, reply_to, &why);
            return None;
        }
    };
    let shared = Shared { status: "shared", version: 1, ring_bytes };
    let answer =
        answers::encode_own(core, address, MessageType::Response, reply_to, &shared).ok()?;
    if !answers::send(core, key, answer) {
        return None;
    }
    let connection = core.connections.get_mut(key)?;
    connection.transport_bytes += taken_bytes as u32;
    core.budget.tables_bytes += taken_bytes;
    core.budget.rings_bytes += taken_bytes;
    core.counters.memory_shared += 1;
    Some(Turnover { before_bytes, answer_bytes: connection.send.len() - before_bytes })
}
