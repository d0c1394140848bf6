//! What was answered, for a while: bounded in age and in number, and without a clock. Only what is so is remembered, not
//! what is not: an app or a role that is new counts at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// What is known by which key.
#[derive(Debug)]
pub(crate) struct Memory<K, V> {
    known: BTreeMap<K, V>,
    /// Every key of `known` once, the oldest first, and when it was learned.
    learned: VecDeque<(Instant, K)>,
    capacity: usize,
    age: Duration,
}

impl<K: Clone + Ord, V: Clone> Memory<K, V> {
    /// Knows nothing yet.
    pub(crate) fn new(capacity: usize, age: Duration) -> Self {
        Self { known: BTreeMap::new(), learned: VecDeque::new(), capacity, age }
    }

    /// What is known of these keys; and those of which nothing is.
    pub(crate) fn recall(
        &mut self,
        keys: impl IntoIterator<Item = K>,
        now: Instant,
    ) -> (BTreeMap<K, V>, BTreeSet<K>) {
        while self.learned.front().is_some_and(|(learned, _)| now.duration_since(*learned) >= self.age) {
            self.forget_oldest();
        }
        let (mut known, mut unknown) = (BTreeMap::new(), BTreeSet::new());
        for key in keys {
            match self.known.get(&key) {
                Some(value) => drop(known.insert(key, value.clone())),
                None => drop(unknown.insert(key)),
            }
        }
        (known, unknown)
    }

    /// Remembers these, and forgets the oldest when they are too many. What is known already keeps its age.
    pub(crate) fn keep(&mut self, pairs: impl IntoIterator<Item = (K, V)>, now: Instant) {
        for (key, value) in pairs {
            if self.known.contains_key(&key) {
                continue;
            }
            if self.known.len() >= self.capacity {
                self.forget_oldest();
            }
            self.learned.push_back((now, key.clone()));
            self.known.insert(key, value);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.learned.pop_front() {
            self.known.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AGE: Duration = Duration::from_secs(30);

    #[test]
    fn what_was_learned_is_known_for_its_age_and_not_longer() {
        let start = Instant::now();
        let mut memory = Memory::new(3, AGE);
        assert_eq!(memory.recall([1, 2], start), (BTreeMap::new(), [1, 2].into()));
        memory.keep([(1, "a")], start);
        memory.keep([(1, "b"), (2, "c")], start + Duration::from_secs(10));
        let last = start + AGE - Duration::from_nanos(1);
        assert_eq!(memory.recall([1, 2, 3], last), ([(1, "a"), (2, "c")].into(), [3].into()));
        assert_eq!(memory.recall([1, 2], start + AGE), ([(2, "c")].into(), [1].into()));
    }

    #[test]
    fn the_oldest_makes_room() {
        let start = Instant::now();
        let mut memory = Memory::new(2, AGE);
        memory.keep([(1, ()), (2, ()), (3, ())], start);
        assert_eq!(memory.recall([1, 2, 3], start).1, [1].into());
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_it_may(steps in prop::collection::vec((0..20_u8, 0..10_u64), 0..200)) {
            let mut now = Instant::now();
            let mut memory = Memory::new(7, AGE);
            for (key, seconds) in steps {
                now += Duration::from_secs(seconds);
                memory.recall([key], now);
                memory.keep([(key, ())], now);
                prop_assert!(memory.known.len() <= 7);
                prop_assert_eq!(memory.known.len(), memory.learned.len());
            }
        }
    }
}
