//! The metrics page of a cell's agent, as a scraper in the cell's namespace gets it.

use crate::lab::Cell;
use crate::traffic::TIMEOUT;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Gets a page of the agent's by HTTP/1.1; gives the status code and the body.
pub fn get(cell: &Cell, path: &str) -> Result<(u16, String)> {
    let address = cell.metrics_address;
    let answer = cell.namespace().run(|| {
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT)).context("cannot set a read timeout")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .context("cannot send a request")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("cannot read the answer")?;
        Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    ensure!(head.starts_with("HTTP/1.1 "), "the answer is not HTTP/1.1: {head}");
    Ok((code.context("the answer has no status code")?, body.to_owned()))
}

/// The value of a series, such as `c2c_agent_drops_total{hook="from_container",reason="spoofed_source"}`.
#[must_use]
pub fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
