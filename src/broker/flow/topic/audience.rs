//! Who hears a publication on a topical channel: the subscribers of the channel and those of all
//! patterns that match its name.

use crate::broker::flow::forms::SHARED_BY_MIN;
use crate::broker::state::connection::{Obstacle, Round};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey, NodeKey};
use crate::broker::state::router::{Channel, Router};
use crate::broker::state::topic::seat::List;
use crate::broker::state::topic::{MATCHES_KEPT_MAX, Matches};

/// So many nodes that a look-up visits are as much work as a delivery.
const VISITS_PER_WORK: usize = 4;

/// Those who hear the publications of a channel, or of a name that has none. The patterns that match
/// leave their place while a publication is delivered.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(crate) struct Matching {
    pub(crate) nodes: Vec<NodeKey>,
    /// Some of the subscribers conflate.
    pub(crate) conflates: bool,
    /// Some of the patterns are heard by links.
    pub(crate) has_links: bool,
    /// Some subscribers of the channel are still sent what was kept.
    pub(crate) is_replaying: bool,
    /// The channel gives places to its publications.
    pub(crate) has_history: bool,
    /// Subscribers of the channel that do not conflate.
    subscribers: usize,
    /// The channel that keeps the patterns. `None`: they are looked up for each publication.
    kept_by: Option<ChannelKey>,
}

impl Matching {
    fn of(nodes: Vec<NodeKey>, conflates: bool, has_links: bool) -> Self {
        Self {
            nodes,
            conflates,
            has_links,
            is_replaying: false,
            has_history: false,
            subscribers: 0,
            kept_by: None,
        }
    }

    /// Adds what the channel itself has.
    #[inline]
    fn with_channel(self, channel: &Channel) -> Self {
        let topic = channel.topic.as_ref();
        Self {
            conflates: self.conflates || topic.is_some_and(|topic| !topic.conflating.is_empty()),
            is_replaying: topic.is_some_and(|topic| !topic.replaying.is_empty()),
            has_history: topic.is_some_and(|topic| topic.history.is_some()),
            subscribers: channel.subscribers.len(),
            ..self
        }
    }

    /// Returns whether so many hear a publication that their queues are to share small frames, too. A
    /// pattern counts as one of them.
    #[inline]
    pub(crate) fn are_many(&self) -> bool {
        self.subscribers + self.nodes.len() >= SHARED_BY_MIN
    }
}

/// The number of those who hear a publication.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    pub(crate) subscribers: usize,
    /// Each publication has to be delivered by itself.
    pub(crate) is_one_by_one: bool,
}

/// Returns the extent of a publication's audience, if it is known and nothing may stand in its way.
#[inline]
pub(crate) fn extent(router: &Router, channel: ChannelKey) -> Option<Extent> {
    let target = router.channels.get(channel).filter(|target| target.congested == 0)?;
    let tree = router.applications.get(target.application)?.patterns.as_ref();
    let own = target.subscribers.len();
    match (&target.topic, tree) {
        (Some(topic), None) => {
            let subscribers = own + topic.conflating.len();
            Some(Extent { subscribers, is_one_by_one: topic.is_one_by_one() })
        }
        (Some(topic), Some(tree)) => {
            let Matches { conflate, subscribers, counted_at, .. } = topic.matches;
            let is_known = topic.matches.is_of(tree) && counted_at == tree.changes;
            if !is_known || router.patterns.congested > 0 {
                return None;
            }
            let subscribers = own + topic.conflating.len() + subscribers;
            Some(Extent { subscribers, is_one_by_one: conflate || topic.is_one_by_one() })
        }
        (None, _) => None,
    }
}

/// Returns the extent of a publication's audience, or what stands in its way.
#[cold]
#[inline(never)]
pub(crate) fn measure(core: &mut Core, channel: ChannelKey) -> Result<Extent, Obstacle> {
    let Some(target) = core.router.channels.get(channel) else { return Ok(Extent::default()) };
    if target.congested > 0 {
        return Err(Obstacle::Subscriber(channel));
    }
    let topic = target.topic.as_ref();
    let subscribers = target.subscribers.len() + topic.map_or(0, |topic| topic.conflating.len());
    let is_one_by_one = topic.is_some_and(|topic| topic.is_one_by_one());
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
        extent.subscribers += node.subscribers() + node.links.len();
        extent.is_one_by_one |= !node.conflating.is_empty();
    }
    Ok(extent)
}

/// Takes the patterns that match a channel's name. They are looked up if they have changed.
pub(crate) fn take(core: &mut Core, channel: ChannelKey) -> Matching {
    let router = &mut core.router;
    let none = Matching::of(Vec::new(), false, false);
    let Some(target) = router.channels.get_mut(channel) else { return none };
    let owner = router.applications.get(target.application);
    match (&mut target.topic, owner.and_then(|own| own.patterns.as_ref())) {
        (Some(topic), Some(tree)) if topic.matches.is_of(tree) => {
            let nodes = std::mem::take(&mut topic.matches.nodes);
            let Matches { conflate, link, .. } = topic.matches;
            let matching = Matching::of(nodes, conflate, link).with_channel(target);
            return Matching { kept_by: Some(channel), ..matching };
        }
        (Some(topic), None) if !topic.matches.is_any() && !topic.is_idle() => {
            return none.with_channel(target);
        }
        _ => {}
    }
    take_anew(core, channel)
}

#[cold]
#[inline(never)]
fn take_anew(core: &mut Core, channel: ChannelKey) -> Matching {
    let found = core.router.channels.get(channel);
    let Some(target) = found else { return Matching::of(Vec::new(), false, false) };
    let owner = core.router.applications.get(target.application);
    let has_patterns = owner.is_some_and(|own| own.patterns.is_some());
    let matching = if has_patterns {
        look_up(core, channel)
    } else {
        forget(core, channel);
        Matching::of(Vec::new(), false, false)
    };
    match core.router.channels.get(channel) {
        Some(target) => matching.with_channel(target),
        None => matching,
    }
}

/// The application has no patterns any more, so that the channel may be a plain one again.
#[cold]
fn forget(core: &mut Core, channel: ChannelKey) {
    core.router.change_topic(channel, |topic| topic.matches = Matches::default());
    core.router.forget_idle_topic(channel);
}

#[cold]
fn look_up(core: &mut Core, channel: ChannelKey) -> Matching {
    let found = core.router.channels.get(channel).map(|it| (it.application, it.id.clone()));
    let Some((application, id)) = found else {
        return Matching::of(Vec::new(), false, false);
    };
    let Matching { nodes, conflates, has_links, .. } = look_up_name(core, application, &id);
    let tree = core.router.applications.get(application).and_then(|own| own.patterns);
    let generation = tree.map_or(0, |tree| tree.generation);
    let are_many = nodes.len() > MATCHES_KEPT_MAX;
    core.router.ensure_topic(channel);
    core.router.change_topic(channel, |topic| {
        topic.matches.generation = generation;
        topic.matches.are_many = are_many;
        topic.matches.conflate = conflates;
        topic.matches.link = has_links;
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
        return Matching::of(nodes, conflates, has_links);
    }
    core.router.patterns.scratch = nodes;
    let topic = core.router.channels.get_mut(channel).and_then(|target| target.topic.as_mut());
    let kept = topic.map(|topic| std::mem::take(&mut topic.matches.nodes));
    let matching = Matching::of(kept.unwrap_or_default(), conflates, has_links);
    Matching { kept_by: Some(channel), ..matching }
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
    let found = || nodes.iter().filter_map(|key| core.router.patterns.nodes.get(*key));
    let conflates = found().any(|node| !node.conflating.is_empty());
    let has_links = found().any(|node| !node.links.is_empty());
    Matching::of(nodes, conflates, has_links)
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

    /// Delivers to a link, which gets it as the publisher sent it, without a place in a history.
    fn deliver_to_link(&mut self, core: &mut Core, link: ConnectionKey);
}

/// Delivers to each subscription of the channel and of the patterns. One that conflates by one of its
/// subscriptions conflates. Returns the number of deliveries, and of subscriptions, both without links,
/// which get it only if it does not come from one.
pub(crate) fn for_each(
    core: &mut Core,
    channel: Option<ChannelKey>,
    matching: &Matching,
    is_of_link: bool,
    to: &mut impl Deliver,
) -> (usize, usize) {
    let round = begin_round(core, channel, matching.is_replaying);
    let mut count = Count::default();
    if matching.conflates {
        pass(core, channel, matching, List::Conflating, round, to, &mut count);
    }
    pass(core, channel, matching, List::Live, round, to, &mut count);
    if matching.has_links && !is_of_link {
        pass_to_links(core, matching, round, to);
    }
    (count.taken, count.all)
}

#[inline(never)]
fn pass_to_links(core: &mut Core, matching: &Matching, round: Round, to: &mut impl Deliver) {
    for node in &matching.nodes {
        let Some(links) = core.router.patterns.take_list(*node, List::Link) else { continue };
        for link in &links {
            if core.connections.is_first(*link, round) {
                to.deliver_to_link(core, *link);
            }
        }
        core.turn.note_work(links.len());
        core.router.patterns.put_list(*node, List::Link, links);
    }
}

#[derive(Default)]
struct Count {
    taken: usize,
    all: usize,
}

/// Delivers to those in one kind of list.
#[expect(clippy::inline_always, reason = "there is less to do where the kind of list is known")]
#[inline(always)]
fn pass(
    core: &mut Core,
    channel: Option<ChannelKey>,
    matching: &Matching,
    list: List,
    round: Round,
    to: &mut impl Deliver,
    count: &mut Count,
) {
    if let Some(channel) = channel
        && (list != List::Live || matching.subscribers > 0)
        && let Some(keys) = core.router.take_list(channel, list)
    {
        count.all += keys.len();
        for key in &keys {
            let hearer = Hearer { key: *key, list, by_pattern: false, round };
            count.taken += usize::from(to.deliver(core, hearer));
        }
        core.router.put_list(channel, list, keys);
    }
    for node in &matching.nodes {
        if let Some(key) = core.router.patterns.only(*node, list) {
            count.all += 1;
            let hearer = Hearer { key, list, by_pattern: true, round };
            count.taken += usize::from(to.deliver(core, hearer));
            continue;
        }
        let Some(keys) = core.router.patterns.take_list(*node, list) else { continue };
        count.all += keys.len();
        for key in &keys {
            let hearer = Hearer { key: *key, list, by_pattern: true, round };
            count.taken += usize::from(to.deliver(core, hearer));
        }
        core.router.patterns.put_list(*node, list, keys);
    }
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
