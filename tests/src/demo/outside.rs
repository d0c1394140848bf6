//! The chapter about the world outside the overlay: who comes in through a port of the cell, and who may go out.

use super::story::Story;
use crate::cast::{OTHER_PORT, PORT};
use crate::lab::{Lab, Wanted};
use crate::traffic::Attempt;
use crate::traffic::tcp::{self, Conversation};
use anyhow::{Result, anyhow};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

const SPACE: &str = "shop";
const GROUP: &str = "payments";
/// A live connection is cut at its next packet; this only bounds a failure.
const CUT_WITHIN: Duration = Duration::from_secs(10);

/// Chapter 9.
pub(super) fn in_by_a_port_and_out_by_a_group(story: &mut Story, lab: &Lab) -> Result<()> {
    story.chapter("The outside: in through a mapped port, out by a security group");
    let (outside, cell) = (lab.outside(), lab.cell("a")?.underlay_address);
    let web = lab.add_as("a", "web", &Wanted::app("web").space(SPACE).port(0, PORT))?;
    let from = web.namespace();
    let _inside = tcp::Server::start(&from, PORT)?;
    let far = outside.far();
    let _servers = [tcp::Server::start(&far, PORT)?, tcp::Server::start(&far, OTHER_PORT)?];
    let port = web.cell_port(PORT)?;
    let attempt = tcp::connect(&far, cell, port)?;
    story.reaches(&format!("outside → cell a, tcp {port}: web's {PORT}"), &attempt, outside.far_address);

    let to = outside.far_address;
    let (line, other) = (format!("web → outside, tcp {PORT}"), format!("web → outside, tcp {OTHER_PORT}"));
    story.is_refused(&line, &tcp::connect(&from, to, PORT)?);
    let rule = json!({ "protocol": "tcp", "destination": outside.far_network, "ports": PORT.to_string() });
    lab.set_group(GROUP, &[rule])?;
    story.is_refused(&format!("{line}, a group is there"), &tcp::connect(&from, to, PORT)?);
    lab.bind_group(GROUP, "running", Some(SPACE))?;
    story.reaches(&format!("{line}, the group is bound"), &tcp::connect(&from, to, PORT)?, cell);
    story.is_refused(&other, &tcp::connect(&from, to, OTHER_PORT)?);

    let talk = Conversation::start(&from, to, PORT)?;
    let live = thread::spawn(move || talk.until_cut(CUT_WITHIN).map(|cut| (cut, Instant::now())));
    let unbinding = Instant::now();
    lab.unbind_group(GROUP, "running", Some(SPACE))?;
    let cut = live.join().map_err(|_| anyhow!("the live connection's thread panicked"))?;
    let took = cut.as_ref().map_or(Duration::ZERO, |(_, at)| at.saturating_duration_since(unbinding));
    let got = cut.map(|(attempt, _): (Attempt, _)| attempt.reach.to_string());
    story.add("web ↔ outside, live, unbound", "refused".to_owned(), got, took);
    story.is_refused(&format!("{line}, new"), &tcp::connect(&from, to, PORT)?);
    Ok(())
}
