//! The cells that are connected now, what each hosts and which revision it enforces. Ends with the process.

use super::{Audience, Hosted};
use crate::domain::{CellName, Revision};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// All sessions, at most one for each cell: a newer one replaces the older.
#[derive(Debug)]
pub struct Sessions {
    open: Mutex<BTreeMap<CellName, Entry>>,
    /// Changes whenever an entry does.
    moved: watch::Sender<()>,
}

#[derive(Debug)]
struct Entry {
    hosted: Hosted,
    applied: Revision,
    /// Dropped when the entry is replaced; and so it tells one entry of a cell from the next.
    alive: watch::Sender<()>,
}

/// How far the cells concerned are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// Connected cells that the change concerns.
    pub concerned: usize,
    /// Of those, the cells that enforce the revision.
    pub enforcing: usize,
}

/// A cell's place among the sessions; leaves when dropped.
#[derive(Debug)]
pub struct Session {
    sessions: Arc<Sessions>,
    cell: CellName,
    replaced: watch::Receiver<()>,
}

/// Waits for the end of a session's place.
#[derive(Debug)]
pub struct Replaced {
    entry: watch::Receiver<()>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { open: Mutex::default(), moved: watch::Sender::new(()) }
    }
}

impl Sessions {
    /// A cell connects. Its older session, if there is one, is told that it was replaced.
    pub fn enter(self: &Arc<Self>, cell: CellName, hosted: Hosted) -> Session {
        let (alive, replaced) = watch::channel(());
        self.lock().insert(cell.clone(), Entry { hosted, applied: Revision::ZERO, alive });
        self.moved.send_replace(());
        Session { sessions: Arc::clone(self), cell, replaced }
    }

    /// The revision that a connected cell enforces; nothing when it is not connected.
    #[must_use]
    pub fn applied(&self, cell: &CellName) -> Option<Revision> {
        self.lock().get(cell).map(|entry| entry.applied)
    }

    /// How many connected cells are concerned, and how many of them enforce the revision.
    #[must_use]
    pub fn enforcement(&self, audience: &Audience, revision: Revision) -> Enforcement {
        let open = self.lock();
        let concerned = open.values().filter(|entry| audience.includes(&entry.hosted));
        concerned.fold(Enforcement::default(), |sum, entry| Enforcement {
            concerned: sum.concerned + 1,
            enforcing: sum.enforcing + usize::from(entry.applied >= revision),
        })
    }

    /// Waits until all connected cells concerned enforce the revision, at most for as long as `patience`.
    pub async fn enforced(&self, audience: &Audience, revision: Revision, patience: Duration) -> Enforcement {
        let deadline = Instant::now() + patience;
        let mut moved = self.moved.subscribe();
        loop {
            let now = self.enforcement(audience, revision);
            if now.enforcing == now.concerned {
                return now;
            }
            if tokio::time::timeout_at(deadline, moved.changed()).await.is_err() {
                return self.enforcement(audience, revision);
            }
        }
    }

    /// Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<CellName, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.update(|entry| entry.hosted.clone_from(hosted));
    }

    /// The cell enforces every change up to this revision.
    pub fn set_applied(&self, revision: Revision) {
        self.update(|entry| entry.applied = entry.applied.max(revision));
    }

    fn update(&self, change: impl FnOnce(&mut Entry)) {
        let mut open = self.sessions.lock();
        if let Some(entry) = open.get_mut(&self.cell).filter(|entry| self.is_mine(entry)) {
            change(entry);
        }
        drop(open);
        self.sessions.moved.send_replace(());
    }

    fn is_mine(&self, entry: &Entry) -> bool {
        self.replaced.same_channel(&entry.alive.subscribe())
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
        let mut open = self.sessions.lock();
        if open.get(&self.cell).is_some_and(|entry| self.is_mine(entry)) {
            open.remove(&self.cell);
        }
        drop(open);
        self.sessions.moved.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AppId, Policy, Reach, SpaceId};
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
}
