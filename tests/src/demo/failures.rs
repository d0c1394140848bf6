//! The chapters in which something is killed or taken away while traffic runs: 6 to 8.

use super::story::Story;
use crate::cast::{Cast, OTHER_PORT, PORT, UDP_PORT};
use crate::lab::Lab;
use crate::traffic::tcp::{Conversation, Transfer};
use crate::traffic::{Attempt, tcp, udp};
use anyhow::{Result, anyhow, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// A live connection is cut at its next packet; this only bounds a failure.
const CUT_WITHIN: Duration = Duration::from_secs(10);

/// Chapter 6.
pub(super) fn the_agent_dies(story: &mut Story, lab: &mut Lab, cast: &Cast) -> Result<()> {
    story.chapter("The agent on cell b is killed with -9 during a transfer");
    let frontend = cast.frontend.namespace();
    let to = cast.backend_b.address;
    let mut transfer = Transfer::start(&frontend, to, PORT)?;
    let stream = udp::Stream::start(&frontend, to, UDP_PORT)?;
    story.happens("the transfer, before", "goes on", || transfer.goes_on().map(|()| "goes on".to_owned()));
    lab.kill_agent("b")?;
    story.happens("the transfer, with the agent dead", "goes on", || {
        transfer.goes_on().map(|()| "goes on".to_owned())
    });
    let attempt = tcp::connect(&frontend, to, PORT)?;
    story.reaches(&format!("frontend → backend (other cell), tcp {PORT}"), &attempt, cast.frontend.address);
    story.is_refused(
        &format!("frontend → backend (other cell), tcp {OTHER_PORT}"),
        &tcp::connect(&frontend, to, OTHER_PORT)?,
    );
    let intruder = cast.intruder.namespace();
    story.is_refused(
        &format!("intruder → backend (same cell), tcp {PORT}"),
        &tcp::connect(&intruder, to, PORT)?,
    );
    story.happens("the agent starts again", "adopted what it found", || {
        lab.start_agent("b")?;
        Ok(if lab.status("b")?.adopted() { "adopted what it found" } else { "began anew" }.to_owned())
    });
    story.happens("the transfer, with the new agent", "goes on", || {
        transfer.goes_on().map(|()| "goes on".to_owned())
    });
    story.happens("a datagram every millisecond, all the while", "none lost", || {
        stream.finish(&cast.udp_b).map(|_| "none lost".to_owned())
    });
    story.happens("the transfer, to its end", "every byte came back", || {
        transfer.finish().map(|_| "every byte came back".to_owned())
    });
    Ok(())
}

/// Chapter 7.
pub(super) fn the_controller_dies(story: &mut Story, lab: &mut Lab, cast: &Cast) -> Result<()> {
    story.chapter("The controller is killed with -9");
    let frontend = cast.frontend.namespace();
    let own = cast.frontend.address;
    let before = world(lab)?;
    lab.kill_controller()?;
    for (place, backend) in cast.backends() {
        let attempt = tcp::connect(&frontend, backend.address, PORT)?;
        story.reaches(&format!("frontend → backend ({place}), tcp {PORT}"), &attempt, own);
    }
    let newcomer = lab.add("b", "backend-new", "backend")?;
    let _server = tcp::Server::start(&newcomer.namespace(), PORT)?;
    let attempt = tcp::connect(&frontend, newcomer.address, PORT)?;
    story.reaches(&format!("frontend → a backend made just now, tcp {PORT}"), &attempt, own);
    story.happens("the controller starts again", "every lease and policy is there", || {
        lab.start_controller()?;
        let after = world(lab)?;
        ensure!(after == before, "before: {before:?}, after: {after:?}");
        Ok("every lease and policy is there".to_owned())
    });
    story.happens("the cells follow it again", "they do", || {
        lab.wait_until_ready("a")?;
        lab.wait_until_ready("b")?;
        Ok("they do".to_owned())
    });
    Ok(())
}

/// Chapter 8.
pub(super) fn a_policy_is_taken_back(story: &mut Story, lab: &Lab, cast: &Cast) -> Result<()> {
    story.chapter("remove-access during a live connection");
    for (place, backend) in cast.backends() {
        let mut talk = Conversation::start(&cast.frontend.namespace(), backend.address, PORT)?;
        story.happens(&format!("frontend ↔ backend ({place}), live"), "answers", || {
            talk.ping()?;
            Ok("answers".to_owned())
        });
        let live = thread::spawn(move || talk.until_cut(CUT_WITHIN).map(|cut| (cut, Instant::now())));
        let removing = Instant::now();
        lab.forbid("frontend", "backend", "tcp", &PORT.to_string())?;
        let cut = live.join().map_err(|_| anyhow!("the live connection's thread panicked"))?;
        let took = cut.as_ref().map_or(Duration::ZERO, |(_, at)| at.saturating_duration_since(removing));
        let got = cut.map(|(attempt, _): (Attempt, _)| attempt.reach.to_string());
        story.add(&format!("frontend ↔ backend ({place}), cut"), "refused".to_owned(), got, took);
        let attempt = tcp::connect(&cast.frontend.namespace(), backend.address, PORT)?;
        story.is_refused(&format!("frontend → backend ({place}), tcp {PORT}, new"), &attempt);
        if place == "same cell" {
            lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
        }
    }
    Ok(())
}

/// Which cell leases what, and every policy.
fn world(lab: &Lab) -> Result<(Vec<String>, String)> {
    let block = |cell: &str| lab.status(cell).map(|status| status.block().unwrap_or_default().to_owned());
    Ok((vec![block("a")?, block("b")?], lab.operator(&["list-access"])?))
}
