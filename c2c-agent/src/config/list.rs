//! A list of texts, as the two kinds of layers write it: an array in the file, with commas in the environment and in
//! flags. What the elements mean is not known here.

use serde::Deserialize;
use std::convert::Infallible;
use std::str::FromStr;

/// Texts without blanks around them. Empty when the environment says `C2C_KEY=`, so that a list of the file can be
/// taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct List(pub Vec<String>);

impl FromStr for List {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        Ok(Self(text.split(',').map(|element| element.trim().to_owned()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let Ok(List(elements)) = text.parse();
        elements
    }

    #[test]
    fn commas_part_and_blanks_mean_nothing() {
        assert_eq!(read("a, b ,c"), ["a", "b", "c"]);
        assert_eq!(read("a"), ["a"]);
        assert_eq!(read("a,"), ["a", ""], "an empty element is for the key to refuse");
    }

    #[test]
    fn nothing_is_the_empty_list() {
        assert!(read("").is_empty() && read(" ").is_empty());
    }
}
