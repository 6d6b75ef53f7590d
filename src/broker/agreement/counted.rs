//! What is noted, against what is there.

use crate::broker::state::connection::Session;
use crate::broker::state::core::Core;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::requests::PendingRequest;

pub(super) fn agree(what: &str, noted: usize, counted: usize) -> Result<(), String> {
    let text = || format!("{what}: {noted} are noted, and {counted} are there");
    if noted == counted { Ok(()) } else { Err(text()) }
}

pub(super) fn sessions(core: &Core) -> impl Iterator<Item = (ConnectionKey, &Session)> {
    core.connections.iter().filter_map(|(key, connection)| Some((key, connection.session()?)))
}

pub(super) fn requests(core: &Core) -> impl Iterator<Item = &PendingRequest> {
    core.requests.keys().into_iter().filter_map(|key| core.requests.get(key))
}
