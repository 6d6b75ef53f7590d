//! Who hears a publication on a topical channel: the subscribers of the channel and those of all
//! patterns that match its name.

use crate::broker::state::connection::Obstacle;
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
    if let (Some(tree), Some(topic)) = (tree, &target.topic)
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
        forget(core, channel);
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

/// Calls a function for each subscriber of the channel and of the patterns, and for none twice. One
/// that conflates by one of its subscriptions conflates. The function is told whether it hears the
/// channel through a pattern. Returns how many of them took the publication,
/// and how many there are.
pub(crate) fn for_each(
    core: &mut Core,
    channel: Option<ChannelKey>,
    matching: &Matching,
    mut deliver: impl FnMut(&mut Core, ConnectionKey, List, bool) -> bool,
) -> (usize, usize) {
    core.connections.begin_round();
    if let Some(channel) = channel
        && is_replaying(core, channel)
        && let Some(topic) =
            core.router.channels.get(channel).and_then(|found| found.topic.as_ref())
    {
        // It waits for them in what is kept.
        topic.replaying.iter().for_each(|key| _ = core.connections.is_first_of_round(*key));
    }
    let (mut reached, mut asked) = (0, 0);
    let conflates = match channel.and_then(|channel| core.router.channels.get(channel)) {
        Some(Channel { topic: Some(topic), .. }) => !topic.conflating.is_empty(),
        _ => false,
    };
    let lists = if conflates || matching.conflate {
        &[List::Conflating, List::Live][..]
    } else {
        &[List::Live]
    };
    for &list in lists {
        if let Some(channel) = channel
            && let Some(keys) = core.router.take_list(channel, list)
        {
            for key in &keys {
                if core.connections.is_first_of_round(*key) {
                    asked += 1;
                    reached += usize::from(deliver(core, *key, list, false));
                }
            }
            core.router.put_list(channel, list, keys);
        }
        for node in &matching.nodes {
            if let Some(key) = core.router.patterns.only(*node, list) {
                if core.connections.is_first_of_round(key) {
                    asked += 1;
                    reached += usize::from(deliver(core, key, list, true));
                }
                continue;
            }
            let Some(keys) = core.router.patterns.take_list(*node, list) else { continue };
            for key in &keys {
                if core.connections.is_first_of_round(*key) {
                    asked += 1;
                    reached += usize::from(deliver(core, *key, list, true));
                }
            }
            core.router.patterns.put_list(*node, list, keys);
        }
    }
    (reached, asked)
}
