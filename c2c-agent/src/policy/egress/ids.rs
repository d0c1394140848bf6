//! Ids of contents: the first word of a SHA-256. Two contents never share an id, and a content keeps its id for as long
//! as it is in use.

use ring::digest::SHA256;
use std::collections::{BTreeMap, BTreeSet};

/// What an id stands for.
pub(super) type Digest = [u8; 32];

pub(super) fn digest(content: &[u8]) -> Digest {
    let mut digest = Digest::default();
    let hash = ring::digest::digest(&SHA256, content);
    digest.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    digest
}

/// Ids that are given out.
///
/// A content whose id is taken gets the next one that follows from it. Contents that arrive together are given theirs in
/// the order of their digests, so a restart gives the same; only of two contents that collide (one pair in four billion)
/// and arrived at different times the ids may change places.
#[derive(Debug, Default)]
pub(super) struct Ids {
    given: BTreeMap<Digest, u32>,
    taken: BTreeSet<u32>,
    /// Contents of the call before: their rows may still be in the maps, so their ids are not free yet.
    previous: BTreeSet<Digest>,
}

impl Ids {
    /// Gives an id to each of these, and takes it from those that are neither in this call nor in the one before.
    pub(super) fn assign(&mut self, wanted: BTreeSet<Digest>) {
        for content in &wanted {
            if !self.given.contains_key(content) {
                let id = self.free(*content);
                self.given.insert(*content, id);
                self.taken.insert(id);
            }
        }
        self.given.retain(|content, _| wanted.contains(content) || self.previous.contains(content));
        self.taken = self.given.values().copied().collect();
        self.previous = wanted;
    }

    /// The id of a content that was assigned one; 0, which nothing has, for any other.
    pub(super) fn of(&self, content: &Digest) -> u32 {
        self.given.get(content).copied().unwrap_or(0)
    }

    /// 0 and the highest number are not for contents.
    fn free(&self, content: Digest) -> u32 {
        let mut word = content;
        loop {
            let [a, b, c, d, ..] = word;
            let id = u32::from_be_bytes([a, b, c, d]);
            if id != 0 && id != u32::MAX && !self.taken.contains(&id) {
                return id;
            }
            word = digest(&word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(first: [u8; 4], last: u8) -> Digest {
        let mut content = [last; 32];
        for (to, from) in content.iter_mut().zip(first) {
            *to = from;
        }
        content
    }

    fn set(contents: &[Digest]) -> BTreeSet<Digest> {
        contents.iter().copied().collect()
    }

    #[test]
    fn sha_256_is_sha_256() {
        assert_eq!(digest(b"abc").first_chunk(), Some(&[0xba, 0x78, 0x16, 0xbf]));
    }

    #[test]
    fn colliding_contents_have_different_ids_in_an_order_of_their_own() {
        let (a, b) = (content([1, 2, 3, 4], 1), content([1, 2, 3, 4], 2));
        let mut ids = Ids::default();
        ids.assign(set(&[b, a]));
        assert_eq!(ids.of(&a), 0x0102_0304);
        assert!(![0, u32::MAX, ids.of(&a)].contains(&ids.of(&b)));
        let mut again = Ids::default();
        again.assign(set(&[a, b]));
        assert_eq!((again.of(&a), again.of(&b)), (ids.of(&a), ids.of(&b)));
    }

    #[test]
    fn reserved_ids_are_given_to_nobody() {
        let (zero, highest) = (content([0; 4], 9), content([0xff; 4], 9));
        let mut ids = Ids::default();
        ids.assign(set(&[zero, highest]));
        let given = [ids.of(&zero), ids.of(&highest)];
        assert!(given.iter().all(|id| ![0, u32::MAX].contains(id)) && given[0] != given[1]);
    }

    #[test]
    fn a_content_keeps_its_id_and_frees_it_a_call_after_it_went() {
        let (early, late) = (content([1, 2, 3, 4], 1), content([1, 2, 3, 4], 2));
        let mut ids = Ids::default();
        ids.assign(set(&[late]));
        ids.assign(set(&[late, early]));
        assert_eq!(
            ids.of(&late),
            0x0102_0304,
            "the newcomer comes first in order and gets another all the same"
        );
        let second = ids.of(&early);
        ids.assign(set(&[early]));
        ids.assign(set(&[early]));
        assert_eq!((ids.of(&early), ids.of(&late)), (second, 0));
        let other = content([1, 2, 3, 4], 3);
        ids.assign(set(&[early, other]));
        assert_eq!(ids.of(&other), 0x0102_0304);
    }
}
