//! `pki init` and `pki issue`.

use super::{Failure, output};
use crate::pki::{self, Issued, Request};
use c2c_proto::tls::Role;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

const EXAMPLES: &str = "\
Examples:
  c2c-controller pki init --dir pki
  c2c-controller pki issue --dir pki --role controller --name controller --address 192.0.2.10 --dns c2c.example.org
  c2c-controller pki issue --dir pki --role cell --name cell-1 --address 192.0.2.11 --days 90
  c2c-controller pki issue --dir pki --role operator --name admin --out ~/.c2c";

/// What to make.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PkiArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a certificate authority: ca.crt and ca.key
    Init(InitArgs),
    /// Issue a certificate: NAME.crt, NAME.key and ca.crt
    Issue(IssueArgs),
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Where the authority lives
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct IssueArgs {
    /// Where the authority lives
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What the certificate may be used for
    #[arg(long)]
    role: RoleName,
    /// Whose it is: a cell's name, a person, a host
    #[arg(long)]
    name: String,
    /// Address that it speaks for; for a cell its underlay address. May be given several times
    #[arg(long = "address", value_name = "IP")]
    addresses: Vec<IpAddr>,
    /// Host name that it speaks for. May be given several times
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// How long it is valid
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Where to write it [default: the authority's directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    /// An agent
    Cell,
    /// The controller
    Controller,
    /// A person or program that sets policies
    Operator,
}

#[derive(Debug, Serialize)]
struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

pub(super) fn run(args: &PkiArgs) -> Result<(), Failure> {
    let now = SystemTime::now();
    match &args.command {
        Command::Init(args) => {
            let issued = pki::init(&args.dir, now).map_err(Failure::refused)?;
            print(args.json, &issued, "certificate authority");
        }
        Command::Issue(args) => {
            let request = Request {
                addresses: args.addresses.clone(),
                dns_names: args.dns_names.clone(),
                ..Request::for_days(args.role.into(), &args.name, args.days, now)
            };
            let out = args.out.as_ref().unwrap_or(&args.dir);
            let issued = pki::issue(&args.dir, out, &request).map_err(Failure::refused)?;
            print(args.json, &issued, "certificate");
        }
    }
    Ok(())
}

fn print(json: bool, issued: &Issued, what: &str) {
    let Issued { ca, certificate, key } = issued.clone();
    let files = Files { ca, certificate, key };
    output::print(json, &files, || {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        format!("{what} {certificate} written; its private key is {key}")
    });
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Cell => Self::Cell,
            RoleName::Controller => Self::Controller,
            RoleName::Operator => Self::Operator,
        }
    }
}
