//! `serve --check-config`: what a start would refuse, without one. Nothing is made, loaded or asked over the network.

use super::table::{plain, trimmed};
use crate::assembly;
use crate::config::Config;
use crate::host::Underlay;
use std::ops::RangeInclusive;

/// What the agent would run with.
pub(super) fn run(config: &Config) -> anyhow::Result<String> {
    let underlay = assembly::check(config)?;
    let mut table = plain();
    for (name, value) in rows(config, &underlay) {
        table.add_row([name.to_owned(), value]);
    }
    Ok(trimmed(&table))
}

fn rows(config: &Config, underlay: &Underlay) -> [(&'static str, String); 12] {
    [
        ("cell", config.cell.clone()),
        ("underlay", format!("{} {}, MTU {}", config.datapath.underlay, underlay.address, underlay.mtu)),
        ("neighbours", underlay.link.map_or_else(|| "by routes".to_owned(), |link| link.to_string())),
        ("containers' MTU", assembly::container_mtu(underlay).to_string()),
        ("controller", config.controller.clone()),
        ("certificate", config.identity.cert.display().to_string()),
        ("state_dir", config.state_dir.display().to_string()),
        ("pin_dir", config.datapath.pin_dir.display().to_string()),
        ("socket", config.socket.display().to_string()),
        ("metrics_address", config.metrics_address.to_string()),
        ("mapped_ports", ports(&config.network.mapped_ports)),
        ("nat_ports", ports(&config.network.nat_ports)),
    ]
}

fn ports(pool: &RangeInclusive<u16>) -> String {
    format!("{}-{}", pool.start(), pool.end())
}
