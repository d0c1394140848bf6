//! `allow-access`, `remove-access`, `list-access`.

use super::client::{self, Client, Connection};
use super::{Failure, output};
use crate::domain::{AppId, Policy, Protocol};
use c2c_proto::v1;
use clap::Args;
use serde::Serialize;

const CHANGE_EXAMPLES: &str = "\
Examples:
  c2c-controller allow-access frontend backend --port 7000 --protocol tcp
  c2c-controller allow-access frontend backend --port 7000-7010 --protocol udp --json
  c2c-controller remove-access frontend backend --port 7000 --protocol tcp";

/// A policy to set or to remove.
#[derive(Clone, Debug, Args)]
#[command(after_help = CHANGE_EXAMPLES)]
pub(super) struct ChangeArgs {
    /// The app that connects
    source: String,
    /// The app that it connects to
    destination: String,
    /// A port, or a range such as 7000-7010
    #[arg(long, value_name = "PORT[-PORT]", allow_hyphen_values = true)]
    port: String,
    /// tcp or udp
    #[arg(long, default_value = "tcp")]
    protocol: String,
    /// Wait at most this long until the cells concerned enforce it; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=60))]
    wait: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Which policies to list.
#[derive(Clone, Debug, Args)]
pub(super) struct ListArgs {
    /// Only policies that name this app, as source or as destination
    #[arg(long)]
    app: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct Changed {
    source_app: String,
    destination_app: String,
    protocol: String,
    ports: String,
    revision: u64,
    changed: bool,
    cells_concerned: u32,
    cells_enforcing: u32,
    elapsed_microseconds: u64,
}

#[derive(Debug, Serialize)]
struct Listed {
    revision: u64,
    policies: Vec<ListedPolicy>,
}

#[derive(Debug, Serialize)]
struct ListedPolicy {
    source_app: String,
    destination_app: String,
    protocol: String,
    port_start: u32,
    port_end: u32,
    source_tag: u32,
    destination_tag: u32,
}

pub(super) fn allow(args: &ChangeArgs) -> Result<(), Failure> {
    let policy = parse(args)?;
    let reply = client::call(&args.connection, async |mut client: Client| {
        client.allow_access(request(args, &policy)).await
    })?;
    print_change(args, &policy, &reply, ["allowed", "was allowed already"]);
    Ok(())
}

pub(super) fn remove(args: &ChangeArgs) -> Result<(), Failure> {
    let policy = parse(args)?;
    let reply = client::call(&args.connection, async |mut client: Client| {
        client.remove_access(request(args, &policy)).await
    })?;
    print_change(args, &policy, &reply, ["removed", "was not allowed"]);
    Ok(())
}

pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    let app = args.app.as_deref().map(|app| AppId::parse("app", app)).transpose().map_err(Failure::usage)?;
    let app = app.map(|app| app.as_str().to_owned()).unwrap_or_default();
    let reply = client::call(&args.connection, async |mut client: Client| {
        client.list_access(v1::ListAccessRequest { app }).await
    })?;
    let listed = Listed {
        revision: reply.revision,
        policies: reply.policies.into_iter().map(ListedPolicy::from).collect(),
    };
    output::print(args.json, &listed, || human_list(&listed));
    Ok(())
}

/// The controller checks again; here it is checked so that nothing has to be running for an error to be told.
fn parse(args: &ChangeArgs) -> Result<Policy, Failure> {
    Policy::parse(&args.source, &args.destination, &args.protocol, &args.port).map_err(Failure::usage)
}

fn request(args: &ChangeArgs, policy: &Policy) -> v1::AccessRequest {
    v1::AccessRequest {
        source_app: policy.source.as_str().to_owned(),
        destination_app: policy.destination.as_str().to_owned(),
        protocol: policy.protocol.to_string(),
        ports: policy.ports.to_string(),
        wait_milliseconds: args.wait.saturating_mul(1000),
    }
}

fn print_change(args: &ChangeArgs, policy: &Policy, reply: &v1::AccessReply, words: [&str; 2]) {
    let changed = Changed {
        source_app: policy.source.as_str().to_owned(),
        destination_app: policy.destination.as_str().to_owned(),
        protocol: policy.protocol.to_string(),
        ports: policy.ports.to_string(),
        revision: reply.revision,
        changed: reply.changed,
        cells_concerned: reply.cells_concerned,
        cells_enforcing: reply.cells_enforcing,
        elapsed_microseconds: reply.elapsed_microseconds,
    };
    output::print(args.json, &changed, || sentence(policy, reply, words));
}

/// Such as `frontend -> backend tcp 7000 allowed at revision 12; enforced by 2 of 2 cells in 6 ms`.
fn sentence(policy: &Policy, reply: &v1::AccessReply, [done, already]: [&str; 2]) -> String {
    let what = match reply.changed {
        true => format!("{policy} {done} at revision {}", reply.revision),
        false => format!("{policy} {already}; nothing changed at revision {}", reply.revision),
    };
    let cells = [reply.cells_enforcing, reply.cells_concerned];
    let nobody = "no connected cell hosts either app";
    format!("{what}; {}", output::enforcement(cells, reply.elapsed_microseconds, nobody))
}

fn human_list(listed: &Listed) -> String {
    if listed.policies.is_empty() {
        return format!("no access is allowed at revision {}", listed.revision);
    }
    let rows = listed.policies.iter().map(|policy| {
        let ports = match policy.port_start == policy.port_end {
            true => policy.port_start.to_string(),
            false => format!("{}-{}", policy.port_start, policy.port_end),
        };
        let tags = [policy.source_tag.to_string(), policy.destination_tag.to_string()];
        let [source_tag, destination_tag] = tags;
        let apps = [policy.source_app.clone(), policy.destination_app.clone()];
        let [source, destination] = apps;
        vec![source, destination, policy.protocol.clone(), ports, source_tag, destination_tag]
    });
    output::table(&["source", "destination", "protocol", "ports", "source tag", "destination tag"], rows)
}

impl From<v1::Policy> for ListedPolicy {
    fn from(policy: v1::Policy) -> Self {
        let number = u8::try_from(policy.protocol).ok();
        let protocol = number.and_then(Protocol::from_number);
        Self {
            source_app: policy.source_app,
            destination_app: policy.destination_app,
            protocol: protocol.map_or_else(|| policy.protocol.to_string(), |protocol| protocol.to_string()),
            port_start: policy.port_start,
            port_end: policy.port_end,
            source_tag: policy.source_tag,
            destination_tag: policy.destination_tag,
        }
    }
}
