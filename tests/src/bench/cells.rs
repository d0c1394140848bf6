//! c2c itself: a lab of two cells with real agents and a real controller, containers through the shim, and policies
//! through the controller's operator interface.

use super::fabric::{Path, mapped};
use super::load::Way;
use super::setting::{App, PORT, Policy, Setting};
use crate::lab::{Container, Options, TemporaryLab, Wanted};
use crate::netns::Namespace;
use anyhow::{Context, Result, ensure};
use c2c_proto::tls::{self, Files, Identity};
use c2c_proto::v1;
use c2c_proto::v1::operator_client::OperatorClient;
use serde_json::json;
use std::net::Ipv4Addr;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Policies that are written at the same time.
const WRITERS: usize = 16;
/// The cells say within this that they enforce the last one.
const ENFORCED_WITHIN_MILLISECONDS: u32 = 60_000;

/// A lab with the containers of a setting.
#[derive(Debug)]
pub(super) struct Cells {
    pub(super) lab: TemporaryLab,
}

impl Cells {
    /// Builds the lab and takes the containers through the shim.
    pub(super) fn build(setting: &Setting) -> Result<Self> {
        let lab = TemporaryLab::up(&Options::default())?;
        let outside = setting.outside(lab.outside().address);
        let mut client = Wanted::app(&App::Client.name());
        for address in outside {
            client = client.rule(net_out(address));
        }
        let server = Wanted::app(&App::Server.name()).port(0, PORT);
        for cell in ["a", "b"] {
            lab.add_as(cell, &format!("client-{cell}"), &client)?;
            lab.add_as(cell, &format!("server-{cell}"), &server)?;
            for number in 2..setting.containers {
                let app = App::Other(2_000 + u16::from(number)).name();
                lab.add(cell, &format!("idle-{cell}-{number}"), &app)?;
            }
        }
        Ok(Self { lab })
    }

    /// Writes the policies, and waits until both cells enforce them.
    pub(super) fn allow(&self, setting: &Setting) -> Result<()> {
        let policies = setting.policies();
        let write = || {
            let runtime = Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
            // The channel is made by a task of the runtime.
            runtime.block_on(async { write_all(self.operator()?, policies).await })
        };
        self.lab.controller().namespace().run(write)
    }

    /// The switch and every host of the underlay that has to do with the traffic.
    pub(super) fn underlay(&self) -> Result<(Namespace, Vec<Namespace>)> {
        let hosts: Result<Vec<Namespace>> =
            ["cell-a", "cell-b", "outside"].into_iter().map(|name| self.lab.namespace(name)).collect();
        Ok((self.lab.namespace("underlay")?, hosts?))
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

    /// The operator's connection; usable in the controller's namespace.
    pub(super) fn operator(&self) -> Result<OperatorClient<Channel>> {
        let controller = self.lab.controller();
        let files = Files {
            ca: controller.ca.clone(),
            cert: controller.certificate.clone(),
            key: controller.key.clone(),
        };
        let identity = Identity::load(&files).context("cannot load the operator's certificate")?;
        Ok(OperatorClient::new(tls::channel(&controller.address, identity)?))
    }
}

/// What a client may reach outside, in Garden's words; protocol 1 is TCP.
fn net_out(address: Ipv4Addr) -> serde_json::Value {
    json!({
        "protocol": 1,
        "networks": [{ "start": address, "end": address }],
        "ports": [{ "start": PORT, "end": PORT }],
    })
}

/// Writes all policies, the last one by itself: when the cells enforce that, they enforce those before it.
async fn write_all(operator: OperatorClient<Channel>, mut policies: Vec<Policy>) -> Result<()> {
    let last = policies.pop().context("no policy")?;
    let mut writers: JoinSet<Result<()>> = JoinSet::new();
    for writer in 0..WRITERS {
        let mine: Vec<Policy> = policies.iter().skip(writer).step_by(WRITERS).cloned().collect();
        let mut operator = operator.clone();
        writers.spawn(async move {
            for policy in mine {
                operator.allow_access(request(&policy, 0)).await?;
            }
            Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.context("a writer panicked")??;
    }
    let mut operator = operator;
    let reply = operator.allow_access(request(&last, ENFORCED_WITHIN_MILLISECONDS)).await?.into_inner();
    ensure!(
        reply.cells_concerned == 2 && reply.cells_enforcing == 2,
        "{} of {} cells enforce the policies, expected 2 of 2",
        reply.cells_enforcing,
        reply.cells_concerned
    );
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
