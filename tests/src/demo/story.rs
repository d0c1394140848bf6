//! The lines of the story: printed as they happen, kept for the JSON file.

use crate::traffic::Attempt;
use anyhow::Result;
use serde::Serialize;
use std::io::IsTerminal;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    chapter: u8,
    line: String,
    expected: String,
    got: String,
    ok: bool,
    milliseconds: f64,
}

/// What was told so far.
#[derive(Debug)]
pub(super) struct Story {
    chapter: u8,
    lines: Vec<Line>,
    colour: bool,
    started: Instant,
}

impl Story {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self {
            chapter: 0,
            lines: Vec::new(),
            colour: std::io::stdout().is_terminal(),
            started: Instant::now(),
        }
    }

    /// All lines so far.
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Whether every line so far, and there was one, is as expected.
    pub(super) fn came_true(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(|line| line.ok)
    }

    /// Begins the next chapter.
    pub(super) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        println!("\n{}. {title}", self.chapter);
    }

    /// Says what happens between the lines.
    pub(super) fn narrate(&self, what: &str) {
        println!("   {what}");
    }

    /// A client that must get through, and be seen under its own address.
    pub(super) fn reaches(&mut self, line: &str, attempt: &Attempt, own: Ipv4Addr) {
        let expected = format!("connected, seen as {own}");
        let got = attempt.reach.to_string();
        self.add(line, expected, Ok(got), attempt.took);
    }

    /// A client that must be refused before it repeats its first packet.
    pub(super) fn is_refused(&mut self, line: &str, attempt: &Attempt) {
        let late = if attempt.reach.to_string() == "refused" && !attempt.refused_at_once() {
            ", but late"
        } else {
            ""
        };
        let got = format!("{}{late}", attempt.reach);
        self.add(line, "refused".to_owned(), Ok(got), attempt.took);
    }

    /// Anything else: does the work, takes the time, and compares what the work gave.
    pub(super) fn happens(&mut self, line: &str, expected: &str, work: impl FnOnce() -> Result<String>) {
        let started = Instant::now();
        let got = work();
        self.add(line, expected.to_owned(), got, started.elapsed());
    }

    /// The story cannot go on.
    pub(super) fn broke(&mut self, error: &anyhow::Error) {
        self.add("the story goes on", "it does".to_owned(), Ok(format!("{error:#}")), Duration::ZERO);
    }

    /// Says how it went.
    pub(super) fn end(&self) {
        let failed = self.lines.iter().filter(|line| !line.ok).count();
        let seconds = self.started.elapsed().as_secs_f64();
        println!("\n{} lines, {failed} not as expected, {seconds:.1} s.", self.lines.len());
    }

    /// Adds a line with the time it took.
    pub(super) fn add(&mut self, line: &str, expected: String, got: Result<String>, took: Duration) {
        let got = got.unwrap_or_else(|error| format!("{error:#}"));
        let ok = got == expected;
        let milliseconds = (took.as_secs_f64() * 100_000.0).round() / 100.0;
        println!("   {} {line:<58} {got}  ({milliseconds} ms)", self.mark(ok));
        if !ok {
            println!("        expected: {expected}");
        }
        self.lines.push(Line {
            chapter: self.chapter,
            line: line.to_owned(),
            expected,
            got,
            ok,
            milliseconds,
        });
    }

    fn mark(&self, ok: bool) -> &'static str {
        match (self.colour, ok) {
            (true, true) => "\u{1b}[32m✔\u{1b}[0m",
            (true, false) => "\u{1b}[31m✘\u{1b}[0m",
            (false, true) => "ok    ",
            (false, false) => "FAILED",
        }
    }
}
