//! One thing at a time for each container; different containers do not wait for each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Whose turn it is, by container.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<String, Arc<Turn<()>>>>);

impl Turns {
    /// Waits until nothing else is done with this container. The turn ends when what is returned is dropped.
    pub(super) async fn take(&self, container_id: &str) -> OwnedMutexGuard<()> {
        self.of(container_id).lock_owned().await
    }

    fn of(&self, container_id: &str) -> Arc<Turn<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(container_id.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_container_waits_for_itself_only() {
        let turns = Turns::default();
        let first = turns.take("one").await;
        assert!(turns.take("one").now_or_never().is_none());
        assert!(turns.take("two").now_or_never().is_some());
        drop(first);
        assert!(turns.take("one").now_or_never().is_some());
    }

    #[tokio::test]
    async fn finished_turns_are_forgotten() {
        let turns = Turns::default();
        for number in 0..10 {
            drop(turns.take(&number.to_string()).await);
        }
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
