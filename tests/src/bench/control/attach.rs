//! ADD and DEL through the shim, as a container runtime waits for them: from the start of its process to its end. One after
//! another, and many at once.

use super::super::cells::fill;
use super::super::figures::Row;
use super::{About, Effort, milliseconds, ordinary};
use crate::lab::{Lab, Options, TemporaryLab};
use crate::netns::Namespace;
use anyhow::{Result, ensure};
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// As many at once as a busy Diego cell starts.
const AT_ONCE: u32 = 32;
/// A /24 has room for 253 containers.
const BLOCK_PREFIX_LENGTH: u8 = 23;
const CELL: &str = "a";

pub(super) fn measure(effort: &Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let lab = TemporaryLab::up(&options())?;
    let (mut rows, mut present) = (Vec::new(), 0);
    for &containers in effort.containers {
        progress(&format!("filling the cell up to {containers} containers"));
        fill(&lab, CELL, present..containers, |number| ordinary(&format!("idle-{number}")))?;
        present = containers;
        progress(&format!("with {containers} containers: one after another"));
        let one_by_one = [vec![1; effort.attachments as usize]].concat();
        rows.extend(series(&lab, "attach", containers, &one_by_one)?);
        progress(&format!("with {containers} containers: {AT_ONCE} at once"));
        rows.extend(series(&lab, "attach-32-at-once", containers, &[AT_ONCE])?);
    }
    Ok(rows)
}

/// Cells with room for more than 253 containers.
pub(super) fn options() -> Options {
    Options { block_prefix_length: BLOCK_PREFIX_LENGTH, ..Options::default() }
}

fn series(lab: &Lab, scenario: &str, containers: u32, batches: &[u32]) -> Result<Vec<Row>> {
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    for batch in batches {
        let (add, del) = together(lab, *batch)?;
        adds.extend(add);
        dels.extend(del);
    }
    let about = About { scenario, containers, policies: 0 };
    Ok(vec![about.row("ADD", "ms", &adds), about.row("DEL", "ms", &dels)])
}

/// So many at the same time: all are added, then all are removed. Gives what each took, in milliseconds.
fn together(lab: &Lab, count: u32) -> Result<(Vec<f64>, Vec<f64>)> {
    let names: Vec<String> = (0..count).map(|number| format!("new-{number}")).collect();
    let namespaces: Result<Vec<Namespace>> =
        names.iter().map(|name| Namespace::create(lab.place().namespace(name).name())).collect();
    let namespaces = namespaces?;
    let adds = at_once(lab, "ADD", &names)?;
    let dels = at_once(lab, "DEL", &names)?;
    namespaces.iter().try_for_each(Namespace::delete)?;
    Ok((adds, dels))
}

fn at_once(lab: &Lab, verb: &str, names: &[String]) -> Result<Vec<f64>> {
    let start = Barrier::new(names.len());
    let call = |name: &String| {
        start.wait();
        let began = Instant::now();
        let answer = lab.shim_as(CELL, verb, name, &ordinary(name))?;
        ensure!(answer.ok, "the shim refused {verb} of {name}: {}", answer.document);
        Ok(milliseconds(began.elapsed()))
    };
    thread::scope(|scope| {
        let calls: Vec<_> = names.iter().map(|name| scope.spawn(|| call(name))).collect();
        calls
            .into_iter()
            .map(|call| call.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
