//! What a runtime wishes for a container beside an interface: ports of the cell, egress rules, bandwidth. In Garden's JSON,
//! which CF's networker hands on in `runtimeConfig`, and in CNI's own.

use crate::error::CniError;
use crate::fields::Fields;
use c2c_proto::agent_api::{Bandwidth, IcmpControl, IpRange, NetOutRule, PortRange, PortRequest, Transport};

const PORT: &str = "0 to 65535";
/// CNI's bandwidth capability; CNI's bandwidth plugin has the same keys at the top of its configuration.
const BANDWIDTH: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];

/// One port: `host_port` and `container_port` of CF, or `hostPort` and `containerPort` of CNI and of Garden's net-in.
pub(crate) fn port(fields: &Fields<'_>) -> Result<PortRequest, CniError> {
    let host = fields.integer(&["host_port", "hostPort"])?.unwrap_or(0);
    if host < 0 {
        return Err(CniError::config(format!("cannot allocate port {host}"))); // Silk's words
    }
    let container = fields.integer(&["container_port", "containerPort"])?;
    let missing = || fields.invalid("container_port", "absent", PORT);
    let container = container.ok_or_else(missing)?;
    Ok(PortRequest {
        host_port: u16::try_from(host).map_err(|_| fields.invalid("host_port", host, PORT))?,
        container_port: u16::try_from(container)
            .map_err(|_| fields.invalid("container_port", container, PORT))?,
        protocol: protocol(fields)?,
    })
}

/// One port in a network configuration. CNI's `hostIP` says at which of the cell's addresses; a mapped port is one of the
/// cell's own, and one of another address, such as the loopback's, cannot be had. (Garden's `HostIP` is the cell's own.)
pub(crate) fn mapping(fields: &Fields<'_>) -> Result<PortRequest, CniError> {
    match fields.text("hostIP")? {
        None | Some("0.0.0.0" | "::") => port(fields),
        Some(address) => Err(fields.invalid("hostIP", format!("{address:?}"), "none, or 0.0.0.0")),
    }
}

/// One egress rule of Garden. That its addresses and protocol make sense is the agent's to check.
pub(crate) fn net_out_rule(fields: &Fields<'_>) -> Result<NetOutRule, CniError> {
    Ok(NetOutRule {
        protocol: fields.number("protocol", "0 to 255")?,
        networks: fields.children("networks")?.iter().map(ip_range).collect::<Result<_, _>>()?,
        ports: fields.children("ports")?.iter().map(port_range).collect::<Result<_, _>>()?,
        icmps: fields.child("icmps")?.as_ref().map(icmp).transpose()?,
        log: fields.flag("log")?,
    })
}

/// Rates and bursts, if any of them is said here.
pub(crate) fn bandwidth(fields: &Fields<'_>) -> Result<Option<Bandwidth>, CniError> {
    if !fields.has_any(&BANDWIDTH) {
        return Ok(None);
    }
    let [ingress_rate, ingress_burst, egress_rate, egress_burst] =
        BANDWIDTH.map(|key| fields.number(key, "0 or more"));
    Ok(Some(Bandwidth {
        ingress_rate: ingress_rate?,
        ingress_burst: ingress_burst?,
        egress_rate: egress_rate?,
        egress_burst: egress_burst?,
    }))
}

fn protocol(fields: &Fields<'_>) -> Result<Option<Transport>, CniError> {
    let Some(text) = fields.text("protocol")? else { return Ok(None) };
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Some(Transport::Tcp)),
        "udp" => Ok(Some(Transport::Udp)),
        _ => Err(fields.invalid("protocol", format!("{text:?}"), "tcp or udp")),
    }
}

fn ip_range(fields: &Fields<'_>) -> Result<IpRange, CniError> {
    let address = |key| Ok::<_, CniError>(fields.text(key)?.unwrap_or_default().to_owned());
    Ok(IpRange { start: address("start")?, end: address("end")? })
}

fn port_range(fields: &Fields<'_>) -> Result<PortRange, CniError> {
    Ok(PortRange { start: fields.number("start", PORT)?, end: fields.number("end", PORT)? })
}

fn icmp(fields: &Fields<'_>) -> Result<IcmpControl, CniError> {
    let code = fields.integer(&["code"])?.map(|_| fields.number("code", "0 to 255")).transpose()?;
    Ok(IcmpControl { icmp_type: fields.number("type", "0 to 255")?, code })
}
