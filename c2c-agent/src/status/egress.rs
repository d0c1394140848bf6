//! What a container may reach outside, in words.

use super::EgressRow;
use crate::fabric::EgressView;
use crate::policy::select::Source;
use c2c_proto::agent_api::Transport;
use c2c_proto::egress::{Permission, Traffic};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// The row of a container of that name.
pub(super) fn row(container_id: String, view: EgressView) -> EgressRow {
    let (rules, groups) = match view.choice.source {
        Source::Groups(names) => ("groups", names),
        Source::Static(_) => ("static", Vec::new()),
        Source::Nothing => ("none", Vec::new()),
    };
    let selection = &view.selected.selection;
    EgressRow {
        container_id,
        address: view.address,
        space: view.space,
        workload: view.choice.workload.as_str().to_owned(),
        rules: rules.to_owned(),
        groups,
        set: view.set,
        allowed: selection.permissions.iter().map(permission).collect(),
        denied: selection.denied.clone(),
        skipped: view.selected.skipped.clone(),
    }
}

pub(super) fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn permission(permission: &Permission) -> String {
    let to = addresses(permission.first, permission.last);
    let what = match permission.traffic {
        Traffic::All => format!("all {to}"),
        Traffic::Ports { protocol, first, last } => {
            let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
            format!("{} {to} {ports}", transport(protocol))
        }
        Traffic::Icmp { kind, code } => format!("icmp {to} type {} code {}", or_any(kind), or_any(code)),
    };
    if permission.log { what + " log" } else { what }
}

fn or_any(number: Option<u8>) -> String {
    number.map_or_else(|| "any".to_owned(), |number| number.to_string())
}

/// An address, a CIDR when it is one, or else a range.
fn addresses(first: Ipv4Addr, last: Ipv4Addr) -> String {
    if first == last {
        return first.to_string();
    }
    let hosts = first.to_bits() ^ last.to_bits();
    let length = hosts.leading_zeros();
    let whole = hosts.count_ones() + length == 32 && first.to_bits() & hosts == 0;
    let net = u8::try_from(length).ok().and_then(|length| Ipv4Net::new(first, length).ok());
    net.filter(|_| whole).map_or_else(|| format!("{first}-{last}"), |net| net.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(first: [u8; 4], last: [u8; 4], traffic: Traffic, log: bool) -> String {
        permission(&Permission { first: first.into(), last: last.into(), traffic, log })
    }

    #[test]
    fn a_permission_reads_like_a_rule() {
        let ports = |first, last| Traffic::Ports { protocol: Transport::Tcp, first, last };
        let rows = [
            (said([10, 0, 0, 0], [10, 255, 255, 255], ports(80, 90), true), "tcp 10.0.0.0/8 80-90 log"),
            (said([10, 0, 0, 1], [10, 0, 0, 1], ports(53, 53), false), "tcp 10.0.0.1 53"),
            (said([0; 4], [255; 4], Traffic::All, false), "all 0.0.0.0/0"),
            (said([10, 0, 0, 1], [10, 0, 0, 2], Traffic::All, false), "all 10.0.0.1-10.0.0.2"),
            (said([10, 0, 0, 2], [10, 0, 0, 5], Traffic::All, false), "all 10.0.0.2-10.0.0.5"),
        ];
        for (said, want) in rows {
            assert_eq!(said, want);
        }
        let echo = Traffic::Icmp { kind: Some(8), code: None };
        assert_eq!(said([10, 0, 0, 1], [10, 0, 0, 1], echo, false), "icmp 10.0.0.1 type 8 code any");
    }
}
