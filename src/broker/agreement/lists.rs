//! Whoever waits stands in the list of those who wait for the same.

use super::counted::{agree, requests, sessions};
use crate::broker::state::budget::MemoryPressure;
use crate::broker::state::connection::{Connection, Held, Owed, Session, State};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ConnectionKey, RequestKey};
use crate::broker::state::requests::Answerer;
use crate::proto::SharedFrame;

pub(super) fn check(core: &Core) -> Result<(), String> {
    for (key, connection) in core.connections.iter() {
        let is_listed = match connection.held {
            Held::No | Held::NextTurn => true,
            Held::Behind(obstacle) => core.router.has_in_line(obstacle, key),
            Held::Memory => core.budget.paused.contains(&key),
            Held::Search => {
                let topic = connection.session().and_then(|session| session.topic.as_ref());
                topic.is_some_and(|topic| topic.search.is_some())
            }
            Held::Work(lane) => core.turn.has_in_lane(lane, key),
            Held::Sharing => core.agenda.sharing.iter().any(|asked| asked.key == key),
        };
        if !is_listed {
            return Err(format!("{key:?} waits as {:?}, and is not listed", connection.held));
        }
        check_state(core, key, connection)?;
    }
    if core.budget.pressure != MemoryPressure::Pausing && !core.budget.paused.is_empty() {
        return Err("somebody waits for memory although there is enough".to_owned());
    }
    sessions(core).try_for_each(|(key, session)| check_session(core, key, session))?;
    let bytes = requests(core).filter_map(|request| match request.answerer {
        Answerer::Kept(_) => core.requests.kept_bytes(request),
        _ => None,
    });
    let noted = core.router.channels.iter().map(|(_, channel)| channel.service.kept.bytes()).sum();
    agree("bytes of what is kept", noted, bytes.sum())
}

fn check_state(core: &Core, key: ConnectionKey, connection: &Connection) -> Result<(), String> {
    let is_listed = match connection.state() {
        State::Handshake => connection.is_link() || core.connections.has_newcomer(key),
        State::Superseded => core.connections.has_superseded(key),
        _ => true,
    };
    if !is_listed {
        return Err(format!("{key:?} is not listed among those in its state"));
    }
    let waits = !matches!(connection.held, Held::No | Held::NextTurn);
    if !connection.is_live() && (waits || connection.recv.capacity() > 0) {
        return Err(format!("{key:?} is closed, and keeps what it had as {:?}", connection.held));
    }
    Ok(())
}

fn check_session(core: &Core, key: ConnectionKey, session: &Session) -> Result<(), String> {
    let own = session.requests.iter().filter_map(|request| core.requests.get(*request));
    let bytes = own.clone().map(|request| {
        let call = core.requests.call(request);
        let retry = call.and_then(|call| call.retry.as_ref()).map_or(0, SharedFrame::capacity);
        request.id_bytes() + core.requests.kept_bytes(request).unwrap_or(0) + retry
    });
    agree("memory of a connection's requests", session.request_bytes, bytes.sum())?;
    if let Some(index) = &session.calls {
        agree("requests by id", index.len(), session.requests.len())?;
        let finds = |key: &&RequestKey| {
            core.requests.get(**key).is_some_and(|request| index.has(request.message_id(), **key))
        };
        agree("requests by their ids", index.len(), session.requests.iter().filter(finds).count())?;
    }
    let worker = core.connections.get(key);
    let is_resumed =
        worker.is_none_or(|found| found.congested.is_some() || found.takes_kept || found.doomed);
    let owed = session.worker.iter().flat_map(|duties| &duties.owed);
    if owed.clone().next().is_some() && !is_resumed {
        return Err(format!("{key:?} is never told what it is owed"));
    }
    for request in session.worker.iter().flat_map(|duties| &duties.in_flight) {
        let call = core.requests.get(*request).and_then(|found| core.requests.call(found));
        let Some(stream) = call.and_then(|call| call.stream) else { continue };
        let places = owed.clone().filter(|owed| **owed == Owed::Credit(*request)).count();
        if stream.is_listed != (places > 0) || places > 1 {
            return Err(format!("{key:?} is owed credit in {places} places"));
        }
    }
    Ok(())
}
