use super::*;
use proptest::prelude::*;

fn rule(protocol: &str, destination: &str, ports: &str) -> SecurityRule {
    SecurityRule {
        protocol: protocol.into(),
        destination: destination.into(),
        ports: ports.into(),
        ..SecurityRule::default()
    }
}

fn icmp_rule(icmp_type: Option<i32>, code: Option<i32>) -> SecurityRule {
    SecurityRule { icmp_type, code, ..rule("icmp", "10.0.0.1", "") }
}

fn addresses(destination: &str) -> Vec<String> {
    let all = permissions(&rule("all", destination, "")).unwrap();
    all.iter().map(|permission| format!("{}-{}", permission.first, permission.last)).collect()
}

fn ports(text: &str) -> Vec<(u16, u16)> {
    let ranges = permissions(&rule("tcp", "10.0.0.1", text)).unwrap();
    let range = |permission: &Permission| match permission.traffic {
        Traffic::Ports { protocol: Transport::Tcp, first, last } => (first, last),
        other @ (Traffic::All | Traffic::Icmp { .. } | Traffic::Ports { .. }) => panic!("{other:?}"),
    };
    ranges.iter().map(range).collect()
}

fn net_out(protocol: u8, networks: &[(&str, &str)], ports: &[(u16, u16)]) -> NetOutRule {
    let range = |&(start, end): &(&str, &str)| IpRange { start: start.into(), end: end.into() };
    NetOutRule {
        protocol,
        networks: networks.iter().map(range).collect(),
        ports: ports.iter().map(|&(start, end)| PortRange { start, end }).collect(),
        ..NetOutRule::default()
    }
}

#[test]
fn destinations_are_addresses_networks_ranges_and_lists_of_them() {
    assert_eq!(addresses("10.0.0.1"), ["10.0.0.1-10.0.0.1"]);
    assert_eq!(addresses("10.1.0.0/16"), ["10.1.0.0-10.1.255.255"]);
    assert_eq!(addresses("0.0.0.0/0"), ["0.0.0.0-255.255.255.255"]);
    assert_eq!(addresses("10.0.0.7/32"), ["10.0.0.7-10.0.0.7"]);
    assert_eq!(addresses("10.0.0.5-10.0.0.5"), ["10.0.0.5-10.0.0.5"]);
    assert_eq!(
        addresses(" 10.0.0.1 ,\t10.2.0.0 / 24, 10.0.0.3 - 10.0.0.9 "),
        ["10.0.0.1-10.0.0.1", "10.2.0.0-10.2.0.255", "10.0.0.3-10.0.0.9"]
    );
}

#[test]
fn host_bits_of_a_network_are_masked() {
    assert_eq!(addresses("10.1.2.3/8"), ["10.0.0.0-10.255.255.255"]);
    assert_eq!(addresses("10.1.2.3/0"), ["0.0.0.0-255.255.255.255"]);
}

#[test]
fn bad_destinations_are_errors() {
    let bad = [
        "",
        " ",
        ",",
        "10.0.0.1,",
        "10.0.0.1,,10.0.0.2",
        "10.0.0.9-10.0.0.3",
        "10.0.0.1-",
        "-10.0.0.1",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/255.0.0.0",
        "10.0.0",
        "10.0.0.256",
        "010.0.0.1",
        "example.com",
        "10.0.0.1-10.0.0.2-10.0.0.3",
        "10.0.0.0/24-10.0.1.0/24",
        "*",
    ];
    for text in bad {
        let error = permissions(&rule("all", text, "")).unwrap_err();
        assert_eq!((error.field, error.expected), ("destination", DESTINATION), "{text:?}");
    }
}

#[test]
fn ipv6_is_told_from_nonsense() {
    for text in ["::1", "fd00::/8", "10.0.0.1,2001:db8::1-2001:db8::2"] {
        assert_eq!(permissions(&rule("all", text, "")).unwrap_err().expected, IPV6, "{text:?}");
    }
    let garden = of_net_out(&net_out(0, &[("fd00::1", "")], &[])).unwrap_err();
    assert_eq!((garden.field, garden.expected), ("networks", IPV6));
}

#[test]
fn ports_are_numbers_ranges_and_lists_of_them() {
    assert_eq!(ports("80"), [(80, 80)]);
    assert_eq!(ports("80-90"), [(80, 90)]);
    assert_eq!(ports(" 80 , 443,8000 - 9000 "), [(80, 80), (443, 443), (8000, 9000)]);
    assert_eq!(ports("1-65535"), [(1, 65535)]);
}

#[test]
fn bad_ports_are_errors() {
    for text in
        ["", " ", "80,", "0", "0-80", "65536", "90-80", "-80", "+80", "80-", "http", "80-90-100", "8 0"]
    {
        let error = permissions(&rule("udp", "10.0.0.1", text)).unwrap_err();
        assert_eq!((error.field, error.expected), ("ports", PORTS), "{text:?}");
    }
    for protocol in ["icmp", "all"] {
        let error = permissions(&rule(protocol, "10.0.0.1", "80")).unwrap_err();
        assert_eq!((error.field, error.expected), ("ports", NO_PORTS), "{protocol}");
    }
}

#[test]
fn protocols_are_four_in_any_case() {
    for (protocol, ports) in [("TCP", "80"), (" Udp ", "80"), ("ICMP", ""), ("All", " ")] {
        assert!(permissions(&rule(protocol, "10.0.0.1", ports)).is_ok(), "{protocol}");
    }
    for protocol in ["", "icmpv6", "sctp", "6", "tcp,udp"] {
        assert_eq!(permissions(&rule(protocol, "10.0.0.1", "")).unwrap_err().field, "protocol", "{protocol}");
    }
}

#[test]
fn icmp_types_and_codes_may_be_any() {
    let table = [
        ((None, None), (None, None)),
        ((Some(-1), Some(-1)), (None, None)),
        ((Some(255), Some(0)), (None, None)),
        ((None, Some(3)), (None, None)),
        ((Some(8), Some(0)), (Some(8), Some(0))),
        ((Some(3), Some(255)), (Some(3), None)),
        ((Some(3), Some(-1)), (Some(3), None)),
        ((Some(3), None), (Some(3), None)),
    ];
    for ((icmp_type, code), (kind, want)) in table {
        let made = permissions(&icmp_rule(icmp_type, code)).unwrap();
        let traffics: Vec<_> = made.iter().map(|permission| permission.traffic).collect();
        assert_eq!(traffics, [Traffic::Icmp { kind, code: want }], "{icmp_type:?} {code:?}");
    }
    for (field, bad) in [
        ("type", icmp_rule(Some(256), None)),
        ("type", icmp_rule(Some(-2), None)),
        ("code", icmp_rule(Some(-1), Some(256))),
        ("code", icmp_rule(None, Some(i32::MIN))),
    ] {
        assert_eq!(permissions(&bad).unwrap_err().field, field);
    }
}

#[test]
fn type_and_code_of_other_protocols_mean_nothing() {
    let rule = SecurityRule { icmp_type: Some(0), code: Some(999), ..rule("tcp", "10.0.0.1", "80") };
    assert!(permissions(&rule).is_ok());
}

#[test]
fn a_rule_that_multiplies_into_too_much_is_an_error() {
    let many = |one: &str, count| vec![one; count].join(",");
    let at_most = rule("tcp", &many("10.0.0.1", 256), &many("80", 256));
    assert_eq!(permissions(&at_most).unwrap().len(), MAX_PERMISSIONS);
    let more = rule("tcp", &many("10.0.0.1", 257), &many("80", 256));
    let said = permissions(&more).unwrap_err().to_string();
    assert!(said.contains("65792") && said.len() < 500, "{said}");
}

#[test]
fn an_error_names_rule_field_value_and_remedy_on_one_line() {
    let said = permissions(&rule("tcp", "10.0.0.1,\n10.0.0.300", "80")).unwrap_err().to_string();
    assert_eq!(
        said,
        "destination \"10.0.0.300\" of the rule (protocol \"tcp\", destination \"10.0.0.1,\\n10.0.0.300\", \
         ports \"80\") cannot be used: expected an IPv4 address, a CIDR, or a range a-b with a not above b"
    );
}

#[test]
fn cloud_controllers_json_is_read_and_written() {
    let text = r#"{"protocol":"icmp","destination":"10.0.0.0/8","ports":null,"type":8,"code":null,
        "log":null,"description":"ping","new":[1]}"#;
    let read: SecurityRule = serde_json::from_str(text).unwrap();
    assert_eq!((read.icmp_type, read.code, read.log, read.ports.as_str()), (Some(8), None, false, ""));
    let again = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
    assert_eq!(read, again);
}

#[cfg(feature = "grpc")]
#[test]
fn a_rule_survives_the_wire() {
    let here = SecurityRule {
        log: true,
        description: "d".into(),
        ..SecurityRule { icmp_type: Some(-1), code: Some(3), ..rule("p", "a", "1") }
    };
    assert_eq!(SecurityRule::from(crate::v1::SecurityRule::from(here.clone())), here);
}

#[test]
fn gardens_absent_parts_mean_any() {
    let all = |rule: &NetOutRule| {
        let made = of_net_out(rule).unwrap();
        made.iter().map(|p| (p.first.to_string(), p.last.to_string(), p.traffic)).collect::<Vec<_>>()
    };
    let everywhere = |traffic| vec![("0.0.0.0".to_owned(), "255.255.255.255".to_owned(), traffic)];
    let every_port = |protocol| Traffic::Ports { protocol, first: 0, last: 65535 };
    assert_eq!(all(&net_out(0, &[], &[])), everywhere(Traffic::All));
    assert_eq!(all(&net_out(1, &[], &[])), everywhere(every_port(Transport::Tcp)));
    assert_eq!(all(&net_out(2, &[], &[])), everywhere(every_port(Transport::Udp)));
    assert_eq!(all(&net_out(3, &[], &[])), everywhere(Traffic::Icmp { kind: None, code: None }));
    let one = ("1.1.1.1".to_owned(), "1.1.1.1".to_owned(), Traffic::All);
    assert_eq!(all(&net_out(0, &[("1.1.1.1", ""), ("", "1.1.1.1")], &[])), [one.clone(), one]);
}

#[test]
fn gardens_icmp_255_means_any() {
    let icmp = |icmp_type, code| {
        let rule = NetOutRule { icmps: Some(IcmpControl { icmp_type, code }), ..net_out(3, &[], &[]) };
        of_net_out(&rule).unwrap().first().unwrap().traffic
    };
    assert_eq!(icmp(255, Some(1)), Traffic::Icmp { kind: None, code: None });
    assert_eq!(icmp(8, Some(0)), Traffic::Icmp { kind: Some(8), code: Some(0) });
    assert_eq!(icmp(8, Some(255)), Traffic::Icmp { kind: Some(8), code: None });
    assert_eq!(icmp(8, None), Traffic::Icmp { kind: Some(8), code: None });
}

#[test]
fn gardens_bad_rules_are_errors() {
    let table = [
        ("protocol", net_out(4, &[], &[])),
        ("protocol", net_out(6, &[], &[(80, 80)])),
        ("networks", net_out(0, &[("", "")], &[])),
        ("networks", net_out(0, &[("1.1.1.2", "1.1.1.1")], &[])),
        ("networks", net_out(0, &[("1.1.1.1", "x")], &[])),
        ("ports", net_out(1, &[], &[(90, 80)])),
        ("ports", net_out(1, &[], &[(0, 80)])),
        ("ports", net_out(0, &[], &[(80, 80)])),
        ("ports", net_out(3, &[], &[(80, 80)])),
    ];
    for (field, rule) in table {
        let error = of_net_out(&rule).unwrap_err();
        assert_eq!(error.field, field, "{rule:?}");
        assert!(!error.to_string().contains('\n'));
    }
}

/// What a test knows of a rule before it is text: destinations and ports as closed ranges.
#[derive(Clone, Debug)]
struct Known {
    protocol: &'static str,
    destinations: Vec<Dest>,
    ports: Vec<(u16, u16)>,
    icmp: (Option<i32>, Option<i32>),
}

#[derive(Clone, Debug)]
enum Dest {
    One(u32),
    Net(u32, u8),
    Range(u32, u32),
}

impl Dest {
    fn text(&self, blank: &str) -> String {
        let ip = Ipv4Addr::from_bits;
        match *self {
            Self::One(a) => format!("{blank}{}{blank}", ip(a)),
            Self::Net(a, n) => format!("{}{blank}/{blank}{n}", ip(a)),
            Self::Range(a, b) => format!("{}{blank}-{blank}{}", ip(a), ip(b)),
        }
    }

    /// By the bits, not by first and last address.
    fn has(&self, address: u32) -> bool {
        match *self {
            Self::One(a) => a == address,
            Self::Net(a, n) => (0..u32::from(n)).all(|i| (a ^ address) >> (31 - i) & 1 == 0),
            Self::Range(a, b) => (a..=b).contains(&address),
        }
    }
}

impl Known {
    fn rule(&self, blank: &str) -> SecurityRule {
        let comma = format!("{blank},{blank}");
        let destinations: Vec<_> = self.destinations.iter().map(|d| d.text(blank)).collect();
        let port =
            |&(a, b): &(u16, u16)| if a == b { a.to_string() } else { format!("{a}{blank}-{blank}{b}") };
        let ports: Vec<_> = self.ports.iter().map(port).collect();
        let ports = if matches!(self.protocol, "tcp" | "udp") { ports.join(&comma) } else { String::new() };
        let (icmp_type, code) = self.icmp;
        SecurityRule { icmp_type, code, ..rule(self.protocol, &destinations.join(&comma), &ports) }
    }

    fn allows(&self, address: u32, packet: Packet) -> bool {
        let any = |n: Option<i32>| n.is_none_or(|n| n == -1 || n == 255);
        let is = |n: Option<i32>, value: u8| any(n) || n == Some(i32::from(value));
        let what = match (self.protocol, packet) {
            ("all", _) => true,
            ("tcp", Packet::Tcp(port)) | ("udp", Packet::Udp(port)) => {
                self.ports.iter().any(|&(a, b)| a <= port && port <= b)
            }
            ("icmp", Packet::Icmp(kind, code)) => {
                any(self.icmp.0) || (is(self.icmp.0, kind) && is(self.icmp.1, code))
            }
            (_, Packet::Tcp(_) | Packet::Udp(_) | Packet::Icmp(..)) => false,
        };
        what && self.destinations.iter().any(|d| d.has(address))
    }
}

#[derive(Clone, Copy, Debug)]
enum Packet {
    Tcp(u16),
    Udp(u16),
    Icmp(u8, u8),
}

fn allowed(permissions: &[Permission], address: u32, packet: Packet) -> bool {
    let fits = |traffic| match (traffic, packet) {
        (Traffic::All, _) => true,
        (Traffic::Ports { protocol: Transport::Tcp, first, last }, Packet::Tcp(port))
        | (Traffic::Ports { protocol: Transport::Udp, first, last }, Packet::Udp(port)) => {
            (first..=last).contains(&port)
        }
        (Traffic::Icmp { kind, code }, Packet::Icmp(k, c)) => {
            kind.is_none_or(|kind| kind == k) && code.is_none_or(|code| code == c)
        }
        (Traffic::Ports { .. } | Traffic::Icmp { .. }, _) => false,
    };
    let address = Ipv4Addr::from_bits(address);
    permissions.iter().any(|p| p.first <= address && address <= p.last && fits(p.traffic))
}

/// Few addresses, so that rules and probes meet.
fn nearby() -> impl Strategy<Value = u32> {
    prop_oneof![0x0a00_0000u32..0x0a00_0010, 0x0aff_fff0u32..0x0b00_0004, any::<u32>()]
}

fn dest() -> impl Strategy<Value = Dest> {
    prop_oneof![
        nearby().prop_map(Dest::One),
        (nearby(), 0u8..=32).prop_map(|(a, n)| Dest::Net(a, n)),
        (nearby(), nearby()).prop_map(|(a, b)| Dest::Range(a.min(b), a.max(b))),
    ]
}

fn known() -> impl Strategy<Value = Known> {
    let number = || prop_oneof![Just(None), (-1i32..6).prop_map(Some), Just(Some(255))];
    let port = (1u16..40, 0u16..20).prop_map(|(a, n)| (a, a + n));
    (
        prop_oneof![Just("tcp"), Just("udp"), Just("icmp"), Just("all")],
        proptest::collection::vec(dest(), 1..4),
        proptest::collection::vec(port, 1..4),
        (number(), number()),
    )
        .prop_map(|(protocol, destinations, ports, icmp)| Known { protocol, destinations, ports, icmp })
}

fn packet() -> impl Strategy<Value = Packet> {
    prop_oneof![
        (0u16..64).prop_map(Packet::Tcp),
        (0u16..64).prop_map(Packet::Udp),
        (0u8..8, 0u8..8).prop_map(|(k, c)| Packet::Icmp(k, c)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn permissions_allow_what_the_rule_says(
        known in known(),
        blank in "[ \t]{0,2}",
        probes in proptest::collection::vec((nearby(), packet()), 32),
    ) {
        let made = permissions(&known.rule(&blank)).unwrap();
        for (address, packet) in probes {
            let want = known.allows(address, packet);
            prop_assert_eq!(allowed(&made, address, packet), want, "{:?} {:?}", Ipv4Addr::from_bits(address), packet);
        }
    }

    #[test]
    fn no_text_does_harm(protocol in "(?i:tcp|udp|icmp|all|.{0,4})", destination in "[0-9./,:\\- \n]{0,24}", ports in "[0-9,+\\- ]{0,12}") {
        match permissions(&rule(&protocol, &destination, &ports)) {
            Ok(made) => prop_assert!(!made.is_empty() && made.iter().all(|p| p.first <= p.last)),
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }
}
