//! Rows as the incumbents' databases have them, and rows that nobody should have.

use super::*;
use crate::domain::{Tag, Timestamp};
use proptest::prelude::*;

fn subnet(id: i64, underlay: &str, block: &str, mac: &str) -> Subnet {
    let [underlay, block, hardware_address] = [underlay, block, mac].map(|text| Some(text.to_owned()));
    Subnet { id, underlay, block, hardware_address, renewed: Some(1_700_000_000) }
}

fn tag(id: i64, guid: &str) -> TagRow {
    TagRow { id, guid: Some(guid.to_owned()), kind: Some("app".to_owned()) }
}

fn policy(
    id: i64,
    [source, destination]: [i64; 2],
    protocol: &str,
    [port, start, end]: [i64; 3],
) -> PolicyRow {
    PolicyRow {
        id,
        source: Some(source),
        destination: Some(destination),
        protocol: Some(protocol.to_owned()),
        port: Some(port),
        start: Some(start),
        end: Some(end),
    }
}

fn group(id: i64, name: &str, rules: &str, spaces: [Option<&str>; 2]) -> GroupRow {
    GroupRow {
        id,
        guid: Some(format!("guid-{id}")),
        name: Some(name.to_owned()),
        rules: Some(rules.to_owned()),
        defaults: [Some(false), Some(true)],
        spaces: spaces.map(|spaces| spaces.map(str::to_owned)),
    }
}

#[test]
fn rows_become_what_they_mean() {
    let old = PolicyRow { start: None, end: None, ..policy(4, [1, 7], "tcp", [8080, 0, 0]) };
    let router = TagRow { kind: Some("router".to_owned()), ..tag(3, "INGRESS_ROUTER") };
    let rows = Rows {
        subnets: vec![
            subnet(1, "10.0.3.1", "10.255.90.0/24", "ee:ee:0a:ff:5a:00"),
            subnet(2, "10.0.3.2", "10.255.0.9/32", "EE:EE:0A:FF:00:09"),
        ],
        tags: vec![tag(1, "web"), router, tag(7, "api"), tag(9, "nobody-names-it")],
        policies: vec![
            policy(1, [1, 7], "tcp", [0, 8080, 8090]),
            policy(2, [7, 7], "udp", [0, 53, 53]),
            policy(3, [1, 7], "tcp", [8080, 8080, 8080]),
            old,
        ],
        security_groups: vec![
            group(
                1,
                "public networks",
                r#"[{"protocol":"tcp","destination":"0.0.0.0/0","ports":"443","type":0,"code":0}]"#,
                [Some(r#"["s1","s2"]"#), None],
            ),
            group(2, "empty", "[]", [Some("null"), Some("[]")]),
        ],
    };
    let Imported { state, refused } = convert(&rows).unwrap();
    assert_eq!(refused, []);
    let leases: Vec<String> = state.leases().map(ToString::to_string).collect();
    assert_eq!(
        leases,
        [
            "10.255.90.0/24 of cell silk/10.0.3.1 at 10.0.3.1",
            "10.255.0.9/32 of cell silk/10.0.3.2 at 10.0.3.2"
        ]
    );
    assert!(state.leases().all(|lease| lease.renewed == Timestamp(1_700_000_000)));
    let policies: Vec<String> = state.policies().map(|tagged| tagged.policy.to_string()).collect();
    assert_eq!(policies.len(), 3, "{policies:?}");
    let tags: Vec<(Tag, &str)> = state.tags().map(|(tag, app)| (tag, app.as_str())).collect();
    let [one, three, seven] = [1, 3, 7].map(|tag| Tag::new(tag).unwrap());
    assert_eq!(tags, [(one, "web"), (three, "INGRESS_ROUTER"), (seven, "api")]);
    let routers = state.tags().filter(|(_, app)| state.is_router(app));
    assert_eq!(routers.map(|(tag, _)| tag).collect::<Vec<_>>(), [three]);
    let [empty, public] = &state.groups().collect::<Vec<_>>()[..] else { panic!() };
    let reaches = |group: &crate::domain::SecurityGroup| {
        group.reaches.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(reaches(public), "space s1 for running, space s2 for running, all spaces for staging");
    assert_eq!(
        (reaches(empty).as_str(), empty.guid.as_ref().unwrap().as_str()),
        ("all spaces for staging", "guid-2")
    );
}

#[test]
fn a_row_that_cannot_be_taken_says_why_and_the_others_are() {
    let router = TagRow { kind: Some("router".to_owned()), ..tag(70_000, "INGRESS_ROUTER") };
    let nothing = |id| Subnet { id, ..Subnet::default() };
    let rows = Rows {
        subnets: vec![
            subnet(1, "10.0.3.1", "10.255.90.0/24", "ee:ee:0a:ff:5a:00"),
            subnet(2, "10.0.3.2", "10.255.90.128/25", "ee:ee:0a:ff:5a:80"),
            subnet(3, "10.0.3.1", "10.255.91.0/24", "ee:ee:0a:ff:5b:00"),
            subnet(4, "10.0.3.4", "10.255.92.0/24", "ee:ee:0a:ff:5b:00"),
            subnet(5, "fd00::1", "10.255.93.0/24", "ee:ee:0a:ff:5d:00"),
            subnet(6, "10.0.3.6", "10.255.94.1/24", "ee:ee:0a:ff:5e:01"),
            nothing(7),
        ],
        tags: vec![tag(1, "web"), tag(2, "a b"), tag(65_536, "far"), router],
        policies: vec![
            policy(1, [1, 1], "tcp", [0, 1, 2]),
            policy(2, [1, 2], "tcp", [0, 1, 2]),
            policy(3, [1, 1], "sctp", [0, 1, 2]),
            policy(4, [1, 1], "tcp", [0, 2, 1]),
            policy(5, [1, 1], "tcp", [0, 1, 65_536]),
            policy(6, [1, 1], "tcp", [0, 0, 0]),
            PolicyRow { destination: None, ..policy(7, [1, 1], "tcp", [0, 1, 2]) },
        ],
        security_groups: vec![
            group(1, "web", "[]", [None, None]),
            group(2, "web", "[]", [None, None]),
            group(3, "x", "{}", [None, None]),
            group(4, "y", "[]", [Some("{}"), None]),
            group(5, "z", "[]", [None, Some(r#"["a b"]"#)]),
        ],
    };
    let Imported { state, refused } = convert(&rows).unwrap();
    assert_eq!((state.leases().count(), state.policies().count(), state.groups().count()), (1, 1, 1));
    let said: Vec<String> =
        refused.iter().map(|row| format!("{} {}: {}", row.table, row.id, row.reason)).collect();
    let expected = [
        "subnets 2: 10.255.90.128/25 at 10.0.3.2 cannot be beside 10.255.90.0/24 of cell silk/10.0.3.1",
        "subnets 3: 10.255.91.0/24 at 10.0.3.1 cannot be beside",
        "subnets 4: overlay_hwaddr \"ee:ee:0a:ff:5b:00\" is not that of 10.255.92.0/24, which is ee:ee:0a:ff:5c:00",
        "subnets 5: underlay_ip \"fd00::1\" is not an IPv4 address",
        "subnets 6: overlay_subnet \"10.255.94.1/24\" is not an IPv4 network",
        "subnets 7: underlay_ip is null",
        "groups 2: guid: \"a b\" holds ' '",
        "groups 65536: tag 65536 is not from 1 to 65535",
        "groups 70000: tag 70000 is not from 1 to 65535",
        "policies 2: the destination's group_id 2 is no app that could be taken",
        "policies 3: protocol: \"sctp\" is not supported",
        "policies 4: 2-1 are no ports",
        "policies 5: 1-65536 are no ports",
        "policies 6: start_port is null",
        "policies 7: the destination's group_id is null",
        "security_groups 2: another security group has the name \"web\"",
        "security_groups 3: rules are no list of rules",
        "security_groups 4: spaces are no list of GUIDs",
        "security_groups 5: space: \"a b\" holds ' '",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected) && !said.contains('\n'), "{said}");
    }
}

proptest! {
    #[test]
    fn whatever_the_rows_are_there_is_a_state_or_a_reason(
        subnets in prop::collection::vec((1..4_u8, 0..4_u8, 22..33_u8), 0..8),
        policies in prop::collection::vec((0..4_i64, 0..4_i64, 0..3_i64, 0..3_i64), 0..8),
    ) {
        let subnets = (1..).zip(subnets).map(|(id, (host, third, prefix))| {
            let block = format!("10.255.{third}.0/{prefix}");
            subnet(id, &format!("10.0.0.{host}"), &block, &format!("ee:ee:0a:ff:{third:02x}:00"))
        });
        let policies = (1..).zip(policies).map(|(id, (a, b, start, end))| policy(id, [a, b], "tcp", [0, start, end]));
        let rows = Rows {
            subnets: subnets.collect(),
            tags: vec![tag(1, "a"), tag(2, "b"), tag(3, "c")],
            policies: policies.collect(),
            security_groups: Vec::new(),
        };
        let Imported { state, refused } = convert(&rows).unwrap();
        let refused = |table| refused.iter().filter(|row| row.table == table).count();
        prop_assert_eq!(state.leases().count() + refused("subnets"), rows.subnets.len());
        prop_assert!(state.policies().count() + refused("policies") <= rows.policies.len());
    }
}
