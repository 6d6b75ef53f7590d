//! Who hears a publication on a topical channel: the subscribers of the channel and those of all
//! patterns that match its name.

use crate::broker::state::connection::{Obstacle, Round};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey, NodeKey};
use crate::broker::state::router::Channel;
use crate::broker::state::topic::seat::List;
use crate::broker::state::topic::{MATCHES_KEPT_MAX, Matches};

/// So many nodes that a look-up visits are as much work as a delivery.
const VISITS_PER_WORK: usize = 4;

/// The patterns that match a name. They leave their place while a publication is delivered.
pub(crate) struct Matching {
    pub(crate) nodes: Vec<NodeKey>,
    /// Some of their subscribers conflate.
    conflate: bool,
    /// The channel that keeps them. `None`: they are looked up for each publication.
    kept_by: Option<ChannelKey>,
}

/// The number of those who hear a publication.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    pub(crate) subscribers: usize,
    /// Each publication has to be delivered by itself.
    pub(crate) is_one_by_one: bool,
}

/// Returns the extent of a publication's audience, or what stands in its way.
pub(crate) fn measure(core: &mut Core, channel: ChannelKey) -> Result<Extent, Obstacle> {
    let router = &core.router;
    let Some(target) = router.channels.get(channel) else { return Ok(Extent::default()) };
    if target.congested > 0 {
        return Err(Obstacle::Subscriber(channel));
    }
    let topic = target.topic.as_ref();
    let subscribers = target.subscribers.len() + topic.map_or(0, |topic| topic.conflating.len());
    let is_one_by_one = topic.is_some_and(|topic| topic.is_one_by_one());
    let tree = router.applications.get(target.application).and_then(|own| own.patterns.as_ref());
    if tree.is_none() {
        return Ok(Extent { subscribers, is_one_by_one });
    }
    if let (Some(tree), Some(topic)) = (tree, topic)
        && topic.matches.is_of(tree)
        && topic.matches.counted_at == tree.changes
        && router.patterns.congested == 0
    {
        let Matches { conflate, subscribers: of_patterns, .. } = topic.matches;
        let subscribers = subscribers + of_patterns;
        return Ok(Extent { subscribers, is_one_by_one: is_one_by_one || conflate });
    }
    let matching = take(core, channel);
    let of_patterns = measure_patterns(core, &matching);
    give_back(core, matching);
    let of_patterns = of_patterns?;
    note_count(core, channel, of_patterns.subscribers);
    Ok(Extent {
        subscribers: subscribers + of_patterns.subscribers,
        is_one_by_one: is_one_by_one || of_patterns.is_one_by_one,
    })
}

/// Remembers the subscribers of the patterns that match, until one comes or goes.
fn note_count(core: &mut Core, channel: ChannelKey, subscribers: usize) {
    let router = &mut core.router;
    let Some(target) = router.channels.get_mut(channel) else { return };
    let tree = router.applications.get(target.application).and_then(|own| own.patterns.as_ref());
    if let (Some(tree), Some(topic)) = (tree, &mut target.topic) {
        (topic.matches.subscribers, topic.matches.counted_at) = (subscribers, tree.changes);
    }
}

/// Does the same for the patterns alone.
pub(crate) fn measure_patterns(core: &Core, matching: &Matching) -> Result<Extent, Obstacle> {
    let mut extent = Extent::default();
    for key in &matching.nodes {
        let Some(node) = core.router.patterns.nodes.get(*key) else { continue };
        if node.congested > 0 {
            return Err(Obstacle::Pattern(*key));
        }
        extent.subscribers += node.subscribers();
        extent.is_one_by_one |= !node.conflating.is_empty();
    }
    Ok(extent)
}

/// Returns whether each publication on a channel has to be delivered by itself.
#[inline]
pub(crate) fn is_one_by_one(core: &mut Core, channel: ChannelKey) -> bool {
    let router = &core.router;
    let Some(target) = router.channels.get(channel) else { return false };
    if target.topic.as_ref().is_some_and(|topic| topic.is_one_by_one()) {
        return true;
    }
    let tree = router.applications.get(target.application).and_then(|own| own.patterns.as_ref());
    let Some(tree) = tree else { return false };
    if let Some(topic) = &target.topic
        && topic.matches.is_of(tree)
    {
        return topic.matches.conflate;
    }
    let matching = take(core, channel);
    let conflates = matching.conflate;
    give_back(core, matching);
    conflates
}

/// Takes the patterns that match a channel's name. They are looked up if they have changed.
pub(crate) fn take(core: &mut Core, channel: ChannelKey) -> Matching {
    let router = &mut core.router;
    let none = Matching { nodes: Vec::new(), conflate: false, kept_by: None };
    let Some(target) = router.channels.get_mut(channel) else { return none };
    let Some(tree) = router.applications.get(target.application).and_then(|own| own.patterns)
    else {
        // A channel with a history stays topical.
        if target
            .topic
            .as_ref()
            .is_none_or(|topic| topic.history.is_none() || topic.matches.is_any())
        {
            forget(core, channel);
        }
        return none;
    };
    if let Some(topic) = &mut target.topic
        && topic.matches.is_of(&tree)
    {
        let nodes = std::mem::take(&mut topic.matches.nodes);
        return Matching { nodes, conflate: topic.matches.conflate, kept_by: Some(channel) };
    }
    look_up(core, channel)
}

/// The application has no patterns any more, so that the channel may be a plain one again.
#[cold]
fn forget(core: &mut Core, channel: ChannelKey) {
    core.router.change_topic(channel, |topic| topic.matches = Matches::default());
    core.router.forget_idle_topic(channel);
}

#[cold]
fn look_up(core: &mut Core, channel: ChannelKey) -> Matching {
    let none = Matching { nodes: Vec::new(), conflate: false, kept_by: None };
    let Some(target) = core.router.channels.get(channel) else { return none };
    let (application, id) = (target.application, target.id.clone());
    let Matching { nodes, conflate, .. } = look_up_name(core, application, &id);
    let tree = core.router.applications.get(application).and_then(|own| own.patterns);
    let generation = tree.map_or(0, |tree| tree.generation);
    let are_many = nodes.len() > MATCHES_KEPT_MAX;
    core.router.ensure_topic(channel);
    core.router.change_topic(channel, |topic| {
        topic.matches.generation = generation;
        topic.matches.are_many = are_many;
        topic.matches.conflate = conflate;
        topic.matches.counted_at = 0;
        topic.matches.nodes.clear();
        if are_many {
            topic.matches.nodes = Vec::new();
        } else {
            topic.matches.nodes.extend_from_slice(&nodes);
        }
        topic.matches.count = topic.matches.nodes.len();
    });
    if are_many {
        return Matching { nodes, conflate, kept_by: None };
    }
    core.router.patterns.scratch = nodes;
    let topic = core.router.channels.get_mut(channel).and_then(|target| target.topic.as_mut());
    let kept = topic.map(|topic| std::mem::take(&mut topic.matches.nodes));
    Matching { nodes: kept.unwrap_or_default(), conflate, kept_by: Some(channel) }
}

/// Looks up the patterns that match a name, of which there need not be a channel.
pub(crate) fn look_up_name(core: &mut Core, application: ApplicationKey, name: &str) -> Matching {
    let router = &mut core.router;
    let mut nodes = std::mem::take(&mut router.patterns.scratch);
    nodes.clear();
    if let Some(own) = router.applications.get_mut(application)
        && let Some(tree) = &mut own.patterns
    {
        let visited = router.patterns.find(tree, name, |node| nodes.push(node));
        tree.visited_max = tree.visited_max.max(visited);
        core.turn.note_work(visited / VISITS_PER_WORK);
    }
    let mut found = nodes.iter().filter_map(|key| core.router.patterns.nodes.get(*key));
    let conflate = found.any(|node| !node.conflating.is_empty());
    Matching { nodes, conflate, kept_by: None }
}

/// Returns whether some are still sent what was kept of a channel.
#[inline]
pub(crate) fn is_replaying(core: &Core, channel: ChannelKey) -> bool {
    let topic = core.router.channels.get(channel).and_then(|found| found.topic.as_ref());
    topic.is_some_and(|topic| !topic.replaying.is_empty())
}

/// Puts the patterns back where they are kept.
pub(crate) fn give_back(core: &mut Core, matching: Matching) {
    let Some(channel) = matching.kept_by else {
        core.router.patterns.scratch = matching.nodes;
        return;
    };
    let channel = core.router.channels.get_mut(channel);
    if let Some(topic) = channel.and_then(|channel| channel.topic.as_mut()) {
        topic.matches.nodes = matching.nodes;
    }
}

/// One who hears a publication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hearer {
    pub(crate) key: ConnectionKey,
    pub(crate) list: List,
    /// It hears the channel through a pattern.
    pub(crate) by_pattern: bool,
    /// Whoever delivers marks the connection, and delivers nothing if it is not the first time.
    pub(crate) round: Round,
}

/// What is done for each of them. It is no closure, because only a method can be written into the loops.
pub(crate) trait Deliver {
    /// Delivers to one, if it is reached for the first time. Returns whether it was delivered.
    fn deliver(&mut self, core: &mut Core, to: Hearer) -> bool;
}

/// Delivers to each subscription of the channel and of the patterns. One that conflates by one of its
/// subscriptions conflates. Returns the number of deliveries, and of subscriptions.
pub(crate) fn for_each(
    core: &mut Core,
    channel: Option<ChannelKey>,
    matching: &Matching,
    to: &mut impl Deliver,
) -> (usize, usize) {
    let found = channel.and_then(|channel| core.router.channels.get(channel));
    let (mut conflates, mut is_replaying) = (matching.conflate, false);
    if let Some(Channel { topic: Some(topic), .. }) = found {
        conflates |= !topic.conflating.is_empty();
        is_replaying = !topic.replaying.is_empty();
    }
    let round = begin_round(core, channel, is_replaying);
    let (mut taken, mut all) = (0, 0);
    let lists = if conflates { &[List::Conflating, List::Live][..] } else { &[List::Live] };
    for &list in lists {
        if let Some(channel) = channel
            && let Some(keys) = core.router.take_list(channel, list)
        {
            all += keys.len();
            for key in &keys {
                let hearer = Hearer { key: *key, list, by_pattern: false, round };
                taken += usize::from(to.deliver(core, hearer));
            }
            core.router.put_list(channel, list, keys);
        }
        for node in &matching.nodes {
            if let Some(key) = core.router.patterns.only(*node, list) {
                all += 1;
                let hearer = Hearer { key, list, by_pattern: true, round };
                taken += usize::from(to.deliver(core, hearer));
                continue;
            }
            let Some(keys) = core.router.patterns.take_list(*node, list) else { continue };
            all += keys.len();
            for key in &keys {
                let hearer = Hearer { key: *key, list, by_pattern: true, round };
                taken += usize::from(to.deliver(core, hearer));
            }
            core.router.patterns.put_list(*node, list, keys);
        }
    }
    (taken, all)
}

/// Begins a round in which those are not reached that wait for the publication in what is kept.
#[inline]
fn begin_round(core: &mut Core, channel: Option<ChannelKey>, is_replaying: bool) -> Round {
    let round = core.connections.begin_round();
    if is_replaying
        && let Some(found) = channel.and_then(|channel| core.router.channels.get(channel))
        && let Some(topic) = &found.topic
    {
        topic.replaying.iter().for_each(|key| _ = core.connections.is_first(*key, round));
    }
    round
}
