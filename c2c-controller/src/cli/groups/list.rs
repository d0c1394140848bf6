//! `security-groups list`: all groups in a table, or one with its rules.

use crate::cli::client::{self, Client, Connection};
use crate::cli::{Failure, output};
use c2c_proto::egress::{SecurityRule, permissions};
use c2c_proto::v1;
use clap::Args;
use serde::Serialize;

/// More of a text than this, in characters, makes a table that nobody can read; `--json` shows all.
const LONGEST: usize = 50;

/// Which groups to list.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only this group, with its rules
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct Listed {
    revision: u64,
    groups: Vec<ListedGroup>,
}

#[derive(Debug, Serialize)]
struct ListedGroup {
    name: String,
    rules: Vec<SecurityRule>,
    running_default: bool,
    staging_default: bool,
    running_spaces: Vec<String>,
    staging_spaces: Vec<String>,
}

pub(super) fn run(args: &ListArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().map(super::group_name).transpose()?.unwrap_or_default();
    let reply = client::call(&args.connection, async |mut client: Client| {
        client.list_security_groups(v1::ListSecurityGroupsRequest { name }).await
    })?;
    let groups = reply.groups.into_iter().map(ListedGroup::from).collect();
    let listed = Listed { revision: reply.revision, groups };
    output::print(args.json, &listed, || match &listed.groups[..] {
        [] => format!("no security group is set at revision {}", listed.revision),
        [group] if args.name.is_some() => one(group),
        groups => all(groups),
    });
    Ok(())
}

fn all(groups: &[ListedGroup]) -> String {
    let rows = groups.iter().map(|group| {
        let [running, staging] = group.reaches().map(|(default, spaces)| match (default, spaces.len()) {
            (true, _) => "all spaces".to_owned(),
            (false, 0) => "-".to_owned(),
            (false, 1) => "1 space".to_owned(),
            (false, count) => format!("{count} spaces"),
        });
        vec![group.name.clone(), group.rules.len().to_string(), running, staging]
    });
    output::table(&["name", "rules", "running", "staging"], rows)
}

fn one(group: &ListedGroup) -> String {
    let [running, staging] = group.reaches().map(|(default, spaces)| {
        let all = default.then_some("all spaces");
        let names: Vec<&str> = all.into_iter().chain(spaces.iter().map(String::as_str)).collect();
        if names.is_empty() { "no space".to_owned() } else { names.join(", ") }
    });
    let rules = match &group.rules[..] {
        [] => "no rule".to_owned(),
        rules => output::table(
            &["rule", "protocol", "destination", "ports", "type", "code", "log", "description"],
            (1_usize..).zip(rules).map(|(number, rule)| row(number, rule)),
        ),
    };
    format!("running: {running}\nstaging: {staging}\n{rules}")
}

fn row(number: usize, rule: &SecurityRule) -> Vec<String> {
    let skipped = if permissions(rule).is_err() { " (skipped)" } else { "" };
    let [icmp_type, code] = [rule.icmp_type, rule.code].map(|number| match number {
        Some(number) => number.to_string(),
        None => "-".to_owned(),
    });
    let text = |text: &str| if text.is_empty() { "-".to_owned() } else { output::shown(text, LONGEST) };
    let log = if rule.log { "yes" } else { "-" }.to_owned();
    vec![
        format!("{number}{skipped}"),
        text(&rule.protocol),
        text(&rule.destination),
        text(&rule.ports),
        icmp_type,
        code,
        log,
        text(&rule.description),
    ]
}

impl ListedGroup {
    /// For running and for staging: whether all spaces, and which ones.
    fn reaches(&self) -> [(bool, &[String]); 2] {
        [(self.running_default, &self.running_spaces), (self.staging_default, &self.staging_spaces)]
    }
}

impl From<v1::SecurityGroup> for ListedGroup {
    fn from(group: v1::SecurityGroup) -> Self {
        Self {
            name: group.name,
            rules: group.rules.into_iter().map(Into::into).collect(),
            running_default: group.running_default,
            staging_default: group.staging_default,
            running_spaces: group.running_spaces,
            staging_spaces: group.staging_spaces,
        }
    }
}
