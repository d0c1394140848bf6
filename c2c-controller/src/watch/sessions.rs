//! The cells that are connected now, what each hosts and which revision it enforces. Ends with the process.

use super::places::{Place, Places};
use super::{Audience, Hosted};
use crate::domain::{CellName, Revision};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// All sessions, at most one for each cell: a newer one replaces the older. What a change or a wait costs follows from
/// the cells that it concerns, not from how many there are.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    entries: BTreeMap<Place, Entry>,
    names: BTreeMap<CellName, Place>,
    places: Places,
    last: Place,
    /// Entries that waits and changes looked at.
    #[cfg(test)]
    looked_at: usize,
}

#[derive(Debug)]
struct Entry {
    cell: CellName,
    hosted: Hosted,
    applied: Revision,
    /// Changes whenever the entry does; closed when it goes.
    moved: watch::Sender<()>,
    /// Closed when it goes.
    _alive: watch::Sender<()>,
}

/// How far the cells concerned are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// Connected cells that the change concerns.
    pub concerned: usize,
    /// Of those, the cells that enforce the revision.
    pub enforcing: usize,
}

/// How far the connected cells are, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Connected cells.
    pub connected: usize,
    /// The revision that the slowest of them enforces; nothing when there is none.
    pub slowest: Option<Revision>,
}

/// A cell's place among the sessions; leaves when dropped.
#[derive(Debug)]
pub struct Session {
    sessions: Arc<Sessions>,
    place: Place,
    replaced: watch::Receiver<()>,
}

/// Waits for the end of a session's place.
#[derive(Debug)]
pub struct Replaced {
    entry: watch::Receiver<()>,
}

impl Sessions {
    /// A cell connects. Its older session, if there is one, is told that it was replaced.
    pub fn enter(self: &Arc<Self>, cell: CellName, hosted: Hosted) -> Session {
        let (alive, replaced) = watch::channel(());
        let entry =
            Entry { cell, hosted, applied: Revision::ZERO, moved: watch::Sender::new(()), _alive: alive };
        let place = self.lock().enter(entry);
        Session { sessions: Arc::clone(self), place, replaced }
    }

    /// The revision that a connected cell enforces; nothing when it is not connected.
    #[must_use]
    pub fn applied(&self, cell: &CellName) -> Option<Revision> {
        let open = self.lock();
        open.names.get(cell).and_then(|place| open.entries.get(place)).map(|entry| entry.applied)
    }

    /// How many cells are connected, and how far the slowest is. Looks at all of them.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let open = self.lock();
        let slowest = open.entries.values().map(|entry| entry.applied).min();
        Progress { connected: open.entries.len(), slowest }
    }

    /// How many connected cells are concerned, and how many of them enforce the revision.
    #[must_use]
    pub fn enforcement(&self, audience: &Audience, revision: Revision) -> Enforcement {
        let mut open = self.lock();
        let concerned = open.concerned(audience);
        let awaited = concerned.iter().filter(|place| open.awaited(**place, audience, revision).is_some());
        Enforcement { concerned: concerned.len(), enforcing: concerned.len() - awaited.count() }
    }

    /// Waits until all connected cells concerned enforce the revision, at most for as long as `patience`.
    pub async fn enforced(&self, audience: &Audience, revision: Revision, patience: Duration) -> Enforcement {
        let deadline = Instant::now() + patience;
        loop {
            let now = self.enforcement(audience, revision);
            if now.enforcing == now.concerned
                || timeout_at(deadline, self.wait(audience, revision)).await.is_err()
            {
                return self.enforcement(audience, revision);
            }
        }
    }

    /// Waits for one cell after the other, of those that are concerned now: it is woken by the cell that it waits for,
    /// and by no other.
    async fn wait(&self, audience: &Audience, revision: Revision) {
        let concerned = self.lock().concerned(audience);
        for place in concerned {
            while let Some(mut moved) = self.awaited(place, audience, revision) {
                // An error means that the cell is gone, which the next look tells.
                let _ = moved.changed().await;
            }
        }
    }

    fn awaited(&self, place: Place, audience: &Audience, revision: Revision) -> Option<watch::Receiver<()>> {
        self.lock().awaited(place, audience, revision).map(watch::Sender::subscribe)
    }

    /// Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn enter(&mut self, entry: Entry) -> Place {
        self.last = self.last.next();
        let place = self.last;
        if let Some(older) = self.names.insert(entry.cell.clone(), place) {
            self.remove(older);
        }
        self.places.insert(place, &entry.hosted);
        self.entries.insert(place, entry);
        place
    }

    /// The place of a cell that has a newer one by now is gone already.
    fn leave(&mut self, place: Place) {
        if let Some(entry) = self.remove(place) {
            self.names.remove(&entry.cell);
        }
    }

    fn remove(&mut self, place: Place) -> Option<Entry> {
        let entry = self.entries.remove(&place)?;
        self.places.remove(place, &entry.hosted);
        Some(entry)
    }

    fn update(&mut self, place: Place, change: impl FnOnce(&mut Places, &mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&place) {
            change(&mut self.places, entry);
            entry.moved.send_replace(());
        }
    }

    fn concerned(&self, audience: &Audience) -> Vec<Place> {
        match audience {
            Audience::Everyone => self.entries.keys().copied().collect(),
            Audience::Hosts(any) => self.places.of(any).into_iter().collect(),
        }
    }

    /// What a cell says when it moves, as long as it is concerned and does not enforce the revision.
    fn awaited(
        &mut self,
        place: Place,
        audience: &Audience,
        revision: Revision,
    ) -> Option<&watch::Sender<()>> {
        #[cfg(test)]
        {
            self.looked_at += 1;
        }
        let entry = self.entries.get(&place)?;
        (entry.applied < revision && audience.includes(&entry.hosted)).then_some(&entry.moved)
    }
}

impl Session {
    /// A way to wait for a newer session of the same cell.
    #[must_use]
    pub fn on_replaced(&self) -> Replaced {
        Replaced { entry: self.replaced.clone() }
    }

    /// The cell hosts this now.
    pub fn set_hosted(&self, hosted: &Hosted) {
        self.sessions.lock().update(self.place, |places, entry| {
            places.remove(self.place, &entry.hosted);
            places.insert(self.place, hosted);
            entry.hosted.clone_from(hosted);
        });
    }

    /// The cell enforces every change up to this revision.
    pub fn set_applied(&self, revision: Revision) {
        self.sessions.lock().update(self.place, |_, entry| entry.applied = entry.applied.max(revision));
    }
}

impl Replaced {
    /// Returns when a newer session has taken the older one's place.
    pub async fn wait(&mut self) {
        // No value is ever sent; the channel closes with its entry.
        while self.entry.changed().await.is_ok() {}
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sessions.lock().leave(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AppId, Policy, Reach, SpaceId};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn cell(name: &str) -> CellName {
        CellName::parse("cell", name).unwrap()
    }

    fn apps(names: &[&str]) -> Hosted {
        let apps = names.iter().map(|name| AppId::parse("app", name).unwrap()).collect();
        Hosted { apps, spaces: BTreeSet::new() }
    }

    fn a_to_b() -> Audience {
        Audience::of_policy(&Policy::parse("a", "b", "tcp", "1").unwrap())
    }

    fn enforcement(sessions: &Sessions, revision: u64) -> (usize, usize) {
        let Enforcement { concerned, enforcing } = sessions.enforcement(&a_to_b(), Revision::new(revision));
        (concerned, enforcing)
    }

    #[test]
    fn a_group_concerns_the_cells_of_its_spaces_or_all() {
        let sessions = Arc::new(Sessions::default());
        let in_space = |name: &str| {
            let spaces = [SpaceId::parse("space", name).unwrap()].into();
            Hosted { spaces, ..apps(&["a"]) }
        };
        let _cells = [sessions.enter(cell("1"), in_space("s")), sessions.enter(cell("2"), in_space("t"))];
        let concerned = |reaches: &[(&str, &str)]| {
            let reaches: Vec<Reach> =
                reaches.iter().map(|(workload, space)| Reach::parse(workload, space).unwrap()).collect();
            sessions.enforcement(&Audience::of_reaches(&reaches), Revision::ZERO).concerned
        };
        assert_eq!(concerned(&[]), 0);
        assert_eq!(concerned(&[("running", "s"), ("staging", "s")]), 1);
        assert_eq!(concerned(&[("running", "s"), ("staging", "t"), ("running", "nobody")]), 2);
        assert_eq!(concerned(&[("running", "nobody")]), 0);
        assert_eq!(concerned(&[("running", "nobody"), ("staging", "")]), 2);
    }

    #[test]
    fn cells_that_host_either_app_are_concerned_until_they_leave() {
        let sessions = Arc::new(Sessions::default());
        let first = sessions.enter(cell("1"), apps(&["a", "b"]));
        let second = sessions.enter(cell("2"), apps(&["b"]));
        let _third = sessions.enter(cell("3"), apps(&["c"]));
        assert_eq!(enforcement(&sessions, 5), (2, 0));
        first.set_applied(Revision::new(5));
        first.set_applied(Revision::new(4));
        assert_eq!(enforcement(&sessions, 5), (2, 1), "a cell does not go back");
        second.set_hosted(&apps(&[]));
        assert_eq!(enforcement(&sessions, 5), (1, 1));
        drop(first);
        assert_eq!(enforcement(&sessions, 5), (0, 0));
        assert_eq!(sessions.applied(&cell("1")), None);
    }

    #[tokio::test]
    async fn a_newer_session_replaces_the_older_and_survives_its_end() {
        let sessions = Arc::new(Sessions::default());
        let older = sessions.enter(cell("1"), apps(&["a"]));
        let mut replaced = older.on_replaced();
        let newer = sessions.enter(cell("1"), apps(&["a"]));
        replaced.wait().await;
        older.set_applied(Revision::new(9));
        drop(older);
        assert_eq!(sessions.applied(&cell("1")), Some(Revision::ZERO));
        newer.set_applied(Revision::new(3));
        assert_eq!(sessions.applied(&cell("1")), Some(Revision::new(3)));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_cell_that_enforces_or_leaves_or_with_the_patience() {
        let sessions = Arc::new(Sessions::default());
        let (first, second) =
            (sessions.enter(cell("1"), apps(&["a"])), sessions.enter(cell("2"), apps(&["b"])));
        let wait = |patience| {
            let sessions = Arc::clone(&sessions);
            async move { sessions.enforced(&a_to_b(), Revision::new(1), patience).await }
        };
        let impatient = wait(Duration::ZERO).await;
        assert_eq!(impatient, Enforcement { concerned: 2, enforcing: 0 });
        let waiting = tokio::spawn(wait(Duration::from_secs(60)));
        first.set_applied(Revision::new(1));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        assert_eq!(waiting.await.unwrap(), Enforcement { concerned: 1, enforcing: 1 });
    }

    #[tokio::test]
    async fn what_is_looked_at_are_the_cells_concerned_however_many_there_are() {
        const CELLS: usize = 1_000;
        let sessions = Arc::new(Sessions::default());
        let host = |number: usize| match number {
            0 => apps(&["a"]),
            1 => apps(&["b"]),
            _ => apps(&["c"]),
        };
        let cells: Vec<Session> =
            (0..CELLS).map(|number| sessions.enter(cell(&number.to_string()), host(number))).collect();
        let waiting = {
            let sessions = Arc::clone(&sessions);
            tokio::spawn(async move {
                sessions.enforced(&a_to_b(), Revision::new(1), Duration::from_secs(60)).await
            })
        };
        for cell in cells.iter().rev() {
            cell.set_applied(Revision::new(1));
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting.await.unwrap(), Enforcement { concerned: 2, enforcing: 2 });
        // Each of the two is counted at the beginning and twice in the end, and looked at before and after it moved.
        let looked_at = sessions.lock().looked_at;
        assert!(looked_at <= 2 * 5, "looked at {looked_at} cells");
        let slowest = Some(Revision::new(1));
        assert_eq!(sessions.progress(), Progress { connected: CELLS, slowest });
    }

    proptest! {
        /// The index says what a look at all cells would say.
        #[test]
        fn those_concerned_are_those_that_host(
            moves in prop::collection::vec((0..5_u8, prop::collection::btree_set("[abc]", 0..3), any::<bool>()), 0..40)
        ) {
            let sessions = Arc::new(Sessions::default());
            let mut open = BTreeMap::new();
            for (number, names, leaves) in moves {
                let hosted = apps(&names.iter().map(String::as_str).collect::<Vec<_>>());
                match open.remove(&number) {
                    Some(_) if leaves => {}
                    Some((session, _)) if number % 2 == 0 => {
                        let session: Session = session;
                        session.set_hosted(&hosted);
                        open.insert(number, (session, hosted));
                    }
                    older => {
                        let newer = sessions.enter(cell(&number.to_string()), hosted.clone());
                        drop(older);
                        open.insert(number, (newer, hosted));
                    }
                }
                let expected = open.values().filter(|(_, hosted)| a_to_b().includes(hosted)).count();
                prop_assert_eq!(sessions.enforcement(&a_to_b(), Revision::ZERO).concerned, expected);
                prop_assert_eq!(sessions.progress().connected, open.len());
            }
            open.clear();
            prop_assert!(sessions.lock().places.is_empty());
        }
    }
}
