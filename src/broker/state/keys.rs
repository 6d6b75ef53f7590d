//! The keys of all tables. A key does not depend on its table, so that every module may store one.

use std::marker::PhantomData;
use std::num::NonZeroU32;

/// The key of a connection. Once that is closed, the key finds nothing, even if its index is reused.
pub type ConnectionKey = Key<ConnectionKind>;
pub(crate) type ApplicationKey = Key<ApplicationKind>;
pub(crate) type ChannelKey = Key<ChannelKind>;
pub(crate) type RequestKey = Key<RequestKind>;
pub(crate) type NodeKey = Key<NodeKind>;

/// The kind of a [`ConnectionKey`].
#[derive(Debug)]
pub enum ConnectionKind {}
#[derive(Debug)]
pub(crate) enum ApplicationKind {}
#[derive(Debug)]
pub(crate) enum ChannelKind {}
#[derive(Debug)]
pub(crate) enum RequestKind {}
#[derive(Debug)]
pub(crate) enum NodeKind {}

/// The key of an entry, by index and generation. `K` keeps the keys of different tables apart.
pub struct Key<K> {
    index: u32,
    /// Never zero, so that an `Option` of a key takes no more room than a key.
    generation: NonZeroU32,
    kind: PhantomData<fn() -> K>,
}

impl<K> Key<K> {
    pub(crate) fn new(index: usize, generation: NonZeroU32) -> Self {
        // Every table is bounded far below 2^32 entries.
        Self { index: index as u32, generation, kind: PhantomData }
    }

    /// A key that finds nothing in any table, each of which is far smaller.
    pub(crate) const NOWHERE: Self =
        Self { index: u32::MAX, generation: NonZeroU32::MIN, kind: PhantomData };

    pub(crate) fn generation(self) -> NonZeroU32 {
        self.generation
    }

    /// Returns the key as a number, which is never zero.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation.get()) << 32 | u64::from(self.index)
    }

    /// Returns the key with this number.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let generation = NonZeroU32::new((bits >> 32) as u32)?;
        Some(Self { index: bits as u32, generation, kind: PhantomData })
    }

    /// Returns the index in the table, which is reused once the entry is removed.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

// Derived implementations would require the same of `K`, which is never stored.
impl<K> Clone for Key<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Key<K> {}
impl<K> PartialEq for Key<K> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}
impl<K> Eq for Key<K> {}
impl<K> PartialOrd for Key<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Key<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.index, self.generation).cmp(&(other.index, other.generation))
    }
}
impl<K> std::hash::Hash for Key<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.index, self.generation).hash(state);
    }
}
impl<K> std::fmt::Debug for Key<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.index, self.generation)
    }
}
