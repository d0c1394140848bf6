//! Follows the controller's world: a sans-IO machine that takes what the controller says, in order, and knows what to
//! say to it. Whatever does not fit together ends in [`Mismatch`]; the stream is then ended, and the next one starts with
//! a snapshot. The world it holds is always a whole one, the old or the new.
//!
//! What is not pruned while the controller is away: policies of apps that left, and security groups of spaces. One that
//! comes back before the controller does finds them where they were.

use super::group::Group;
use super::step::Step;
use super::world::{Change, Hosted, Policy, World};
use crate::lease::Lease;
use std::collections::BTreeMap;

/// What the controller says about the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Everything, at a revision.
    Snapshot {
        /// The store's revision.
        revision: u64,
        /// All cells' leases.
        leases: Vec<Lease>,
        /// The policies of the apps announced.
        policies: Vec<Policy>,
        /// The security groups of the spaces announced, and those that apply everywhere.
        groups: BTreeMap<String, Group>,
    },
    /// What became different.
    Delta {
        /// Exclusive; the revision the mirror must be at.
        from: u64,
        /// Inclusive.
        to: u64,
        /// In order.
        changes: Vec<Change>,
    },
    /// What concerns the apps and spaces that were announced after the stream was opened.
    AppsView {
        /// Of the announcement.
        serial: u64,
        /// The store's revision when it was made.
        revision: u64,
        /// All policies that touch those apps.
        policies: Vec<Policy>,
        /// All security groups that are bound to those spaces.
        groups: BTreeMap<String, Group>,
    },
}

/// What is said first on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Store of the revision; empty when a snapshot is wanted.
    pub store_id: String,
    /// Revision to go on from; 0 when a snapshot is wanted.
    pub resume: u64,
    /// The apps and spaces hosted.
    pub hosted: Hosted,
}

/// Apps and spaces that came or left since the stream was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its answer bears the same.
    pub serial: u64,
    /// Those that came.
    pub added: Hosted,
    /// Those that left.
    pub removed: Hosted,
}

/// The controller said something that does not follow from what it said before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A change is missing, or came twice.
    #[error(
        "a delta from revision {from} to {to} came when the world was at revision {have}; asking for a snapshot"
    )]
    Gap {
        /// Where the delta starts.
        from: u64,
        /// Where it ends.
        to: u64,
        /// Where the mirror is.
        have: u64,
    },
    /// A delta came where only a snapshot can.
    #[error("a delta came before the snapshot that was asked for; asking for a snapshot again")]
    Unsynced,
    /// A view that nobody asked for.
    #[error("an apps view with serial {0} came that was not asked for; asking for a snapshot")]
    UnknownView(u64),
    /// A view of the past: changes since then would be undone by it.
    #[error(
        "an apps view of revision {revision} came when the world was at revision {have}; asking for a snapshot"
    )]
    StaleView {
        /// The view's revision.
        revision: u64,
        /// Where the mirror is.
        have: u64,
    },
    /// Something about the world came when no stream is open.
    #[error("the controller spoke of the world before it granted a lease; asking for a snapshot")]
    NotOpen,
}

/// Policies and security groups, as the controller sent them together.
type Said = (Vec<Policy>, BTreeMap<String, Group>);

/// The part of the state that ends with the stream.
#[derive(Debug, Default)]
struct Stream {
    announced: Hosted,
    /// What was announced and answered, or came with the opening.
    covered: Hosted,
    asked: BTreeMap<u64, Hosted>,
    last_serial: u64,
    store_id: String,
    resumed_from: u64,
    synced: bool,
}

impl Stream {
    /// What is known of an app or space ends when it leaves, even if it comes back before that could be announced.
    fn forget_all_but(&mut self, hosted: &Hosted) {
        self.covered.retain(hosted);
        self.asked.values_mut().for_each(|asked| asked.retain(hosted));
    }

    /// Of `hosted`, those of which nothing is known and nothing on its way.
    fn missing(&self, hosted: &Hosted) -> Hosted {
        self.asked.values().fold(hosted.without(&self.covered), |rest, asked| rest.without(asked))
    }
}

/// The mirror of the controller's world.
#[derive(Debug, Default)]
pub struct Mirror {
    world: World,
    hosted: Hosted,
    stream: Option<Stream>,
    distrusted: bool,
    /// What became different of the world since it was [asked for](Mirror::step); `None` when all may be.
    step: Option<Step>,
}

impl Mirror {
    /// A mirror that knows `world`, as saved by an earlier run, or an empty one.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self { world, ..Self::default() }
    }

    /// The world.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The apps and spaces hosted now.
    #[must_use]
    pub fn hosted(&self) -> &Hosted {
        &self.hosted
    }

    /// What became different of the world since this was last asked; `None` when all may be.
    pub fn step(&mut self) -> Option<Step> {
        self.step.replace(Step::default())
    }

    /// Whether the world is kept up to date by a stream.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.synced)
    }

    /// Whether everything that concerns these is known, as of the last word of the controller.
    #[must_use]
    pub fn is_complete(&self, these: &Hosted) -> bool {
        self.world.complete.covers(these)
    }

    /// Says which apps and spaces are hosted. What is not hosted any more is forgotten, unless the controller is away.
    pub fn host(&mut self, hosted: Hosted) {
        let before = std::mem::replace(&mut self.hosted, hosted);
        if let Some(stream) = &mut self.stream {
            stream.forget_all_but(&self.hosted);
        }
        if self.is_live() {
            self.leave(before.without(&self.hosted));
        }
    }

    fn leave(&mut self, left: Hosted) {
        let naming = self.world.policies.naming_one_of(&left.apps).into_keys();
        let gone: Vec<_> = naming.filter(|rule| !rule.touches(&self.hosted.apps)).cloned().collect();
        gone.into_iter().for_each(|rule| self.change(Change::PolicyRemoved(rule)));
        self.change(Change::Left(left));
    }

    fn retain_hosted(&mut self) {
        self.world.retain(&self.hosted);
        self.step = None;
    }

    /// The one way, but for a snapshot, in which the world becomes another.
    fn change(&mut self, change: Change) {
        if self.world.holds(&change) {
            return;
        }
        if let Some(step) = &mut self.step {
            step.add(change.clone(), &self.world);
        }
        self.world.apply(change);
    }

    /// A stream is being opened: what to say first.
    pub fn open(&mut self) -> Opening {
        let hosted = self.hosted.clone();
        let known = self.world.revision > 0 && self.world.with_groups;
        let resumable = known && !self.distrusted && self.is_complete(&hosted);
        let resume = if resumable { self.world.revision } else { 0 };
        let store_id = if resumable { self.world.store_id.clone() } else { String::new() };
        let stream = Stream {
            announced: hosted.clone(),
            covered: hosted.clone(),
            resumed_from: resume,
            ..Stream::default()
        };
        self.stream = Some(stream);
        Opening { store_id, resume, hosted }
    }

    /// The controller granted the lease and said which store it speaks for.
    pub fn granted(&mut self, store_id: &str) {
        let Some(stream) = &mut self.stream else { return };
        store_id.clone_into(&mut stream.store_id);
        let resumes = stream.resumed_from > 0 && self.world.store_id == store_id;
        stream.synced |= resumes;
        if resumes {
            self.retain_hosted();
        }
    }

    /// The stream ended.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// The next stream has to start with a snapshot.
    pub fn distrust(&mut self) {
        self.distrusted = true;
    }

    /// What has to be announced on the stream, if anything.
    pub fn announce(&mut self) -> Option<Announcement> {
        let stream = self.stream.as_mut()?;
        let added = stream.missing(&self.hosted);
        let removed = stream.announced.without(&self.hosted);
        if added.is_empty() && removed.is_empty() {
            return None;
        }
        stream.last_serial += 1;
        stream.announced.clone_from(&self.hosted);
        stream.asked.insert(stream.last_serial, added.clone());
        Some(Announcement { serial: stream.last_serial, added, removed })
    }

    /// Takes what the controller says. On error nothing was changed, and the stream must be ended.
    pub fn take(&mut self, update: Update) -> Result<(), Mismatch> {
        let taken = match update {
            Update::Snapshot { revision, leases, policies, groups } => {
                self.snapshot(revision, leases, (policies, groups))
            }
            Update::Delta { from, to, changes } => self.delta(from, to, changes),
            Update::AppsView { serial, revision, policies, groups } => {
                self.view(serial, revision, (policies, groups))
            }
        };
        self.distrusted |= taken.is_err();
        taken
    }

    fn snapshot(
        &mut self,
        revision: u64,
        leases: Vec<Lease>,
        (policies, groups): Said,
    ) -> Result<(), Mismatch> {
        let stream = self.stream.as_mut().ok_or(Mismatch::NotOpen)?;
        stream.synced = true;
        self.distrusted = false;
        self.world = World {
            store_id: stream.store_id.clone(),
            revision,
            complete: stream.covered.clone(),
            with_groups: true,
            leases: leases.into_iter().map(|lease| (lease.block, lease)).collect(),
            policies: policies.into_iter().collect(),
            groups,
        };
        self.retain_hosted();
        Ok(())
    }

    fn delta(&mut self, from: u64, to: u64, changes: Vec<Change>) -> Result<(), Mismatch> {
        let have = self.synced()?.world.revision;
        if from != have || to < from {
            return Err(Mismatch::Gap { from, to, have });
        }
        for change in changes {
            self.apply(change);
        }
        self.world.revision = to;
        Ok(())
    }

    /// What concerns apps and spaces that left while the delta was on its way is not taken in.
    fn apply(&mut self, mut change: Change) {
        if let Change::PolicyPut(policy) = &change
            && !policy.rule.touches(&self.hosted.apps)
        {
            return;
        }
        if let Change::GroupPut(name, group) = &mut change
            && !group.keep_spaces(|space| self.hosted.spaces.contains(space))
        {
            change = Change::GroupRemoved(std::mem::take(name));
        }
        self.change(change);
    }

    /// Replaces all that is known of what was asked for. Deltas between the world's revision and the view's follow, and
    /// are already in the view: putting and removing twice is harmless.
    fn view(&mut self, serial: u64, revision: u64, (policies, groups): Said) -> Result<(), Mismatch> {
        let have = self.synced()?.world.revision;
        let stream = self.stream.as_mut().ok_or(Mismatch::NotOpen)?;
        let asked = stream.asked.remove(&serial).ok_or(Mismatch::UnknownView(serial))?;
        if revision < have {
            return Err(Mismatch::StaleView { revision, have });
        }
        stream.covered.extend(asked.clone());
        for change in self.world.corrections(asked, policies, groups) {
            self.apply(change);
        }
        Ok(())
    }

    fn synced(&self) -> Result<&Self, Mismatch> {
        match &self.stream {
            None => Err(Mismatch::NotOpen),
            Some(stream) if !stream.synced => Err(Mismatch::Unsynced),
            Some(_) => Ok(self),
        }
    }
}

#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
