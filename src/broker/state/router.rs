//! The flat table of channels. The name of an application's channel leads to one entry, which has
//! all data of the channel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::arena::Arena;
use super::budget::{APPLICATION_BYTES, CHANNEL_BYTES};
use super::connection::Obstacle;
use super::keys::{
    ApplicationKey, ApplicationKind, ChannelKey, ChannelKind, ConnectionKey, NodeKey,
};
use super::latency::{ChannelLatencies, Departed};
use super::line::Line;
use super::service::Service;
use super::topic::Topic;
use super::topic::patterns::{Patterns, Tree};
use super::topic::search::Searches;
use super::topic::seat::List;
use crate::proto;

/// An application: a name space of channels and the connections that belong to it.
///
/// It exists while it is pinned by the embedder, or while it has a connection, a link or a channel.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) id: Arc<str>,
    /// The id as JSON text, without the quotes.
    pub(crate) id_json: Arc<str>,
    pub(crate) name: Box<str>,
    pub(crate) pinned: bool,
    pub(crate) created_at: Duration,
    pub(crate) last_activity: Duration,
    /// The connections by `connection_id`, ordered, so that a broadcast has a fixed order.
    pub(crate) connections: BTreeMap<Arc<str>, ConnectionKey>,
    /// The number of its links, which are no connections of clients.
    pub(crate) links: usize,
    /// The one of them that hears what its clients publish.
    pub(crate) bus: Option<ConnectionKey>,
    /// The process was told that it is wanted.
    pub(crate) is_told: bool,
    pub(crate) channels: HashMap<Arc<str>, ChannelKey>,
    /// Those of its channels of which anything is kept.
    pub(crate) kept: BTreeSet<ChannelKey>,
    /// The one of them up to which they were last looked at to make room for another one.
    pub(crate) looked_up_to: Option<ChannelKey>,
    /// Bytes of the channels' ids in a listing.
    pub(crate) names_bytes: usize,
    /// The workers of all channels; one that serves several counts once for each.
    pub(crate) workers: usize,
    /// The patterns that its connections subscribed to.
    pub(crate) patterns: Option<Tree>,
}

/// A channel of one application.
///
/// It exists while it is pinned by the embedder or `references` is not zero. There is one reference
/// for each subscriber, each worker, each unanswered request, each connection that is held back
/// because of it, and for the connection that first named it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(crate) struct Channel {
    pub(crate) id: Arc<str>,
    pub(crate) id_json: Arc<str>,
    pub(crate) application: ApplicationKey,
    pub(crate) pinned: bool,
    pub(crate) references: u32,
    pub(crate) created_at: Duration,
    pub(crate) subscribers: Vec<ConnectionKey>,
    pub(crate) service: Service,
    /// Subscribers whose queue is over its high-water mark.
    pub(crate) congested: u32,
    /// Connections held back because of a congested subscriber.
    publishers: Line,
    /// Connections held back because all workers are congested.
    requesters: Line,
    /// The process itself has handlers for it.
    pub(crate) has_handler: bool,
    /// A publication has more to do than to reach `subscribers`: the channel has a `topic`, or its
    /// application has patterns. The plain route tests this and nothing else of it.
    pub(crate) is_topical: bool,
    pub(crate) topic: Option<Box<Topic>>,
    /// Publications that no subscriber took.
    pub(crate) unheard: u64,
    /// The process has a handler of requests for it.
    pub(crate) answers: bool,
    /// The process was told that it has subscribers, or workers.
    pub(crate) told: Told,
    pub(crate) latencies: ChannelLatencies,
}

/// What the process was told of a channel, see `Broker::on_interest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) subscribers: bool,
    pub(crate) workers: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Router {
    pub(crate) applications: Arena<ApplicationKind, Application>,
    pub(crate) channels: Arena<ChannelKind, Channel>,
    pub(crate) patterns: Patterns,
    pub(crate) searches: Searches,
    /// Channels of which anything is kept.
    pub(crate) holding: usize,
    by_id: HashMap<Arc<str>, ApplicationKey>,
    /// Memory of all entries.
    pub(crate) bytes: usize,
    /// Bytes of the ids of all applications and channels in a listing.
    pub(crate) names_bytes: usize,
    pub(crate) departed: Departed,
    /// When all connections last gave up the channels that nobody uses.
    pub(crate) swept_at: Option<Duration>,
}

impl Router {
    pub(crate) fn application(&self, id: &str) -> Option<ApplicationKey> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn find_or_create_application(&mut self, id: &str, now: Duration) -> ApplicationKey {
        if let Some(key) = self.application(id) {
            return key;
        }
        let id: Arc<str> = id.into();
        let application = Application {
            id_json: proto::escape(&id).into(),
            name: (*id).into(),
            id: id.clone(),
            pinned: false,
            created_at: now,
            last_activity: now,
            connections: BTreeMap::new(),
            links: 0,
            bus: None,
            is_told: false,
            channels: HashMap::new(),
            kept: BTreeSet::new(),
            looked_up_to: None,
            names_bytes: 0,
            workers: 0,
            patterns: None,
        };
        self.bytes += application.bytes();
        self.names_bytes += application.id_json.len();
        let key = self.applications.insert(application);
        self.by_id.insert(id, key);
        key
    }

    pub(crate) fn channel(&self, application: ApplicationKey, id: &str) -> Option<ChannelKey> {
        self.applications.get(application)?.channels.get(id).copied()
    }

    /// Creates a channel without a reference. The caller pins or retains it.
    pub(crate) fn create_channel(
        &mut self,
        application: ApplicationKey,
        id: &str,
        now: Duration,
    ) -> Option<ChannelKey> {
        let owner = self.applications.get_mut(application)?;
        let id: Arc<str> = id.into();
        let channel = Channel {
            id_json: proto::escape(&id).into(),
            id: id.clone(),
            application,
            pinned: false,
            references: 0,
            created_at: now,
            subscribers: Vec::new(),
            service: Service::default(),
            congested: 0,
            publishers: Line::default(),
            requesters: Line::default(),
            has_handler: false,
            is_topical: owner.patterns.is_some(),
            topic: None,
            unheard: 0,
            answers: false,
            told: Told::default(),
            latencies: ChannelLatencies::default(),
        };
        self.bytes += channel.bytes();
        self.names_bytes += channel.id_json.len();
        owner.names_bytes += channel.id_json.len();
        let key = self.channels.insert(channel);
        owner.channels.insert(id, key);
        owner.last_activity = now;
        Some(key)
    }

    /// Changes the number of an application's workers by one.
    pub(crate) fn count_worker(&mut self, channel: ChannelKey, is_new: bool) {
        let application = self.channels.get(channel).map(|channel| channel.application);
        let Some(owner) = application.and_then(|key| self.applications.get_mut(key)) else {
            return;
        };
        if is_new {
            owner.workers += 1;
        } else {
            owner.workers -= 1;
        }
    }

    pub(crate) fn retain(&mut self, channel: ChannelKey) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.references += 1;
        }
    }

    /// Returns whether anybody uses the channel beside the connection that first named it.
    pub(crate) fn is_used(&self, channel: ChannelKey) -> bool {
        self.channels.get(channel).is_some_and(|channel| channel.references > 1)
    }

    /// Releases one reference, and removes the channel if that was the last.
    pub(crate) fn release(&mut self, key: ChannelKey) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        if channel.release() {
            self.remove(key);
        }
    }

    /// Does the same for the reference of a request, which a worker may have.
    pub(crate) fn release_from(&mut self, key: ChannelKey, worker: Option<ConnectionKey>) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        if let Some(worker) = worker {
            channel.service.note_end(worker);
        }
        if channel.release() {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: ChannelKey) {
        let Some(channel) = self.channels.remove(key) else { return };
        self.bytes -= channel.bytes();
        self.names_bytes -= channel.id_json.len();
        if let Some(owner) = self.applications.get_mut(channel.application) {
            owner.channels.remove(&channel.id);
            owner.names_bytes -= channel.id_json.len();
            self.departed.keep_channel(&owner.id, &channel.id, channel.latencies);
        }
        self.forget_if_unused(channel.application);
    }

    pub(crate) fn forget_if_unused(&mut self, key: ApplicationKey) {
        let Some(application) = self.applications.get(key) else { return };
        let used = application.pinned
            || !application.connections.is_empty()
            || application.links > 0
            || !application.channels.is_empty();
        if !used && let Some(application) = self.applications.remove(key) {
            self.bytes -= application.bytes();
            self.names_bytes -= application.id_json.len();
            self.by_id.remove(&application.id);
        }
    }

    /// Returns the channels of an application, in no particular order.
    pub(crate) fn channels_of(&self, key: ApplicationKey) -> impl Iterator<Item = &Channel> {
        let application = self.applications.get(key);
        let keys = application.into_iter().flat_map(|application| application.channels.values());
        keys.filter_map(|key| self.channels.get(*key))
    }

    /// Gives a channel a topic, if it has none.
    pub(crate) fn ensure_topic(&mut self, channel: ChannelKey) {
        let Some(channel) = self.channels.get_mut(channel) else { return };
        if channel.topic.is_none() {
            let topic = channel.topic_mut();
            // Whatever will be kept of it reaches those who search now as it comes.
            topic.searched = self.searches.begun;
            self.bytes += topic.bytes();
        }
    }

    /// Changes the topic of a channel, if it has one, and counts its memory anew.
    pub(crate) fn change_topic<T>(
        &mut self,
        channel: ChannelKey,
        change: impl FnOnce(&mut Topic) -> T,
    ) -> Option<T> {
        let topic = self.channels.get_mut(channel)?.topic.as_mut()?;
        self.bytes -= topic.bytes();
        let changed = change(topic);
        self.bytes += topic.bytes();
        Some(changed)
    }

    /// Notes whether anything is kept of a channel.
    pub(crate) fn note_kept(&mut self, key: ChannelKey, is_kept: bool) {
        let application = self.channels.get(key).map(|channel| channel.application);
        let owner = application.and_then(|application| self.applications.get_mut(application));
        let Some(owner) = owner else { return };
        if is_kept {
            self.holding += usize::from(owner.kept.insert(key));
        } else {
            self.holding -= usize::from(owner.kept.remove(&key));
        }
    }

    /// Takes the topic away from a channel that does not need it. Without patterns in its application,
    /// it is a plain channel again.
    pub(crate) fn forget_idle_topic(&mut self, key: ChannelKey) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        if let Some(idle) = channel.topic.take_if(|topic| topic.is_idle()) {
            self.bytes -= idle.bytes();
        }
        let owner = self.applications.get(channel.application);
        let has_patterns = owner.is_some_and(|owner| owner.patterns.is_some());
        channel.is_topical = has_patterns || channel.topic.is_some();
    }

    /// Takes a list of a channel out of it while it is gone through. `None`: it is empty.
    #[inline]
    pub(crate) fn take_list(&mut self, key: ChannelKey, list: List) -> Option<Vec<ConnectionKey>> {
        let channel = self.channels.get_mut(key)?;
        let list = match list {
            List::Live => &mut channel.subscribers,
            List::Conflating => &mut channel.topic.as_mut()?.conflating,
            List::Replaying | List::Link => return None,
        };
        (!list.is_empty()).then(|| std::mem::take(list))
    }

    #[inline]
    pub(crate) fn put_list(&mut self, key: ChannelKey, list: List, keys: Vec<ConnectionKey>) {
        if let Some(channel) = self.channels.get_mut(key) {
            *channel.list_mut(list) = keys;
        }
    }

    /// Returns the line of connections that wait for an obstacle.
    pub(crate) fn line(&mut self, obstacle: Obstacle) -> Option<&mut Line> {
        match obstacle {
            Obstacle::Subscriber(channel) => Some(&mut self.channels.get_mut(channel)?.publishers),
            Obstacle::Worker(channel) => Some(&mut self.channels.get_mut(channel)?.requesters),
            Obstacle::Pattern(node) => Some(&mut self.patterns.nodes.get_mut(node)?.publishers),
        }
    }

    /// Returns whether a connection stands in the line of those that wait for an obstacle.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn has_in_line(&self, obstacle: Obstacle, key: ConnectionKey) -> bool {
        let line = match obstacle {
            Obstacle::Subscriber(channel) => self.channels.get(channel).map(|it| &it.publishers),
            Obstacle::Worker(channel) => self.channels.get(channel).map(|it| &it.requesters),
            Obstacle::Pattern(node) => self.patterns.nodes.get(node).map(|it| &it.publishers),
        };
        line.is_some_and(|line| line.contains(key))
    }

    /// Returns whether no connection that waits for the obstacle could pass it.
    pub(crate) fn is_blocked(&self, obstacle: Obstacle) -> bool {
        match obstacle {
            Obstacle::Subscriber(channel) => {
                self.channels.get(channel).is_some_and(|channel| channel.congested > 0)
            }
            Obstacle::Pattern(node) => {
                self.patterns.nodes.get(node).is_some_and(|node| node.congested > 0)
            }
            // Any worker will do, and each request looks for one that keeps up.
            Obstacle::Worker(_) => false,
        }
    }

    /// Adds a reference to an obstacle's entry, for a connection that waits for it.
    pub(crate) fn retain_obstacle(&mut self, obstacle: Obstacle) {
        match obstacle {
            Obstacle::Subscriber(channel) | Obstacle::Worker(channel) => self.retain(channel),
            Obstacle::Pattern(node) => self.patterns.retain(node),
        }
    }

    pub(crate) fn release_obstacle(&mut self, obstacle: Obstacle) {
        match obstacle {
            Obstacle::Subscriber(channel) | Obstacle::Worker(channel) => self.release(channel),
            Obstacle::Pattern(node) => self.release_node(node),
        }
    }

    /// Releases one reference of a pattern's node. The tree of an application goes with its last node.
    pub(crate) fn release_node(&mut self, node: NodeKey) {
        if let Some(application) = self.patterns.release(node)
            && let Some(application) = self.applications.get_mut(application)
        {
            application.patterns = None;
        }
    }

    /// Returns a channel with its application.
    pub(crate) fn names(&self, channel: ChannelKey) -> Option<(&Application, &Channel)> {
        let channel = self.channels.get(channel)?;
        Some((self.applications.get(channel.application)?, channel))
    }
}

impl Application {
    /// Returns the channels of which anything is kept, behind one in the order of their keys.
    pub(crate) fn kept_behind(
        &self,
        behind: Option<ChannelKey>,
    ) -> impl Iterator<Item = &ChannelKey> {
        let behind = behind.map_or(Bound::Unbounded, Bound::Excluded);
        self.kept.range((behind, Bound::Unbounded))
    }

    /// Returns whether the process or a client uses it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.pinned || !self.connections.is_empty()
    }

    /// Returns its memory, without the name that the embedder gave it.
    pub(crate) fn bytes(&self) -> usize {
        APPLICATION_BYTES + 2 * self.id.len() + self.id_json.len()
    }
}

impl Channel {
    /// Releases one reference. Returns whether nothing keeps the channel any more.
    fn release(&mut self) -> bool {
        debug_assert!(self.references > 0);
        self.references -= 1;
        self.references == 0 && !self.pinned
    }

    /// One that hears it, or will once it was sent what was kept.
    pub(crate) fn any_subscriber(&self) -> Option<ConnectionKey> {
        let topic = self.topic.as_ref();
        let others = topic
            .and_then(|topic| topic.conflating.last().or_else(|| topic.replaying.first()).copied());
        self.subscribers.last().copied().or(others)
    }

    /// Returns whether a connection serves it, or the process itself.
    pub(crate) fn is_served(&self) -> bool {
        self.answers || self.service.workers.iter().any(|worker| !worker.is_link())
    }

    /// One of its lists of subscribers. No link is in one: they hear patterns alone.
    #[inline]
    pub(crate) fn list_mut(&mut self, list: List) -> &mut Vec<ConnectionKey> {
        match list {
            List::Live => &mut self.subscribers,
            List::Conflating | List::Replaying | List::Link => &mut self.topic_mut().conflating,
        }
    }

    /// Its topic, which it has from now on. The caller counts its memory.
    #[cold]
    pub(crate) fn topic_mut(&mut self) -> &mut Topic {
        self.is_topical = true;
        self.topic.get_or_insert_default()
    }

    pub(crate) fn bytes(&self) -> usize {
        let topic_bytes = self.topic.as_ref().map_or(0, |topic| topic.bytes());
        CHANNEL_BYTES + self.id.len() + self.id_json.len() + topic_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_goes_with_its_last_reference_and_the_application_with_it() {
        let mut router = Router::default();
        let app = router.find_or_create_application("app", Duration::ZERO);
        assert_eq!(router.find_or_create_application("app", Duration::ZERO), app);
        let channel = router.create_channel(app, "c", Duration::ZERO).unwrap();
        router.retain(channel);
        router.retain(channel);
        router.release(channel);
        assert_eq!(router.channel(app, "c"), Some(channel));
        router.release(channel);
        assert_eq!(router.channel(app, "c"), None);
        assert_eq!(router.application("app"), None);
        assert_eq!((router.channels.len(), router.applications.len()), (0, 0));
    }

    /// Peers choose the names. If they knew the hash, they would choose names that collide.
    #[test]
    fn the_tables_of_names_are_keyed_at_random() {
        use std::hash::{BuildHasher, RandomState};
        fn hash<V>(table: &HashMap<Arc<str>, V, RandomState>) -> u64 {
            table.hasher().hash_one("news")
        }
        let mut router = Router::default();
        let apps = ["a", "b"].map(|id| router.find_or_create_application(id, Duration::ZERO));
        let [a, b] = apps.map(|key| hash(&router.applications.get(key).unwrap().channels));
        assert_ne!(a, b);
        assert_ne!(hash(&router.by_id), hash(&Router::default().by_id));
    }

    #[test]
    fn what_the_embedder_pinned_stays() {
        let mut router = Router::default();
        let app = router.find_or_create_application("app", Duration::ZERO);
        let channel = router.create_channel(app, "c", Duration::ZERO).unwrap();
        router.channels.get_mut(channel).unwrap().pinned = true;
        router.retain(channel);
        router.release(channel);
        assert_eq!(router.channel(app, "c"), Some(channel));
    }
}
