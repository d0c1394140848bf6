//! What all tests of the controller's own binary need before it serves: certificates, and the ports that it took.

use c2c_controller::pki::{self, Issued, Request};
use c2c_proto::tls::{Files, Role};
use std::io::{BufReader, Lines};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ChildStderr;
use std::time::SystemTime;

/// The port that the controller logs behind `marker`; the log is read up to there.
pub(crate) fn port_after(log: &mut Lines<BufReader<ChildStderr>>, marker: &str) -> u16 {
    let mut seen = Vec::new();
    loop {
        let Some(Ok(line)) = log.next() else { panic!("the controller did not start:\n{}", seen.join("\n")) };
        if let Some((_, rest)) = line.split_once(marker) {
            return rest.split(' ').next().unwrap().parse().unwrap();
        }
        seen.push(line);
    }
}

/// A certificate for an address, of the CA in the directory; a new one each time.
pub(crate) fn issue(pki: &Path, role: Role, name: &str, address: Ipv4Addr) -> Files {
    for end in ["crt", "key"] {
        // There is none the first time.
        let _ = std::fs::remove_file(pki.join(format!("{name}.{end}")));
    }
    let request = Request::for_days(role, name, 1, SystemTime::now());
    let request = Request { addresses: vec![address.into()], ..request };
    let Issued { ca, certificate, key } = pki::issue(pki, pki, &request).unwrap();
    Files { ca, cert: certificate, key }
}
