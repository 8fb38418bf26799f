//! A map that remembers what was used of late, in bounded memory.

use std::{collections::HashMap, hash::Hash, mem};

/// Remembers at least the `capacity` keys used last, and at most twice as many: names come from outside, and might be more
/// than memory holds.
///
/// Two generations: when the younger one is full, the older one is forgotten as a whole and the younger one grows old. What
/// is used again is young again.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    capacity: usize,
    younger: HashMap<K, V>,
    older: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// For so many keys.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            younger: HashMap::new(),
            older: HashMap::new(),
        }
    }

    /// What is remembered under `key`.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.younger.get(key).or_else(|| self.older.get(key))
    }

    /// Remembers `value` under `key`.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.younger.len() >= self.capacity && !self.younger.contains_key(&key) {
            self.older = mem::take(&mut self.younger);
        }
        self.older.remove(&key);
        self.younger.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_used_last_are_remembered_and_no_more_than_twice_as_many() {
        let mut recent = Recent::new(3);
        for key in 0..100 {
            recent.insert(key, key * 10);
            recent.insert(0, 0);
            assert!(recent.younger.len() + recent.older.len() <= 6);
        }
        for key in [0, 98, 99] {
            assert_eq!(recent.get(&key), Some(&(key * 10)));
        }
        assert_eq!(recent.get(&50), None);
    }
}
