//! Kernel parameters of an interface, written in the namespace of the calling thread.

use super::Error;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

/// Makes an interface speak IPv4 only, and refuse packets from addresses that it would not answer to.
pub(super) fn prepare(interface: &str) -> Result<(), Error> {
    match write("ipv6", interface, "disable_ipv6", "1") {
        Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {} // a kernel without IPv6
        result => result?,
    }
    write("ipv4", interface, "rp_filter", "1")
}

fn write(family: &str, interface: &str, parameter: &str, value: &str) -> Result<(), Error> {
    // Not joined piece by piece: an interface name is one component, whatever it holds (no `/` is in any).
    let path = PathBuf::from(format!("/proc/sys/net/{family}/conf/{interface}/{parameter}"));
    let result =
        OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
    result.map_err(|source| Error::Sysctl { path, source })
}
