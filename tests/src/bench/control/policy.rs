//! From the request for a policy to the first packet that passes: a client that sends all the time, a server on the other
//! cell that notes when something arrives.

use super::super::cells::{Cells, request};
use super::super::fabric::Path;
use super::super::figures::Row;
use super::super::load::Way;
use super::super::setting::{App, Policy, Setting};
use super::{About, Effort, milliseconds};
use anyhow::{Context, Result, ensure};
use c2c_proto::v1::operator_client::OperatorClient;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

/// How far the client's datagrams are apart: the clock's tick of this measurement.
const TICK: Duration = Duration::from_micros(200);
/// Nothing that works takes longer.
const BOUND: Duration = Duration::from_secs(10);
/// Each policy is for a port of its own.
const FIRST_PORT: u16 = 20_000;

pub(super) fn measure(effort: &Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    effort.policies_before.iter().map(|policies| among(*policies, effort, progress)).collect()
}

/// With so many policies that both cells enforce already.
fn among(policies: u32, effort: &Effort, progress: &dyn Fn(&str)) -> Result<Row> {
    let cells = Cells::build(&Setting { policies, ..Setting::SMALL }, progress)?;
    let way = cells.way(Path::OtherCell)?;
    progress(&format!("{} policies, one after another, beside {policies}", effort.policies));
    let measure = || {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
        // The channel is made by a task of the runtime.
        let mut operator = runtime.block_on(async { cells.operator() })?;
        let ports = FIRST_PORT..FIRST_PORT + effort.policies;
        ports.map(|port| sample(&way, port, &runtime, &mut operator)).collect::<Result<Vec<Duration>>>()
    };
    let times = cells.lab.controller().namespace().run(measure)?;
    let times: Vec<f64> = times.into_iter().map(milliseconds).collect();
    let about = About { scenario: "policy-to-packet", containers: 2, policies };
    Ok(about.row("set to first packet", "ms", &times))
}

fn sample(
    way: &Way,
    port: u16,
    runtime: &Runtime,
    operator: &mut OperatorClient<Channel>,
) -> Result<Duration> {
    let receiver = way.server.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))?;
    receiver.set_read_timeout(Some(BOUND)).context("cannot set a read timeout")?;
    let sender = way.client.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    let stop = AtomicBool::new(false);
    let send = || {
        while !stop.load(Ordering::Relaxed) {
            // It is refused until there is a policy, and may hear of that.
            let _refused = sender.send_to(&[0], (*way.to.ip(), port));
            thread::sleep(TICK);
        }
    };
    let arrive = || receiver.recv(&mut [0]).map(|_| Instant::now());
    let policy =
        Policy { source: App::Client, destination: App::Server, protocol: "udp", ports: (port, port) };
    thread::scope(|scope| {
        scope.spawn(send);
        let arriving = scope.spawn(arrive);
        let asked = Instant::now();
        let set = runtime.block_on(operator.allow_access(request(&policy, 0)));
        let arrived = arriving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        stop.store(true, Ordering::Relaxed);
        let changed = set.context("cannot set a policy")?.into_inner().changed;
        ensure!(changed, "the policy for port {port} was there already");
        arrived
            .context("no packet passed")?
            .checked_duration_since(asked)
            .context("a packet passed without a policy")
    })
}
