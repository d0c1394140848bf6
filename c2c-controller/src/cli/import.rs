//! `import`: fills an empty store with what the incumbents' databases hold.

use super::restore::{self, Filled};
use super::{Failure, output};
use crate::backup::Counts;
use crate::config::StoreArgs;
use crate::import::{self, Imported, Refused, Rows};
use crate::store::PostgresUrl;
use clap::Args;
use serde::Serialize;

const EXAMPLES: &str = "\
Both databases are read, each at one moment, and nothing is written to them. Stop silk-controller and policy-server first,
so that nothing changes any more, and the controllers of the store. Tags stay as they are: cells that still run Silk go on
enforcing them. Databases in MySQL cannot be read.

Examples:
  c2c-controller import --silk-database postgresql://silk@localhost/silk \\
      --policy-database postgresql://policy@localhost/policy --data-dir /var/lib/c2c-controller --dry-run";

/// How many refused rows are shown to people.
const REFUSED_SHOWN: usize = 20;

/// What to import, and where to.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// silk-controller's database: leases
    #[arg(long, env = "C2C_SILK_DATABASE", hide_env_values = true, value_name = "URL")]
    #[arg(required_unless_present = "policy_database")]
    silk_database: Option<String>,
    /// policy-server's database: tags, policies and security groups
    #[arg(long, env = "C2C_POLICY_DATABASE", hide_env_values = true, value_name = "URL")]
    policy_database: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    /// Leave out rows that cannot be taken, instead of taking none
    #[arg(long)]
    skip_invalid: bool,
    /// Only read and check
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Rows in the incumbents' tables.
    read: Read,
    taken: Counts,
    refused: Vec<Refused>,
    /// Rules of security groups that are kept, and that no cell can enforce.
    rules_not_understood: usize,
    /// Of the store that was filled; nothing when none was.
    store: Option<String>,
}

#[derive(Debug, Serialize)]
struct Read {
    subnets: usize,
    policies: usize,
    security_groups: usize,
}

pub(super) fn run(args: &ImportArgs) -> Result<(), Failure> {
    let rows = read(args)?;
    let Imported { state, refused } = import::convert(&rows).map_err(Failure::refused)?;
    let skipped = state.groups().map(|group| group.rules.skipped().len());
    let mut report = Report {
        read: Read {
            subnets: rows.subnets.len(),
            policies: rows.policies.len(),
            security_groups: rows.security_groups.len(),
        },
        taken: Counts::of(&state.parts()),
        rules_not_understood: skipped.sum(),
        refused,
        store: None,
    };
    let may = report.refused.is_empty() || args.skip_invalid;
    if may && !args.dry_run {
        let Filled { store, .. } = restore::fill(&args.store, false, &state)?;
        report.store = Some(store);
    }
    output::print(args.json, &report, || human(&report));
    if may || args.dry_run { Ok(()) } else { Err(nothing_taken(&report)) }
}

fn read(args: &ImportArgs) -> Result<Rows, Failure> {
    let mut rows = Rows::default();
    if let Some(text) = &args.policy_database {
        rows = import::read_policies(&url("policy-database", text)?).map_err(Failure::refused)?;
    }
    if let Some(text) = &args.silk_database {
        rows.subnets = import::read_subnets(&url("silk-database", text)?).map_err(Failure::refused)?;
    }
    Ok(rows)
}

/// Does not repeat it: it may hold a password.
fn url(flag: &str, text: &str) -> Result<PostgresUrl, Failure> {
    text.parse().map_err(|_| {
        Failure::Usage(format!(
            "{flag}: is no database that can be read; expected postgresql://USER:PASSWORD@HOST/DATABASE, and \
             ?sslmode=disable after it for another machine, because the connection is not encrypted"
        ))
    })
}

fn nothing_taken(report: &Report) -> Failure {
    let refused = report.refused.len();
    Failure::Refused(format!(
        "{refused} rows cannot be taken, so nothing was; mend them, or leave them out with --skip-invalid"
    ))
}

fn human(report: &Report) -> String {
    let Read { subnets, policies, security_groups } = report.read;
    let taken = &report.taken;
    let kinds = [
        ("leases", subnets, taken.leases),
        ("policies", policies, taken.policies),
        ("security groups", security_groups, taken.security_groups),
    ];
    let rows = kinds.map(|(kind, read, taken)| vec![kind.to_owned(), read.to_string(), taken.to_string()]);
    let mut lines = vec![output::table(&["", "read", "taken"], rows)];
    lines.extend(report.refused.iter().take(REFUSED_SHOWN).map(|Refused { table, id, reason }| {
        format!("{table} {id} is not taken: {}", output::shown(reason, 300))
    }));
    if let Some(more) = report.refused.len().checked_sub(REFUSED_SHOWN).filter(|more| *more > 0) {
        lines.push(format!("and {more} more (see --json)"));
    }
    if report.rules_not_understood > 0 {
        lines.push(format!("{} rules of security groups mean nothing to cells", report.rules_not_understood));
    }
    lines.push(match &report.store {
        Some(store) => format!("imported into store {store}"),
        None => "nothing was written".to_owned(),
    });
    lines.join("\n")
}
