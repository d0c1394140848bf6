//! The cells that are connected now, which apps each hosts and which revision it enforces. Ends with the process.

use crate::domain::{AppId, CellName, Revision};
use std::collections::{BTreeMap, BTreeSet};
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
    apps: BTreeSet<AppId>,
    applied: Revision,
    /// Dropped when the entry is replaced; and so it tells one entry of a cell from the next.
    alive: watch::Sender<()>,
}

/// How far the cells concerned are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// Connected cells that host one of the apps.
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
    pub fn enter(self: &Arc<Self>, cell: CellName, apps: BTreeSet<AppId>) -> Session {
        let (alive, replaced) = watch::channel(());
        self.lock().insert(cell.clone(), Entry { apps, applied: Revision::ZERO, alive });
        self.moved.send_replace(());
        Session { sessions: Arc::clone(self), cell, replaced }
    }

    /// The revision that a connected cell enforces; nothing when it is not connected.
    #[must_use]
    pub fn applied(&self, cell: &CellName) -> Option<Revision> {
        self.lock().get(cell).map(|entry| entry.applied)
    }

    /// Which connected cells host one of the apps, and whether they enforce the revision.
    #[must_use]
    pub fn enforcement(&self, apps: [&AppId; 2], revision: Revision) -> Enforcement {
        let open = self.lock();
        let concerned = open.values().filter(|entry| apps.iter().any(|app| entry.apps.contains(*app)));
        concerned.fold(Enforcement::default(), |sum, entry| Enforcement {
            concerned: sum.concerned + 1,
            enforcing: sum.enforcing + usize::from(entry.applied >= revision),
        })
    }

    /// Waits until all connected cells concerned enforce the revision, at most for as long as `patience`.
    pub async fn enforced(&self, apps: [&AppId; 2], revision: Revision, patience: Duration) -> Enforcement {
        let deadline = Instant::now() + patience;
        let mut moved = self.moved.subscribe();
        loop {
            let now = self.enforcement(apps, revision);
            if now.enforcing == now.concerned {
                return now;
            }
            if tokio::time::timeout_at(deadline, moved.changed()).await.is_err() {
                return self.enforcement(apps, revision);
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

    /// The cell hosts other apps now.
    pub fn set_apps(&self, apps: &BTreeSet<AppId>) {
        self.update(|entry| entry.apps.clone_from(apps));
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

    fn cell(name: &str) -> CellName {
        CellName::parse("cell", name).unwrap()
    }

    fn apps(names: &[&str]) -> BTreeSet<AppId> {
        names.iter().map(|name| AppId::parse("app", name).unwrap()).collect()
    }

    fn enforcement(sessions: &Sessions, revision: u64) -> (usize, usize) {
        let [a, b] = ["a", "b"].map(|name| AppId::parse("app", name).unwrap());
        let Enforcement { concerned, enforcing } = sessions.enforcement([&a, &b], Revision::new(revision));
        (concerned, enforcing)
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
        second.set_apps(&apps(&[]));
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
        let [a, b] = ["a", "b"].map(|name| AppId::parse("app", name).unwrap());
        let (first, second) =
            (sessions.enter(cell("1"), apps(&["a"])), sessions.enter(cell("2"), apps(&["b"])));
        let wait = |patience| {
            let (sessions, a, b) = (Arc::clone(&sessions), a.clone(), b.clone());
            async move { sessions.enforced([&a, &b], Revision::new(1), patience).await }
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
