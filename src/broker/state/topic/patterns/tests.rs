use std::collections::BTreeMap;
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::proto::pattern::{fault, matches};

fn who(index: usize) -> ConnectionKey {
    ConnectionKey::new(index, NonZeroU32::MIN)
}

/// A tree with one subscriber for each pattern, which has the pattern's index.
struct Planted {
    patterns: Patterns,
    tree: Tree,
}

impl Planted {
    fn new() -> Self {
        let mut patterns = Patterns::default();
        let tree = patterns.plant(ApplicationKey::NOWHERE);
        patterns.retain(tree.root);
        Self { patterns, tree }
    }

    fn add(&mut self, pattern: &str, index: usize, list: List) -> (NodeKey, Seat) {
        let node = self.patterns.node_or_new(&self.tree, pattern);
        (node, self.patterns.seat(&mut self.tree, node, who(index), list))
    }

    fn remove(&mut self, node: NodeKey, seat: Seat) -> Option<ConnectionKey> {
        let moved = self.patterns.unseat(&mut self.tree, node, seat);
        assert_eq!(self.patterns.release(node), None, "the root is retained");
        moved
    }

    /// The indexes of all subscribers that a name finds.
    fn find(&self, name: &str) -> Vec<usize> {
        let mut found = Vec::new();
        let visited = self.patterns.find(&self.tree, name, |key| {
            let node = self.patterns.nodes.get(key).unwrap();
            found.extend(node.live.iter().chain(&node.conflating).map(|who| who.index()));
        });
        assert!(visited <= self.patterns.nodes.len(), "each node is visited once at most");
        found.sort_unstable();
        found
    }
}

/// The table of PROTOCOL.md, and some more.
const MATCHING: &[(&str, &str, bool)] = &[
    ("price.*", "price.EUR", true),
    ("price.*", "price", false),
    ("price.*", "price.EUR.bid", false),
    ("price.*", "price.", true),
    ("price.>", "price.EUR.bid", true),
    ("price.>", "price", false),
    ("price.>", "price.", true),
    ("*.EUR", "price.EUR", true),
    ("*", "price", true),
    ("*", "price.EUR", false),
    (">", "price.EUR", true),
    (">", "a", true),
    ("a.*.b", "a..b", true),
    ("a..b", "a..b", true),
    ("a..b", "a.x.b", false),
    ("pri*", "price", false),
    ("pri*", "pri*", true),
    ("*.*", "*.>", true),
    ("price.EUR", "price.EUR", true),
    ("price.EUR", "price.USD", false),
    (">", "$internal.a", false),
    ("*.a", "$internal.a", false),
    ("$internal.*", "$internal.a", true),
    ("$internal.>", "$internal.a", true),
    ("$>", "$internal", false),
    (">", "system", false),
    ("*", "system", false),
    ("system", "system", true),
    ("*.a", "system.a", true),
    ("system.>", "system", false),
    ("a.>", "a.$b", true),
    ("a.*", "a.system", true),
];

#[test]
fn names_match_as_the_protocol_says() {
    for &(pattern, name, expected) in MATCHING {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        if fault(pattern).is_none() {
            let mut planted = Planted::new();
            planted.add(pattern, 0, List::Live);
            assert_eq!(!planted.find(name).is_empty(), expected, "{pattern} {name}");
        }
    }
}

#[test]
fn a_name_with_more_tokens_than_a_pattern_may_have_is_matched() {
    let name = vec!["a"; 100].join(".");
    let longest = ["*."; PATTERN_TOKENS_MAX - 1].concat() + ">";
    let mut planted = Planted::new();
    planted.add(&longest, 0, List::Live);
    planted.add(&["*"; PATTERN_TOKENS_MAX].join("."), 1, List::Live);
    planted.add(">", 2, List::Live);
    assert_eq!(planted.find(&name), [0, 2]);
    assert_eq!(planted.find(&vec!["a"; PATTERN_TOKENS_MAX].join(".")), [0, 1, 2]);
}

#[test]
fn nodes_go_with_their_last_subscriber() {
    let mut planted = Planted::new();
    let (deep, deep_seat) = planted.add("a.b.c.>", 0, List::Live);
    let generation = planted.tree.generation;
    let (same, second_seat) = planted.add("a.b.c.>", 1, List::Conflating);
    assert_eq!(deep, same);
    assert_ne!(planted.tree.generation, generation, "the first that conflates");
    let generation = planted.tree.generation;
    let (third, third_seat) = planted.add("a.b.c.>", 3, List::Live);
    planted.remove(third, third_seat);
    assert_eq!(planted.tree.generation, generation, "the same nodes match");
    let (shallow, shallow_seat) = planted.add("a.b", 2, List::Live);
    assert_eq!((planted.tree.patterns, planted.patterns.nodes.len()), (2, 5));
    assert_eq!(planted.patterns.text(deep), "a.b.c.>");
    assert_eq!(planted.find("a.b.c.d"), [0, 1]);
    planted.remove(deep, deep_seat);
    assert_eq!(planted.find("a.b.c.d"), [1]);
    planted.remove(deep, second_seat);
    assert_eq!((planted.tree.patterns, planted.patterns.nodes.len()), (1, 3));
    assert!(planted.find("a.b.c.d").is_empty());
    planted.remove(shallow, shallow_seat);
    assert_eq!((planted.tree.patterns, planted.patterns.nodes.len()), (0, 1));
    let root = planted.tree.root;
    assert_eq!(planted.patterns.release(root), Some(ApplicationKey::NOWHERE));
    assert_eq!((planted.patterns.nodes.len(), planted.patterns.bytes), (0, 0));
}

/// Patterns of the worst kind: every node on the way matches. A look-up visits each once.
#[test]
fn the_work_of_a_look_up_is_the_size_of_the_tree_at_most() {
    let mut planted = Planted::new();
    for index in 0..4_096_usize {
        let token = |bit: usize| if index >> bit & 1 == 0 { "a" } else { "*" };
        let pattern = (0..12).map(token).collect::<Vec<_>>().join(".");
        planted.add(&pattern, index, List::Live);
    }
    let name = ["a"; 12].join(".");
    assert_eq!(planted.find(&name).len(), 4_096);
    let visited = planted.patterns.find(&planted.tree, &name, |_| ());
    assert_eq!(visited, planted.patterns.nodes.len());
}

fn token() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b"), Just("*"), Just(""), Just("$a"), Just("system")]
        .prop_map(str::to_owned)
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(token(), 1..5).prop_map(|tokens| tokens.join("."))
}

fn pattern() -> impl Strategy<Value = String> {
    (name(), 0..3).prop_map(|(name, tail)| match tail {
        0 => format!("{name}.>"),
        1 if name.len() < 2 => ">".to_owned(),
        _ => name,
    })
}

proptest! {
    #[test]
    fn the_tree_finds_what_a_naive_search_finds(
        steps in prop::collection::vec((pattern(), any::<bool>(), any::<bool>()), 1..40),
        names in prop::collection::vec(name(), 1..10),
    ) {
        let mut planted = Planted::new();
        let mut there = BTreeMap::<usize, (String, NodeKey, Seat)>::new();
        for (index, (pattern, is_live, removes)) in steps.into_iter().enumerate() {
            if removes && let Some((&gone, _)) = there.iter().next() {
                let (_, node, seat) = there.remove(&gone).unwrap();
                if let Some(moved) = planted.remove(node, seat) {
                    there.get_mut(&moved.index()).unwrap().2 = seat;
                }
            } else {
                let list = if is_live { List::Live } else { List::Conflating };
                let (node, seat) = planted.add(&pattern, index, list);
                prop_assert_eq!(&planted.patterns.text(node), &pattern);
                prop_assert_eq!(planted.patterns.node(&planted.tree, &pattern), Some(node));
                there.insert(index, (pattern, node, seat));
            }
            for (index, (_, node, seat)) in &there {
                let node = planted.patterns.nodes.get(*node).unwrap();
                prop_assert_eq!(node.list(seat.list())[seat.position()].index(), *index);
            }
            let distinct: std::collections::BTreeSet<_> =
                there.values().map(|(pattern, _, _)| pattern).collect();
            prop_assert_eq!(planted.tree.patterns, distinct.len());
            for name in &names {
                let matching = there.iter().filter(|(_, (pattern, _, _))| matches(pattern, name));
                let expected: Vec<usize> = matching.map(|(index, _)| *index).collect();
                prop_assert_eq!(planted.find(name), expected, "{}", name);
            }
        }
        for (node, seat) in there.into_values().map(|(_, node, seat)| (node, seat)).collect::<Vec<_>>() {
            // Seats move while others leave, so that each is looked up again.
            let _ = seat;
            planted.patterns.release(node);
        }
        prop_assert_eq!(planted.patterns.nodes.len(), 1);
    }
}
