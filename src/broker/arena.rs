//! A slab whose keys carry a generation, so that a key outlived by its entry finds nothing.

use std::marker::PhantomData;

use slab::Slab;

/// Names an entry by index and generation. `T` keeps the keys of different tables apart.
pub struct Key<T> {
    index: u32,
    generation: u32,
    table: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// The position in the table; reused once the entry is gone.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

// Derives would ask the same of `T`, which is never stored.
impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}
impl<T> Eq for Key<T> {}
impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.index, self.generation).cmp(&(other.index, other.generation))
    }
}
impl<T> std::hash::Hash for Key<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.index, self.generation).hash(state);
    }
}
impl<T> std::fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.index, self.generation)
    }
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: T,
}

#[derive(Debug)]
pub(crate) struct Arena<T> {
    entries: Slab<Entry<T>>,
    generation: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { entries: Slab::new(), generation: 0 }
    }
}

impl<T> Arena<T> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> Key<T> {
        self.insert_with(|_| value)
    }

    /// Inserts an entry that knows its own key.
    pub(crate) fn insert_with(&mut self, value: impl FnOnce(Key<T>) -> T) -> Key<T> {
        self.generation = self.generation.wrapping_add(1);
        let vacant = self.entries.vacant_entry();
        // Every table is bounded far below 2^32 entries.
        let key =
            Key { index: vacant.key() as u32, generation: self.generation, table: PhantomData };
        vacant.insert(Entry { generation: self.generation, value: value(key) });
        key
    }

    pub(crate) fn get(&self, key: Key<T>) -> Option<&T> {
        let entry = self.entries.get(key.index())?;
        (entry.generation == key.generation).then_some(&entry.value)
    }

    pub(crate) fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index())?;
        (entry.generation == key.generation).then_some(&mut entry.value)
    }

    pub(crate) fn remove(&mut self, key: Key<T>) -> Option<T> {
        self.get(key)?;
        Some(self.entries.remove(key.index()).value)
    }

    /// The live entry at `index`, whatever its generation, with its key.
    pub(crate) fn at(&self, index: usize) -> Option<(Key<T>, &T)> {
        let entry = self.entries.get(index)?;
        Some((key_of(index, entry), &entry.value))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.entries.iter().map(|(index, entry)| (key_of(index, entry), &entry.value))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, entry)| &mut entry.value)
    }

    pub(crate) fn keys(&self) -> Vec<Key<T>> {
        self.iter().map(|(key, _)| key).collect()
    }
}

fn key_of<T>(index: usize, entry: &Entry<T>) -> Key<T> {
    Key { index: index as u32, generation: entry.generation, table: PhantomData }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut arena = Arena::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(first.index(), second.index(), "the place is reused");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
    }
}
