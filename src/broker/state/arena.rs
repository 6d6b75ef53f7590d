//! A slab whose keys carry a generation, so that a key that outlives its entry finds nothing.

use std::marker::PhantomData;
use std::num::NonZeroU32;

use slab::Slab;

use super::keys::Key;

#[derive(Debug)]
struct Entry<V> {
    generation: NonZeroU32,
    value: V,
}

#[derive(Debug)]
pub(crate) struct Arena<K, V> {
    entries: Slab<Entry<V>>,
    generation: NonZeroU32,
    kind: PhantomData<fn() -> K>,
}

impl<K, V> Default for Arena<K, V> {
    fn default() -> Self {
        Self { entries: Slab::new(), generation: NonZeroU32::MIN, kind: PhantomData }
    }
}

impl<K, V> Arena<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn insert(&mut self, value: V) -> Key<K> {
        self.insert_with(|_| value)
    }

    /// Inserts an entry that knows its own key.
    pub(crate) fn insert_with(&mut self, value: impl FnOnce(Key<K>) -> V) -> Key<K> {
        self.generation = self.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let vacant = self.entries.vacant_entry();
        let key = Key::new(vacant.key(), self.generation);
        vacant.insert(Entry { generation: self.generation, value: value(key) });
        key
    }

    pub(crate) fn get(&self, key: Key<K>) -> Option<&V> {
        let entry = self.entries.get(key.index())?;
        (entry.generation == key.generation()).then_some(&entry.value)
    }

    pub(crate) fn get_mut(&mut self, key: Key<K>) -> Option<&mut V> {
        let entry = self.entries.get_mut(key.index())?;
        (entry.generation == key.generation()).then_some(&mut entry.value)
    }

    pub(crate) fn remove(&mut self, key: Key<K>) -> Option<V> {
        self.get(key)?;
        Some(self.entries.remove(key.index()).value)
    }

    /// Returns the live entry at `index`, of any generation, with its key.
    pub(crate) fn at(&self, index: usize) -> Option<(Key<K>, &V)> {
        let entry = self.entries.get(index)?;
        Some((Key::new(index, entry.generation), &entry.value))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key<K>, &V)> {
        self.entries.iter().map(|(index, entry)| (Key::new(index, entry.generation), &entry.value))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, entry)| &mut entry.value)
    }

    pub(crate) fn keys(&self) -> Vec<Key<K>> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::ConnectionKind;
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut arena = Arena::<ConnectionKind, _>::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(first.index(), second.index(), "the place is reused");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
    }
}
