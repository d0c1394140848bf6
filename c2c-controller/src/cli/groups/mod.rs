//! `security-groups set`, `bind`, `unbind`, `delete` and `list`.

mod file;
mod list;

use super::client::{self, Client, Connection};
use super::{Failure, output};
use crate::domain::{GroupName, Reach, SpaceId, Workload};
use c2c_proto::v1;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
A security group says what containers may reach outside the overlay network. It applies to running
apps and tasks, or to staging containers, of the spaces that it is bound to, or of all. Changes
apply to running containers at once.

Examples:
  echo '[{\"protocol\":\"tcp\",\"destination\":\"192.0.2.0/24\",\"ports\":\"443,8000-9000\"}]' > web.json
  c2c-controller security-groups set web web.json
  c2c-controller security-groups bind web --space 5b3c0a2e-4c6f-4b52-9a43-0d9a4a1f0e77
  c2c-controller security-groups bind web --default --workload staging
  c2c-controller security-groups unbind web --default --workload staging
  c2c-controller security-groups list
  c2c-controller security-groups list web
  c2c-controller security-groups delete web";

const SET_EXAMPLES: &str = "\
Rules are Cloud Foundry's:
  protocol     tcp, udp, icmp or all
  destination  an IPv4 address, a CIDR, a range a-b, or several with commas
  ports        for tcp and udp, such as 80, 80-90 or 80,443
  type, code   for icmp, numbers; -1 for any
  log          true logs new connections
  description  for people
A rule that cannot be understood is kept, named here, and skipped by the cells; the others stand.

Examples:
  c2c-controller security-groups set dns - <<'JSON'
  [
    { \"protocol\": \"udp\", \"destination\": \"192.0.2.53\", \"ports\": \"53\", \"description\": \"resolver\" },
    { \"protocol\": \"icmp\", \"destination\": \"192.0.2.0-192.0.2.9\", \"type\": 8, \"code\": -1 }
  ]
  JSON
  cf curl /v3/security_groups/GUID | jq .rules | c2c-controller security-groups set dns -";

const BIND_EXAMPLES: &str = "\
Examples:
  c2c-controller security-groups bind web --space 5b3c0a2e-4c6f-4b52-9a43-0d9a4a1f0e77
  c2c-controller security-groups bind web --default --workload staging
  c2c-controller security-groups unbind web --default --workload staging";

/// What to do about security groups.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GroupsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Give a group these rules, and make it when it is new; its bindings stay
    Set(SetArgs),
    /// Let a group apply to a space, or to all
    Bind(BindArgs),
    /// Take back what bind gave; connections that live by it are cut
    Unbind(BindArgs),
    /// Delete a group with its bindings
    Delete(DeleteArgs),
    /// Show the groups, or one with its rules
    List(list::ListArgs),
}

#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLES)]
struct SetArgs {
    /// The group's name
    name: String,
    /// A file with a JSON array of rules; - reads standard input
    file: PathBuf,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
#[command(after_help = BIND_EXAMPLES)]
struct BindArgs {
    /// The group's name
    name: String,
    #[command(flatten)]
    spaces: Spaces,
    /// running (apps and tasks) or staging
    #[arg(long, default_value = "running")]
    workload: String,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Spaces {
    /// The space's GUID
    #[arg(long, value_name = "GUID")]
    space: Option<String>,
    /// All spaces
    #[arg(long)]
    default: bool,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// The group's name
    name: String,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// Wait at most this long until the cells concerned enforce it; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=60))]
    wait: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct Changed {
    name: String,
    revision: u64,
    changed: bool,
    cells_concerned: u32,
    cells_enforcing: u32,
    elapsed_microseconds: u64,
    skipped: Vec<String>,
}

pub(super) fn run(args: &GroupsArgs) -> Result<(), Failure> {
    match &args.command {
        Command::Set(args) => set(args),
        Command::Bind(args) => bind(args),
        Command::Unbind(args) => unbind(args),
        Command::Delete(args) => delete(args),
        Command::List(args) => list::run(args),
    }
}

fn set(args: &SetArgs) -> Result<(), Failure> {
    let name = group_name(&args.name)?;
    let rules = file::read(&args.file)?;
    let request = v1::SetSecurityGroupRequest {
        name: name.clone(),
        rules: rules.as_slice().iter().cloned().map(Into::into).collect(),
        wait_milliseconds: args.options.wait_milliseconds(),
    };
    let reply = client::call(&args.options.connection, async |mut client: Client| {
        client.set_security_group(request).await
    })?;
    print(&args.options, name, reply, ["set", "has these rules already"]);
    Ok(())
}

fn bind(args: &BindArgs) -> Result<(), Failure> {
    let (request, reach) = args.request()?;
    let name = request.name.clone();
    let reply = client::call(&args.options.connection, async |mut client: Client| {
        client.bind_security_group(request).await
    })?;
    let words = [format!("bound to {reach}"), format!("was bound to {reach} already")];
    print(&args.options, name, reply, words.each_ref().map(String::as_str));
    Ok(())
}

fn unbind(args: &BindArgs) -> Result<(), Failure> {
    let (request, reach) = args.request()?;
    let name = request.name.clone();
    let reply = client::call(&args.options.connection, async |mut client: Client| {
        client.unbind_security_group(request).await
    })?;
    let words = [format!("unbound from {reach}"), format!("was not bound to {reach}")];
    print(&args.options, name, reply, words.each_ref().map(String::as_str));
    Ok(())
}

fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let name = group_name(&args.name)?;
    let wait_milliseconds = args.options.wait_milliseconds();
    let request = v1::DeleteSecurityGroupRequest { name: name.clone(), wait_milliseconds };
    let reply = client::call(&args.options.connection, async |mut client: Client| {
        client.delete_security_group(request).await
    })?;
    print(&args.options, name, reply, ["deleted", "was not there"]);
    Ok(())
}

/// The controller checks again; here it is checked so that nothing has to be running for an error to be told.
fn group_name(name: &str) -> Result<String, Failure> {
    let name = GroupName::parse("name", name).map_err(Failure::usage)?;
    Ok(name.as_str().to_owned())
}

impl BindArgs {
    /// A space that is given must be one: an empty one is not taken for all.
    fn request(&self) -> Result<(v1::BindSecurityGroupRequest, Reach), Failure> {
        let name = group_name(&self.name)?;
        let workload = Workload::parse("workload", &self.workload).map_err(Failure::usage)?;
        let space = self.spaces.space.as_deref().map(|space| SpaceId::parse("space", space));
        let space = space.transpose().map_err(Failure::usage)?;
        let request = v1::BindSecurityGroupRequest {
            name,
            workload: workload.as_str().to_owned(),
            space: space.as_ref().map(|space| space.as_str().to_owned()).unwrap_or_default(),
            wait_milliseconds: self.options.wait_milliseconds(),
        };
        Ok((request, Reach { workload, space }))
    }
}

impl Options {
    fn wait_milliseconds(&self) -> u32 {
        self.wait.saturating_mul(1000)
    }
}

fn print(options: &Options, name: String, reply: v1::SecurityGroupReply, words: [&str; 2]) {
    for line in &reply.skipped {
        eprintln!("warning: {line}");
    }
    let changed = Changed {
        name,
        revision: reply.revision,
        changed: reply.changed,
        cells_concerned: reply.cells_concerned,
        cells_enforcing: reply.cells_enforcing,
        elapsed_microseconds: reply.elapsed_microseconds,
        skipped: reply.skipped,
    };
    output::print(options.json, &changed, || sentence(&changed, words));
}

/// Such as `security group web set at revision 12; enforced by 2 of 2 cells in 6 ms`.
fn sentence(changed: &Changed, [done, already]: [&str; 2]) -> String {
    let Changed { name, revision, .. } = changed;
    let what = match changed.changed {
        true => format!("security group {name} {done} at revision {revision}"),
        false => format!("security group {name} {already}; nothing changed at revision {revision}"),
    };
    let cells = [changed.cells_enforcing, changed.cells_concerned];
    let nobody = "no connected cell hosts a space that it concerns";
    format!("{what}; {}", output::enforcement(cells, changed.elapsed_microseconds, nobody))
}
