//! Finds the channels of which a new pattern is to be sent what is kept, some in each turn.
//!
//! Live publications reach the pattern from its beginning. Where one comes before the search has looked at
//! its channel, the replay of that begins first. So the search has to look only at what was kept before it.

use super::{audience, replays, verdicts};
use crate::broker::state::connection::Held;
use crate::broker::state::core::Core;
use crate::broker::state::events::Action;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::topic::search::Search;
use crate::proto::pattern;

/// The channels that one connection's search looks at in a turn, as long as a few hundred deliveries.
pub(crate) const LOOKS_PER_TURN: usize = 1_024;
/// So many looks are as much work as a delivery.
const LOOKS_PER_WORK: usize = 8;

/// Begins the search of a connection.
pub(crate) fn begin(core: &mut Core, key: ConnectionKey, pattern: &str, last: u32) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    (connection.is_replaying, connection.awaits_room) = (true, true);
    let Some(session) = connection.session_mut() else { return };
    let searches = &mut core.router.searches;
    (searches.begun, searches.running) = (searches.begun + 1, searches.running + 1);
    let (pattern, number) = (pattern.into(), searches.begun);
    let search = Search { pattern, last, number, behind: None };
    session.topic.get_or_insert_default().search = Some(Box::new(search));
}

/// Returns the channels among the next ones that match, and whether those were the last ones. `None`: the
/// connection searches for nothing.
pub(crate) fn next(core: &mut Core, key: ConnectionKey) -> Option<(Vec<ChannelKey>, bool)> {
    let session = core.connections.session_mut(key)?;
    let search = session.topic.as_mut()?.search.as_mut()?;
    let owner = core.router.applications.get(session.application)?;
    let mut found = Vec::new();
    let mut looks = 0;
    for &channel in owner.kept_behind(search.behind).take(LOOKS_PER_TURN) {
        looks += 1;
        search.behind = Some(channel);
        let Some(target) = core.router.channels.get(channel) else { continue };
        let is_new = target.topic.as_ref().is_some_and(|topic| topic.searched < search.number);
        if is_new && pattern::matches(&search.pattern, &target.id) {
            found.push(channel);
        }
    }
    core.turn.note_work(looks / LOOKS_PER_WORK + found.len());
    Some((found, looks < LOOKS_PER_TURN))
}

/// Has a connection wait with its next messages for the end of its search.
pub(crate) fn hold(core: &mut Core, key: ConnectionKey) {
    if let Some(connection) = core.connections.get_mut(key) {
        connection.held = Held::Search;
        core.turn.queue_replay(key, &mut core.connections);
    }
}

/// Begins the replay of a channel that was found, unless the connection hears it otherwise. Where a filter
/// has not been asked about it, because it is published to first, the connection gets that publication alone.
pub(crate) fn take(core: &mut Core, key: ConnectionKey, channel: ChannelKey) {
    let session = core.connections.session(key);
    let search = session.and_then(|session| session.topic.as_ref()?.search.as_ref());
    let Some(last) = search.map(|search| search.last) else { return };
    let Some(target) = core.router.channels.get(channel) else { return };
    if !verdicts::refuses(core, key, &target.id) {
        replays::begin_of_pattern(core, key, channel, last);
    }
}

/// Ends a search that has looked at all channels, and lets the connection go on with its messages.
pub(crate) fn end(core: &mut Core, key: ConnectionKey) {
    let session = core.connections.session_mut(key);
    let topic = session.and_then(|session| session.topic.as_mut());
    if topic.and_then(|topic| topic.search.take()).is_none() {
        return;
    }
    core.router.searches.running -= 1;
    release(core, key);
    replays::mind(core, key);
    core.look_again(key);
}

/// Lets a connection go on, or leave, that was held back for its search.
pub(crate) fn release(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    if connection.held == Held::Search {
        connection.held = Held::No;
        // Its socket was not read meanwhile, so an end of the stream may not have been noticed.
        core.agenda.actions.push_back(Action::Resume(key));
    }
}

/// Has all searches look at a channel now, because it is published to.
#[cold]
pub(crate) fn catch_up(core: &mut Core, channel: ChannelKey) {
    let begun = core.router.searches.begun;
    let Some(target) = core.router.channels.get_mut(channel) else { return };
    let id = target.id.clone();
    let Some(topic) = &mut target.topic else { return };
    let before = std::mem::replace(&mut topic.searched, begun);
    if before == begun || !topic.keeps() {
        return;
    }
    let matching = audience::take(core, channel);
    let mut readers = Vec::new();
    for node in matching.nodes.iter().filter_map(|key| core.router.patterns.nodes.get(*key)) {
        core.turn.note_work(node.subscribers() / LOOKS_PER_WORK);
        readers.extend(node.live.iter().chain(&node.conflating).filter(|key| {
            let session = core.connections.session(**key);
            let search = session.and_then(|session| session.topic.as_ref()?.search.as_ref());
            search.is_some_and(|search| {
                search.number > before
                    && search.behind.is_none_or(|behind| behind < channel)
                    && pattern::matches(&search.pattern, &id)
            })
        }));
    }
    audience::give_back(core, matching);
    for key in readers {
        take(core, key, channel);
    }
}
