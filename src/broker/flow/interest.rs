//! Tells the process of first and last clients, subscribers and workers, if it wants to know. Links to
//! other servers are none of them.

use crate::broker::state::buses::BUS_IDLE_MAX;
use crate::broker::state::core::Core;
use crate::broker::state::interest::{Interest, InterestHook, InterestIn, Listener};
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey, NodeKey};
use crate::broker::state::router::{Channel, Told};
use crate::broker::state::timers::Due;

/// Sets a hook, and tells it what is there.
#[cold]
pub(crate) fn install(core: &mut Core, listener: Listener, hook: InterestHook) {
    core.interests.set(listener, hook);
    let router = &mut core.router;
    router.applications.values_mut().for_each(|application| application.is_told = false);
    router.channels.values_mut().for_each(|channel| channel.told = Told::default());
    router.patterns.nodes.values_mut().for_each(|node| node.is_told = false);
    for application in core.router.applications.keys() {
        note_application(core, application);
    }
    for channel in core.router.channels.keys() {
        note_subscribers(core, channel);
        note_workers(core, channel);
    }
    for node in core.router.patterns.nodes.keys() {
        note_pattern(core, node);
    }
    core.interests.all_told();
}

/// Tells whether an application is wanted, if that has changed.
#[inline]
pub(crate) fn note_application(core: &mut Core, key: ApplicationKey) {
    if core.interests.has_hook() {
        look_at_application(core, key);
    }
}

/// Does the same. Returns whether it has changed.
#[cold]
pub(crate) fn look_at_application(core: &mut Core, key: ApplicationKey) -> bool {
    let Some(application) = core.router.applications.get_mut(key) else { return false };
    let is_wanted = application.is_wanted();
    if application.is_told == is_wanted {
        return false;
    }
    application.is_told = is_wanted;
    tell(core, key, InterestIn::Application, is_wanted);
    mind_bus(core, key);
    true
}

/// Begins the time after which the bus link of an application ends, or takes it back: it stays while the
/// application is wanted, and for a while longer.
pub(crate) fn mind_bus(core: &mut Core, key: ApplicationKey) {
    let Some(application) = core.router.applications.get(key) else { return };
    let Some(bus) = application.bus else { return };
    let end = core.turn.deadline_in(BUS_IDLE_MAX);
    let idle = (!application.is_wanted()).then_some((end, Due::Bus(bus)));
    if let Some(connection) = core.connections.get_mut(bus) {
        core.timers.reset(&mut connection.timer, idle);
    }
}

/// Tells whether a channel has subscribers, if that has changed.
#[inline]
pub(crate) fn note_subscribers(core: &mut Core, key: ChannelKey) {
    if core.interests.has_hook() {
        look_at_subscribers(core, key);
    }
}

#[cold]
fn look_at_subscribers(core: &mut Core, key: ChannelKey) {
    let Some(channel) = core.router.channels.get(key) else { return };
    let is_wanted = has_subscribers(core, key, channel);
    let Some(channel) = core.router.channels.get_mut(key) else { return };
    if channel.told.subscribers != is_wanted {
        channel.told.subscribers = is_wanted;
        let (application, id) = (channel.application, channel.id.clone());
        tell(core, application, InterestIn::Channel(&id), is_wanted);
    }
}

/// Returns whether a connection has subscribed to a channel by its name.
pub(crate) fn has_subscribers(core: &Core, key: ChannelKey, channel: &Channel) -> bool {
    if !channel.subscribers.is_empty() {
        return true;
    }
    // Those who hear it through a pattern may also be sent what was kept.
    let joins = |who: &ConnectionKey| {
        core.connections.session(*who).is_some_and(|own| own.subscriptions.contains_key(&key))
    };
    let topic = channel.topic.as_ref();
    topic.is_some_and(|topic| !topic.conflating.is_empty() || topic.replaying.iter().any(joins))
}

/// Tells whether a channel is served, if that has changed.
#[inline]
pub(crate) fn note_workers(core: &mut Core, key: ChannelKey) {
    if core.interests.has_hook() {
        look_at_workers(core, key);
    }
}

#[cold]
fn look_at_workers(core: &mut Core, key: ChannelKey) {
    let Some(channel) = core.router.channels.get_mut(key) else { return };
    let is_wanted = channel.is_served();
    if channel.told.workers != is_wanted {
        channel.told.workers = is_wanted;
        let (application, id) = (channel.application, channel.id.clone());
        tell(core, application, InterestIn::Workers(&id), is_wanted);
    }
}

/// Tells whether a pattern has subscribers, if that has changed.
#[inline]
pub(crate) fn note_pattern(core: &mut Core, key: NodeKey) {
    if core.interests.has_hook() {
        look_at_pattern(core, key);
    }
}

#[cold]
fn look_at_pattern(core: &mut Core, key: NodeKey) {
    let Some(node) = core.router.patterns.nodes.get_mut(key) else { return };
    let (is_wanted, application) = (node.subscribers() > 0, node.application);
    if node.is_told != is_wanted {
        node.is_told = is_wanted;
        let pattern = core.router.patterns.text(key);
        tell(core, application, InterestIn::Pattern(&pattern), is_wanted);
    }
}

fn tell(core: &mut Core, application: ApplicationKey, subject: InterestIn<'_>, is_wanted: bool) {
    let Some(application) = core.router.applications.get(application) else { return };
    let interest = Interest { application: &application.id, subject, is_wanted };
    if core.interests.tell(&interest) {
        core.counters.handler_panics += 1;
        crate::trace::handler_failed(&application.id, None, "the hook for interest panicked");
    }
}
