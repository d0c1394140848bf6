//! Which sessions host an app or a space: the other way round than a session says it, so that nobody has to look at all.

use super::Hosted;
use crate::domain::{AppId, SpaceId};
use std::collections::{BTreeMap, BTreeSet};

/// A session's number. No two sessions of a process have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// Whose place has what.
#[derive(Debug, Default)]
pub(super) struct Places {
    apps: BTreeMap<AppId, BTreeSet<Place>>,
    spaces: BTreeMap<SpaceId, BTreeSet<Place>>,
}

impl Place {
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Places {
    pub(super) fn insert(&mut self, place: Place, hosted: &Hosted) {
        insert(&mut self.apps, place, &hosted.apps);
        insert(&mut self.spaces, place, &hosted.spaces);
    }

    pub(super) fn remove(&mut self, place: Place, hosted: &Hosted) {
        remove(&mut self.apps, place, &hosted.apps);
        remove(&mut self.spaces, place, &hosted.spaces);
    }

    /// Those that host any of these.
    pub(super) fn of(&self, any: &Hosted) -> BTreeSet<Place> {
        let apps = any.apps.iter().filter_map(|app| self.apps.get(app));
        let spaces = any.spaces.iter().filter_map(|space| self.spaces.get(space));
        apps.chain(spaces).flatten().copied().collect()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.apps.is_empty() && self.spaces.is_empty()
    }
}

fn insert<K: Clone + Ord>(index: &mut BTreeMap<K, BTreeSet<Place>>, place: Place, keys: &BTreeSet<K>) {
    for key in keys {
        index.entry(key.clone()).or_default().insert(place);
    }
}

fn remove<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Place>>, place: Place, keys: &BTreeSet<K>) {
    for key in keys {
        let Some(places) = index.get_mut(key) else { continue };
        places.remove(&place);
        if places.is_empty() {
            index.remove(key);
        }
    }
}
