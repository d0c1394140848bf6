//! A small certificate authority in a directory, for those who have no other: ECDSA P-256, which every TLS 1.3 stack
//! knows. Certificates say what they may do by the subject's organizationalUnitName, and for whom they speak by subject
//! alternative names; see `c2c_proto::tls`.

use c2c_proto::tls::Role;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A CA is replaced by adding a second one to `ca.crt`, which takes planning; ten years leave time for it.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Certificates begin a little in the past, for machines whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// A certificate to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it may be used for.
    pub role: Role,
    /// The subject's common name, and the name of its files.
    pub name: String,
    /// Addresses that it speaks for.
    pub addresses: Vec<IpAddr>,
    /// Host names that it speaks for.
    pub dns_names: Vec<String>,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

impl Request {
    /// A request for a certificate that is valid from now (and a little before) for some days.
    #[must_use]
    pub fn for_days(role: Role, name: &str, days: u32, now: SystemTime) -> Self {
        Self {
            role,
            name: name.to_owned(),
            addresses: Vec::new(),
            dns_names: Vec::new(),
            not_before: now - CLOCK_SKEW,
            not_after: now + DAY * days,
        }
    }
}

/// The files of an issued certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The CA's certificate.
    pub ca: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, readable by its owner alone.
    pub key: PathBuf,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// There is a file already.
    #[error("{} exists already; it is never overwritten, move it away or choose another directory or name", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// There is no CA.
    #[error("{} holds no CA that can be used ({problem}); make one with `pki init --dir {}`", directory.display(), directory.display())]
    NoCa {
        /// Where it was expected.
        directory: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// A name that is no file's.
    #[error(
        "name: {name:?} cannot be a certificate's; expected 1 to 64 characters of A-Z a-z 0-9 _ . -, the first a letter or digit"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A host name that is none.
    #[error("dns: {name:?} is not a host name; expected one such as controller.example.org")]
    DnsName {
        /// The name.
        name: String,
    },
    /// Nobody could connect to it, or it could not say for whom it speaks.
    #[error("{field}: a {role} certificate without one is of no use; expected {expected}")]
    Nobody {
        /// What is missing.
        field: &'static str,
        /// The role.
        role: Role,
        /// What is expected.
        expected: &'static str,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A key or certificate cannot be made.
    #[error("cannot make the certificate")]
    Make(#[from] rcgen::Error),
}

/// Makes a CA in a directory: `ca.crt` and `ca.key`.
///
/// # Errors
/// When there is one already, or it cannot be written.
pub fn init(directory: &Path, now: SystemTime) -> Result<Issued, PkiError> {
    let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
    refuse_existing(&[&certificate, &key])?;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    // Two CAs never share a name: a certificate of the other one is then refused as that, not as badly signed.
    params.distinguished_name = subject(&format!("c2c CA {:08x}", rand::random::<u32>()), None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + CA_LIFETIME).into();
    let made = params.self_signed(&pair)?;
    std::fs::create_dir_all(directory).map_err(|source| write_error(directory, source))?;
    write_new(&key, &pair.serialize_pem(), 0o600)?;
    write_new(&certificate, &made.pem(), 0o644)?;
    Ok(Issued { ca: certificate.clone(), certificate, key })
}

/// Issues a certificate by the CA in a directory: `NAME.crt`, `NAME.key` and a copy of `ca.crt` in `out`.
///
/// # Errors
/// When there is no CA, the request cannot be right, a file is there already or cannot be written.
pub fn issue(directory: &Path, out: &Path, request: &Request) -> Result<Issued, PkiError> {
    check(request)?;
    let issuer = read_issuer(directory)?;
    let issued = Issued {
        ca: out.join("ca.crt"),
        certificate: out.join(format!("{}.crt", request.name)),
        key: out.join(format!("{}.key", request.name)),
    };
    refuse_existing(&[&issued.certificate, &issued.key])?;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let made = params(request)?.signed_by(&pair, &issuer)?;
    std::fs::create_dir_all(out).map_err(|source| write_error(out, source))?;
    copy_ca(&directory.join("ca.crt"), &issued.ca)?;
    write_new(&issued.key, &pair.serialize_pem(), 0o600)?;
    write_new(&issued.certificate, &made.pem(), 0o644)?;
    Ok(issued)
}

fn check(request: &Request) -> Result<(), PkiError> {
    let name = &request.name;
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    // 64 is X.520's upper bound for a common name.
    let is_name =
        name.len() <= 64 && name.chars().all(legal) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    // These are the CA's own files.
    if !is_name || name == "ca" {
        return Err(PkiError::Name { name: name.clone() });
    }
    let (no_address, no_dns) = (request.addresses.is_empty(), request.dns_names.is_empty());
    let nobody = |field, expected| Err(PkiError::Nobody { field, role: request.role, expected });
    match request.role {
        Role::Cell if no_address => nobody("address", "the cell's underlay address"),
        Role::Controller if no_address && no_dns => {
            nobody("address", "an address or dns name that agents connect to")
        }
        Role::Cell | Role::Controller | Role::Operator => Ok(()),
    }
}

fn params(request: &Request) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&request.name, Some(request.role));
    params.not_before = request.not_before.into();
    params.not_after = request.not_after.into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match request.role {
        Role::Controller => ExtendedKeyUsagePurpose::ServerAuth,
        Role::Cell | Role::Operator => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = request.addresses.iter().copied().map(SanType::IpAddress).collect();
    for name in &request.dns_names {
        let illegal = || PkiError::DnsName { name: name.clone() };
        let legal = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        if name.is_empty() || !name.chars().all(legal) {
            return Err(illegal());
        }
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(|_| illegal())?));
    }
    Ok(params)
}

fn subject(name: &str, role: Option<Role>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    if let Some(role) = role {
        subject.push(DnType::OrganizationalUnitName, role.organizational_unit());
    }
    subject
}

fn read_issuer(directory: &Path) -> Result<Issuer<'static, KeyPair>, PkiError> {
    let no_ca = |problem: String| PkiError::NoCa { directory: directory.to_owned(), problem };
    let read = |name: &str| {
        std::fs::read_to_string(directory.join(name)).map_err(|error| no_ca(format!("{name}: {error}")))
    };
    let pair = KeyPair::from_pem(&read("ca.key")?).map_err(|error| no_ca(format!("ca.key: {error}")))?;
    Issuer::from_ca_cert_pem(&read("ca.crt")?, pair).map_err(|error| no_ca(format!("ca.crt: {error}")))
}

/// A copy that is there already must be of this CA.
fn copy_ca(from: &Path, to: &Path) -> Result<(), PkiError> {
    let ours = std::fs::read(from).map_err(|source| write_error(to, source))?;
    match std::fs::read(to) {
        Ok(there) if there == ours => Ok(()),
        Ok(_) => Err(PkiError::Exists { path: to.to_owned() }),
        Err(_) => write_new(to, &String::from_utf8_lossy(&ours), 0o644),
    }
}

fn refuse_existing(paths: &[&Path]) -> Result<(), PkiError> {
    match paths.iter().find(|path| path.exists()) {
        Some(path) => Err(PkiError::Exists { path: path.to_path_buf() }),
        None => Ok(()),
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|source| match source.kind() == ErrorKind::AlreadyExists {
        true => PkiError::Exists { path: path.to_owned() },
        false => write_error(path, source),
    })
}

fn write_error(path: &Path, source: io::Error) -> PkiError {
    PkiError::Write { path: path.to_owned(), source }
}
