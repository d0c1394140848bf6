//! Names that come from outside: apps, spaces, security groups and cells. A value of these types is legal by construction.

use super::Invalid;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Cloud Foundry's GUIDs have 36 characters; longer names leave room for those who use others.
const MAX_LENGTH: usize = 255;

/// What the names of cells that run Silk begin with.
const SILK: &str = "silk/";

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $legal:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a name; `field` is what an error calls it.
            ///
            /// # Errors
            /// When it is empty, too long or holds another character.
            pub fn parse(field: &'static str, name: &str) -> Result<Self, Invalid> {
                check(field, name, $legal, $expected).map(Self)
            }

            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name!(
    /// An app's GUID, or whatever the platform calls it: 1 to 255 characters of `A-Z a-z 0-9 _ . -`. Cheap to clone.
    AppId,
    plain,
    "1 to 255 characters of A-Z a-z 0-9 _ . -"
);

name!(
    /// A space's GUID, with the characters of an app's. Cheap to clone.
    SpaceId,
    plain,
    "1 to 255 characters of A-Z a-z 0-9 _ . -"
);

name!(
    /// What people call a security group, as Cloud Controller lets them: 1 to 255 bytes of letters and digits of any
    /// script, ASCII's punctuation and blanks. Nothing that could hide or turn around what follows it in a terminal. Cheap
    /// to clone.
    GroupName,
    |c| c == ' ' || c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric()),
    "1 to 255 bytes of letters, digits, blanks and ASCII's punctuation"
);

name!(
    /// A security group's GUID in Cloud Controller, with the characters of an app's. Cheap to clone.
    GroupGuid,
    plain,
    "1 to 255 characters of A-Z a-z 0-9 _ . -"
);

name!(
    /// A cell's name, unique in the foundation: 1 to 255 characters of `A-Z a-z 0-9 _ . - /`, so that BOSH's
    /// `diego-cell/GUID` is one. Cheap to clone.
    CellName,
    |c| c == '/' || plain(c),
    "1 to 255 characters of A-Z a-z 0-9 _ . - /"
);

impl CellName {
    /// A cell that runs Silk, which has no names for cells.
    #[must_use]
    pub fn of_silk(underlay: Ipv4Addr) -> Self {
        Self(format!("{SILK}{underlay}").into())
    }

    /// Whether it is of the kind that [`CellName::of_silk`] gives. No cell of ours may call itself so.
    #[must_use]
    pub fn is_of_silk(&self) -> bool {
        self.0.starts_with(SILK)
    }
}

/// What identifiers are made of.
fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

fn check(
    field: &'static str,
    name: &str,
    legal: fn(char) -> bool,
    expected: &'static str,
) -> Result<Arc<str>, Invalid> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_LENGTH {
        format!("is {} bytes long", name.len())
    } else if let Some(wrong) = name.chars().find(|c| !legal(*c)) {
        format!("{name:?} holds {wrong:?}")
    } else {
        return Ok(name.into());
    };
    Err(Invalid { field, problem, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_legal() {
        for name in ["a", "5b3c0a2e-4c6f-4b52-9a43-0d9a4a1f0e77", "A_b.c-9", &"x".repeat(255)] {
            assert_eq!(AppId::parse("source app", name).unwrap().as_str(), name);
        }
        assert_eq!(CellName::parse("cell", "diego-cell/0").unwrap().as_str(), "diego-cell/0");
        let silk = CellName::of_silk(Ipv4Addr::new(192, 0, 2, 11));
        assert_eq!(CellName::parse("cell", silk.as_str()).unwrap(), silk);
        for name in ["public_networks", "Büro (alt) / 東京 #2", "a\"b"] {
            assert_eq!(GroupName::parse("name", name).unwrap().as_str(), name);
        }
        for name in ["a\tb", "a\u{202e}b", "a\u{200b}b", "a\0b", ""] {
            assert!(GroupName::parse("name", name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_name_that_is_not_is_refused_with_its_field() {
        let cases = [
            ("", "source app: is empty; expected 1 to 255"),
            ("a b", "source app: \"a b\" holds ' '; expected"),
            ("a/b", "holds '/'"),
            ("né", "holds 'é'"),
            ("a\nb", "source app: \"a\\nb\" holds '\\n'"),
        ];
        for (name, message) in cases {
            let error = AppId::parse("source app", name).unwrap_err().to_string();
            assert!(error.contains(message), "{name:?}: {error}");
        }
        let long = AppId::parse("source app", &"x".repeat(256)).unwrap_err().to_string();
        assert!(long.starts_with("source app: is 256 bytes long; expected 1 to 255"), "{long}");
    }
}
