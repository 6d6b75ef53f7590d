//! Follows the pointers of attachments through a payload, in one pass.
//!
//! The pointers are laid out as a tree, whose nodes have their children in the order in which the payload
//! must have them. Only the containers that a node stands for are entered. The time is linear in payload and
//! pointers together, whatever a peer sends.

use std::borrow::Cow;
use std::collections::HashMap;

use super::super::fault::Fault;
use super::super::json_str::JsonStr;
use super::super::limits::PAYLOAD_DEPTH_MAX;
use super::super::scanner::{Scanner, Stop};

/// Calls a function with the place of each null in a valid payload to which a pointer leads.
pub(super) fn walk<'a>(
    payload: &'a str,
    pointers: impl Iterator<Item = Cow<'a, str>>,
    found: impl FnMut(usize),
) -> Result<(), Fault> {
    let mut nodes = vec![Node::default()];
    let mut len = 0;
    for pointer in pointers {
        let inserted = match pointer {
            Cow::Borrowed(pointer) => insert(&mut nodes, len, pointer.split('/').map(token)),
            Cow::Owned(pointer) => {
                let owned = |part| token(part).map(|token| Cow::Owned(token.into_owned()));
                insert(&mut nodes, len, pointer.split('/').map(owned))
            }
        };
        inserted.map_err(|expected| Fault::Attachment { number: len, expected })?;
        len += 1;
    }
    let mut walk = Walk { scanner: Scanner::new(payload), nodes, number: 0, found };
    walk.value(ROOT)?;
    if walk.number < len { Err(walk.fault(NOT_FOUND)) } else { Ok(()) }
}

/// A value of the payload to which a pointer leads, or through which one does.
#[derive(Default)]
struct Node<'a> {
    /// The last token on the way to it.
    token: Cow<'a, str>,
    /// That token as the place in an array.
    index: Option<u64>,
    /// The number of the attachment that stands for it. It is a null then.
    number: Option<usize>,
    first_child: Option<usize>,
    last_child: Option<usize>,
    next: Option<usize>,
    children: usize,
    /// A bit for each length of its children's tokens, which tells most keys from them.
    lengths: u64,
    is_found: bool,
}

const ROOT: usize = 0;

/// So many children are looked through one by one for each key.
const LOOKS_MAX: usize = 8;

/// Adds the nodes of a pointer. Returns what is right in place of it.
fn insert<'a>(
    nodes: &mut Vec<Node<'a>>,
    number: usize,
    mut tokens: impl Iterator<Item = Option<Cow<'a, str>>>,
) -> Result<(), &'static str> {
    // What stands before the first slash is no token.
    if tokens.next().flatten().is_none_or(|before| !before.is_empty()) {
        return Err(NO_POINTER);
    }
    let mut at = ROOT;
    for (depth, token) in tokens.enumerate() {
        if depth == PAYLOAD_DEPTH_MAX {
            return Err(NOT_FOUND);
        }
        let token = token.ok_or(NO_POINTER)?;
        // A pointer that comes back to an earlier child is not in the order of the payload: its node is
        // never found.
        let last = nodes[at].last_child.filter(|last| nodes[*last].token == token);
        at = last.unwrap_or_else(|| add_child(nodes, at, token));
        if nodes[at].number.is_some() {
            return Err(NOT_ITS_OWN);
        }
    }
    if nodes[at].number.is_some() || nodes[at].children > 0 {
        return Err(NOT_ITS_OWN);
    }
    nodes[at].number = Some(number);
    Ok(())
}

fn add_child<'a>(nodes: &mut Vec<Node<'a>>, parent: usize, token: Cow<'a, str>) -> usize {
    let at = nodes.len();
    match nodes[parent].last_child.replace(at) {
        Some(last) => nodes[last].next = Some(at),
        None => nodes[parent].first_child = Some(at),
    }
    nodes[parent].children += 1;
    nodes[parent].lengths |= length_bit(&token);
    nodes.push(Node { index: index(&token), token, ..Node::default() });
    at
}

struct Walk<'a, F> {
    scanner: Scanner<'a>,
    nodes: Vec<Node<'a>>,
    /// The number of the attachment whose null comes next.
    number: usize,
    found: F,
}

impl<'a, F: FnMut(usize)> Walk<'a, F> {
    /// Reads the value of a node. The recursion is as deep as the payload, which the scanner bounds.
    fn value(&mut self, node: usize) -> Result<(), Fault> {
        match (self.scanner.peek(), self.nodes[node].number) {
            (Some(b'{'), None) => self.object(node),
            (Some(b'['), None) => self.array(node),
            (Some(b'n'), Some(number)) if number == self.number => {
                (self.found)(self.scanner.at());
                self.number += 1;
                self.skip()
            }
            (_, Some(number)) => {
                let expected =
                    if number == self.number { "a pointer to a null" } else { NOT_FOUND };
                Err(Fault::Attachment { number, expected })
            }
            _ => Err(self.fault(NOT_FOUND)),
        }
    }

    fn object(&mut self, node: usize) -> Result<(), Fault> {
        let table = (self.nodes[node].children > LOOKS_MAX).then(|| self.table(node));
        let lengths = self.nodes[node].lengths;
        self.scanner.bump();
        while self.scanner.peek() != Some(b'}') {
            let key = self.scanner.key().map_err(stopped)?;
            // No pointer leads through half of a surrogate pair.
            let key = key.decoded_len().map(|_len| key);
            let child = key.map(JsonStr::decode).filter(|key| lengths & length_bit(key) != 0);
            let child = child.and_then(|key| match &table {
                Some(table) => table.get(&key).copied(),
                None => self.children(node).find(|child| self.nodes[*child].token == key),
            });
            match child {
                Some(child) if std::mem::replace(&mut self.nodes[child].is_found, true) => {
                    return Err(self.fault(GIVEN_TWICE));
                }
                Some(child) => self.value(child)?,
                None => self.skip()?,
            }
            self.comma();
        }
        self.scanner.bump();
        Ok(())
    }

    fn array(&mut self, node: usize) -> Result<(), Fault> {
        let mut wanted = self.nodes[node].first_child;
        self.scanner.bump();
        let mut number = 0_u64;
        while self.scanner.peek() != Some(b']') {
            match wanted.filter(|child| self.nodes[*child].index == Some(number)) {
                Some(child) => {
                    self.value(child)?;
                    wanted = self.nodes[child].next;
                }
                None => self.skip()?,
            }
            self.comma();
            number += 1;
        }
        self.scanner.bump();
        Ok(())
    }

    fn children(&self, node: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.nodes[node].first_child, |child| self.nodes[*child].next)
    }

    /// The children of a node by their tokens.
    fn table(&self, node: usize) -> HashMap<Cow<'a, str>, usize> {
        self.children(node).map(|child| (self.nodes[child].token.clone(), child)).collect()
    }

    /// Steps over the value that `peek` has shown.
    fn skip(&mut self) -> Result<(), Fault> {
        self.scanner.value(0).map(|_text| ()).map_err(stopped)
    }

    fn comma(&mut self) {
        if self.scanner.peek() == Some(b',') {
            self.scanner.bump();
        }
    }

    fn fault(&self, expected: &'static str) -> Fault {
        Fault::Attachment { number: self.number, expected }
    }
}

const NO_POINTER: &str = "a JSON Pointer by RFC 6901 as its first";
const NOT_FOUND: &str =
    "a pointer to a null of the payload that stands behind those of the entries before";
const NOT_ITS_OWN: &str = "a pointer to a null of its own";
const GIVEN_TWICE: &str = "pointers through keys that are given once";

/// Decodes a token. `None`: it has a tilde that is no escape.
fn token(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('~') {
        return Some(text.into());
    }
    let are_escapes = text.split('~').skip(1).all(|behind| behind.starts_with(['0', '1']));
    are_escapes.then(|| text.replace("~1", "/").replace("~0", "~").into())
}

fn length_bit(token: &str) -> u64 {
    1 << (token.len() % 64)
}

/// Returns the place in an array that a token means.
fn index(token: &str) -> Option<u64> {
    let is_number = token.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_number && (token == "0" || !token.starts_with('0'));
    is_plain.then(|| token.parse().ok())?
}

/// The payload was validated, so that the scanner does not stop.
fn stopped(_stop: Stop) -> Fault {
    Fault::Layout { expected: "a payload of valid JSON" }
}
