//! The doors for fuzzers: each reads bytes as something that comes from outside, and says whether they were that. It panics
//! where something does not hold that always should. The targets in `fuzz/` call these, and the tests here read their seeds,
//! so that both stay what they are. Built for those alone.

use crate::api::convert::{self, Hello};
use crate::auth::{keys, token};
use crate::cloud::groups::{self, Listed};
use crate::rest::query::Filter;
use crate::rest::{Version, wire};
use crate::{backup, domain, internal};
use c2c_proto::agent_api::{NetOutRule, Reply, Request};
use c2c_proto::egress::{self, MAX_PERMISSIONS, Permission, SecurityRule};
use c2c_proto::tls::{Files, Identity, Peer, ServerCertificate};
use c2c_proto::v1;
use prost::Message;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::BTreeSet;
use std::io::Write;

/// The body of a request to the external policy API, of either version.
pub fn rest_policies(data: &[u8]) -> bool {
    let read = [Version::V0, Version::V1].map(|version| {
        let policies = wire::parse(version, data).ok()?;
        let tag = domain::Tag::new(1)?;
        let tagged = |policy| domain::TaggedPolicy { policy, source_tag: tag, destination_tag: tag };
        let written = wire::write(version, &policies.iter().cloned().map(tagged).collect::<Vec<_>>()).ok()?;
        assert_eq!(wire::parse(version, &written), Ok(policies), "what we write we read");
        Some(())
    });
    read.iter().any(Option::is_some)
}

/// The query of a list of policies.
pub fn rest_query(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_ok_and(|query| match Filter::parse(query) {
        Filter::Either(_) => true,
        Filter::Sides { source, destination } => source.or(destination).is_some(),
    })
}

/// A query of the internal API, and after a line's end the body of a request for a tag.
pub fn internal_requests(data: &[u8]) -> bool {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let query = lines.next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let tag = internal::wire::WantedTag::parse(lines.next().unwrap_or_default());
    let apps = internal::query::apps(query);
    let Ok(listing) = internal::query::Listing::parse(query) else { return false };
    // Or an agent would ask for the next page for ever, or could not read where that is.
    assert!(
        listing.limit != Some(0)
            && listing.from.is_none_or(|row| i64::try_from(row).is_ok_and(|row| row > 0))
    );
    tag.is_some() && (apps.is_some() || !listing.spaces.is_empty() || listing.limit.is_some())
}

/// An `Authorization` header, and after a line's end the claims, which nobody could reach without UAA's key.
pub fn access_token(data: &[u8]) -> bool {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let header = lines.next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let parsed = token::Unverified::parse(token::strip_scheme(header));
    let claims =
        token::read_claims(lines.next().unwrap_or_default(), "https://uaa/oauth/token", 1_700_000_000);
    parsed.is_ok() && claims.is_ok_and(|token| !token.subject.is_empty() || token.scopes.is_empty())
}

/// A UAA's answer at `/token_keys`.
pub fn token_keys(data: &[u8]) -> bool {
    let Ok(keys) = keys::parse(data) else { return false };
    assert!(!keys.values().any(|key| key.signed(b"message", b"signature")), "nobody signed that");
    !keys.is_empty()
}

/// Cloud Controller's list of security groups.
pub fn cloud_groups(data: &[u8]) -> bool {
    let Ok(listed) = serde_json::from_slice::<Vec<Listed>>(data) else { return false };
    let count = listed.len();
    let Ok(groups) = groups::groups(listed, &[]) else { return false };
    let names: BTreeSet<_> = groups.iter().map(|group| &group.name).collect();
    assert!(names.len() == groups.len() && groups.len() <= count, "each has a name of its own");
    true
}

/// A security group's rules as Cloud Controller has them, or Garden's as it sends them.
pub fn egress_rules(data: &[u8]) -> bool {
    let check = |permissions: Vec<Permission>| {
        assert!(permissions.len() <= MAX_PERMISSIONS, "{} permissions", permissions.len());
        assert!(permissions.iter().all(|permission| permission.first <= permission.last), "{permissions:?}");
    };
    let groups = serde_json::from_slice::<Vec<SecurityRule>>(data).unwrap_or_default();
    let garden = serde_json::from_slice::<Vec<NetOutRule>>(data).unwrap_or_default();
    let understood = groups.iter().filter_map(|rule| egress::permissions(rule).ok().map(check)).count();
    understood + garden.iter().filter_map(|rule| egress::of_net_out(rule).ok().map(check)).count() > 0
}

/// What is said on the agent's socket, by either side.
pub fn agent_socket(data: &[u8]) -> bool {
    let request = serde_json::from_slice::<Request>(data).ok();
    let again = request.as_ref().and_then(|request| serde_json::to_vec(request).ok());
    let again = again.and_then(|json| serde_json::from_slice::<Request>(&json).ok());
    assert_eq!(again, request, "what we write we read");
    request.is_some() || serde_json::from_slice::<Reply>(data).is_ok()
}

/// Messages of agents and operators; the first byte says which.
pub fn grpc(data: &[u8]) -> bool {
    let Some((kind, message)) = data.split_first() else { return false };
    match kind {
        0 => v1::Hello::decode(message).is_ok_and(|hello| Hello::try_from(hello).is_ok()),
        1 => v1::AppsChanged::decode(message).is_ok_and(|moves| convert::moves(&moves).is_ok()),
        2 => v1::SetSecurityGroupRequest::decode(message).is_ok_and(|set| convert::rules(set.rules).is_ok()),
        3 => v1::AccessRequest::decode(message).is_ok_and(|access| {
            let [from, to] = [&access.source_app, &access.destination_app];
            domain::Policy::parse(from, to, &access.protocol, &access.ports).is_ok()
        }),
        _ => v1::AgentMessage::decode(message).is_ok(),
    }
}

/// Files of certificates and keys.
pub fn certificates(data: &[u8]) -> bool {
    let mut read = false;
    for certificate in CertificateDer::pem_slice_iter(data).flatten() {
        read |= Peer::from_certificate(&certificate).is_some();
    }
    read |= Peer::from_certificate(&CertificateDer::from(data)).is_some();
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return read };
    if file.write_all(data).is_ok() {
        let path = file.path();
        let files = Files { ca: path.into(), cert: path.into(), key: path.into() };
        // Whether it is valid depends on the day.
        let _ = (Identity::load(&files), ServerCertificate::load(path, path));
    }
    read
}

/// A backup.
pub fn backup(data: &[u8]) -> bool {
    let Ok(read) = backup::read(data) else { return false };
    let mut written = Vec::new();
    let wrote = backup::write(&mut written, &read.header, &read.state.parts());
    assert!(wrote.is_ok_and(|()| backup::read(&written[..]).is_ok_and(|again| again == read)));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    type Target = fn(&[u8]) -> bool;

    const TARGETS: [(&str, Target); 11] = [
        ("access_token", access_token),
        ("agent_socket", agent_socket),
        ("backup", backup),
        ("certificates", certificates),
        ("cloud_groups", cloud_groups),
        ("egress_rules", egress_rules),
        ("grpc", grpc),
        ("internal_requests", internal_requests),
        ("rest_policies", rest_policies),
        ("rest_query", rest_query),
        ("token_keys", token_keys),
    ];

    /// One seed at least is what the target reads, and every one is read without harm.
    #[test]
    fn fuzz_targets_read_their_seeds() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        for (name, target) in TARGETS {
            assert!(fuzz.join("fuzz_targets").join(format!("{name}.rs")).exists(), "{name}");
            let seeds = std::fs::read_dir(fuzz.join("seeds").join(name)).unwrap();
            let seeds: Vec<_> = seeds.map(|seed| std::fs::read(seed.unwrap().path()).unwrap()).collect();
            assert!(seeds.iter().filter(|seed| target(seed)).count() > 0, "{name}");
        }
    }
}
