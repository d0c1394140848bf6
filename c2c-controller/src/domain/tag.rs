//! Tags: an app's 16-bit identity on the wire, held from the first policy that names it to the last.
//!
//! A freed tag is quarantined, because a cell that is cut off from the controller goes on enforcing what it meant. Only
//! the app that had it gets it back sooner.

use super::{AppId, Now, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU16;

/// How long a freed tag is given to no other app. Agents notice within seconds that the stream is cut and reconnect;
/// ten minutes cover a controller that is restarted by hand.
pub const QUARANTINE_SECONDS: u64 = 600;

/// An app's identity in the packets: 1 to 65535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(NonZeroU16);

impl Tag {
    /// The tag of a number; nothing for 0, which is "no tag" on the wire.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// As Cloud Foundry's policy server writes it: `00FF`.
    #[must_use]
    pub fn hex(self) -> String {
        format!("{:04X}", self.0)
    }

    /// Its number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A tag that nobody has any more, since when, and who had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagFreed {
    /// The tag.
    pub tag: Tag,
    /// Who had it.
    pub app: AppId,
    /// When it was freed.
    pub at: Timestamp,
}

/// A tag that somebody holds without a policy, as routers do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagHeld {
    /// The tag.
    pub tag: Tag,
    /// Who holds it.
    pub app: AppId,
}

/// Which app has which tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tags {
    held: BTreeMap<AppId, Held>,
    owners: BTreeMap<Tag, AppId>,
    freed: BTreeMap<Tag, TagFreed>,
    /// Those that hold theirs without a policy. That is a use of it.
    routers: BTreeSet<AppId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    tag: Tag,
    /// How often policies name the app, and one more if it holds the tag without.
    uses: usize,
}

impl Tags {
    pub(super) fn of(&self, app: &AppId) -> Option<Tag> {
        self.held.get(app).map(|held| held.tag)
    }

    pub(super) fn owner(&self, tag: Tag) -> Option<&AppId> {
        self.owners.get(&tag)
    }

    /// How often policies name the app, and one more if it holds its tag without.
    pub(super) fn uses(&self, app: &AppId) -> usize {
        self.held.get(app).map_or(0, |held| held.uses)
    }

    /// The tags that commands of one commit give, on top of those that apps have.
    pub(super) fn assignment<'a>(&'a self, now: Now<'a>) -> Assignment<'a> {
        Assignment { tags: self, now, given: BTreeMap::new(), taken: BTreeSet::new(), had: None, next: 1 }
    }

    fn is_free(&self, tag: Tag, now: Now<'_>) -> bool {
        let quarantined =
            self.freed.get(&tag).is_some_and(|freed| now.seconds_freed(freed) < QUARANTINE_SECONDS);
        !quarantined && !self.owners.contains_key(&tag)
    }

    pub(super) fn take(&mut self, app: &AppId, tag: Tag) {
        self.freed.remove(&tag);
        self.owners.insert(tag, app.clone());
        self.held.entry(app.clone()).or_insert(Held { tag, uses: 0 }).uses += 1;
    }

    /// One policy less names the app. Its tag is nobody's after the last.
    pub(super) fn release(&mut self, app: &AppId) {
        let Some(held) = self.held.get_mut(app) else { return };
        held.uses = held.uses.saturating_sub(1);
        if held.uses == 0 {
            self.owners.remove(&held.tag);
            self.held.remove(app);
        }
    }

    /// The app holds the tag, from now on, whether or not policies name it.
    pub(super) fn hold(&mut self, TagHeld { tag, app }: &TagHeld) {
        if self.routers.insert(app.clone()) {
            self.take(app, *tag);
        }
    }

    /// Whether it holds its tag without a policy.
    pub(super) fn is_router(&self, app: &AppId) -> bool {
        self.routers.contains(app)
    }

    /// Those that hold their tags without a policy.
    pub(super) fn routers(&self) -> impl Iterator<Item = TagHeld> {
        self.routers.iter().filter_map(|app| Some(TagHeld { tag: self.of(app)?, app: app.clone() }))
    }

    pub(super) fn quarantine(&mut self, freed: TagFreed) {
        self.freed.insert(freed.tag, freed);
    }

    pub(super) fn quarantined(&self) -> impl Iterator<Item = &TagFreed> {
        self.freed.values()
    }

    /// Every tag with its app, by tag.
    pub(super) fn held(&self) -> impl Iterator<Item = (Tag, &AppId)> {
        self.owners.iter().map(|(tag, app)| (*tag, app))
    }
}

/// Gives tags to apps that have none, each to one. All of it costs one walk over the tags, however many apps there are.
pub(super) struct Assignment<'a> {
    tags: &'a Tags,
    now: Now<'a>,
    given: BTreeMap<AppId, Tag>,
    taken: BTreeSet<Tag>,
    /// Who had which freed tag; made when it is first asked for.
    had: Option<BTreeMap<&'a AppId, Tag>>,
    /// No tag below it is free.
    next: u16,
}

impl Assignment<'_> {
    /// The tag that the app has, or had, or else the lowest that nobody has; nothing when all are taken.
    pub(super) fn of(&mut self, app: &AppId) -> Option<Tag> {
        if let Some(tag) = self.tags.of(app).or_else(|| self.given.get(app).copied()) {
            return Some(tag);
        }
        let tag = self.had(app).filter(|tag| !self.taken.contains(tag)).or_else(|| self.lowest())?;
        self.given.insert(app.clone(), tag);
        self.taken.insert(tag);
        Some(tag)
    }

    fn had(&mut self, app: &AppId) -> Option<Tag> {
        // The lowest, when there are several: later ones are overwritten by earlier ones.
        let freed = self.tags.freed.values().rev();
        let had = self.had.get_or_insert_with(|| freed.map(|freed| (&freed.app, freed.tag)).collect());
        had.get(app).copied()
    }

    fn lowest(&mut self) -> Option<Tag> {
        let free = |tag: &Tag| !self.taken.contains(tag) && self.tags.is_free(*tag, self.now);
        let tag = (self.next..=u16::MAX).filter_map(Tag::new).find(free);
        self.next = tag.map_or(u16::MAX, Tag::get);
        tag
    }
}
