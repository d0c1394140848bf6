//! Who is at the other end, read from a certificate that was already verified.

use rustls_pki_types::CertificateDer;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate may be used for: its subject's organizationalUnitName.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// An agent: may follow the fabric and hold a lease.
    Cell,
    /// A person or a program that changes and lists policies and leases.
    Operator,
    /// The controller itself.
    Controller,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Cell, Self::Operator, Self::Controller];

    /// The organizationalUnitName that stands for the role.
    #[must_use]
    pub fn organizational_unit(self) -> &'static str {
        match self {
            Self::Cell => "c2c-cell",
            Self::Operator => "c2c-operator",
            Self::Controller => "c2c-controller",
        }
    }

    fn from_organizational_unit(unit: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.organizational_unit() == unit)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.organizational_unit())
    }
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// What it may do; nothing when the certificate names no role of ours.
    pub role: Option<Role>,
    /// The subject's common name; empty when it has none.
    pub name: String,
    /// The addresses it may speak for.
    pub addresses: Vec<IpAddr>,
}

impl Peer {
    /// Reads a certificate; nothing when it cannot be decoded.
    #[must_use]
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
        let role = subject
            .iter_organizational_unit()
            .filter_map(|unit| unit.as_str().ok())
            .find_map(Role::from_organizational_unit);
        Some(Self {
            role,
            name: name.to_owned(),
            addresses: addresses(&parsed),
            certificate: certificate.clone().into_owned(),
        })
    }
}

fn addresses(certificate: &X509Certificate<'_>) -> Vec<IpAddr> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    names.value.general_names.iter().filter_map(address).collect()
}

fn address(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(octets) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*octets).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))).ok()
}
