//! The patterns of all applications: for each application a tree of tokens.
//!
//! A pattern is a path from the root of its application's tree to a node, which has its subscribers.
//! Looking up a name visits each node of the tree once at most, and only those whose path matches
//! the beginning of the name.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::super::arena::Arena;
use super::super::keys::{ApplicationKey, ConnectionKey, NodeKey, NodeKind};
use super::super::line::Line;
use super::seat::{List, Seat};
use crate::proto::pattern::PATTERN_TOKENS_MAX;
use crate::proto::system::SYSTEM;

/// The largest size of a node without its token, which is when the tables have just grown.
pub(crate) const NODE_BYTES: usize = 768;

/// One token of a pattern, and all patterns that go on behind it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) application: ApplicationKey,
    /// The node before it. The root has none.
    parent: Option<NodeKey>,
    token: Box<str>,
    /// The nodes behind it, by their tokens. `*` and `>` are ordinary letters there.
    children: BTreeMap<Box<str>, NodeKey>,
    /// The node behind it that stands for any token.
    any: Option<NodeKey>,
    /// The node behind it that stands for all further tokens.
    rest: Option<NodeKey>,
    /// The subscribers of the pattern that ends here.
    pub(crate) live: Vec<ConnectionKey>,
    pub(crate) conflating: Vec<ConnectionKey>,
    /// Links to other servers that hear the pattern, and are no subscribers.
    pub(crate) links: Vec<ConnectionKey>,
    /// Those among `live` and `links` whose queue is over its high-water mark.
    pub(crate) congested: u32,
    /// Connections that are held back because of one of them.
    pub(crate) publishers: Line,
    /// One for each node behind it, each subscriber, and each connection that is held back.
    pub(crate) references: u32,
    /// The process was told that the pattern has a subscriber.
    pub(crate) is_told: bool,
}

/// The tree of one application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    pub(crate) root: NodeKey,
    /// Changes with each pattern that gets its first subscriber or loses its last one, or its first or
    /// last one that conflates.
    pub(crate) generation: u64,
    /// Changes with each subscriber.
    pub(crate) changes: u64,
    /// Patterns that have a subscriber.
    pub(crate) patterns: usize,
    /// The most nodes that one look-up has visited since the last change.
    pub(crate) visited_max: usize,
}

/// All nodes.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    pub(crate) nodes: Arena<NodeKind, Node>,
    /// The last generation of any application's tree.
    generation: u64,
    /// The patterns of all applications that have a subscriber.
    pub(crate) count: usize,
    /// The sum of `congested` of all nodes.
    pub(crate) congested: usize,
    /// Memory of all nodes.
    pub(crate) bytes: usize,
    /// The nodes that the last look-up found whose result is kept nowhere.
    pub(crate) scratch: Vec<NodeKey>,
    /// The run of publications that is delivered next comes from a link, so that no link gets it.
    pub(crate) run_is_of_link: bool,
}

/// Returns whether only a pattern with the same first token matches this name.
fn is_reserved(name: &str) -> bool {
    name.starts_with('$') || name == SYSTEM
}

impl Node {
    #[cfg(any(test, feature = "fuzzing", feature = "simulation"))]
    pub(crate) fn list(&self, list: List) -> &[ConnectionKey] {
        match list {
            List::Live => &self.live,
            List::Conflating | List::Replaying => &self.conflating,
            List::Link => &self.links,
        }
    }

    fn list_mut(&mut self, list: List) -> &mut Vec<ConnectionKey> {
        match list {
            List::Live => &mut self.live,
            List::Conflating | List::Replaying => &mut self.conflating,
            List::Link => &mut self.links,
        }
    }

    #[inline]
    pub(crate) fn subscribers(&self) -> usize {
        self.live.len() + self.conflating.len()
    }

    /// Returns whether a publication has to look at it.
    #[inline]
    fn is_heard(&self) -> bool {
        self.subscribers() + self.links.len() > 0
    }

    pub(crate) fn bytes(&self) -> usize {
        NODE_BYTES + 2 * self.token.len()
    }
}

impl Patterns {
    /// Returns an empty tree for an application.
    pub(crate) fn plant(&mut self, application: ApplicationKey) -> Tree {
        self.generation += 1;
        let root = self.insert(application, None, "");
        Tree { root, generation: self.generation, changes: 0, patterns: 0, visited_max: 0 }
    }

    fn insert(
        &mut self,
        application: ApplicationKey,
        parent: Option<NodeKey>,
        token: &str,
    ) -> NodeKey {
        let node = Node {
            application,
            parent,
            token: token.into(),
            children: BTreeMap::new(),
            any: None,
            rest: None,
            live: Vec::new(),
            conflating: Vec::new(),
            links: Vec::new(),
            congested: 0,
            publishers: Line::default(),
            references: 0,
            is_told: false,
        };
        self.bytes += node.bytes();
        self.nodes.insert(node)
    }

    /// Returns the node of a pattern, if there is one.
    pub(crate) fn node(&self, tree: &Tree, pattern: &str) -> Option<NodeKey> {
        let mut key = tree.root;
        for token in pattern.split('.') {
            key = self.child(key, token)?;
        }
        Some(key)
    }

    fn child(&self, key: NodeKey, token: &str) -> Option<NodeKey> {
        let node = self.nodes.get(key)?;
        match token {
            "*" => node.any,
            ">" => node.rest,
            _ => node.children.get(token).copied(),
        }
    }

    /// Returns the node of a pattern, which is created if it is not there. The caller retains it.
    pub(crate) fn node_or_new(&mut self, tree: &Tree, pattern: &str) -> NodeKey {
        let mut key = tree.root;
        for token in pattern.split('.') {
            key = self.child(key, token).unwrap_or_else(|| self.grow(key, token));
        }
        key
    }

    fn grow(&mut self, parent: NodeKey, token: &str) -> NodeKey {
        let application = self.nodes.get(parent).map(|parent| parent.application);
        let child =
            self.insert(application.unwrap_or(ApplicationKey::NOWHERE), Some(parent), token);
        if let Some(node) = self.nodes.get_mut(parent) {
            node.references += 1;
            match token {
                "*" => node.any = Some(child),
                ">" => node.rest = Some(child),
                _ => _ = node.children.insert(token.into(), child),
            }
        }
        child
    }

    pub(crate) fn retain(&mut self, key: NodeKey) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.references += 1;
        }
    }

    /// Releases one reference of a node, and removes it with all nodes before it that are of no use
    /// without it. Returns the application if its root was among them.
    pub(crate) fn release(&mut self, mut key: NodeKey) -> Option<ApplicationKey> {
        loop {
            let node = self.nodes.get_mut(key)?;
            debug_assert!(node.references > 0);
            node.references -= 1;
            if node.references > 0 {
                return None;
            }
            let node = self.nodes.remove(key)?;
            self.bytes -= node.bytes();
            let Some(parent) = node.parent else { return Some(node.application) };
            if let Some(parent) = self.nodes.get_mut(parent) {
                match &*node.token {
                    "*" => parent.any = None,
                    ">" => parent.rest = None,
                    token => _ = parent.children.remove(token),
                }
            }
            key = parent;
        }
    }

    /// Adds a subscriber to the end of a node's list.
    pub(crate) fn seat(
        &mut self,
        tree: &mut Tree,
        key: NodeKey,
        who: ConnectionKey,
        list: List,
    ) -> Seat {
        let Some(node) = self.nodes.get_mut(key) else { return Seat::new(list, 0) };
        tree.changes += 1;
        let is_first = usize::from(node.subscribers() == 0 && list != List::Link);
        (tree.patterns, self.count) = (tree.patterns + is_first, self.count + is_first);
        let is_new = node.subscribers() == 0 || node.list_mut(list).is_empty();
        node.references += 1;
        let list_of = node.list_mut(list);
        list_of.push(who);
        let seat = Seat::new(list, list_of.len() - 1);
        if is_new {
            self.generation += 1;
            (tree.generation, tree.visited_max) = (self.generation, 0);
        }
        seat
    }

    /// Removes a subscriber. Returns the one that has its seat now. The caller releases the node.
    pub(crate) fn unseat(
        &mut self,
        tree: &mut Tree,
        key: NodeKey,
        seat: Seat,
    ) -> Option<ConnectionKey> {
        let node = self.nodes.get_mut(key)?;
        let list = node.list_mut(seat.list());
        list.swap_remove(seat.position());
        let moved = list.get(seat.position()).copied();
        let is_over = list.is_empty();
        tree.changes += 1;
        let was_last = usize::from(node.subscribers() == 0 && seat.list() != List::Link);
        (tree.patterns, self.count) = (tree.patterns - was_last, self.count - was_last);
        if is_over {
            self.generation += 1;
            (tree.generation, tree.visited_max) = (self.generation, 0);
        }
        moved
    }

    /// Passes the nodes of all patterns that match a name to `found`. Returns the number of nodes that
    /// it visited.
    pub(crate) fn find(&self, tree: &Tree, name: &str, mut found: impl FnMut(NodeKey)) -> usize {
        let is_reserved = is_reserved(name);
        let mut visited = 0;
        // A node of the tree, and what is left of the name there. Each level adds one at most.
        let mut left = SmallVec::<[(NodeKey, Option<&str>); PATTERN_TOKENS_MAX + 4]>::new();
        left.push((tree.root, Some(name)));
        while let Some((key, rest)) = left.pop() {
            visited += 1;
            let Some(node) = self.nodes.get(key) else { continue };
            let Some(rest) = rest else {
                if node.is_heard() {
                    found(key);
                }
                continue;
            };
            let (token, behind) = match rest.split_once('.') {
                Some((token, behind)) => (token, Some(behind)),
                None => (rest, None),
            };
            if !is_reserved || key != tree.root {
                if let Some(rest) = node.rest {
                    visited += 1;
                    if self.nodes.get(rest).is_some_and(Node::is_heard) {
                        found(rest);
                    }
                }
                left.extend(node.any.map(|any| (any, behind)));
            }
            left.extend(node.children.get(token).map(|child| (*child, behind)));
        }
        visited
    }

    /// Counts a subscriber whose queue is over its high-water mark.
    pub(crate) fn note_congested(&mut self, key: NodeKey) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.congested += 1;
            self.congested += 1;
        }
    }

    pub(crate) fn note_decongested(&mut self, key: NodeKey) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.congested -= 1;
            self.congested -= 1;
        }
    }

    /// Returns the subscriber of a list that has no other.
    #[inline]
    pub(crate) fn only(&self, key: NodeKey, list: List) -> Option<ConnectionKey> {
        let node = self.nodes.get(key)?;
        let keys = match list {
            List::Live => &node.live,
            List::Link => &node.links,
            List::Conflating | List::Replaying => &node.conflating,
        };
        if let [only] = keys[..] { Some(only) } else { None }
    }

    /// Takes a list of a node out of it while it is gone through. `None`: it is empty.
    #[inline]
    pub(crate) fn take_list(&mut self, key: NodeKey, list: List) -> Option<Vec<ConnectionKey>> {
        let list = self.nodes.get_mut(key)?.list_mut(list);
        (!list.is_empty()).then(|| std::mem::take(list))
    }

    #[inline]
    pub(crate) fn put_list(&mut self, key: NodeKey, list: List, keys: Vec<ConnectionKey>) {
        if let Some(node) = self.nodes.get_mut(key) {
            *node.list_mut(list) = keys;
        }
    }

    /// Returns the text of the pattern that ends at a node.
    pub(crate) fn text(&self, key: NodeKey) -> String {
        let mut tokens = Vec::new();
        let mut key = Some(key);
        while let Some(node) = key.and_then(|key| self.nodes.get(key)) {
            if node.parent.is_some() {
                tokens.push(&*node.token);
            }
            key = node.parent;
        }
        tokens.reverse();
        tokens.join(".")
    }
}

#[cfg(test)]
mod tests;
