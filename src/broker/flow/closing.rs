//! All ways in which a connection ends, and the errors that end one.

use std::time::Duration;

use super::topic::{patterns, searches};
use super::{answers, interest, queues, requests, subscriptions, workers};
use crate::branches::{self, Branch};
use crate::broker::limits::{HANDSHAKE_PARTS, LINGER, REFUSALS_MAX};
use crate::broker::state::budget::{Budget, CONNECTION_BYTES};
use crate::broker::state::connection::{Connection, Held, State};
use crate::broker::state::core::Core;
use crate::broker::state::encoder::Address;
use crate::broker::state::events::{Action, ConnectionEvent};
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::peer::PackedPeer;
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::timers::Due;
use crate::proto::system::SYSTEM;
use crate::proto::{Envelope, ErrorCode, MessageType};
use crate::trace::Who;

/// Answers a message with an error, and closes the connection if the code says so.
pub(crate) fn refuse(core: &mut Core, to: ConnectionKey, envelope: &Envelope<'_>, why: &Refusal) {
    if !why.code.closes_connection() {
        answers::refuse(core, to, envelope, why);
        return;
    }
    if envelope.message_type() == MessageType::Response {
        core.counters.responses_ignored += 1;
    } else {
        let reply_to = answers::reply_to(envelope);
        answers::say_last(core, to, Address::of(envelope), reply_to, why);
        trace_refused(core, to, why, Some(envelope));
    }
    begin(core, to);
}

/// Answers a message with an error, and closes the connection whatever the code says.
pub(crate) fn refuse_and_close(
    core: &mut Core,
    key: ConnectionKey,
    envelope: &Envelope<'_>,
    why: &Refusal,
) {
    refuse(core, key, envelope, why);
    begin(core, key);
}

/// Sends a connection the reason why it is closed, and closes it.
pub(crate) fn report(core: &mut Core, to: ConnectionKey, why: &Refusal) {
    if why.code.closes_connection() {
        let application = answers::own_application(core, to);
        let address = Address { app_id: &application, channel_id: SYSTEM };
        answers::say_last(core, to, address, None, why);
        trace_refused(core, to, why, None);
    } else {
        answers::report(core, to, why);
    }
    begin(core, to);
}

/// Logs that a connection is closed for an error. In its handshake, it is its message that names the
/// application.
fn trace_refused(core: &Core, to: ConnectionKey, why: &Refusal, sent: Option<&Envelope<'_>>) {
    if why.code == ErrorCode::TakenOver {
        // A take-over is routine on reconnect: not logged.
    } else if core.connections.session(to).is_some() {
        crate::trace::closed_for(&core.who(to), why.code.as_str(), &why.text);
    } else {
        let asked = sent.map(|envelope| envelope.app_id().decode());
        let who = Who { application: asked.as_deref(), ..core.who(to) };
        // A wrong token is what the code says, and its text would repeat the application.
        let reason = (why.code != ErrorCode::AuthFailed).then_some(&*why.text);
        crate::trace::refused(&who, why.code.as_str(), reason);
    }
}

/// Closes a connection after its queue is sent. Nothing more is read.
pub(crate) fn begin(core: &mut Core, key: ConnectionKey) {
    if !core.connections.get(key).is_some_and(Connection::is_live) {
        return;
    }
    leave(core, key, State::Closing);
    let deadline = core.turn.deadline_in(core.limits.slow_consumer_grace);
    let Some(connection) = core.connections.get_mut(key) else { return };
    core.timers.reset(&mut connection.timer, Some((deadline, Due::Linger(key))));
    connection.ask_for_flush(key, &mut core.agenda);
}

/// Gives a connection that is being closed its time anew, unless everything is sent.
pub(crate) fn wait_longer(core: &mut Core, key: ConnectionKey) {
    let deadline = core.turn.deadline_in(core.limits.slow_consumer_grace);
    match core.connections.get_mut(key) {
        Some(connection) if matches!(connection.state(), State::Closing) => {
            core.timers.reset(&mut connection.timer, Some((deadline, Due::Linger(key))));
        }
        _ => close_now(core, key),
    }
}

/// Shuts the write side once everything is sent, and gives the peer time to read it.
pub(crate) fn linger(core: &mut Core, key: ConnectionKey) {
    let deadline = core.turn.deadline_in(LINGER);
    let Some(connection) = core.connections.get_mut(key) else { return };
    core.timers.reset(&mut connection.timer, Some((deadline, Due::Linger(key))));
    core.connections.enter(key, State::Lingering);
    core.agenda.actions.push_back(Action::FinishWrite(key));
}

/// Closes a connection at once.
pub(crate) fn close_now(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get(key) else { return };
    match connection.state() {
        State::Handshake | State::Open(_) | State::Superseded => leave(core, key, State::Closed),
        State::Closing | State::Lingering => core.connections.enter(key, State::Closed),
        State::Closed => return,
    }
    let Some(connection) = core.connections.get_mut(key) else { return };
    core.budget.tables_bytes -= CONNECTION_BYTES + connection.transport_bytes as usize;
    core.budget.rings_bytes -= connection.rings_bytes();
    #[cfg(any(all(test, feature = "net"), feature = "simulation"))]
    if let (Some(unsent), false) = (&mut core.agenda.unsent, connection.send.is_empty()) {
        unsent.push(key);
    }
    connection.send.release(&mut core.pool);
    core.timers.reset(&mut connection.timer, None);
    core.agenda.actions.push_back(Action::Close(key));
}

/// Handles a newer connection that has the id of an older one.
///
/// The older one gets `taken_over` at once, unless it is a published client. One that called
/// `disconnect` and then `connect` has a thread left that still waits on the old connection, and
/// if anything wakes it, it reads the new connection's bytes. Such a client therefore gets the error
/// when it next sends something. Until then it may be closed to make room, see [`make_room`]. For
/// that reason, a client that is still owed bytes gets the error at once as well: those bytes wake
/// its thread anyway, and they reach it before the connection is closed.
pub(crate) fn supersede(core: &mut Core, older: ConnectionKey, newer: ConnectionKey) {
    let Some(connection) = core.connections.get(older) else { return };
    let splits_writes = connection.splits_writes;
    let is_owed = !connection.send.is_empty() || connection.transport_holds;
    // The same id means the same program, which writes in the same way.
    if let Some(newer) = core.connections.get_mut(newer) {
        newer.splits_writes |= splits_writes;
    }
    if !splits_writes || is_owed {
        branches::note(Branch::SupersededAndTold);
        report(core, older, &refusal::taken_over());
        return;
    }
    branches::note(Branch::SupersededInSilence);
    leave(core, older, State::Superseded);
    let idle = core.limits.idle_timeout.map(|timeout| core.turn.deadline_in(timeout));
    if let Some(connection) = core.connections.get_mut(older) {
        let idle = idle.map(|deadline| (deadline, Due::Idle(older)));
        core.timers.reset(&mut connection.timer, idle);
    }
}

/// Sends `taken_over` to a superseded connection that sent something, so that its thread is awake.
pub(crate) fn tell_taken_over(core: &mut Core, key: ConnectionKey) {
    branches::note(Branch::SupersededSpoke);
    // A superseded connection takes no messages, whereas one in its handshake does.
    core.connections.enter(key, State::Handshake);
    report(core, key, &refusal::taken_over());
}

/// Makes room for a new connection. If necessary, it closes the connection that was superseded first,
/// or the one that has been in its handshake for the longest time. Returns whether there is room.
pub(crate) fn make_room(core: &mut Core) -> bool {
    // Connections closed in this turn are still in the table, but no longer count. A peer that
    // reconnects at once is therefore not refused.
    if core.connections.present() < core.limits.connections_max {
        return true;
    }
    let Some(key) = core.connections.first_superseded() else { return evict(core) };
    branches::note(Branch::SupersededEvicted);
    if core.connections.refused() < REFUSALS_MAX {
        dismiss(core, key);
    } else {
        close_now(core, key);
    }
    true
}

/// Takes the place of a superseded connection, which gets everything that the kernel still has for
/// it. It is not told: a message would make the old thread of a published client read the bytes of
/// its new connection, see [`supersede`], and it has said nothing since.
fn dismiss(core: &mut Core, key: ConnectionKey) {
    core.connections.refuse(key);
    leave(core, key, State::Closing);
    linger(core, key);
}

/// Closes the connection that has been in its handshake for the longest time, if it had time to
/// complete it. Returns whether there is one.
fn evict(core: &mut Core) -> bool {
    let spared = core.limits.handshake_timeout / HANDSHAKE_PARTS * (HANDSHAKE_PARTS - 1);
    let due_before = core.turn.deadline_in(spared);
    let Some(key) = core.connections.first_newcomer() else { return false };
    let timer = core.connections.get(key).and_then(|connection| connection.timer);
    let is_late = timer.is_some_and(|timer| timer.deadline() <= due_before);
    if is_late {
        branches::note(Branch::HandshakeEvicted);
        time_out_handshake(core, key);
    }
    is_late
}

/// Closes a connection that did not complete its handshake in time, without an error.
pub(crate) fn time_out_handshake(core: &mut Core, key: ConnectionKey) {
    branches::note(Branch::HandshakeTimedOut);
    crate::trace::handshake_timeout(&core.who(key));
    core.counters.handshake_timeouts += 1;
    close_now(core, key);
}

/// Closes a slow consumer, whose queue was over its high-water mark for the whole grace.
pub(crate) fn end_grace(core: &mut Core, key: ConnectionKey) {
    let queued = core.connections.get(key).map_or(0, |connection| connection.send.len());
    crate::trace::slow_consumer(&core.who(key), queued);
    branches::note(Branch::GraceEnded);
    core.counters.slow_consumers += 1;
    close_now(core, key);
}

/// Closes a connection that was silent for too long. The timer is checked when it expires, instead of
/// being reset by every message.
pub(crate) fn check_idle(core: &mut Core, key: ConnectionKey) {
    let Some(timeout) = core.limits.idle_timeout else { return };
    let Some(connection) = core.connections.get_mut(key) else { return };
    if connection.is_held_back() {
        connection.last_activity = core.turn.now.monotonic.into();
    }
    let deadline = Duration::from(connection.last_activity).saturating_add(timeout);
    if deadline > core.turn.judged {
        branches::note(Branch::IdleSpared);
        connection.timer = Some(core.timers.arm(deadline, Due::Idle(key)));
    } else {
        branches::note(Branch::IdleClosed);
        crate::trace::idle_closed(&core.who(key));
        core.counters.idle_closed += 1;
        close_now(core, key);
    }
}

/// Removes a live connection from all tables and lists.
fn leave(core: &mut Core, key: ConnectionKey, next: State) {
    if !core.connections.get(key).is_some_and(Connection::is_live) {
        return;
    }
    queues::unpark(core, key);
    queues::uncongest(core, key);
    core.turn.forget(key, &mut core.connections, &mut core.agenda);
    let Some(connection) = core.connections.get_mut(key) else { return };
    Budget::forget(key, connection, &mut core.agenda);
    if connection.held == Held::Sharing {
        connection.held = Held::No;
        core.agenda.sharing.retain(|asked| asked.key != key);
    }
    searches::release(core, key);
    let Some(connection) = core.connections.get_mut(key) else { return };
    let peer = connection.peer;
    if !matches!(next, State::Superseded) {
        connection.recv.release(&mut core.pool);
    }
    core.timers.reset(&mut connection.timer, None);
    let Some(session) = core.connections.end_session(key, next) else { return };
    if let Some(connection) = core.connections.get_mut(key) {
        // What waited until its queue is shorter went with its session.
        connection.is_replaying = false;
        connection.mind_room();
    }
    for (&channel, &seat) in &session.subscriptions {
        subscriptions::remove(core, channel, seat);
    }
    if let Some(topic) = session.topic {
        patterns::leave(core, key, session.application, *topic);
    }
    if let Some(worker) = session.worker {
        workers::retire(core, key, session.application, *worker);
    }
    core.budget.tables_bytes -= session.calls.map_or(0, |index| index.bytes());
    for request in session.requests {
        requests::abandon(core, request);
    }
    for channel in session.created {
        core.router.release(channel);
    }
    if matches!(peer, PackedPeer::Link) {
        if let Some(application) = core.router.applications.get_mut(session.application) {
            application.links -= 1;
            if application.bus == Some(key) {
                application.bus = None;
                core.buses.remove(key);
            }
        }
        return core.router.forget_if_unused(session.application);
    }
    if let Some(application) = core.router.applications.get_mut(session.application) {
        let app_id = application.id.clone();
        // After a take-over the id belongs to the newer connection.
        if application.connections.get(&session.id) == Some(&key) {
            application.connections.remove(&session.id);
        }
        interest::note_application(core, session.application);
        core.router.forget_if_unused(session.application);
        crate::trace::disconnected(&Who { application: Some(&app_id), ..core.who(key) });
        let connection_id = session.id;
        let event = ConnectionEvent { opened: false, key, app_id, connection_id, peer };
        core.agenda.events.push(event);
    }
}
