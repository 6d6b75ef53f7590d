//! Facts that the state has in two places, so that a message needs no search: counts of lists, lists
//! that point at one another, and memory. The tests check after each turn that both places say the
//! same.

use std::collections::BTreeMap;

use self::counted::{agree, requests, sessions};
use super::broker::Broker;
use super::state::budget::{
    CALL_BYTES, CONNECTION_BYTES, OWED_BYTES, REPLAY_BYTES, REQUEST_BYTES, SUBSCRIPTION_BYTES,
};
use super::state::connection::{Connection, Held, Obstacle, State, Worker};
use super::state::core::Core;
use super::state::keys::{ChannelKey, ConnectionKey};
use super::state::requests::Answerer;
use super::state::router::{Application, Channel};
use super::state::topic::seat::{List, Seat};
use super::state::topic::session::Pending;

mod counted;
mod interests;
mod lists;
mod timers;

/// The users of a channel that its own lists do not name.
#[derive(Default)]
struct Users {
    requests: usize,
    kept: usize,
    waiting: usize,
    creators: usize,
    /// Sessions that have not joined a list of the channel yet.
    joining: usize,
    of_workers: BTreeMap<ConnectionKey, usize>,
}

impl Broker {
    /// Checks that no two places of the state contradict each other.
    pub(crate) fn check_agreement(&self) -> Result<(), String> {
        let core = &self.core;
        check_connections(core)?;
        check_requests(core)?;
        check_memory(core)?;
        check_applications(core)?;
        check_patterns(core)?;
        check_kept(core)?;
        interests::check(core)?;
        lists::check(core)?;
        timers::check(core)?;
        let mut users = users(core);
        core.router.channels.iter().try_for_each(|(key, channel)| {
            let users = users.remove(&key).unwrap_or_default();
            check_channel(core, key, channel, &users)
                .map_err(|why| format!("channel {}: {why}", channel.id))
        })
    }
}

fn check_connections(core: &Core) -> Result<(), String> {
    let connections = &core.connections;
    let count = |is_it: &dyn Fn(&Connection) -> bool| {
        connections.iter().filter(|(_, connection)| is_it(connection)).count()
    };
    agree(
        "sessions",
        connections.sessions(),
        count(&|found| found.session().is_some() && !found.is_link()),
    )?;
    agree("refused connections", connections.refused(), count(&Connection::is_refused))?;
    let is_superseded = |found: &Connection| matches!(found.state(), State::Superseded);
    agree("superseded connections", connections.superseded(), count(&is_superseded))?;
    let is_closed = |found: &Connection| matches!(found.state(), State::Closed);
    let is_present =
        |found: &Connection| !found.is_refused() && !is_closed(found) && !found.is_link();
    agree("places that are taken", connections.present(), count(&is_present))?;
    for (key, connection) in connections.iter() {
        let pending = connection.pending().map_or(0, Pending::len);
        let awaits = pending > 0 || connection.is_replaying || connection.congested.is_some();
        if connection.awaits_room != awaits {
            return Err(format!("{key:?} is not told when its queue has room"));
        }
        if pending > 0 && connection.send.is_empty() {
            return Err(format!("{key:?} does not get what waits for it"));
        }
    }
    Ok(())
}

fn check_requests(core: &Core) -> Result<(), String> {
    let mut unanswered = 0;
    for (key, session) in sessions(core) {
        unanswered += session.requests.len();
        for request in &session.requests {
            if core.requests.get(*request).is_none_or(|request| request.requester != key) {
                return Err(format!("{key:?} waits for {request:?}, which is not its own"));
            }
        }
        if let Some(worker) = &session.worker {
            check_worker(core, key, worker).map_err(|why| format!("worker {key:?}: {why}"))?;
        }
    }
    agree("requests of all connections", unanswered, core.requests.len())
}

fn check_worker(core: &Core, key: ConnectionKey, worker: &Worker) -> Result<(), String> {
    let mut stalled = 0;
    for (at, request) in worker.in_flight.iter().enumerate() {
        let Some(found) = core.requests.get(*request) else {
            return Err(format!("{request:?} is over, and still listed"));
        };
        if found.answerer != Answerer::Worker(key, at as u32) {
            return Err(format!("{request:?} is with {:?}, and listed at {at}", found.answerer));
        }
        let stream = core.requests.call(found).and_then(|call| call.stream);
        stalled += usize::from(stream.is_some_and(|stream| stream.is_stalled()));
    }
    agree("streams that wait for credit", worker.stalled, stalled)?;
    if worker.in_flight.len() > stalled && worker.silent_since.is_none() {
        return Err("it has something to answer, and its silence is not measured".to_owned());
    }
    let is_served = |channel: &&ChannelKey| {
        let channel = core.router.channels.get(**channel);
        channel.is_some_and(|channel| channel.service.worker(key).is_some())
    };
    agree("channels", worker.channels.len(), worker.channels.iter().filter(is_served).count())
}

fn check_memory(core: &Core) -> Result<(), String> {
    let open = core.connections.iter().map(|(_, connection)| connection);
    let open = open.filter(|connection| !matches!(connection.state(), State::Closed));
    let all = core.connections.iter().filter(|(_, found)| !matches!(found.state(), State::Closed));
    let rings_bytes = all.map(|(_, open)| open.rings_bytes()).sum();
    agree("bytes of all rings", core.budget.rings_bytes, rings_bytes)?;
    let of_connections = open.map(|open| CONNECTION_BYTES + open.transport_bytes as usize);
    let of_sessions = sessions(core).map(|(_, session)| {
        let owed = session.worker.as_ref().map_or(0, |worker| worker.owed.len());
        let patterns = session.topic.as_ref().map_or(0, |topic| topic.patterns.len());
        let replays = session.topic.as_ref().map_or(0, |topic| topic.replays.len());
        (session.subscriptions.len() + patterns) * SUBSCRIPTION_BYTES
            + replays * REPLAY_BYTES
            + session
                .topic
                .as_ref()
                .map_or(0, |topic| topic.pending.bytes() + topic.verdicts.bytes())
            + owed * OWED_BYTES
            + session.calls.as_ref().map_or(0, |index| index.bytes())
    });
    let of_requests = requests(core).map(|request| {
        let call_bytes = if request.has_call() { CALL_BYTES } else { 0 };
        REQUEST_BYTES + request.id_bytes() + call_bytes
    });
    let bytes = of_connections.chain(of_sessions).chain(of_requests).sum();
    agree("bytes of the tables", core.budget.tables_bytes, bytes)
}

fn check_applications(core: &Core) -> Result<(), String> {
    let router = &core.router;
    let (mut bytes, mut names_bytes, mut members) = (0, 0, 0);
    for (key, application) in router.applications.iter() {
        let Application { connections, channels, .. } = application;
        let own = || router.channels_of(key);
        agree("channels by name", channels.len(), own().count())?;
        let has_links = application.links > 0;
        if !(application.pinned || has_links) && connections.is_empty() && channels.is_empty() {
            return Err(format!("nobody uses the application {:?}", application.id));
        }
        let workers = own().map(|channel| channel.service.workers.len()).sum();
        agree("workers of an application", application.workers, workers)?;
        let own_bytes = own().map(|channel| channel.id_json.len()).sum();
        agree("bytes of an application's names", application.names_bytes, own_bytes)?;
        bytes += application.bytes() + own().map(Channel::bytes).sum::<usize>();
        names_bytes += application.id_json.len() + own_bytes;
        members += connections.len();
    }
    let named = sessions(core).filter(|(key, session)| {
        let application = router.applications.get(session.application);
        application.is_some_and(|found| found.connections.get(&session.id) == Some(key))
    });
    agree("connections by name", members, named.count())?;
    agree("bytes of the router", router.bytes, bytes)?;
    agree("bytes of all names", router.names_bytes, names_bytes)
}

fn check_patterns(core: &Core) -> Result<(), String> {
    let patterns = &core.router.patterns;
    let mut seats = 0;
    for (key, node) in patterns.nodes.iter() {
        let mut slow = 0;
        for list in [List::Live, List::Conflating, List::Link] {
            for (at, subscriber) in node.list(list).iter().enumerate() {
                let session = core.connections.session(*subscriber);
                let topic = session.and_then(|session| session.topic.as_ref());
                if topic.and_then(|topic| topic.patterns.get(&key)) != Some(&Seat::new(list, at)) {
                    let pattern = patterns.text(key);
                    return Err(format!("{subscriber:?} does not know of its pattern {pattern}"));
                }
                let connection = core.connections.get(*subscriber);
                let is_slow = connection.is_some_and(|found| found.congested.is_some());
                slow += usize::from(is_slow && list != List::Conflating);
                seats += 1;
            }
        }
        agree("slow subscribers of a pattern", node.congested as usize, slow)?;
    }
    let used = patterns.nodes.iter().filter(|(_, node)| node.subscribers() > 0).count();
    agree("patterns", patterns.count, used)?;
    let slow = patterns.nodes.iter().map(|(_, node)| node.congested as usize).sum();
    agree("slow subscribers of all patterns", patterns.congested, slow)?;
    let topics = sessions(core).filter_map(|(_, session)| session.topic.as_ref());
    agree("subscriptions to patterns", topics.map(|topic| topic.patterns.len()).sum(), seats)?;
    let trees = core.router.applications.iter().filter(|(_, owner)| owner.patterns.is_some());
    let waiting = core.connections.iter().flat_map(|(_, connection)| {
        let held = match connection.held {
            Held::Behind(obstacle) => Some(obstacle),
            _ => None,
        };
        held.into_iter().chain(connection.woken)
    });
    let waiting = waiting.filter(|obstacle| matches!(obstacle, Obstacle::Pattern(_))).count();
    let references = patterns.nodes.iter().map(|(_, node)| node.references as usize).sum();
    // Each node but the roots is one of the node before it.
    let nodes = patterns.nodes.len() - trees.count();
    agree("users of patterns", references, nodes + seats + waiting)?;
    agree(
        "bytes of patterns",
        patterns.bytes,
        patterns.nodes.iter().map(|(_, node)| node.bytes()).sum(),
    )
}

/// Checks histories, last values, and those who are still sent them.
fn check_kept(core: &Core) -> Result<(), String> {
    let topics = || core.router.channels.iter().filter_map(|(_, channel)| channel.topic.as_ref());
    let values = || topics().filter_map(|topic| topic.last.as_ref());
    let bytes = values().map(|value| value.frame.bytes().len()).sum();
    agree("last values", core.last_values.len(), values().count())?;
    agree("bytes of last values", core.last_values.bytes(), bytes)?;
    agree(
        "channels of which something is kept",
        core.router.holding,
        topics().filter(|topic| topic.holds).count(),
    )?;
    for topic in topics() {
        if topic.holds != topic.keeps() {
            return Err("a channel has a reference for what is not kept, or has none".to_owned());
        }
        let ages = topic.history.as_ref().is_some_and(|history| history.has_to_age());
        if ages != topic.ageing.is_some() {
            return Err("a history has a timer that it does not need, or has none".to_owned());
        }
    }
    let replays = sessions(core).flat_map(|(key, session)| {
        let topic = session.topic.iter();
        topic.flat_map(|topic| topic.replays.iter()).map(move |replay| (key, session, replay))
    });
    let mut count = 0;
    for (key, session, replay) in replays {
        count += 1;
        let channel = core.router.channels.get(replay.channel);
        let topic = channel.and_then(|channel| channel.topic.as_ref());
        if !topic.is_some_and(|topic| topic.replaying.contains(&key)) {
            return Err(format!("{key:?} is sent what was kept, and its channel does not know"));
        }
        let seat = session.subscriptions.get(&replay.channel).map(|seat| seat.list());
        if (seat == Some(List::Replaying)) != replay.joins.is_some() {
            return Err(format!("{key:?} has no subscription for what it is sent, or too many"));
        }
        let connection = core.connections.get(key);
        // Whoever is not waiting for its turn waits for its queue.
        let is_going_on = connection.is_some_and(|found| {
            found.is_replaying
                && (found.replay_queued || found.takes_kept || !found.send.is_empty())
        });
        if !is_going_on && connection.is_some_and(|found| !found.doomed) {
            return Err(format!("{key:?} is never sent the rest of what was kept"));
        }
    }
    agree("replays", topics().map(|topic| topic.replaying.len()).sum(), count)
}

fn check_channel(
    core: &Core,
    key: ChannelKey,
    channel: &Channel,
    users: &Users,
) -> Result<(), String> {
    let conflating = channel.topic.as_ref().map_or(&[][..], |topic| &topic.conflating);
    for (list, keys) in [(List::Live, &channel.subscribers[..]), (List::Conflating, conflating)] {
        for (at, subscriber) in keys.iter().enumerate() {
            let session = core.connections.session(*subscriber);
            let seat = session.and_then(|session| session.subscriptions.get(&key));
            if seat != Some(&Seat::new(list, at)) {
                return Err(format!("{subscriber:?} is listed at {at}, and does not know of it"));
            }
        }
    }
    let owner = core.router.applications.get(channel.application);
    let has_patterns = owner.is_some_and(|owner| owner.patterns.is_some());
    if (has_patterns || channel.topic.is_some()) && !channel.is_topical {
        return Err("its publications would take the plain route".to_owned());
    }
    let subscribers = channel.subscribers.iter();
    let slow = subscribers.filter_map(|key| core.connections.get(*key)?.congested).count();
    agree("slow subscribers", channel.congested as usize, slow)?;
    agree("requests that are kept", channel.service.kept.len(), users.kept)?;
    let of_worker = |worker| users.of_workers.get(&worker).copied().unwrap_or_default();
    channel.service.check_agreement(of_worker)?;
    let listed = channel.subscribers.len() + conflating.len() + channel.service.workers.len();
    let kept = usize::from(channel.topic.as_ref().is_some_and(|topic| topic.holds));
    let counted = listed + users.requests + users.waiting + users.creators + users.joining + kept;
    agree("users", channel.references as usize, counted)
}

fn users(core: &Core) -> BTreeMap<ChannelKey, Users> {
    let mut users = BTreeMap::<_, Users>::new();
    for request in requests(core) {
        let users = users.entry(request.channel).or_default();
        users.requests += 1;
        users.kept += usize::from(request.is_kept());
        if let Answerer::Worker(worker, _) = request.answerer {
            *users.of_workers.entry(worker).or_default() += 1;
        }
    }
    for (_, connection) in core.connections.iter() {
        let held = match connection.held {
            Held::Behind(obstacle) => Some(obstacle),
            _ => None,
        };
        for obstacle in held.into_iter().chain(connection.woken) {
            let (Obstacle::Subscriber(channel) | Obstacle::Worker(channel)) = obstacle else {
                continue;
            };
            users.entry(channel).or_default().waiting += 1;
        }
        for channel in connection.session().into_iter().flat_map(|session| &session.created) {
            users.entry(*channel).or_default().creators += 1;
        }
        let subscriptions = connection.session().into_iter().flat_map(|own| &own.subscriptions);
        for (channel, _) in subscriptions.filter(|(_, seat)| seat.list() == List::Replaying) {
            users.entry(*channel).or_default().joining += 1;
        }
    }
    users
}
