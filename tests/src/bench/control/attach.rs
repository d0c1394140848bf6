//! ADD and DEL through the shim, as a container runtime waits for them: from the start of its process to its end. One after
//! another, and many at once.

use super::super::cells::{fill, has_policies, others, write};
use super::super::figures::Row;
use super::super::setting::{App, Setting};
use super::{About, Effort, milliseconds, ordinary};
use crate::lab::{Lab, Options, TemporaryLab, Wanted};
use crate::netns::Namespace;
use anyhow::{Result, ensure};
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// As many at once as a busy Diego cell starts.
const AT_ONCE: u16 = 32;
/// A /24 has room for 253 containers.
const BLOCK_PREFIX_LENGTH: u8 = 23;
const CELL: &str = "a";

pub(super) fn measure(effort: &Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let lab = TemporaryLab::up(&options())?;
    let (mut rows, mut present) = (Vec::new(), 0);
    for &(containers, policies) in effort.attached_beside {
        let beside = format!("beside {containers} containers and {policies} policies");
        progress(&format!("filling the cell: {beside}"));
        fill(&lab, CELL, present..containers, |number| ordinary(&resident(number)))?;
        write(&lab, others(&Setting { policies, ..Setting::SMALL }), 0)?;
        present = containers;
        has_policies(&lab, CELL, policies as usize)?;
        let mut measure = |scenario, batches: &[u16]| {
            progress(&format!("{scenario}: {beside}"));
            let (adds, dels) = series(&lab, batches)?;
            let about = About { scenario, containers, policies };
            rows.extend([about.row("ADD", "ms", &adds), about.row("DEL", "ms", &dels)]);
            anyhow::Ok(())
        };
        measure("attach", &vec![1; effort.attachments as usize])?;
        measure("attach-32-at-once", &[AT_ONCE])?;
    }
    Ok(rows)
}

/// The app of one that is there already. All policies are towards the first two, so that they concern the cell.
fn resident(number: u32) -> String {
    match number {
        0 => App::Server.name(),
        1 => App::Client.name(),
        _ => format!("idle-{number}"),
    }
}

/// Cells with room for more than 253 containers.
pub(super) fn options() -> Options {
    Options { block_prefix_length: BLOCK_PREFIX_LENGTH, ..Options::default() }
}

fn series(lab: &Lab, batches: &[u16]) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    for batch in batches {
        let (add, del) = together(lab, *batch)?;
        adds.extend(add);
        dels.extend(del);
    }
    Ok((adds, dels))
}

/// So many at the same time: all are added, then all are removed. Gives what each took, in milliseconds.
fn together(lab: &Lab, count: u16) -> Result<(Vec<f64>, Vec<f64>)> {
    // Of apps that are new on the cell, and named by policies if there are any.
    let new = |number| (format!("new-{number}"), ordinary(&App::Other(number).name()));
    let containers: Vec<(String, Wanted)> = (0..count).map(new).collect();
    let namespaces: Result<Vec<Namespace>> =
        containers.iter().map(|(name, _)| Namespace::create(lab.place().namespace(name).name())).collect();
    let namespaces = namespaces?;
    let adds = at_once(lab, "ADD", &containers)?;
    let dels = at_once(lab, "DEL", &containers)?;
    namespaces.iter().try_for_each(Namespace::delete)?;
    Ok((adds, dels))
}

fn at_once(lab: &Lab, verb: &str, containers: &[(String, Wanted)]) -> Result<Vec<f64>> {
    let start = Barrier::new(containers.len());
    let call = |name: &str, wanted: &Wanted| {
        start.wait();
        let began = Instant::now();
        let answer = lab.shim_as(CELL, verb, name, wanted)?;
        ensure!(answer.ok, "the shim refused {verb} of {name}: {}", answer.document);
        Ok(milliseconds(began.elapsed()))
    };
    thread::scope(|scope| {
        let calls: Vec<_> =
            containers.iter().map(|(name, wanted)| scope.spawn(|| call(name.as_str(), wanted))).collect();
        calls
            .into_iter()
            .map(|call| call.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
