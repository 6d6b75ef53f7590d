//! Applications get and lose what keeps them: the process, clients, and links to other servers.

use std::sync::Arc;

use super::topic::patterns;
use super::{channels, closing, interest};
use crate::broker::state::budget::CONNECTION_BYTES;
use crate::broker::state::buses::BUS_ID;
use crate::broker::state::connection::{Session, State};
use crate::broker::state::core::Core;
use crate::broker::state::events::Action;
use crate::broker::state::keys::{ApplicationKey, ConnectionKey};
use crate::broker::state::peer::PackedPeer;
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::topic::wanted::Wanted;
use crate::proto::Extensions;

/// Creates an application or finds it, and keeps it for the life of the server.
///
/// # Panics
/// If the id could not stand in a message.
pub(crate) fn pin(core: &mut Core, id: &str, name: Option<&str>) -> ApplicationKey {
    channels::assert_usable(id);
    let key = core.router.find_or_create_application(id, core.turn.now.unix);
    if let Some(application) = core.router.applications.get_mut(key) {
        application.pinned = true;
        if let Some(name) = name {
            application.name = name.into();
        }
    }
    note_wanted(core, key);
    key
}

/// Tells whoever wants to know of an application that has got a client, or that the process has created.
#[inline]
pub(crate) fn note_wanted(core: &mut Core, key: ApplicationKey) {
    if core.interests.has_hook() {
        look_at(core, key);
    }
}

#[cold]
fn look_at(core: &mut Core, key: ApplicationKey) {
    if interest::look_at_application(core, key) {
        open_bus(core, key);
    }
}

/// Shares what matches the patterns with other servers from now on.
#[cfg(any(test, feature = "nats", feature = "simulation"))]
pub(crate) fn share(core: &mut Core, patterns: impl IntoIterator<Item = String>) {
    core.buses.patterns = patterns.into_iter().collect();
    for application in core.router.applications.keys() {
        open_bus(core, application);
    }
}

/// Opens the bus link of an application, unless it has one. It hears all that the first client publishes,
/// because the client has not been heard yet.
fn open_bus(core: &mut Core, key: ApplicationKey) {
    if core.buses.patterns.is_empty() || core.is_draining() {
        return;
    }
    let Some(application) = core.router.applications.get(key) else { return };
    if !application.is_wanted() || application.bus.is_some() || !has_room(core) {
        return;
    }
    let (now, frame_bytes_max) = (core.turn.now.monotonic, core.limits.frame_bytes_max);
    let link = core.connections.insert(now, frame_bytes_max, PackedPeer::Link);
    if let Some(connection) = core.connections.get_mut(link) {
        connection.extensions = Extensions::ALL;
        // It is flushed when it has a socket, and not before.
        connection.flush_due = true;
    }
    core.budget.tables_bytes += CONNECTION_BYTES;
    open_link(core, link, key, &BUS_ID.into());
    core.agenda.actions.push_back(Action::Attach(link));
    let wanted = Wanted { pattern: true, ..Wanted::default() };
    for pattern in core.buses.patterns.clone().iter() {
        if patterns::subscribe(core, link, key, pattern, &wanted).is_err() {
            // Memory is short. Whoever holds the other end finds it closed, and opens another one later.
            return closing::close_now(core, link);
        }
    }
}

/// Returns whether there is room for another bus link. If necessary, it closes the one whose application
/// has been without clients for the longest time.
fn has_room(core: &mut Core) -> bool {
    if !core.buses.is_full() {
        return true;
    }
    let idle_until = |link: &ConnectionKey| core.connections.get(*link)?.timer;
    let idle = core.buses.iter().filter_map(|link| Some((idle_until(&link)?, link)));
    let Some((_, longest)) = idle.min_by_key(|(timer, _)| *timer) else { return false };
    closing::begin(core, longest);
    true
}

/// Refuses a second bus link of an application, by which other servers would hear everything twice.
pub(crate) fn check_link(core: &mut Core, app_id: &str, id: &str) -> Result<(), Refusal> {
    if id != BUS_ID {
        return Ok(());
    }
    let application = core.router.application(app_id);
    let application = application.and_then(|key| core.router.applications.get(key));
    if application.is_some_and(|application| application.bus.is_some()) {
        return Err(refusal::bus_is_there());
    }
    if has_room(core) { Ok(()) } else { Err(refusal::too_many_buses()) }
}

/// Opens a link, which is no client: nobody is told of it, nobody takes it over, and its silence does not
/// end it.
#[cold]
pub(crate) fn open_link(core: &mut Core, link: ConnectionKey, key: ApplicationKey, id: &Arc<str>) {
    let Some(application) = core.router.applications.get_mut(key) else { return };
    application.links += 1;
    let Some(connection) = core.connections.get_mut(link) else { return };
    core.timers.reset(&mut connection.timer, None);
    let session = Session::new(key, id.clone(), core.turn.now.unix);
    core.connections.enter(link, State::Open(session));
    if &**id == BUS_ID {
        application.bus = Some(link);
        core.buses.insert(link);
        interest::mind_bus(core, key);
    }
}
