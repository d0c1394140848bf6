//! c2c itself: a lab of two cells with real agents and a real controller, containers through the shim, and policies
//! through the controller's operator interface.

use super::fabric::{Path, mapped};
use super::load::Way;
use super::setting::{App, PORT, Policy, Setting};
use super::wire::{self, Wire};
use crate::lab::{Container, Joined, Lab, Options, TemporaryLab, Wanted};
use crate::observe::counters;
use crate::wait;
use anyhow::{Context, Result, ensure};
use c2c_proto::tls::{self, Files, Identity};
use c2c_proto::v1;
use c2c_proto::v1::operator_client::OperatorClient;
use serde_json::json;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::thread;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Policies that are written at the same time.
const WRITERS: usize = 64;
/// Containers that are taken through the shim at the same time.
const HANDS: usize = 8;
/// The cells say within this that they enforce the last one.
const ENFORCED_WITHIN_MILLISECONDS: u32 = 60_000;

/// A lab with the containers of a setting.
#[derive(Debug)]
pub(super) struct Cells {
    pub(super) lab: TemporaryLab,
    joined: Joined,
}

impl Cells {
    /// Builds the lab and takes the containers through the shim.
    pub(super) fn build(setting: &Setting, progress: &dyn Fn(&str)) -> Result<Self> {
        Self::build_with(setting, &[], progress)
    }

    /// As [`Cells::build`], with further keys of the agents' configuration.
    pub(super) fn build_with(
        setting: &Setting,
        agent: &[(&str, &str)],
        progress: &dyn Fn(&str),
    ) -> Result<Self> {
        progress("c2c: controller and agents");
        let agent = agent.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let lab = TemporaryLab::up(&Options { agent, joined: setting.joined, ..Options::default() })?;
        progress("c2c: policies");
        // Before any cell has a container that they concern: what the cells are told then is told in one go.
        write(&lab, others(setting), 0)?;
        progress("c2c: containers");
        let outside = setting.outside(lab.outside().address);
        let mut client = Wanted::app(&App::Client.name());
        for address in outside {
            client = client.rule(net_out(address));
        }
        let server = Wanted::app(&App::Server.name()).port(0, PORT);
        for cell in ["a", "b"] {
            lab.add_as(cell, &format!("client-{cell}"), &client)?;
            lab.add_as(cell, &format!("server-{cell}"), &server)?;
            // Beyond the apps that policies name.
            fill(&lab, cell, 2..u32::from(setting.containers), |number| {
                Wanted::app(&format!("idle-{number}"))
            })?;
        }
        progress("c2c: waiting until all policies are enforced");
        are_enforced(&lab, setting)?;
        Ok(Self { lab, joined: setting.joined })
    }

    /// Makes the underlay behave so.
    pub(super) fn behave(&self, wire: Wire) -> Result<()> {
        let (a, b) = (self.lab.namespace("cell-a")?, self.lab.namespace("cell-b")?);
        if self.joined == Joined::Cable {
            return wire::behave(None, &[&a, &b], wire);
        }
        let (switch, outside) = (self.lab.namespace("underlay")?, self.lab.namespace("outside")?);
        wire::behave(Some(&switch), &[&a, &b, &outside], wire)
    }

    /// The way that traffic takes.
    pub(super) fn way(&self, path: Path) -> Result<Way> {
        let (client, server) =
            (self.lab.container("client-a")?, |cell: &str| self.lab.container(&format!("server-{cell}")));
        let outside = self.lab.outside();
        let to =
            |server: Container| Way::straight(client.namespace(), server.namespace(), server.address, PORT);
        Ok(match path {
            Path::OtherCell => to(server("b")?),
            Path::SameCell => to(server("a")?),
            Path::Mapped => {
                let (server, cell) = (server("b")?, self.lab.cell("b")?);
                let port = server.cell_port(PORT)?;
                mapped(&outside.namespace(), &server.namespace(), cell.underlay_address, port)
            }
            Path::Outside => Way::straight(client.namespace(), outside.namespace(), outside.address, PORT),
        })
    }

    /// The operator's connection.
    pub(super) fn operator(&self) -> Result<OperatorClient<Channel>> {
        operator(&self.lab)
    }
}

/// The operator's connection. To be made in the controller's namespace, by a task of the runtime that will use it.
fn operator(lab: &Lab) -> Result<OperatorClient<Channel>> {
    let controller = lab.controller();
    let files = Files {
        ca: controller.ca.clone(),
        cert: controller.certificate.clone(),
        key: controller.key.clone(),
    };
    let identity = Identity::load(&files).context("cannot load the operator's certificate")?;
    Ok(OperatorClient::new(tls::channel(&controller.address, identity)?))
}

/// Takes containers that do nothing through the shim.
pub(super) fn fill(
    lab: &Lab,
    cell: &str,
    numbers: Range<u32>,
    wanted: impl Fn(u32) -> Wanted + Sync,
) -> Result<()> {
    let add = |number: u32| lab.add_as(cell, &format!("idle-{cell}-{number}"), &wanted(number)).map(drop);
    let work = |hand: usize| numbers.clone().skip(hand).step_by(HANDS).try_for_each(add);
    thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS).map(|hand| scope.spawn(move || work(hand))).collect();
        hands
            .into_iter()
            .try_for_each(|hand| hand.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// The policies of a setting without those of the traffic.
pub(super) fn others(setting: &Setting) -> Vec<Policy> {
    let mut policies = setting.policies();
    policies.truncate(policies.len().saturating_sub(2));
    policies
}

/// Writes policies, and waits for as long until both cells say that they enforce each of them; 0: does not wait.
pub(super) fn write(lab: &Lab, policies: Vec<Policy>, wait_milliseconds: u32) -> Result<()> {
    let write = || {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
        // The channel is made by a task of the runtime.
        runtime.block_on(async { write_all(operator(lab)?, policies, wait_milliseconds).await })
    };
    lab.controller().namespace().run(write)
}

/// Writes the policies of the traffic, and waits until both cells enforce all.
fn are_enforced(lab: &Lab, setting: &Setting) -> Result<()> {
    let all = setting.policies();
    let of_traffic = all.iter().filter(|policy| policy.source == App::Client).cloned().collect();
    write(lab, of_traffic, ENFORCED_WITHIN_MILLISECONDS)?;
    ["a", "b"].into_iter().try_for_each(|cell| has_policies(lab, cell, all.len()))
}

/// Waits until a cell enforces so many policies; each has a row of its own at least.
pub(super) fn has_policies(lab: &Lab, cell: &str, policies: usize) -> Result<()> {
    wait::until_true(&format!("cell {cell} to have all policies"), || {
        let rows = counters::maps(lab, cell)?.get("POLICIES").map_or(0, |map| map.entries);
        Ok(rows >= policies as u64)
    })
}

/// What a client may reach outside, in Garden's words; protocol 1 is TCP.
fn net_out(address: Ipv4Addr) -> serde_json::Value {
    json!({
        "protocol": 1,
        "networks": [{ "start": address, "end": address }],
        "ports": [{ "start": PORT, "end": PORT }],
    })
}

async fn write_all(
    operator: OperatorClient<Channel>,
    policies: Vec<Policy>,
    wait_milliseconds: u32,
) -> Result<()> {
    let mut writers: JoinSet<Result<()>> = JoinSet::new();
    for writer in 0..WRITERS {
        let mine: Vec<Policy> = policies.iter().skip(writer).step_by(WRITERS).cloned().collect();
        let mut operator = operator.clone();
        writers.spawn(async move {
            for policy in mine {
                let reply = operator.allow_access(request(&policy, wait_milliseconds)).await?.into_inner();
                let (concerned, enforcing) = (reply.cells_concerned, reply.cells_enforcing);
                let enforced = wait_milliseconds == 0 || (concerned == 2 && enforcing == 2);
                ensure!(enforced, "{enforcing} of {concerned} cells enforce a policy, expected 2 of 2");
            }
            Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.context("a writer panicked")??;
    }
    Ok(())
}

/// As an operator asks for it.
pub(super) fn request(policy: &Policy, wait_milliseconds: u32) -> v1::AccessRequest {
    let (first, last) = policy.ports;
    v1::AccessRequest {
        source_app: policy.source.name(),
        destination_app: policy.destination.name(),
        protocol: policy.protocol.to_owned(),
        ports: if first == last { first.to_string() } else { format!("{first}-{last}") },
        wait_milliseconds,
    }
}
