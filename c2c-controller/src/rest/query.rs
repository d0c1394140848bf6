//! Which policies a list shows: the query's `id`, or else its `source_id` and `dest_id`, each with commas between ids.

use crate::domain::{AppId, TaggedPolicy};
use crate::ledger::Ledger;
use crate::web;
use std::collections::BTreeSet;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Policies that name one of these on either side.
    Either(BTreeSet<AppId>),
    /// Policies whose source, and whose destination, is one of these; nothing stands for any.
    Sides { source: Option<BTreeSet<AppId>>, destination: Option<BTreeSet<AppId>> },
}

impl Filter {
    /// Reads the query of a URL. `id` is stronger than the two others; of a key that is there twice the first counts;
    /// other keys mean nothing, and an id that cannot be one names no app.
    pub(crate) fn parse(query: &str) -> Self {
        let ids = |wanted: &str| {
            let list = web::value(query, wanted)?;
            Some(list.split(',').filter_map(|id| AppId::parse("id", id).ok()).collect())
        };
        match ids("id") {
            Some(apps) => Self::Either(apps),
            None => Self::Sides { source: ids("source_id"), destination: ids("dest_id") },
        }
    }

    /// The policies that it shows, in order.
    pub(super) fn select(&self, ledger: &Ledger) -> Vec<TaggedPolicy> {
        match self {
            Self::Either(apps) => ledger.policies_naming(apps),
            Self::Sides { source: None, destination: None } => ledger.policies(None).1,
            Self::Sides { source: Some(apps), .. }
            | Self::Sides { source: None, destination: Some(apps) } => {
                let mut policies = ledger.policies_naming(apps);
                policies.retain(|policy| self.shows(policy));
                policies
            }
        }
    }

    fn shows(&self, TaggedPolicy { policy, .. }: &TaggedPolicy) -> bool {
        let is_one =
            |apps: &Option<BTreeSet<AppId>>, app| apps.as_ref().is_none_or(|apps| apps.contains(app));
        match self {
            Self::Either(apps) => apps.iter().any(|app| policy.names(app)),
            Self::Sides { source, destination } => {
                is_one(source, &policy.source) && is_one(destination, &policy.destination)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(names: &[&str]) -> BTreeSet<AppId> {
        names.iter().map(|name| AppId::parse("app", name).unwrap()).collect()
    }

    #[test]
    fn queries_as_they_are_sent() {
        let sides = |source: Option<&[&str]>, destination: Option<&[&str]>| Filter::Sides {
            source: source.map(apps),
            destination: destination.map(apps),
        };
        let either = |names| Filter::Either(apps(names));
        let cases = [
            ("", sides(None, None)),
            ("other=a", sides(None, None)),
            ("id=a%2Cb", either(&["a", "b"])),
            ("id=a,b&source_id=c", either(&["a", "b"])),
            ("source_id=c&id=", either(&[])),
            ("id=a&id=b", either(&["a"])),
            ("id=a/b,%ff,c+d,e", either(&["e"])),
            ("source_id=a", sides(Some(&["a"]), None)),
            ("dest_id=a,b&source_id=c", sides(Some(&["c"]), Some(&["a", "b"]))),
        ];
        for (query, filter) in cases {
            assert_eq!(Filter::parse(query), filter, "{query}");
        }
    }
}
