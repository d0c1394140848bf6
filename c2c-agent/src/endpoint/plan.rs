//! What a container's interfaces are to look like, and whether what was asked can be right. Pure.
//!
//! Names and addresses are Silk's, so operators' tools go on working: `s-` and the address in three digits an octet;
//! `aa:aa` and `ee:ee` before the address as hardware addresses; 169.254.0.1 as everyone's gateway.

use super::failure::{self, failure};
use super::record::{Record, State};
use super::settings::Settings;
use crate::fabric::CellLease;
use crate::host::{End, Limit, Link, Mac, Netns, NetnsId, Pair, check_limit, mac_text};
use c2c_proto::agent_api::{
    Add, Added, ApiError, Attachment, Bandwidth, Interface, NetOutRule, PortMapping, code,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The gateway that every container sees; Silk's.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// Marks an interface as ours, before the attachment and the app.
const MARK: &str = "c2c";
/// Garden's handles have 36 characters. In bytes; with [`MAX_APP`] and the rest it fits into the kernel's 254 for an alias.
const MAX_CONTAINER_ID: usize = 128;
/// An app's name is a GUID of 36 characters. In bytes.
const MAX_APP: usize = 100;
/// `IFNAMSIZ` in Linux's `include/uapi/linux/if.h`, without the closing zero. In bytes.
const MAX_IFNAME: usize = 15;

/// Refuses what cannot be the name of a container or of an interface.
pub(super) fn check_attachment(attachment: &Attachment) -> Result<(), ApiError> {
    let id = attachment.container_id.as_str();
    let tail = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let starts = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || !id.chars().all(tail) || id.len() > MAX_CONTAINER_ID {
        return Err(invalid(
            "container_id",
            id,
            "1 to 128 letters, digits, '_', '.' or '-', a letter or digit first",
        ));
    }
    let name = attachment.ifname.as_str();
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if name.is_empty() || name.len() > MAX_IFNAME || matches!(name, "." | "..") || name.contains(bad) {
        return Err(invalid("ifname", name, "1 to 15 bytes without '/', ':', '%' and blanks"));
    }
    Ok(())
}

/// The app that a container is an instance of, as CF's metadata names it; empty when it names none.
pub(super) fn app(metadata: &BTreeMap<String, Value>) -> Result<String, ApiError> {
    let Some((key, value)) =
        ["policy_group_id", "app_id"].iter().find_map(|key| metadata.get_key_value(*key))
    else {
        return Ok(String::new());
    };
    let field = format!("metadata.{key}");
    let text = value.as_str().ok_or_else(|| invalid(&field, &value.to_string(), "a string"))?;
    // The controller refuses other names, and would refuse the whole cell that speaks of one.
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text.len() > MAX_APP || !text.chars().all(legal) {
        return Err(invalid(&field, text, "at most 100 letters, digits, '_', '.' or '-'"));
    }
    Ok(text.to_owned())
}

/// A container's limits: what was asked for, and for a direction of which nothing was said the default.
pub(super) fn bandwidth(asked: Bandwidth, default: &Bandwidth) -> Result<Bandwidth, ApiError> {
    let mut limits = asked;
    if (asked.ingress_rate, asked.ingress_burst) == (0, 0) {
        (limits.ingress_rate, limits.ingress_burst) = (default.ingress_rate, default.ingress_burst);
    }
    if (asked.egress_rate, asked.egress_burst) == (0, 0) {
        (limits.egress_rate, limits.egress_burst) = (default.egress_rate, default.egress_burst);
    }
    check("ingress", limits.ingress_rate, limits.ingress_burst)?;
    check("egress", limits.egress_rate, limits.egress_burst)?;
    Ok(limits)
}

fn check(direction: &str, rate: u64, burst: u64) -> Result<Option<Limit>, ApiError> {
    check_limit(rate, burst).map_err(|fault| {
        let msg =
            format!("the bandwidth {direction}Rate {rate} with {direction}Burst {burst} cannot be: {fault}");
        failure(code::INVALID, msg)
    })
}

/// Each rule once, in the order in which they came first.
pub(super) fn distinct(rules: impl IntoIterator<Item = NetOutRule>) -> Vec<NetOutRule> {
    let mut seen = BTreeSet::new();
    rules.into_iter().filter(|rule| seen.insert(rule.clone())).collect()
}

fn invalid(field: &str, found: &str, expected: &str) -> ApiError {
    failure(code::INVALID, format!("{field} is {found:?}, expected {expected}"))
}

/// An ADD that was checked.
#[derive(Debug)]
pub(super) struct Intent {
    add: Add,
    app: String,
    bandwidth: Bandwidth,
}

impl Intent {
    /// Refuses an ADD that cannot be right, whatever the cell's state is.
    pub(super) fn check(add: Add, settings: &Settings) -> Result<Self, ApiError> {
        check_attachment(&add.attachment)?;
        let app = app(&add.metadata)?;
        let bandwidth = bandwidth(add.bandwidth, &settings.bandwidth)?;
        Ok(Self { add, app, bandwidth })
    }

    /// The record of the ADD as it begins. `now` in Unix seconds.
    pub(super) fn record(
        self,
        netns: &Netns,
        (address, ports): (Ipv4Addr, Vec<PortMapping>),
        lease: &CellLease,
        now: u64,
    ) -> Record {
        let Self { add, app, bandwidth } = self;
        Record {
            attachment: add.attachment,
            app,
            metadata: add.metadata,
            address,
            host_name: host_name(address),
            host_mac: mac(0xaa, address),
            container_mac: mac(0xee, address),
            ifindex: 0,
            netns: add.netns,
            netns_id: netns.id(),
            mtu: lease.mtu,
            state: State::Wiring,
            created: now,
            ports,
            egress: distinct(add.egress),
            bandwidth,
        }
    }
}

/// The record that an interface of ours tells of by itself: its alias names the attachment and the app, its name the
/// address. Only what is up was wired to the end. Its ports and rules are lost, and its limits are the default's.
pub(super) fn rebuilt(link: &Link, default: &Bandwidth) -> Option<Record> {
    let (attachment, app) = parse_mark(&link.alias)?;
    let address = parse_host_name(&link.name)?;
    let metadata = (!app.is_empty()).then(|| ("policy_group_id".to_owned(), Value::from(app.clone())));
    link.up.then(|| Record {
        attachment,
        app,
        metadata: metadata.into_iter().collect(),
        address,
        host_name: link.name.clone(),
        host_mac: link.mac,
        container_mac: mac(0xee, address),
        ifindex: link.ifindex,
        netns: String::new(),
        netns_id: NetnsId::default(),
        mtu: link.mtu,
        state: State::Wired,
        created: 0,
        ports: Vec::new(),
        egress: Vec::new(),
        bandwidth: *default,
    })
}

/// Whether an interface bears our mark and one of our names.
pub(super) fn is_ours(link: &Link) -> bool {
    parse_mark(&link.alias).is_some() && parse_host_name(&link.name).is_some()
}

impl Record {
    /// What marks the host's end as ours.
    pub(super) fn mark(&self) -> String {
        let Attachment { container_id, ifname } = &self.attachment;
        let app = if self.app.is_empty() { String::new() } else { format!(" {}", self.app) };
        format!("{MARK} {container_id} {ifname}{app}")
    }

    /// The veth pair to make.
    pub(super) fn pair(&self) -> Pair {
        Pair {
            host_name: self.host_name.clone(),
            host_mac: self.host_mac,
            container_name: self.attachment.ifname.clone(),
            container_mac: self.container_mac,
            mtu: self.mtu,
            alias: self.mark(),
        }
    }

    /// The host's end.
    pub(super) fn host_end(&self) -> End {
        End {
            name: self.host_name.clone(),
            mac: self.host_mac,
            mtu: self.mtu,
            local: GATEWAY,
            peer: self.address,
            peer_mac: self.container_mac,
            default_route: false,
            limit: limit(self.bandwidth.ingress_rate, self.bandwidth.ingress_burst),
        }
    }

    /// The container's end.
    pub(super) fn container_end(&self) -> End {
        End {
            name: self.attachment.ifname.clone(),
            mac: self.container_mac,
            mtu: self.mtu,
            local: self.address,
            peer: GATEWAY,
            peer_mac: self.host_mac,
            default_route: true,
            limit: limit(self.bandwidth.egress_rate, self.bandwidth.egress_burst),
        }
    }

    /// What the runtime is told.
    pub(super) fn added(&self, settings: &Settings) -> Added {
        let interface = |name: &str, mac| Interface { name: name.to_owned(), mac: mac_text(mac) };
        Added {
            host: interface(&self.host_name, &self.host_mac),
            container: interface(&self.attachment.ifname, &self.container_mac),
            address: self.address,
            gateway: GATEWAY,
            mtu: self.mtu,
            cell_address: settings.cell_address,
            ports: self.ports.clone(),
            dns_servers: settings.dns_servers.clone(),
            search_domains: settings.search_domains.clone(),
        }
    }

    /// The container in a message.
    pub(super) fn called(&self) -> String {
        failure::called(&self.attachment)
    }
}

/// A record's limits were checked when it was made; none is put on an end by a record that somebody else wrote badly.
fn limit(rate: u64, burst: u64) -> Option<Limit> {
    check_limit(rate, burst).ok().flatten()
}

fn host_name(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("s-{a:03}{b:03}{c:03}{d:03}")
}

fn parse_host_name(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_prefix("s-").filter(|digits| digits.len() == 12)?;
    let octet = |at: usize| digits.get(at..at + 3)?.parse::<u8>().ok();
    let address = Ipv4Addr::new(octet(0)?, octet(3)?, octet(6)?, octet(9)?);
    (host_name(address) == name).then_some(address)
}

fn mac(prefix: u8, address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [prefix, prefix, a, b, c, d]
}

fn parse_mark(alias: &str) -> Option<(Attachment, String)> {
    let mut words = alias.splitn(4, ' ');
    let ours = words.next() == Some(MARK);
    let attachment = Attachment { container_id: words.next()?.to_owned(), ifname: words.next()?.to_owned() };
    (ours && check_attachment(&attachment).is_ok())
        .then(|| (attachment, words.next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn attachment(container_id: &str, ifname: &str) -> Attachment {
        Attachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() }
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let long = "x".repeat(129);
        let rows = [
            ("handle", "eth0", true),
            ("a.b_c-D9", "a-name_of.15byt", true),
            ("", "eth0", false),
            ("-handle", "eth0", false),
            ("../handle", "eth0", false),
            ("a b", "eth0", false),
            (&long, "eth0", false),
            ("handle", "", false),
            ("handle", "sixteen-bytes-xx", false),
            ("handle", ".", false),
            ("handle", "..", false),
            ("handle", "eth/0", false),
            ("handle", "eth:0", false),
            ("handle", "eth%d", false),
            ("handle", "eth\u{a0}0", false),
        ];
        for (id, name, good) in rows {
            assert_eq!(check_attachment(&attachment(id, name)).is_ok(), good, "{id:?} {name:?}");
        }
    }

    #[test]
    fn the_policy_group_names_the_app() {
        let rows = [
            (json!({"policy_group_id": "group", "app_id": "app"}), Some("group")),
            (json!({"app_id": "app"}), Some("app")),
            (json!({}), Some("")),
            (json!({"policy_group_id": 7}), None),
            (json!({"policy_group_id": ""}), Some("")),
            (json!({"policy_group_id": "a b"}), None),
            (json!({"policy_group_id": "a/b"}), None),
            (json!({"policy_group_id": "ä"}), None),
            (json!({"policy_group_id": "x".repeat(101)}), None),
        ];
        for (metadata, expected) in rows {
            let found = app(&serde_json::from_value(metadata.clone()).unwrap());
            assert_eq!(found.as_deref().ok(), expected, "{metadata}");
        }
    }

    #[test]
    fn the_longest_mark_fits_into_an_alias() {
        let mark = MARK.len() + 3 + MAX_CONTAINER_ID + MAX_IFNAME + MAX_APP;
        assert!(mark <= 254, "{mark}");
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for name in [
            "eth0",
            "s-",
            "s-10255001002",
            "s-010255001999",
            "s-01025500100a",
            "s-0102550010022",
            "s-+10255001002",
        ] {
            assert_eq!(parse_host_name(name), None, "{name}");
        }
        for alias in ["", "c2c", "c2c handle", "uplink", "c2cx handle eth0", "c2c -handle eth0 app"] {
            assert_eq!(parse_mark(alias), None, "{alias}");
        }
    }

    proptest! {
        #[test]
        fn an_interface_tells_what_it_is(octets: [u8; 4], id in "[a-z0-9][a-z0-9.-]{0,40}", app in "[a-z0-9-]{0,36}") {
            let address = Ipv4Addr::from(octets);
            let attachment = attachment(&id, "eth0");
            let link = Link { name: host_name(address), up: true, mac: mac(0xaa, address), ..Link::default() };
            let none = Bandwidth::default();
            let mut record = rebuilt(&Link { alias: format!("c2c {id} eth0 {app}"), ..link.clone() }, &none).unwrap();
            prop_assert_eq!((&record.attachment, &record.app, record.address), (&attachment, &app, address));
            record.ifindex = 0;
            let again = rebuilt(&Link { alias: record.mark(), ..link }, &none);
            prop_assert_eq!(again, Some(record));
        }
    }
}
