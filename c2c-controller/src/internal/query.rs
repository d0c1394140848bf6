//! What the queries of URLs ask for. Of a key that is there twice the first counts; other keys mean nothing, and a name that
//! cannot be one names nothing.

use super::failure::Failure;
use crate::domain::{AppId, SpaceId};
use crate::web;
use std::collections::BTreeSet;

/// The apps whose policies are asked for; nothing: all policies are.
pub(crate) fn apps(query: &str) -> Option<BTreeSet<AppId>> {
    let list = web::value(query, "id").filter(|list| !list.is_empty())?;
    Some(list.split(',').filter_map(|id| AppId::parse("id", id).ok()).collect())
}

/// Which security groups are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Those of these spaces, and those of all.
    pub(crate) spaces: BTreeSet<SpaceId>,
    /// From this row; nothing: from the first.
    pub(crate) from: Option<u64>,
    /// At most so many; nothing: all.
    pub(crate) limit: Option<usize>,
}

impl Listing {
    /// vxlan-policy-agent says `per_page` where policy-server-internal understands `limit`, so both are. What is not positive
    /// asks for nothing.
    ///
    /// # Errors
    /// A number that is none.
    pub(crate) fn parse(query: &str) -> Result<Self, Failure> {
        let spaces = web::value(query, "space_guids").unwrap_or_default();
        let [from, limit, per_page] =
            ["from", "limit", "per_page"].map(|key| integer(query, key).map_err(|()| Failure::Integer(key)));
        let count = |number: i64| usize::try_from(number).ok().filter(|count| *count > 0);
        let (from, limit, per_page) = (from?, limit?, per_page?);
        Ok(Self {
            spaces: spaces.split(',').filter_map(|space| SpaceId::parse("space", space).ok()).collect(),
            from: from.and_then(|from| u64::try_from(from).ok()).filter(|from| *from > 0),
            limit: limit.and_then(count).or(per_page.and_then(count)),
        })
    }
}

fn integer(query: &str, key: &str) -> Result<Option<i64>, ()> {
    web::value(query, key).map(|text| text.parse().map_err(|_| ())).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_as_they_are_asked_for() {
        let named =
            |names: &[&str]| Some(names.iter().map(|name| AppId::parse("id", name).unwrap()).collect());
        for (query, expected) in [
            ("", None),
            ("id=", None),
            ("per_page=1", None),
            ("id=a,b", named(&["a", "b"])),
            ("id=a%2Cb,,a", named(&["a", "b"])),
            ("id=a&id=b", named(&["a"])),
            ("id=a/b", named(&[])),
        ] {
            assert_eq!(apps(query), expected, "{query}");
        }
    }

    #[test]
    fn pages_as_they_are_asked_for() {
        let page = |query| Listing::parse(query).map(|listing| (listing.from, listing.limit));
        for (query, expected) in [
            ("", (None, None)),
            ("from=7&limit=2", (Some(7), Some(2))),
            ("per_page=5000", (None, Some(5000))),
            ("per_page=5000&limit=2", (None, Some(2))),
            ("per_page=3&limit=0&from=0", (None, Some(3))),
            ("per_page=-3&limit=-1&from=-9", (None, None)),
            ("from=%2B9223372036854775807", (Some(9_223_372_036_854_775_807), None)),
        ] {
            assert_eq!(page(query), Ok(expected), "{query}");
        }
        for (query, wrong) in [
            ("from=&limit=x", "from"),
            ("from=1.5", "from"),
            ("from=9223372036854775808", "from"),
            ("limit=x&from=1", "limit"),
            ("per_page=%00", "per_page"),
        ] {
            assert_eq!(page(query), Err(Failure::Integer(wrong)), "{query}");
        }
        let spaces = Listing::parse("per_page=1&space_guids=s,t,a/b,").unwrap().spaces;
        assert_eq!(spaces.iter().map(SpaceId::as_str).collect::<Vec<_>>(), ["s", "t"]);
    }
}
