//! The arguments, as Go's `flag` package reads them: one dash or two, `=` or a blank, in any order, the last one counts.

use crate::env::is_identifier;
use crate::error::CniError;
use std::path::PathBuf;

const USAGE: &str = "this is a plugin for Garden-runC and for CNI.  Don't run it directly.";

/// What guardian asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Up,
    Down,
    NetIn,
    NetOut,
    BulkNetOut,
}

/// One call's arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    /// Not checked yet: the configuration file is read first, for the prefix of the error.
    pub(super) action: String,
    pub(super) handle: String,
    pub(super) config_file: Option<PathBuf>,
}

impl Action {
    /// The action of that name.
    pub(super) fn parse(text: &str) -> Result<Self, CniError> {
        match text {
            "up" => Ok(Self::Up),
            "down" => Ok(Self::Down),
            "net-in" => Ok(Self::NetIn),
            "net-out" => Ok(Self::NetOut),
            "bulk-net-out" => Ok(Self::BulkNetOut),
            other => Err(CniError::config(format!("unrecognized action: {other}"))),
        }
    }
}

impl Arguments {
    /// Reads all arguments.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, CniError> {
        let mut found = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(flag) = flag(argument) else {
                let extra: Vec<_> = std::iter::once(argument).chain(rest).map(String::as_str).collect();
                return Err(fault(format!("unexpected extra args: [{}]", extra.join(" "))));
            };
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            if !matches!(name, "action" | "handle" | "configFile") {
                return Err(unknown(name));
            }
            let value = value.or_else(|| rest.next().map(String::as_str));
            found.put(name, value.ok_or_else(|| fault(format!("flag needs an argument: -{name}")))?);
        }
        found.checked()
    }

    fn put(&mut self, name: &str, value: &str) {
        match name {
            "action" => value.clone_into(&mut self.action),
            "handle" => value.clone_into(&mut self.handle),
            _ => self.config_file = Some(value.into()),
        }
    }

    fn checked(self) -> Result<Self, CniError> {
        let missing = [("handle", &self.handle), ("action", &self.action)];
        if let Some((name, _)) = missing.iter().find(|(_, value)| value.is_empty()) {
            return Err(fault(format!("missing required flag '{name}'")));
        }
        // Guardian takes any handle, and asks for `down` when `up` was refused: that must succeed.
        if self.action != "down" && !is_identifier(&self.handle) {
            let expected = "letters, digits, '_', '.' and '-', a letter or digit first";
            return Err(fault(format!("the handle is {:?}, expected {expected}", self.handle)));
        }
        Ok(self)
    }
}

fn flag(argument: &str) -> Option<&str> {
    let name = argument.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    (!name.is_empty()).then_some(name)
}

fn unknown(name: &str) -> CniError {
    match name {
        "h" | "help" => CniError::config(USAGE),
        _ => fault(format!("flag provided but not defined: -{name}")),
    }
}

fn fault(what: String) -> CniError {
    CniError::config(format!("parse args: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, CniError> {
        let arguments: Vec<_> = line.split(' ').map(ToOwned::to_owned).collect();
        Arguments::parse(&arguments)
    }

    #[test]
    fn every_way_of_writing_them_is_read() {
        let expected = Arguments {
            action: "up".to_owned(),
            handle: "h-1".to_owned(),
            config_file: Some("/adapter.json".into()),
        };
        for line in [
            "--configFile=/adapter.json --action up --handle h-1",
            "-configFile=/adapter.json -action up -handle h-1",
            "--handle h-1 --action=up --configFile /adapter.json",
            "-handle=h-1 --action up -configFile=/adapter.json",
            "--action down --handle other --configFile=/adapter.json --action up --handle h-1",
        ] {
            assert_eq!(parse(line), Ok(expected.clone()), "{line}");
        }
        assert_eq!(parse("--action up --handle h-1").unwrap().config_file, None);
        assert_eq!(
            parse("--configFile=/a=b --action up --handle h").unwrap().config_file,
            Some("/a=b".into())
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let rows = [
            ("--action up", "parse args: missing required flag 'handle'"),
            ("--handle h", "parse args: missing required flag 'action'"),
            ("--handle= --action up", "parse args: missing required flag 'handle'"),
            ("--handle h --action", "parse args: flag needs an argument: -action"),
            ("--handle h --action up a b", "parse args: unexpected extra args: [a b]"),
            ("--handle h --action up -- b", "parse args: unexpected extra args: [-- b]"),
            ("--handle h --action up --debug", "parse args: flag provided but not defined: -debug"),
            ("-h", USAGE),
            ("--help", USAGE),
        ];
        for (line, expected) in rows {
            assert_eq!(parse(line).unwrap_err().to_string(), expected, "{line}");
        }
        for handle in ["bad/handle", "..", "-x", "a@b"] {
            let error = parse(&format!("--action up --handle={handle}")).unwrap_err().to_string();
            assert!(error.starts_with("parse args: the handle is"), "{error}");
        }
    }
}
