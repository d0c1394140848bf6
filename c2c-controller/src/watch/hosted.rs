//! What a cell hosts, how that changes, and whom a change of the state concerns by it.

use crate::domain::{AppId, Policy, Reach, SpaceId};
use std::collections::BTreeSet;

/// The apps and spaces of a cell's containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosted {
    /// Apps.
    pub apps: BTreeSet<AppId>,
    /// Spaces.
    pub spaces: BTreeSet<SpaceId>,
}

/// What came to a cell and what left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// What is there no more.
    pub removed: Hosted,
    /// What is there now.
    pub added: Hosted,
}

/// The cells that a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All.
    Everyone,
    /// Those that host any of these.
    Hosts(Hosted),
}

impl Hosted {
    /// What is hosted after the moves.
    #[must_use]
    pub fn after(&self, moves: &Moves) -> Self {
        let Moves { removed, added } = moves;
        Self {
            apps: self.apps.difference(&removed.apps).chain(&added.apps).cloned().collect(),
            spaces: self.spaces.difference(&removed.spaces).chain(&added.spaces).cloned().collect(),
        }
    }

    /// Whether one of the policy's apps is hosted.
    #[must_use]
    pub fn is_named_by(&self, policy: &Policy) -> bool {
        self.apps.contains(&policy.source) || self.apps.contains(&policy.destination)
    }

    /// Whether containers may be here that are reached.
    #[must_use]
    pub fn is_reached_by(&self, reach: &Reach) -> bool {
        reach.space.as_ref().is_none_or(|space| self.spaces.contains(space))
    }
}

impl Audience {
    /// The cells that a policy concerns.
    #[must_use]
    pub fn of_policy(policy: &Policy) -> Self {
        let apps = [policy.source.clone(), policy.destination.clone()].into();
        Self::Hosts(Hosted { apps, spaces: BTreeSet::new() })
    }

    /// The cells that a security group concerns which is bound to these.
    #[must_use]
    pub fn of_reaches<'a>(reaches: impl IntoIterator<Item = &'a Reach>) -> Self {
        let spaces: Option<_> = reaches.into_iter().map(|reach| reach.space.clone()).collect();
        spaces.map_or(Self::Everyone, |spaces| Self::Hosts(Hosted { apps: BTreeSet::new(), spaces }))
    }

    /// Whether a cell that hosts this is among them.
    #[must_use]
    pub fn includes(&self, cell: &Hosted) -> bool {
        match self {
            Self::Everyone => true,
            Self::Hosts(any) => {
                // The standard library looks the fewer up among the more, or goes through both at once.
                !cell.apps.is_disjoint(&any.apps) || !cell.spaces.is_disjoint(&any.spaces)
            }
        }
    }
}
