//! The keys that were fetched, and when to fetch again: a machine without clock and network.
//!
//! An unknown `kid` may be the UAA's new key, so it is asked; but callers can name any `kid`, so not more often than
//! [`PAUSE`]. A key that the UAA no longer lists is refused at most [`MAX_AGE`] later. While it cannot be asked, the keys
//! that it listed last stay good.

use super::keys::{Key, KeySet};
use std::time::Duration;
use tokio::time::Instant;

/// Keys older than this are asked for again before they are used.
pub(super) const MAX_AGE: Duration = Duration::from_secs(300);
/// From the end of one fetch to the start of the next: what a caller with invented tokens can cost the UAA.
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Here it is.
    Key(Key),
    /// Fetch, tell, and ask again.
    Fetch,
    /// The UAA does not list it.
    NoSuchKey,
    /// The UAA was asked and did not answer.
    NotFetched,
}

#[derive(Debug, Default)]
pub(super) struct KeyCache {
    keys: KeySet,
    /// When the UAA listed them.
    listed: Option<Instant>,
    last: Option<Attempt>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    ended: Instant,
    succeeded: bool,
}

impl KeyCache {
    /// The key, if nobody needs to be asked.
    pub(super) fn current(&self, kid: &str, now: Instant) -> Option<Key> {
        let listed = self.listed.filter(|listed| now.duration_since(*listed) < MAX_AGE);
        listed.and_then(|_| self.keys.get(kid).cloned())
    }

    pub(super) fn find(&self, kid: &str, now: Instant) -> Answer {
        if let Some(key) = self.current(kid, now) {
            return Answer::Key(key);
        }
        match self.last.filter(|last| now.duration_since(last.ended) < PAUSE) {
            None => Answer::Fetch,
            Some(last) => match self.keys.get(kid) {
                Some(key) => Answer::Key(key.clone()),
                None if last.succeeded => Answer::NoSuchKey,
                None => Answer::NotFetched,
            },
        }
    }

    /// The UAA lists these, and so no others.
    pub(super) fn fetched(&mut self, keys: KeySet, now: Instant) {
        self.keys = keys;
        self.listed = Some(now);
        self.last = Some(Attempt { ended: now, succeeded: true });
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.last = Some(Attempt { ended: now, succeeded: false });
    }
}
