//! Each timer that runs is that of somebody, and whoever has to have one does.

use std::collections::BTreeMap;
use std::time::Duration;

use super::counted::{agree, requests};
use crate::broker::state::connection::{Connection, State};
use crate::broker::state::core::{Core, Lifecycle};
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::timers::{Due, TimerKey};

/// The timers that run and that nobody was found for yet.
struct Running(BTreeMap<TimerKey, Due>);

impl Running {
    /// Checks that a timer runs, and for what it should.
    fn take(&mut self, timer: TimerKey, due: Due) -> Result<(), String> {
        match self.0.remove(&timer) {
            Some(found) if found == due => Ok(()),
            found => Err(format!("the timer for {due:?} is one for {found:?}")),
        }
    }
}

pub(super) fn check(core: &Core) -> Result<(), String> {
    let mut running = Running(core.timers.iter().collect());
    for (key, connection) in core.connections.iter() {
        match (connection.timer, due(core, key, connection)) {
            (Some(timer), Some(due)) => running.take(timer, due)?,
            (None, None) => {}
            (timer, due) => return Err(format!("{due:?} should have a timer, and has {timer:?}")),
        }
        if let Some(timer) = connection.congested {
            running.take(timer, Due::Grace(key))?;
        }
    }
    for key in core.requests.keys() {
        let Some(call) = core.requests.get(key).and_then(|found| core.requests.call(found)) else {
            continue;
        };
        if let Some(ttl) = call.ttl {
            running.take(ttl.timer, Due::Deadline(key))?;
        }
        if let Some(timer) = call.stream.and_then(|stream| stream.timer) {
            running.take(timer, Due::Stream(key))?;
        }
    }
    if let Some(timer) = core.budget.grace {
        running.take(timer, Due::Memory)?;
    }
    for (key, channel) in core.router.channels.iter() {
        let Some(topic) = &channel.topic else { continue };
        let history = topic.history.as_ref();
        let too_old_at = history
            .and_then(|history| Some(Duration::from(history.oldest()?) + history.bounds().age?));
        match (topic.ageing, too_old_at) {
            // One that was armed for an older message may be early.
            (Some(timer), Some(too_old_at)) if timer.deadline() <= too_old_at => {
                running.take(timer, Due::Ageing(key))?;
            }
            (None, None) => {}
            (timer, at) => {
                return Err(format!("{}: {timer:?} is for what is too old at {at:?}", channel.id));
            }
        }
    }
    let drains = running.0.values().filter(|due| **due == Due::DrainDeadline).count();
    let is_draining = core.server.lifecycle == Lifecycle::Draining;
    agree("deadlines of a drain", usize::from(is_draining), drains)?;
    agree("timers of nobody", running.0.len(), drains)?;
    let live = requests(core).count();
    core.requests.check_timeouts(live)
}

/// What a connection has a deadline for.
fn due(core: &Core, key: ConnectionKey, connection: &Connection) -> Option<Due> {
    match connection.state() {
        State::Handshake => Some(Due::Handshake(key)),
        State::Open(session) if connection.is_link() => {
            let application = core.router.applications.get(session.application)?;
            (application.bus == Some(key) && !application.is_wanted()).then_some(Due::Bus(key))
        }
        State::Open(_) | State::Superseded => core.limits.idle_timeout.map(|_| Due::Idle(key)),
        State::Closing | State::Lingering => Some(Due::Linger(key)),
        State::Closed => None,
    }
}
