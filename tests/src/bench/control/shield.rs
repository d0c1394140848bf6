//! A host on the underlay that is no cell floods one with tunnel packets: how many the cell drops, and what is left for a
//! stream between containers meanwhile. The flood and what the cell does with it are on one processor, the stream on
//! another where there are two.

use super::super::cells::Cells;
use super::super::fabric::Path;
use super::super::figures::Row;
use super::super::load::{Pins, pin, stream};
use super::super::setting::{App, Setting};
use super::super::wire::Wire;
use super::{About, Effort};
use crate::netns::Namespace;
use crate::observe::counters::Counters;
use crate::traffic::forged::{Datagram, Tunnel, VNI, VXLAN_PORT, tunnelled};
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What the agent may be told of the shield, by scenario.
const SHIELDS: [(&str, &str); 3] =
    [("shield-off", "off"), ("shield-generic", "generic"), ("shield-native", "native")];
/// Rounds of each.
const ROUNDS: u32 = 5;

pub(super) fn measure(effort: &Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (scenario, shield) in SHIELDS {
        progress(&format!("shield = {shield:?}"));
        let cells = Cells::build_with(&Setting::SMALL, &[("shield", &format!("{shield:?}"))], progress)?;
        cells.behave(Wire::Ethernet)?;
        rows.extend(rounds(&cells, scenario, effort.flood)?);
    }
    Ok(rows)
}

fn rounds(cells: &Cells, scenario: &str, time: Duration) -> Result<Vec<Row>> {
    let forger = cells.lab.add_outsider("forger", 99)?;
    let last = thread::available_parallelism().map_or(1, usize::from).saturating_sub(1);
    let (pins, way) = (Pins { client: last, server: last }, cells.way(Path::OtherCell)?);
    let (mut dropped, mut alone, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(stream(&way, pins, time)? / 1e9);
        let (before, began) = (drops(cells)?, Instant::now());
        beside.push(flooded(cells, &forger, || stream(&way, pins, time))? / 1e9);
        let forged = u32::try_from(drops(cells)? - before).context("too many to count")?;
        ensure!(forged > 0, "{scenario}: the cell dropped nothing of a flood");
        dropped.push(f64::from(forged) / began.elapsed().as_secs_f64());
    }
    let about = About { scenario, containers: 2, policies: 0 };
    Ok(vec![
        about.row("forged packets dropped", "1/s", &dropped),
        about.row("tcp stream alone", "Gbit/s", &alone),
        about.row("tcp stream beside the flood", "Gbit/s", &beside),
    ])
}

/// Tunnel packets from no cell that the server's cell has dropped, in the shield or behind it.
fn drops(cells: &Cells) -> Result<u64> {
    let counters = Counters::of(&cells.lab, "b")?;
    Ok(["xdp_underlay/unknown_cell", "from_underlay/unknown_cell"]
        .map(|name| counters.packets(name))
        .iter()
        .sum())
}

/// Does a piece of work while the forger sends.
fn flooded<T>(cells: &Cells, forger: &Namespace, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let server = cells.lab.container("server-b")?.address;
    let datagram = Datagram {
        source: Ipv4Addr::new(10, 255, 0, 1),
        destination: server,
        port: 7_000,
        payload: &[0; 64],
    };
    let packet = tunnelled(Tunnel { vni: VNI, tag: App::Client.tag() }, &datagram)?;
    let socket =
        forger.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot make a UDP socket"))?;
    let to = (cells.lab.cell("b")?.underlay_address, VXLAN_PORT);
    let stop = AtomicBool::new(false);
    let flood = || {
        pin(0)?;
        while !stop.load(Ordering::Relaxed) {
            // A full queue is no reason to stop.
            let _lost = socket.send_to(&packet, to);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let flooding = scope.spawn(flood);
        let result = work();
        stop.store(true, Ordering::Relaxed);
        let flooded: Result<()> = flooding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        flooded.and(result)
    })
}
