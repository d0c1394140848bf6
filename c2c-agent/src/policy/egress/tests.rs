use super::*;
use c2c_common::addr::{mask, to_ipv4};
use c2c_common::egress::{Answer, decide, icmp_port};
use c2c_common::wire::{ICMP, TCP, UDP};
use c2c_proto::agent_api::Transport;
use c2c_proto::egress::{SecurityRule, Traffic, permissions};
use proptest::prelude::*;

const GRE: u8 = 47;

fn rule(protocol: &str, destination: &str, ports: &str, log: bool) -> Vec<Permission> {
    let rule = SecurityRule {
        protocol: protocol.into(),
        destination: destination.into(),
        ports: ports.into(),
        log,
        ..SecurityRule::default()
    };
    permissions(&rule).unwrap()
}

fn selection(rules: &[(&str, &str, &str)], denied: &[&str]) -> Selection {
    Selection {
        permissions: rules.iter().flat_map(|&(p, d, ports)| rule(p, d, ports, false)).collect(),
        denied: denied.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

fn compile(selections: &[Selection]) -> Compiled {
    Compiler::default().compile(selections, &[])
}

fn host(text: &str) -> u32 {
    text.parse::<Ipv4Addr>().unwrap().to_bits()
}

/// What the programs do with the rows: the longest prefix of the set, then the class's ports.
fn answer(rows: &EgressRows, set: u32, address: u32, protocol: u8, port: u16) -> Answer {
    let class_at = |prefix: u8| {
        let addr = from_ipv4(Ipv4Addr::from_bits(address)) & mask(u32::from(prefix));
        rows.ranges.get(&EgressRange { set, addr, prefix }).copied()
    };
    let class = (0..=32).rev().find_map(class_at);
    decide(class, protocol, port, |key| rows.ports.get(key).copied().unwrap_or_default())
}

/// From first principles: is any permission for it, does any of those log, is it denied?
fn naive(selection: &Selection, address: u32, protocol: u8, port: u16) -> Answer {
    let [kind_of, code_of] = port.to_be_bytes();
    let fits = |traffic| match traffic {
        Traffic::All => true,
        Traffic::Ports { protocol: of, first, last } => of as u8 == protocol && first <= port && port <= last,
        Traffic::Icmp { kind, code } => {
            protocol == ICMP
                && kind.is_none_or(|kind| kind == kind_of)
                && code.is_none_or(|code| code == code_of)
        }
    };
    let at = Ipv4Addr::from_bits(address);
    if selection.denied.iter().any(|net| net.contains(&at)) {
        return Answer::Denied;
    }
    let all = selection.permissions.iter().filter(|p| p.first <= at && at <= p.last && fits(p.traffic));
    match all.map(|permission| permission.log).max() {
        None => Answer::Denied,
        Some(false) => Answer::Allowed,
        Some(true) => Answer::Logged,
    }
}

#[test]
fn who_may_nothing_has_no_set_and_no_rows() {
    let denied_all = selection(&[("all", "10.0.0.0/8", "")], &["0.0.0.0/0"]);
    let compiled = compile(&[Selection::default(), selection(&[], &["10.0.0.0/8"]), denied_all]);
    assert_eq!(compiled.ids, [0, 0, 0]);
    assert_eq!(*compiled.rows, EgressRows::default());
}

#[test]
fn denied_networks_win_over_what_is_in_them_and_around_them() {
    let selection = selection(
        &[("tcp", "10.0.0.0/8", "80"), ("tcp", "10.0.5.1", "80"), ("all", "0.0.0.0/0", "")],
        &["10.0.5.0/24"],
    );
    let Compiled { ids, rows } = compile(std::slice::from_ref(&selection));
    for (address, want) in
        [("10.0.5.1", Answer::Denied), ("10.0.5.255", Answer::Denied), ("10.0.6.0", Answer::Allowed)]
    {
        assert_eq!(answer(&rows, ids[0], host(address), TCP, 80), want, "{address}");
    }
    assert_eq!(rows.ranges.len(), 2, "everything, less the denied network: {rows:?}");
    let denial = rows.ranges.iter().find(|(range, _)| range.prefix == 24).unwrap().1;
    assert_eq!(*denial, EgressClass::default());
    assert!(rows.ports.is_empty());
}

#[test]
fn a_longer_prefix_says_everything_for_its_addresses() {
    let selection = selection(&[("tcp", "10.0.0.0/8", "80"), ("udp", "10.0.5.1", "53")], &[]);
    let Compiled { ids, rows } = compile(&[selection]);
    assert_eq!(rows.ranges.len(), 2);
    assert_eq!(answer(&rows, ids[0], host("10.0.5.1"), TCP, 80), Answer::Allowed);
    assert_eq!(answer(&rows, ids[0], host("10.0.5.1"), UDP, 53), Answer::Allowed);
    assert_eq!(answer(&rows, ids[0], host("10.0.5.2"), UDP, 53), Answer::Denied);
}

#[test]
fn what_means_the_same_is_the_same_set() {
    let one = selection(&[("tcp", "10.0.0.0/8", "80-90")], &[]);
    let same = selection(
        &[
            ("tcp", "10.128.0.0/9", "80-90"),
            ("tcp", "10.0.0.0-10.127.255.255", "80-85,86-90"),
            ("tcp", "10.9.0.0/16", "88"),
        ],
        &["192.168.0.0/16"],
    );
    let other = selection(&[("tcp", "10.0.0.0/8", "80-91")], &[]);
    let Compiled { ids, rows } = compile(&[one, same, other]);
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
    assert_eq!(rows.ranges.len(), 2);
}

#[test]
fn sets_share_the_ports_of_a_class() {
    let at = |destination| selection(&[("tcp", destination, "80,443")], &[]);
    let Compiled { ids, rows } = compile(&[at("10.0.0.0/8"), at("192.0.2.0/24")]);
    assert_ne!(ids[0], ids[1]);
    assert_eq!((rows.ranges.len(), rows.ports.len()), (2, 2), "80 and 443 are on two pages");
}

#[test]
fn the_public_networks_are_a_handful_of_rows() {
    let public = "0.0.0.0-9.255.255.255,11.0.0.0-169.253.255.255,169.255.0.0-172.15.255.255,\
                  172.32.0.0-192.167.255.255,192.169.0.0-255.255.255.255";
    assert_eq!(compile(&[selection(&[("all", public, "")], &[])]).rows.ranges.len(), 5);
}

#[test]
fn unmasqueraded_networks_are_rows_of_their_own_set() {
    let nets =
        ["10.255.0.0/16", "10.0.0.0/9", "10.128.0.0/9", "192.0.2.0/24"].map(|net| net.parse().unwrap());
    let compiled = Compiler::default().compile(&[], &nets);
    let shown = compiled.rows.ranges.iter().map(|(range, class)| {
        assert_eq!((range.set, class.flags, class.class), (NO_MASQUERADE, egress_flag::ALL, 0));
        format!("{}/{}", to_ipv4(range.addr), range.prefix)
    });
    assert_eq!(shown.collect::<BTreeSet<_>>(), ["10.0.0.0/8", "192.0.2.0/24"].map(String::from).into());
}

#[test]
fn the_same_question_has_the_same_answer_without_work() {
    let selections =
        [selection(&[("tcp", "10.0.0.0/8", "80")], &[]), selection(&[("all", "192.0.2.1", "")], &[])];
    let mut compiler = Compiler::default();
    let first = compiler.compile(&selections, &[]);
    let again = compiler.compile(&selections, &[]);
    assert!(Arc::ptr_eq(&first.rows, &again.rows));
    let [a, b] = &selections;
    let one_more_container = compiler.compile([b, a, b], &[]);
    assert!(Arc::ptr_eq(&first.rows, &one_more_container.rows));
    assert_eq!(one_more_container.ids, [first.ids[1], first.ids[0], first.ids[1]]);
    let fewer = compiler.compile([a], &[]);
    assert_eq!((fewer.ids.as_slice(), fewer.rows.ranges.len()), (&first.ids[..1], 1));
    assert_eq!(compiler.sets.len(), 1, "what is not asked for is forgotten");
}

/// Few addresses and ports, so that rules, denials and probes meet at their edges.
fn address() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0x0a00_0000u32..0x0a00_0020,
        1 => 0x0aff_fff0u32..0x0b00_0004,
        1 => any::<u32>(),
        1 => prop_oneof![0u32..3, 0xffff_fffdu32..],
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 0u16..200, 1 => 4_000u16..4_300, 1 => any::<u16>(), 1 => 65_530u16..]
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    let small = || proptest::option::of(prop_oneof![0u8..4, 253u8..]);
    prop_oneof![
        1 => Just(Traffic::All),
        4 => (transport, port(), port())
            .prop_map(|(protocol, a, b)| Traffic::Ports { protocol, first: a.min(b), last: a.max(b) }),
        2 => (small(), small()).prop_map(|(kind, code)| Traffic::Icmp { kind, code: kind.and(code) }),
    ]
}

fn permission() -> impl Strategy<Value = Permission> {
    (address(), address(), traffic(), proptest::bool::weighted(0.3)).prop_map(|(a, b, traffic, log)| {
        let [first, last] = [a.min(b), a.max(b)].map(Ipv4Addr::from_bits);
        Permission { first, last, traffic, log }
    })
}

fn any_selection() -> impl Strategy<Value = Selection> {
    let denied = (address(), prop_oneof![4 => 26u8..=32, 1 => 0u8..=32])
        .prop_map(|(at, length)| Ipv4Net::new(Ipv4Addr::from_bits(at), length).unwrap());
    (proptest::collection::vec(permission(), 0..7), proptest::collection::vec(denied, 0..3))
        .prop_map(|(permissions, denied)| Selection { permissions, denied })
}

fn probe() -> impl Strategy<Value = (u32, u8, u16)> {
    let icmp = (prop_oneof![0u8..5, 252u8..], prop_oneof![0u8..5, 252u8..]);
    let what = prop_oneof![
        4 => (prop_oneof![Just(TCP), Just(UDP)], port()),
        2 => icmp.prop_map(|(kind, code)| (ICMP, icmp_port(kind, code))),
        1 => Just((GRE, 0)),
    ];
    (address(), what).prop_map(|(address, (protocol, port))| (address, protocol, port))
}

/// The corners of each permission, and of each denial for what the first permission lets through.
fn corners(selection: &Selection) -> Vec<(u32, u8, u16)> {
    let whats = |traffic| match traffic {
        Traffic::Ports { protocol, first, last } => {
            [first, last, last.wrapping_add(1)].map(|port| (protocol as u8, port))
        }
        Traffic::Icmp { kind, code } => [(ICMP, icmp_port(kind.unwrap_or(7), code.unwrap_or(7))); 3],
        Traffic::All => [(GRE, 0), (TCP, 7), (ICMP, 7)],
    };
    let around = |first: Ipv4Addr, last: Ipv4Addr, traffic| {
        let (first, last) = (first.to_bits(), last.to_bits());
        let addresses = [first, first.wrapping_sub(1), last, last.wrapping_add(1)];
        addresses.into_iter().flat_map(move |at| whats(traffic).map(|(protocol, port)| (at, protocol, port)))
    };
    let of_permissions = selection.permissions.iter().flat_map(|p| around(p.first, p.last, p.traffic));
    let through = selection.permissions.first().map_or(Traffic::All, |permission| permission.traffic);
    let of_denials = selection.denied.iter().flat_map(|net| around(net.network(), net.broadcast(), through));
    of_permissions.chain(of_denials).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn rows_say_what_permissions_and_denials_say(
        selections in proptest::collection::vec(any_selection(), 1..3),
        probes in proptest::collection::vec(probe(), 24),
    ) {
        let Compiled { ids, rows } = compile(&selections);
        prop_assert_eq!(ids.len(), selections.len());
        for (selection, &set) in selections.iter().zip(&ids) {
            for (address, protocol, port) in probes.iter().copied().chain(corners(selection)) {
                let want = naive(selection, address, protocol, port);
                let got = answer(&rows, set, address, protocol, port);
                prop_assert_eq!(got, want, "{} protocol {} port {} of {:?}", Ipv4Addr::from_bits(address), protocol, port, selection);
            }
        }
        for range in rows.ranges.keys() {
            let length = range.prefix;
            let net = Ipv4Net::new(to_ipv4(range.addr), length).unwrap();
            prop_assert_eq!(net.trunc(), net, "a row has no bits after its prefix");
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Old and new rows are in the maps together for a while, and an agent that starts anew makes the rows that it finds.
    #[test]
    fn no_key_ever_has_two_values(
        pool in proptest::collection::vec(any_selection(), 1..6),
        calls in proptest::collection::vec(proptest::collection::vec(0usize..6, 0..6), 1..6),
    ) {
        let mut compiler = Compiler::default();
        let mut known = EgressRows::default();
        for call in calls {
            let wanted: Vec<_> = call.iter().filter_map(|&index| pool.get(index)).collect();
            let Compiled { ids, rows } = compiler.compile(wanted.iter().copied(), &[]);
            for (range, class) in &rows.ranges {
                prop_assert_eq!(known.ranges.insert(*range, *class).unwrap_or(*class), *class);
            }
            for (key, ports) in &rows.ports {
                prop_assert_eq!(known.ports.insert(*key, *ports).unwrap_or(*ports), *ports);
            }
            let anew = Compiler::default().compile(wanted.iter().copied().rev(), &[]);
            prop_assert_eq!(anew.ids.into_iter().rev().collect::<Vec<_>>(), ids);
            prop_assert_eq!(&anew.rows, &rows);
        }
    }
}
