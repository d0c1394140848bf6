//! The last commits, as watchers are told of them, for those that resume. Kept in memory, so that a thousand agents that
//! come back at once ask no disk and no database.

use crate::domain::{Commit, Revision};
use crate::store::LOG_LENGTH;
use std::collections::VecDeque;
use std::sync::Arc;

/// Some 100 bytes each: a few commits may hold ten thousands of policies, and all of them together must stay small.
const MAX_CHANGES: usize = 200_000;

/// Commits without a gap.
#[derive(Debug)]
pub(super) struct Log {
    commits: VecDeque<Arc<Commit>>,
    changes: usize,
    /// The last commit's.
    revision: Revision,
}

impl Log {
    /// Nothing before this revision is known.
    pub(super) fn from(revision: Revision) -> Self {
        Self { commits: VecDeque::new(), changes: 0, revision }
    }

    /// Adds the commit that follows.
    pub(super) fn push(&mut self, commit: Arc<Commit>) {
        self.revision = commit.revision;
        self.changes = self.changes.saturating_add(commit.changes.len());
        self.commits.push_back(commit);
        while self.commits.len() as u64 > LOG_LENGTH || self.changes > MAX_CHANGES {
            let Some(oldest) = self.commits.pop_front() else { return };
            self.changes = self.changes.saturating_sub(oldest.changes.len());
        }
    }

    /// Every commit after a revision; nothing when some are not here any more, or not yet.
    pub(super) fn since(&self, revision: Revision) -> Option<Vec<Arc<Commit>>> {
        let missing = self.revision.get().checked_sub(revision.get())?;
        let skip = (self.commits.len() as u64).checked_sub(missing)?;
        Some(self.commits.iter().skip(usize::try_from(skip).ok()?).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Change, GroupName};

    fn push(log: &mut Log, revision: u64, changes: usize) {
        let change = Change::GroupRemoved(GroupName::parse("name", "g").unwrap());
        log.push(Arc::new(Commit { revision: Revision::new(revision), changes: vec![change; changes] }));
    }

    fn since(log: &Log, revision: u64) -> Option<Vec<u64>> {
        let commits = log.since(Revision::new(revision))?;
        Some(commits.iter().map(|commit| commit.revision.get()).collect())
    }

    #[test]
    fn what_came_after_a_revision_is_whole_or_nothing() {
        let mut log = Log::from(Revision::new(5));
        assert_eq!((since(&log, 4), since(&log, 5), since(&log, 6)), (None, Some(Vec::new()), None));
        (6..=8).for_each(|revision| push(&mut log, revision, 1));
        assert_eq!((since(&log, 4), since(&log, 5)), (None, Some(vec![6, 7, 8])));
        assert_eq!((since(&log, 7), since(&log, 8), since(&log, 9)), (Some(vec![8]), Some(Vec::new()), None));
    }

    #[test]
    fn it_is_bounded_by_commits_and_by_what_they_hold() {
        let mut log = Log::from(Revision::ZERO);
        (1..=LOG_LENGTH + 2).for_each(|revision| push(&mut log, revision, 1));
        assert_eq!(log.commits.len() as u64, LOG_LENGTH);
        assert_eq!((since(&log, 1), since(&log, 2).unwrap().len() as u64), (None, LOG_LENGTH));
        push(&mut log, LOG_LENGTH + 3, MAX_CHANGES);
        assert_eq!(log.commits.len(), 1, "the newest alone fits");
        push(&mut log, LOG_LENGTH + 4, MAX_CHANGES + 1);
        assert_eq!((since(&log, LOG_LENGTH + 3), since(&log, LOG_LENGTH + 4)), (None, Some(Vec::new())));
    }
}
