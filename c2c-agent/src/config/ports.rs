//! Whether the pools of ports are free on this host. Nobody can listen on a mapped port or on one that masqueraded flows
//! come from: the programs would take the packets away. So the pools must not be where the kernel takes the ports of the
//! cell's own connections from (`ip_local_port_range`, less `ip_local_reserved_ports`), nor where the tunnel ends.
//!
//! Services that listen in a pool are not looked for: they come and go.

use super::Network;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Ports as this host's kernel gives them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPorts {
    /// From here the cell's own connections get theirs.
    pub ephemeral: RangeInclusive<u16>,
    /// But not these.
    pub reserved: Vec<RangeInclusive<u16>>,
}

/// Why the pools cannot be what they are.
#[derive(Debug, thiserror::Error)]
pub enum PortConflict {
    /// The tunnel's port lies in a pool.
    #[error(
        "{key} = \"{}\" holds the tunnel's UDP port {port}: choose a range without it, or give the controller another \
         port for the tunnel",
        text(pool)
    )]
    Tunnel {
        /// Which pool.
        key: &'static str,
        /// Its ports.
        pool: RangeInclusive<u16>,
        /// The tunnel's.
        port: u16,
    },
    /// The kernel may give ports of a pool to the cell's own connections.
    #[error(
        "{key} = \"{}\" overlaps this host's own ports (net.ipv4.ip_local_port_range) {}: choose a range outside it, or \
         add {} to net.ipv4.ip_local_reserved_ports",
        text(pool),
        text(ephemeral),
        text(overlap)
    )]
    Ephemeral {
        /// Which pool.
        key: &'static str,
        /// Its ports.
        pool: RangeInclusive<u16>,
        /// The host's.
        ephemeral: RangeInclusive<u16>,
        /// What is in both.
        overlap: RangeInclusive<u16>,
    },
    /// The kernel's setting is not there.
    #[error("cannot read {}, to see which ports this host uses itself", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel's setting is not understood.
    #[error("{} holds {found:?}: expected ports as Linux shows them", path.display())]
    Text {
        /// Which file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
}

/// Whether the pools are free, given the tunnel's port (as far as it is known) and the host's own.
///
/// # Errors
/// When a pool holds the tunnel's port, or overlaps the ephemeral range where nothing is reserved.
pub fn port_conflict(
    network: &Network,
    tunnel_port: Option<u16>,
    ephemeral: RangeInclusive<u16>,
    reserved: &[RangeInclusive<u16>],
) -> Result<(), PortConflict> {
    for (key, pool) in [("mapped_ports", &network.mapped_ports), ("nat_ports", &network.nat_ports)] {
        if let Some(port) = tunnel_port.filter(|port| pool.contains(port)) {
            return Err(PortConflict::Tunnel { key, pool: pool.clone(), port });
        }
        let first = *pool.start().max(ephemeral.start());
        let last = *pool.end().min(ephemeral.end());
        let covered = |port: &u16| reserved.iter().any(|range| range.contains(port));
        if !(first..=last).all(|port| covered(&port)) {
            let (pool, overlap) = (pool.clone(), first..=last);
            return Err(PortConflict::Ephemeral { key, pool, ephemeral, overlap });
        }
    }
    Ok(())
}

/// What the kernel says; `root` is `/` but in tests.
///
/// # Errors
/// When a setting cannot be read or understood.
pub fn host_ports(root: &Path) -> Result<HostPorts, PortConflict> {
    let ephemeral = setting(root, "ip_local_port_range", |text| {
        let (first, last) = text.split_once(char::is_whitespace)?;
        range(&format!("{}-{}", first, last.trim()))
    })?;
    let reserved = setting(root, "ip_local_reserved_ports", |text| {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| range(part).or_else(|| range(&format!("{part}-{part}")))).collect()
    })?;
    Ok(HostPorts { ephemeral, reserved })
}

fn setting<T>(root: &Path, name: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, PortConflict> {
    let path = root.join("proc/sys/net/ipv4").join(name);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(PortConflict::Read { path, source }),
    };
    let text = text.trim();
    read(text).ok_or_else(|| PortConflict::Text { path, found: text.to_owned() })
}

/// Reads `FIRST-LAST`; `None` for anything else and for a range without ports.
pub(super) fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    let range: RangeInclusive<u16> = number(first.trim())?..=number(last.trim())?;
    (*range.start() > 0 && !range.is_empty()).then_some(range)
}

fn text(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    fn network(mapped: &str, nat: &str) -> Network {
        let layer =
            Layer { mapped_ports: Some(mapped.into()), nat_ports: Some(nat.into()), ..Layer::default() };
        Network::check(&layer).unwrap()
    }

    fn host(range: &str, reserved: &str) -> Result<HostPorts, PortConflict> {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("proc/sys/net/ipv4");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("ip_local_port_range"), range).unwrap();
        fs::write(dir.join("ip_local_reserved_ports"), reserved).unwrap();
        host_ports(root.path())
    }

    #[test]
    fn the_kernels_words_are_read() {
        let ports = host("32768\t60999\n", "8080,9148-9150\n").unwrap();
        assert_eq!(ports, HostPorts { ephemeral: 32768..=60999, reserved: vec![8080..=8080, 9148..=9150] });
        assert!(host("32768\t60999\n", "\n").unwrap().reserved.is_empty());
        for (range, reserved) in
            [("", ""), ("32768", ""), ("2 1", ""), ("1 x", ""), ("1 2", "x"), ("1 2", "3-")]
        {
            assert!(
                matches!(host(range, reserved), Err(PortConflict::Text { .. })),
                "{range:?} {reserved:?}"
            );
        }
        let nowhere = host_ports(Path::new("/nowhere")).unwrap_err();
        assert!(nowhere.to_string().contains("/nowhere/proc/sys/net/ipv4/ip_local_port_range"));
    }

    #[test]
    fn this_hosts_kernel_is_understood() {
        host_ports(Path::new("/")).unwrap();
    }

    #[test]
    fn the_defaults_fit_linuxs_own() {
        let network = Network::check(&Layer::default()).unwrap();
        port_conflict(&network, Some(4789), 32768..=60999, &[]).unwrap();
    }

    #[test]
    fn a_pool_may_overlap_where_ports_are_reserved() {
        let network = network("61000-65535", "16384-32767");
        let wide = 1024..=65535;
        let reserved = [61000..=63000, 63001..=65535, 16384..=32767];
        port_conflict(&network, None, wide.clone(), &reserved).unwrap();
        for gap in [&reserved[..1], &reserved[1..], &[]] {
            assert!(port_conflict(&network, None, wide.clone(), gap).is_err(), "{gap:?}");
        }
    }

    #[test]
    fn the_error_names_both_ranges_and_both_remedies() {
        let network = network("60000-65000", "16384-32767");
        let said = port_conflict(&network, None, 32768..=60999, &[]).unwrap_err().to_string();
        for part in [
            "mapped_ports",
            "60000-65000",
            "32768-60999",
            "outside it",
            "60000-60999",
            "ip_local_reserved_ports",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains('\n') && !said.contains("  "), "{said}");
    }

    #[test]
    fn the_tunnels_port_is_in_no_pool() {
        let network = network("61000-65535", "4000-5000");
        let said = port_conflict(&network, Some(4789), 32768..=60999, &[]).unwrap_err().to_string();
        assert!(said.contains("nat_ports") && said.contains("4789") && !said.contains("  "), "{said}");
        port_conflict(&network, Some(5001), 32768..=60999, &[]).unwrap();
    }
}
