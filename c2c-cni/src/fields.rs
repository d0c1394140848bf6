//! Reading JSON as Go's programs write and read it: keys in any case, null for absent; and an error names the field and
//! what it holds.

use crate::error::CniError;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// The fields of an object, asked for by type.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// Where the object is, with a dot behind it; empty for the outermost.
    place: String,
}

impl<'a> Fields<'a> {
    /// The fields of the outermost object.
    pub(crate) fn of(object: &'a Map<String, Value>) -> Self {
        Self { object, place: String::new() }
    }

    /// A field, by the first of its spellings that is there. One that is null counts as absent.
    fn get(&self, spellings: &[&str]) -> Option<&'a Value> {
        let exact = spellings.iter().find_map(|key| self.object.get(*key));
        let alike = |key: &str| spellings.iter().any(|spelling| spelling.eq_ignore_ascii_case(key));
        let other = || self.object.iter().find(|(key, _)| alike(key)).map(|(_, value)| value);
        exact.or_else(other).filter(|value| !value.is_null())
    }

    /// Whether a field is there under one of these names.
    pub(crate) fn has_any(&self, names: &[&str]) -> bool {
        self.get(names).is_some()
    }

    /// A text; an empty one counts as absent.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, CniError> {
        let Some(value) = self.get(&[key]) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| self.wrong(key, value, "a string"))?;
        Ok((!text.is_empty()).then_some(text))
    }

    /// A number without a fraction.
    pub(crate) fn integer(&self, spellings: &[&str]) -> Result<Option<i64>, CniError> {
        let Some(value) = self.get(spellings) else { return Ok(None) };
        value.as_i64().map(Some).ok_or_else(|| {
            self.wrong(spellings.first().copied().unwrap_or_default(), value, "a whole number")
        })
    }

    /// A number that `T` can hold; absent: 0.
    pub(crate) fn number<T: TryFrom<i64> + Default>(&self, key: &str, expected: &str) -> Result<T, CniError> {
        let Some(number) = self.integer(&[key])? else { return Ok(T::default()) };
        T::try_from(number).map_err(|_| self.invalid(key, number, expected))
    }

    /// Yes or no; absent: no.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, CniError> {
        let Some(value) = self.get(&[key]) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    /// An object, with its own keys as they are.
    pub(crate) fn map(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, CniError> {
        let Some(value) = self.get(&[key]) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.wrong(key, value, "an object"))
    }

    /// An object, to be asked for its fields.
    pub(crate) fn child(&self, key: &str) -> Result<Option<Self>, CniError> {
        let place = format!("{}{key}.", self.place);
        Ok(self.map(key)?.map(|object| Self { object, place }))
    }

    /// A list.
    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, CniError> {
        let Some(value) = self.get(&[key]) else { return Ok(None) };
        value.as_array().map(|items| Some(items.as_slice())).ok_or_else(|| self.wrong(key, value, "a list"))
    }

    /// A list of objects; absent: none.
    pub(crate) fn children(&self, key: &str) -> Result<Vec<Self>, CniError> {
        let items = self.list(key)?.unwrap_or_default().iter().enumerate();
        let child = |(number, item): (usize, &'a Value)| {
            let name = format!("{key}[{number}]");
            let object = item.as_object().ok_or_else(|| self.wrong(&name, item, "an object"))?;
            Ok(Self { object, place: format!("{}{name}.", self.place) })
        };
        items.map(child).collect()
    }

    /// A list of texts.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, CniError> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        let text = |item: &Value| {
            item.as_str().map(ToOwned::to_owned).ok_or_else(|| self.wrong(key, item, "a list of strings"))
        };
        items.iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// An absolute path.
    pub(crate) fn path(&self, key: &str, default: &str) -> Result<PathBuf, CniError> {
        let path = PathBuf::from(self.text(key)?.unwrap_or(default));
        if path.is_absolute() {
            return Ok(path);
        }
        Err(self.invalid(key, format!("{:?}", path.display().to_string()), "an absolute path"))
    }

    /// A number with a fraction.
    pub(crate) fn decimal(&self, key: &str) -> Option<(f64, String)> {
        let value = self.get(&[key])?;
        Some((value.as_f64().unwrap_or(f64::NAN), value.to_string()))
    }

    /// A field that cannot be right.
    pub(crate) fn invalid(&self, key: &str, found: impl std::fmt::Display, expected: &str) -> CniError {
        CniError::config(format!("{}{key} is {found}, expected {expected}", self.place))
    }

    /// A field of another type.
    pub(crate) fn wrong(&self, key: &str, found: &Value, expected: &str) -> CniError {
        CniError::decode(format!("{}{key} is {found}, expected {expected}", self.place))
    }
}
