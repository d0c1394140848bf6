//! Queries of URLs.

use std::borrow::Cow;

/// The value of a key; the first one when it is there twice.
pub(crate) fn value<'a>(query: &'a str, key: &str) -> Option<Cow<'a, str>> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == key).map(|(_, value)| value)
}
