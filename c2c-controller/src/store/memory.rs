//! A store that ends with the process: for tests, and the plainest reading of what a store is.

use super::{LOG_LENGTH, Renewals, Since, Store, StoreError, StoreId, log_start};
use crate::domain::{Commit, Revision, State};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keeps everything in memory.
#[derive(Debug)]
pub struct MemoryStore {
    id: StoreId,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    log: VecDeque<Arc<Commit>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { id: StoreId::random(), inner: Mutex::default() }
    }
}

impl MemoryStore {
    /// Nothing in here panics while it holds the lock, so a poisoned one holds a whole state.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn id(&self) -> StoreId {
        self.id.clone()
    }

    fn snapshot(&self) -> Result<State, StoreError> {
        Ok(self.lock().state.clone())
    }

    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let stored = inner.state.revision();
        if commit.revision != stored.next() {
            return Err(StoreError::Conflict { wanted: commit.revision, stored });
        }
        inner.state.apply(commit);
        inner.log.push_back(Arc::new(commit.told()));
        if inner.log.len() as u64 > LOG_LENGTH {
            inner.log.pop_front();
        }
        Ok(())
    }

    fn renew(&self, renewals: &Renewals) -> Result<(), StoreError> {
        let mut inner = self.lock();
        renewals.iter().for_each(|(underlay, at)| inner.state.renew(*underlay, *at));
        Ok(())
    }

    fn changes_since(&self, revision: Revision) -> Result<Since, StoreError> {
        let inner = self.lock();
        let current = inner.state.revision();
        if revision > current || revision < log_start(current) {
            return Ok(Since::Compacted);
        }
        Ok(Since::Commits(inner.log.iter().filter(|commit| commit.revision > revision).cloned().collect()))
    }

    fn refill(self: Box<Self>, over: Revision, state: &State) -> Result<Box<dyn Store>, StoreError> {
        let stored = self.lock().state.revision();
        if stored != over {
            return Err(StoreError::Conflict { wanted: over, stored });
        }
        let mut refilled = State::default();
        refilled.apply(&Commit { revision: Revision::FIRST, changes: state.parts().changes().collect() });
        let log = VecDeque::from([Arc::new(super::refilled())]);
        Ok(Box::new(Self { id: StoreId::random(), inner: Mutex::new(Inner { state: refilled, log }) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[test]
    fn conforms() {
        conformance::all(&mut || Box::new(MemoryStore::default()));
    }
}
