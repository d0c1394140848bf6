//! Policies as JSON, in both versions; and what is wrong with those that come in, in the order and the words of Cloud
//! Foundry's policy server. What it does not check, and is checked here, comes last: the characters of ids, and that a v0
//! port is at most 65535.

use super::Version;
use crate::domain::{AppId, Invalid, Policy, Ports, Protocol, TaggedPolicy};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// Reads a request's policies.
///
/// # Errors
/// The first thing that is wrong, as the caller is told it.
pub(crate) fn parse(version: Version, body: &[u8]) -> Result<Vec<Policy>, String> {
    match version {
        Version::V0 => parse_as::<OnePort>(body),
        Version::V1 => parse_as::<PortRange>(body),
    }
}

/// Writes a reply's policies. Version 0 has no words for ranges of ports: policies with one are left out.
pub(crate) fn write(version: Version, policies: &[TaggedPolicy]) -> serde_json::Result<Vec<u8>> {
    let policies = policies.iter().map(|tagged| &tagged.policy);
    match version {
        Version::V0 => write_as(policies.filter_map(|policy| {
            let port = i64::from(policy.ports.start());
            (policy.ports.start() == policy.ports.end()).then(|| shown(policy, OnePort { port }))
        })),
        Version::V1 => write_as(policies.map(|policy| {
            let (start, end) = (policy.ports.start().into(), policy.ports.end().into());
            shown(policy, PortRange { ports: Range { start, end } })
        })),
    }
}

#[derive(Deserialize)]
struct Request<P> {
    #[serde(default = "Vec::new", deserialize_with = "or_default", bound = "P: Deserialize<'de> + Default")]
    policies: Vec<Wire<P>>,
}

#[derive(Serialize)]
struct Reply<P> {
    total_policies: usize,
    policies: Vec<Wire<P>>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(bound(deserialize = "P: Deserialize<'de> + Default"))]
struct Wire<P> {
    #[serde(default, deserialize_with = "or_default")]
    source: Source,
    #[serde(default, deserialize_with = "or_default")]
    destination: Destination<P>,
}

#[derive(Default, Deserialize, Serialize)]
struct Source {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing)]
    tag: String,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(bound(deserialize = "P: Deserialize<'de> + Default"))]
struct Destination<P> {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing)]
    tag: String,
    #[serde(default, deserialize_with = "or_default")]
    protocol: String,
    #[serde(flatten)]
    ports: P,
}

/// The ports of a policy in version 0.
#[derive(Default, Deserialize, Serialize)]
struct OnePort {
    #[serde(default, deserialize_with = "or_default")]
    port: i64,
}

/// The ports of a policy in version 1.
#[derive(Default, Deserialize, Serialize)]
struct PortRange {
    #[serde(default, deserialize_with = "or_default")]
    ports: Range,
}

#[derive(Default, Deserialize, Serialize)]
struct Range {
    #[serde(default, deserialize_with = "or_default")]
    start: i64,
    #[serde(default, deserialize_with = "or_default")]
    end: i64,
}

/// Null is what is not there, as it is to Go.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// What the versions differ in.
trait Checked {
    fn check(&self) -> Result<Ports, String>;
}

impl Checked for OnePort {
    fn check(&self) -> Result<Ports, String> {
        match self.port {
            0 => Err("missing port".to_owned()),
            port => ports(port, port).ok_or_else(|| format!("invalid port {port}, must be in range 1-65535")),
        }
    }
}

impl Checked for PortRange {
    fn check(&self) -> Result<Ports, String> {
        let Range { start, end } = self.ports;
        if start > end {
            let problem = "start must be less than or equal to end";
            return Err(format!("invalid port range {start}-{end}, {problem}"));
        }
        match start {
            ..0 => Err(format!("invalid start port {start}, must be in range 1-65535")),
            0 => Err("missing start port".to_owned()),
            1.. => {
                ports(start, end).ok_or_else(|| format!("invalid end port {end}, must be in range 1-65535"))
            }
        }
    }
}

fn ports(start: i64, end: i64) -> Option<Ports> {
    Ports::new(start.try_into().ok()?, end.try_into().ok()?)
}

fn parse_as<P: Checked + DeserializeOwned + Default>(body: &[u8]) -> Result<Vec<Policy>, String> {
    let request: Option<Request<P>> =
        serde_json::from_slice(body).map_err(|error| format!("unmarshal json: {error}"))?;
    let policies = request.map(|request| request.policies).unwrap_or_default();
    if policies.is_empty() {
        return Err("validate policies: missing policies".to_owned());
    }
    let checked = policies.iter().map(check).collect::<Result<_, _>>();
    checked.map_err(|problem| format!("validate policies: {problem}"))
}

fn check<P: Checked>(Wire { source, destination }: &Wire<P>) -> Result<Policy, String> {
    if source.id.is_empty() {
        return Err("missing source id".to_owned());
    }
    if destination.id.is_empty() {
        return Err("missing destination id".to_owned());
    }
    let protocol = match destination.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err("invalid destination protocol, specify either udp or tcp".to_owned()),
    };
    let ports = destination.ports.check()?;
    if !source.tag.is_empty() || !destination.tag.is_empty() {
        return Err("tags may not be specified".to_owned());
    }
    let (source, destination) =
        (app("invalid source id", &source.id)?, app("invalid destination id", &destination.id)?);
    Ok(Policy { source, destination, protocol, ports })
}

fn app(invalid: &'static str, id: &str) -> Result<AppId, String> {
    let text =
        |Invalid { field, problem, expected }: Invalid| format!("{field}: {problem}, must be {expected}");
    AppId::parse(invalid, id).map_err(text)
}

fn shown<P>(policy: &Policy, ports: P) -> Wire<P> {
    let (source, destination) = (policy.source.to_string(), policy.destination.to_string());
    let protocol = policy.protocol.to_string();
    Wire {
        source: Source { id: source, tag: String::new() },
        destination: Destination { id: destination, tag: String::new(), protocol, ports },
    }
}

fn write_as<P: Serialize>(policies: impl Iterator<Item = Wire<P>>) -> serde_json::Result<Vec<u8>> {
    let policies: Vec<_> = policies.collect();
    serde_json::to_vec(&Reply { total_policies: policies.len(), policies })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Tag;
    use proptest::prelude::*;

    fn tagged(policy: Policy) -> TaggedPolicy {
        let [source_tag, destination_tag] = [1, 2].map(|number| Tag::new(number).unwrap());
        TaggedPolicy { policy, source_tag, destination_tag }
    }

    fn refusal(version: Version, body: &str) -> String {
        parse(version, body.as_bytes()).unwrap_err()
    }

    /// The one policy of a request in version 1, with these changes to a good one.
    fn v1(source: &str, destination: &str) -> String {
        format!(r#"{{"policies":[{{"source":{{{source}}},"destination":{{{destination}}}}}]}}"#)
    }

    #[test]
    fn what_is_wrong_is_said_in_the_policy_servers_words_and_order() {
        let a = r#""id":"a""#;
        let to = |rest: &str| v1(a, &format!(r#""id":"b",{rest}"#));
        let ports = |start: i64, end: i64| {
            to(&format!(r#""protocol":"tcp","ports":{{"start":{start},"end":{end}}}"#))
        };
        let protocol = "invalid destination protocol, specify either udp or tcp";
        let cases = [
            ("{}".to_owned(), "missing policies"),
            ("null".to_owned(), "missing policies"),
            (r#"{"policies":null}"#.to_owned(), "missing policies"),
            (r#"{"policies":[]}"#.to_owned(), "missing policies"),
            (r#"{"policies":[{}]}"#.to_owned(), "missing source id"),
            (v1("", ""), "missing source id"),
            (v1(a, ""), "missing destination id"),
            (to(r#""protocol":"TCP""#), protocol),
            (to(r#""protocol":"icmp""#), protocol),
            (to(r#""protocol":null"#), protocol),
            (to(r#""protocol":"tcp""#), "missing start port"),
            (to(r#""protocol":"tcp","port":8080"#), "missing start port"),
            (ports(0, 0), "missing start port"),
            (ports(9, 8), "invalid port range 9-8, start must be less than or equal to end"),
            (ports(-2, -1), "invalid start port -2, must be in range 1-65535"),
            (ports(1, 65536), "invalid end port 65536, must be in range 1-65535"),
            (ports(70000, 70000), "invalid end port 70000, must be in range 1-65535"),
            (
                v1(r#""id":"a","tag":"0001""#, r#""id":"b","protocol":"tcp","ports":{"start":1,"end":1}"#),
                "tags may not be specified",
            ),
            (to(r#""tag":"1","protocol":"tcp","ports":{"start":1,"end":1}"#), "tags may not be specified"),
            (
                v1(r#""id":"a\"b""#, r#""id":"b","protocol":"tcp","ports":{"start":1,"end":1}"#),
                "invalid source id: \"a\\\"b\" holds '\"', must be 1 to 255 characters of A-Z a-z 0-9 _ . -",
            ),
            (
                v1(a, r#""id":" ","protocol":"tcp","ports":{"start":1,"end":1}"#),
                "invalid destination id: \" \" holds ' ', must be 1 to 255 characters of A-Z a-z 0-9 _ . -",
            ),
        ];
        for (body, text) in cases {
            assert_eq!(refusal(Version::V1, &body), format!("validate policies: {text}"), "{body}");
        }
    }

    #[test]
    fn a_port_of_version_0_is_one_too() {
        let body = |port: &str| v1(r#""id":"a""#, &format!(r#""id":"b","protocol":"udp"{port}"#));
        let cases = [
            ("", "missing port"),
            (r#","port":0"#, "missing port"),
            (r#","port":-1"#, "invalid port -1, must be in range 1-65535"),
            (r#","port":65536"#, "invalid port 65536, must be in range 1-65535"),
            (r#","ports":{"start":1,"end":2}"#, "missing port"),
        ];
        for (port, text) in cases {
            assert_eq!(refusal(Version::V0, &body(port)), format!("validate policies: {text}"), "{port}");
        }
        let policies = parse(Version::V0, body(r#","port":65535"#).as_bytes()).unwrap();
        assert_eq!(policies, [Policy::parse("a", "b", "udp", "65535").unwrap()]);
    }

    #[test]
    fn what_is_no_json_or_another_shape_is_said_so() {
        for body in ["", "x", "[", "{}{}", r#"{"policies":{}}"#, r#"{"policies":[{"source":{"id":1}}]}"#] {
            assert!(refusal(Version::V1, body).starts_with("unmarshal json: "), "{body}");
        }
        let floating = v1(r#""id":"a""#, r#""id":"b","protocol":"tcp","ports":{"start":1.5,"end":2}"#);
        assert!(refusal(Version::V1, &floating).starts_with("unmarshal json: invalid type: floating point"));
        let huge = r#"{"policies":[{"source":{"id":"a"},"destination":{"id":"b","protocol":"tcp","ports":{"start":99999999999999999999}}}]}"#;
        assert!(refusal(Version::V1, huge).starts_with("unmarshal json: "));
    }

    #[test]
    fn keys_that_mean_nothing_and_nulls_are_tolerated() {
        let body = v1(
            r#""id":"a","tag":null,"x":[1]"#,
            r#""id":"b","port":"x","protocol":"tcp","ports":{"start":1,"end":2,"y":{}}"#,
        );
        let policies = parse(Version::V1, body.as_bytes()).unwrap();
        assert_eq!(policies, [Policy::parse("a", "b", "tcp", "1-2").unwrap()]);
    }

    #[test]
    fn lists_are_written_byte_for_byte() {
        let policies =
            ["8080-8090", "53"].map(|ports| tagged(Policy::parse("a", "b", "tcp", ports).unwrap()));
        let text = |version, policies| String::from_utf8(write(version, policies).unwrap()).unwrap();
        assert_eq!(text(Version::V1, &[]), r#"{"total_policies":0,"policies":[]}"#);
        assert_eq!(
            text(Version::V1, &policies),
            concat!(
                r#"{"total_policies":2,"policies":["#,
                r#"{"source":{"id":"a"},"destination":{"id":"b","protocol":"tcp","ports":{"start":8080,"end":8090}}},"#,
                r#"{"source":{"id":"a"},"destination":{"id":"b","protocol":"tcp","ports":{"start":53,"end":53}}}]}"#,
            )
        );
        assert_eq!(
            text(Version::V0, &policies),
            r#"{"total_policies":1,"policies":[{"source":{"id":"a"},"destination":{"id":"b","protocol":"tcp","port":53}}]}"#
        );
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            source in "[A-Za-z0-9_.-]{1,40}",
            destination in "[A-Za-z0-9_.-]{1,40}",
            start in 1..=u16::MAX,
            length in 0..100_u16,
        ) {
            let ports = format!("{start}-{}", start.saturating_add(length));
            let policy = Policy::parse(&source, &destination, "udp", &ports).unwrap();
            let bytes = write(Version::V1, &[tagged(policy.clone())]).unwrap();
            prop_assert_eq!(parse(Version::V1, &bytes), Ok(vec![policy]));
        }

        #[test]
        fn no_bytes_are_too_strange(body in ".{0,200}") {
            prop_assert!(parse(Version::V0, body.as_bytes()).is_err());
        }
    }
}
