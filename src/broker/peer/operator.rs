//! The operator: a peer on a Unix socket that runs as the server's own user.

use crate::broker::state::core::Core;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::peer::Peer;
use crate::broker::state::refusal::{self, Refusal};

/// Checks that the peer may do what is the operator's alone.
pub(crate) fn check(core: &Core, from: ConnectionKey) -> Result<(), Refusal> {
    let peer = core.connections.get(from).map(|connection| Peer::from(connection.peer));
    match peer {
        Some(Peer::Unix { user: Some(user), .. }) if core.server.uid == Some(user.uid) => Ok(()),
        _ => Err(refusal::operator_alone()),
    }
}
