//! The story that shows the fabric at work: two cells, ten chapters, each line a real connection that is checked.
//!
//! A line that fails does not end the story; the exit code tells.

mod failures;
mod farewell;
mod outside;
mod peace;
mod story;

use crate::cast::Cast;
use crate::lab::{Options, TemporaryLab};
use anyhow::{Context, Result};
use std::path::Path;
use story::Story;

/// Tells the story, writes its lines to a file when one is named, and says whether every line came true.
pub fn tell(json: Option<&Path>) -> Result<bool> {
    let mut story = Story::new();
    story.narrate("Two cells and a controller start, each in a network namespace of its own.");
    let mut lab = TemporaryLab::up(&Options::default())?;
    let told = play(&mut story, &mut lab);
    if let Err(error) = told {
        story.broke(&error);
    }
    drop(lab);
    story.end();
    if let Some(path) = json {
        let text = serde_json::to_vec_pretty(story.lines()).context("cannot write the story as JSON")?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(story.came_true())
}

fn play(story: &mut Story, lab: &mut TemporaryLab) -> Result<()> {
    let before = farewell::Untouched::of(lab)?;
    story.narrate("frontend and backend come to cell a, another backend and an intruder to cell b.");
    let cast = Cast::enter(lab)?;
    peace::nothing_is_allowed(story, lab, &cast)?;
    peace::a_policy_opens_one_port(story, lab, &cast)?;
    peace::only_what_was_allowed(story, lab, &cast)?;
    peace::udp_and_ranges(story, lab, &cast)?;
    peace::forgeries(story, lab, &cast)?;
    failures::the_agent_dies(story, lab, &cast)?;
    failures::the_controller_dies(story, lab, &cast)?;
    failures::a_policy_is_taken_back(story, lab, &cast)?;
    outside::in_by_a_port_and_out_by_a_group(story, lab)?;
    drop(cast);
    farewell::nothing_is_left(story, lab, &before)
}
