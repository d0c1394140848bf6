//! Between containers and the outside: rules, masquerading, mapped ports, limits, and the cell itself.

use c2c_common::counter::{Hook, Outcome};
use c2c_common::flow::{State, flag};
use c2c_common::layout::{NO_MASQUERADE, config_flag, egress_flag, endpoint_flag};

use crate::machine::{BACKEND_TAG, Context, DROP, Machine, NEXT, REDIRECT, Run, config};
use crate::packets::*;

pub(crate) const OUT: Hook = Hook::FromContainer;
pub(crate) const IN: Hook = Hook::FromUnderlay;
pub(crate) const SET: u32 = 5;
pub(crate) const CLIENT: End = (FRONTEND, 40_000);
pub(crate) const SERVER: End = (OUTSIDE, 443);
pub(crate) const SENT: [(Hook, Outcome); 1] = [(OUT, Outcome::ToOutside)];
pub(crate) const CAME: [(Hook, Outcome); 1] = [(IN, Outcome::ToEndpoint)];

pub(crate) fn refused(outcome: Outcome) -> [(Hook, Outcome); 2] {
    [(OUT, outcome), (OUT, Outcome::RefusalSent)]
}

/// The frontend may reach everything outside.
pub(crate) fn open_machine() -> Machine {
    let mut m = Machine::new();
    m.frontend_with(SET, 0);
    m.allow_all(SET, [0, 0, 0, 0].into(), 0, 0);
    m
}

/// What the outside sees as the packet's source.
pub(crate) fn seen_as(run: &Run) -> End {
    ends(&run.packet).0
}

fn to(run: &Run) -> End {
    ends(&run.packet).1
}

#[test]
fn without_a_rule_nothing_leaves_and_it_is_said_at_once() {
    let mut m = Machine::new();
    for packet in [tcp(CLIENT, SERVER, "S"), udp(CLIENT, SERVER), ping(FRONTEND, OUTSIDE)] {
        m.tc(OUT, &packet).expect(REDIRECT, &refused(Outcome::EgressDenied));
    }
}

#[test]
fn a_rule_speaks_of_its_set_protocol_ports_and_addresses() {
    let mut m = Machine::new();
    m.frontend_with(SET, 0);
    let net = |last: u8| [198, 51, last, 0].into();
    m.allow_outside(SET, net(100), 24, 6, (80, 443));
    m.allow_outside(SET + 1, net(101), 24, 6, (80, 443));
    m.allow_outside(SET, net(102), 24, 17, (53, 53));
    m.allow_outside(SET, net(103), 24, 1, (0x0800, 0x08ff));
    m.allow_all(SET, net(104), 24, 0);
    let at = |third: u8, port| ([198, 51, third, 7].into(), port);
    let rows = [
        ("the first port", tcp(CLIENT, at(100, 80), "S"), true),
        ("the last port", tcp(CLIENT, at(100, 443), "S"), true),
        ("beyond the ports", tcp(CLIENT, at(100, 444), "S"), false),
        ("another protocol", udp(CLIENT, at(100, 80)), false),
        ("another set's address", tcp(CLIENT, at(101, 80), "S"), false),
        ("udp", udp(CLIENT, at(102, 53)), true),
        ("another udp port", udp(CLIENT, at(102, 54)), false),
        ("an echo", ping(FRONTEND, at(103, 0).0), true),
        ("an echo where only ports are allowed", ping(FRONTEND, at(100, 0).0), false),
        ("anything", udp(CLIENT, at(104, 1)), true),
        ("beyond the addresses", tcp(CLIENT, at(105, 80), "S"), false),
    ];
    for (name, packet, allowed) in rows {
        let run = m.tc(OUT, &packet);
        assert_eq!(run.counted.contains_key(&(OUT, Outcome::ToOutside)), allowed, "{name}");
        assert_eq!(run.counted.contains_key(&(OUT, Outcome::EgressDenied)), !allowed, "{name}");
    }
}

#[test]
fn addresses_that_no_router_takes_are_denied_whatever_the_rules_say() {
    let mut m = open_machine();
    for address in [[0, 0, 0, 1], [127, 0, 0, 1], [224, 0, 0, 251], [255, 255, 255, 255]] {
        // In silence: an answer would come from where nobody is (RFC 1122 section 3.2.2).
        m.tc(OUT, &udp(CLIENT, (address.into(), 53))).expect(DROP, &[(OUT, Outcome::EgressDenied)]);
        m.tc(OUT, &tcp(CLIENT, (address.into(), 53), "S")).expect(DROP, &[(OUT, Outcome::EgressDenied)]);
    }
}

#[test]
fn the_end_of_a_connection_that_is_not_known_holds_nothing() {
    let mut m = open_machine();
    m.tc(OUT, &tcp(CLIENT, SERVER, "RA")).expect(REDIRECT, &SENT);
    let connections = m.connections(FRONTEND);
    assert_eq!(connections.opened, connections.closed, "{connections:?}");
    m.tc(OUT, &tcp((FRONTEND, 40_001), SERVER, "FA")).expect(REDIRECT, &SENT);
    let states: Vec<_> = m.translations().values().map(|flow| State::from_raw(flow.flow.state)).collect();
    assert!(states.len() == 2 && !states.contains(&State::Established), "{states:?}");
}

#[test]
fn a_flow_goes_out_by_the_cells_address_and_its_answers_find_back() {
    let mut m = open_machine();
    let sent = m.tc(OUT, &tcp(CLIENT, SERVER, "S")).expect(REDIRECT, &SENT);
    let (cell, port) = seen_as(&sent);
    assert_eq!((cell, to(&sent)), (HERE, SERVER));
    assert!((20_000..=20_999).contains(&port), "{port}");
    let back = m.tc(IN, &tcp(SERVER, (HERE, port), "SA")).expect(REDIRECT, &CAME);
    assert_eq!((seen_as(&back), to(&back)), (SERVER, CLIENT));
    assert_eq!(read(&back.packet).macs, (FRONTEND_MAC, GATEWAY_MAC));
    let again = m.tc(OUT, &tcp(CLIENT, SERVER, "A")).expect(REDIRECT, &SENT);
    assert_eq!(seen_as(&again), (HERE, port));
    assert_eq!(m.translations().len(), 1, "one entry for both directions");
}

#[test]
fn udp_and_echoes_are_translated_too() {
    let mut m = open_machine();
    let sent = m.tc(OUT, &udp(CLIENT, SERVER)).expect(REDIRECT, &SENT);
    let back = m.tc(IN, &udp(SERVER, seen_as(&sent))).expect(REDIRECT, &CAME);
    assert_eq!(to(&back), CLIENT);
    let sent = m.tc(OUT, &ping(FRONTEND, OUTSIDE)).expect(REDIRECT, &SENT);
    let (cell, id) = seen_as(&sent);
    assert!(cell == HERE && (20_000..=20_999).contains(&id));
    let back = m.tc(IN, &pong(OUTSIDE, HERE, id)).expect(REDIRECT, &CAME);
    assert_eq!(to(&back), (FRONTEND, 1));
}

#[test]
fn what_nobody_asked_for_is_the_cells_own() {
    let mut m = open_machine();
    let sent = m.tc(OUT, &tcp(CLIENT, SERVER, "S"));
    let (_, port) = seen_as(&sent);
    let rows = [
        ("another port of the pool", tcp(SERVER, (HERE, port ^ 1), "SA")),
        ("another server", tcp((OUTSIDE, 444), (HERE, port), "SA")),
        ("a connection from outside", tcp(SERVER, (HERE, port), "S")),
        ("below the pool", tcp(SERVER, (HERE, 22), "S")),
        ("an echo to the cell", ping(OUTSIDE, HERE)),
    ];
    for (name, packet) in rows {
        let run = m.tc(IN, &packet);
        assert_eq!((run.action, run.counted.len()), (NEXT, 0), "{name}");
        assert_eq!(run.packet, packet, "{name}");
    }
}

#[test]
fn two_containers_with_one_port_get_two() {
    let mut m = open_machine();
    let first = seen_as(&m.tc(OUT, &udp(CLIENT, SERVER)));
    // The other container's packets would come by its own device; here it takes the frontend's place.
    let second_client = (std::net::Ipv4Addr::new(10, 255, 1, 4), 40_000);
    let endpoint = c2c_common::layout::Endpoint { ifindex: 1, egress: SET, ..Default::default() };
    m.put_endpoint(second_client.0, &endpoint);
    let second = seen_as(&m.tc(OUT, &udp(second_client, SERVER)));
    assert_ne!(first, second);
    assert_eq!(to(&m.tc(IN, &udp(SERVER, second))), second_client);
    assert_eq!(to(&m.tc(IN, &udp(SERVER, first))), CLIENT);
}

#[test]
fn a_pool_that_is_used_up_refuses_and_is_never_wrong() {
    let mut m = open_machine();
    m.configure(&c2c_common::layout::Config { nat_last: 20_003, ..config() });
    let mut ports = Vec::new();
    for port in 1..=4 {
        let sent = m.tc(OUT, &tcp((FRONTEND, port), SERVER, "S")).expect(REDIRECT, &SENT);
        ports.push(seen_as(&sent).1);
    }
    ports.sort_unstable();
    assert_eq!(ports, [20_000, 20_001, 20_002, 20_003]);
    m.tc(OUT, &tcp((FRONTEND, 5), SERVER, "S")).expect(REDIRECT, &refused(Outcome::NatExhausted));
    m.tc(OUT, &tcp((FRONTEND, 5), (OUTSIDE, 80), "S")).expect(REDIRECT, &SENT);
    m.configure(&c2c_common::layout::Config { nat_first: 1, nat_last: 0, ..config() });
    m.tc(OUT, &tcp((FRONTEND, 6), SERVER, "S")).expect(REDIRECT, &refused(Outcome::NatExhausted));
    assert_eq!(m.connections(FRONTEND).opened - m.connections(FRONTEND).closed, 5);
}

/// Two clients that try the ports of a pool of two in the same order.
const TWINS: [End; 2] = [CLIENT, (FRONTEND, CLIENT.1 + 2)];

/// A machine with so many ports, and the first twin's connection, which both ends have closed.
fn closed_machine(ports: u16, server_first: bool) -> (Machine, End) {
    let mut m = open_machine();
    m.configure(&c2c_common::layout::Config { nat_last: 20_000 + ports - 1, ..config() });
    let port = seen_as(&m.tc(OUT, &tcp(TWINS[0], SERVER, "S")));
    m.tc(IN, &tcp(SERVER, port, "SA")).expect(REDIRECT, &CAME);
    let (server, client) = ((IN, tcp(SERVER, port, "FA")), (OUT, tcp(TWINS[0], SERVER, "FA")));
    for (hook, packet) in if server_first { [server, client] } else { [client, server] } {
        assert_eq!(m.tc(hook, &packet).action, REDIRECT);
    }
    assert_eq!((m.connections(FRONTEND).opened, m.connections(FRONTEND).closed), (1, 1));
    (m, port)
}

#[test]
fn a_port_on_which_the_server_may_linger_rests_for_a_minute() {
    for (server_first, seconds, same) in
        [(false, 9, false), (false, 11, true), (true, 11, false), (true, 59, false), (true, 61, true)]
    {
        let (mut m, port) = closed_machine(2, server_first);
        m.age_translations(seconds);
        let next = seen_as(&m.tc(OUT, &tcp(TWINS[1], SERVER, "S")).expect(REDIRECT, &SENT));
        assert_eq!(next == port, same, "server first: {server_first}, after {seconds} s");
    }
}

#[test]
fn a_port_on_which_the_server_may_linger_is_better_than_none() {
    let (mut m, port) = closed_machine(1, true);
    let hello = tcp(TWINS[1], SERVER, "S");
    m.tc(OUT, &hello).expect(REDIRECT, &refused(Outcome::NatExhausted));
    m.age_translations(11);
    assert_eq!(seen_as(&m.tc(OUT, &hello).expect(REDIRECT, &SENT)), port);
    m.tc(OUT, &tcp((FRONTEND, 7), SERVER, "S")).expect(REDIRECT, &refused(Outcome::NatExhausted));
}

#[test]
fn a_flow_whose_entry_was_lost_keeps_its_port() {
    let mut m = open_machine();
    let port = seen_as(&m.tc(OUT, &tcp(CLIENT, SERVER, "S")));
    m.forget_translations();
    assert_eq!(seen_as(&m.tc(OUT, &tcp(CLIENT, SERVER, "A"))), port);
    assert_eq!(to(&m.tc(IN, &tcp(SERVER, port, "A"))), CLIENT);
}

#[test]
fn where_nothing_is_masqueraded_the_container_is_seen() {
    let mut m = open_machine();
    m.allow_all(NO_MASQUERADE, [198, 51, 100, 0].into(), 24, 0);
    let sent = m.tc(OUT, &tcp(CLIENT, SERVER, "S")).expect(REDIRECT, &SENT);
    assert_eq!(seen_as(&sent), CLIENT);
    let back = m.tc(IN, &tcp(SERVER, CLIENT, "SA")).expect(REDIRECT, &CAME);
    assert_eq!(to(&back), CLIENT);
    let run = m.tc(IN, &tcp(SERVER, (FRONTEND, 41_000), "S"));
    assert_eq!((run.action, run.counted.len()), (NEXT, 0), "the outside opens nothing");
}

#[test]
fn a_rule_that_is_gone_cuts_the_flow_in_both_directions() {
    let mut m = open_machine();
    let port = seen_as(&m.tc(OUT, &tcp(CLIENT, SERVER, "S")));
    m.tc(IN, &tcp(SERVER, port, "SA")).expect(REDIRECT, &CAME);
    m.frontend_with(SET + 1, 0);
    let run =
        m.tc(IN, &tcp_with(SERVER, port, "A", b"more")).expect(REDIRECT, &[(IN, Outcome::EgressRevoked)]);
    assert_eq!(to(&run), CLIENT);
    let Transport::Tcp(cut) = read(&run.packet).transport else { panic!("not TCP") };
    assert!(cut.rst && cut.ack && cut.sequence_number == 1000, "the container hears it where it waits");
    m.tc(OUT, &tcp(CLIENT, SERVER, "A")).expect(REDIRECT, &refused(Outcome::EgressRevoked));
    m.tc(OUT, &tcp((FRONTEND, 40_001), SERVER, "S")).expect(REDIRECT, &refused(Outcome::EgressDenied));
    m.allow_outside(SET + 2, [198, 51, 100, 0].into(), 24, 6, (443, 443));
    m.frontend_with(SET + 2, 0);
    m.tc(OUT, &tcp(CLIENT, SERVER, "A")).expect(REDIRECT, &SENT);
    m.tc(IN, &tcp(SERVER, port, "A")).expect(REDIRECT, &CAME);
}

#[test]
fn a_rule_that_is_gone_ends_datagrams_in_silence() {
    let mut m = open_machine();
    let port = seen_as(&m.tc(OUT, &udp(CLIENT, SERVER)));
    m.frontend_with(SET + 1, 0);
    m.tc(IN, &udp(SERVER, port)).expect(DROP, &[(IN, Outcome::EgressRevoked)]);
    m.tc(OUT, &udp(CLIENT, SERVER)).expect(REDIRECT, &refused(Outcome::EgressRevoked));
}

#[test]
fn a_mapped_port_leads_into_its_container_and_back() {
    let mut m = Machine::new();
    let caller = (OUTSIDE, 50_000);
    for (protocol, hello, answer) in [
        (6, tcp(caller, (HERE, 61_000), "S"), tcp((FRONTEND, 8080), caller, "SA")),
        (17, udp(caller, (HERE, 61_000)), udp((FRONTEND, 8080), caller)),
    ] {
        m.map_port(protocol, 61_000, (FRONTEND, 8080));
        let came = m.tc(IN, &hello).expect(REDIRECT, &CAME);
        assert_eq!((seen_as(&came), to(&came)), (caller, (FRONTEND, 8080)));
        let back = m.tc(OUT, &answer).expect(REDIRECT, &SENT);
        assert_eq!((seen_as(&back), to(&back)), ((HERE, 61_000), caller));
    }
    let run = m.tc(IN, &tcp(caller, (HERE, 61_001), "S"));
    assert_eq!((run.action, run.counted.len()), (NEXT, 0), "another port is the cell's");
}

#[test]
fn a_mapped_connection_survives_the_loss_of_its_entry() {
    let mut m = Machine::new();
    m.map_port(6, 61_000, (FRONTEND, 8080));
    let caller = (OUTSIDE, 50_000);
    m.tc(IN, &tcp(caller, (HERE, 61_000), "S"));
    m.forget_translations();
    let back = m.tc(OUT, &tcp((FRONTEND, 8080), caller, "A")).expect(REDIRECT, &SENT);
    assert_eq!(seen_as(&back), (HERE, 61_000));
    m.tc(OUT, &tcp((FRONTEND, 8080), (OUTSIDE, 9), "S")).expect(REDIRECT, &refused(Outcome::EgressDenied));
}

#[test]
fn a_mapped_port_does_not_let_its_container_out() {
    let mut m = Machine::new();
    m.map_port(6, 61_000, (FRONTEND, 8080));
    let caller = (OUTSIDE, 50_000);
    m.tc(IN, &tcp(caller, (HERE, 61_000), "S"));
    m.tc(OUT, &tcp((FRONTEND, 8080), caller, "S")).expect(REDIRECT, &refused(Outcome::EgressDenied));
}

#[test]
fn a_neighbours_mapped_port_needs_a_policy() {
    let mut m = Machine::new();
    m.map_port(6, 61_000, (BACKEND, 8080));
    // On the frontend's device for want of another, by which the backend could answer.
    let endpoint = c2c_common::layout::Endpoint { ifindex: 1, tag: BACKEND_TAG, ..Default::default() };
    m.put_endpoint(BACKEND, &endpoint);
    let called = (HERE, 61_000);
    let hello = tcp(CLIENT, called, "S");
    let run = m.tc(OUT, &hello).expect(REDIRECT, &refused(Outcome::PolicyDenied));
    assert_eq!(seen_as(&run), called, "the reset comes from what was called");
    m.allow(6, 8080, 8080);
    let local = [(OUT, Outcome::ToEndpoint)];
    let run = m.tc(OUT, &hello).expect(REDIRECT, &local);
    assert_eq!((seen_as(&run), to(&run)), (CLIENT, (BACKEND, 8080)));
    let answer = tcp((BACKEND, 8080), CLIENT, "SA");
    let run = m.tc(OUT, &answer).expect(REDIRECT, &local);
    assert_eq!((seen_as(&run), to(&run)), (called, CLIENT));
    m.forget_translations();
    assert_eq!(
        seen_as(&m.tc(OUT, &answer).expect(REDIRECT, &local)),
        called,
        "there is but one port that leads there"
    );
}

#[test]
fn the_port_that_a_neighbour_called_is_remembered_anew() {
    let mut m = Machine::new();
    // Two ports lead there: only what was remembered tells which one was called.
    m.map_port(6, 61_000, (BACKEND, 8080));
    m.map_port(6, 61_001, (BACKEND, 8080));
    let endpoint = c2c_common::layout::Endpoint { ifindex: 1, tag: BACKEND_TAG, ..Default::default() };
    m.put_endpoint(BACKEND, &endpoint);
    m.allow(6, 8080, 8080);
    let seen = |m: &mut Machine| {
        let translations: Vec<_> = m.translations().into_values().collect();
        assert_eq!(translations.len(), 1);
        translations[0].flow.seen_ns
    };
    for port in [61_000, 61_001, 61_000] {
        m.tc(OUT, &tcp(CLIENT, (HERE, port), "S"));
        let run = m.tc(OUT, &tcp((BACKEND, 8080), CLIENT, "SA"));
        assert_eq!(seen_as(&run), (HERE, port));
    }
    m.age_translations(119);
    let before = seen(&mut m);
    m.tc(OUT, &tcp(CLIENT, (HERE, 61_000), "A"));
    assert_eq!(seen(&mut m), before, "not for each packet");
    m.age_translations(2);
    let before = seen(&mut m);
    m.tc(OUT, &tcp(CLIENT, (HERE, 61_000), "A"));
    assert!(seen(&mut m) > before, "but before it is swept away");
}

#[test]
fn what_ends_a_connection_to_a_mapped_port_opens_none() {
    for (flags, state) in [("R", State::Closed), ("FA", State::Closing), ("A", State::Established)] {
        let mut m = Machine::new();
        m.map_port(6, 61_000, (FRONTEND, 8080));
        m.tc(IN, &tcp(SERVER, (HERE, 61_000), flags)).expect(REDIRECT, &CAME);
        let states: Vec<_> = m.translations().into_values().map(|t| State::from_raw(t.flow.state)).collect();
        assert_eq!(states, [state], "{flags}");
    }
}

#[test]
fn a_lost_mapping_leads_to_no_address_of_the_cell() {
    let mut m = Machine::new();
    m.map_port(6, 61_000, (FRONTEND, 8080));
    let (second, nowhere) = ([192, 0, 2, 200].into(), [224, 0, 0, 1].into());
    m.local(second);
    let answer = |to| tcp((FRONTEND, 8080), (to, 9000), "A");
    m.tc(OUT, &answer(second)).expect(REDIRECT, &refused(Outcome::CellDenied));
    m.tc(OUT, &answer(nowhere)).expect(DROP, &[(OUT, Outcome::EgressDenied)]);
    assert_eq!(m.translations().len(), 0);
}

#[test]
fn an_error_about_what_the_cell_sent_reaches_it() {
    let mut m = Machine::new();
    let sent = udp((GATEWAY, 50_000), (FRONTEND, 8080));
    m.tc(Hook::ToContainer, &sent);
    m.tc(OUT, &unreachable(FRONTEND, GATEWAY, &sent)).expect(NEXT, &[(OUT, Outcome::ToHost)]);
    let unrelated = [(OUT, Outcome::UnrelatedIcmp)];
    let never = udp((GATEWAY, 50_001), (FRONTEND, 8080));
    m.tc(OUT, &unreachable(FRONTEND, GATEWAY, &never)).expect(DROP, &unrelated);
    let own = udp(CLIENT, (GATEWAY, 9000));
    m.tc(OUT, &own).expect(REDIRECT, &refused(Outcome::CellDenied));
    m.tc(OUT, &unreachable(FRONTEND, GATEWAY, &own)).expect(DROP, &unrelated);
}

#[test]
fn a_containers_own_mapped_port_is_refused() {
    let mut m = Machine::new();
    m.map_port(6, 61_000, (FRONTEND, 8080));
    m.tc(OUT, &tcp(CLIENT, (HERE, 61_000), "S")).expect(REDIRECT, &refused(Outcome::CellDenied));
}

#[test]
fn the_cell_is_closed_but_for_its_services() {
    let mut m = open_machine();
    let (dns, second) = ([169, 254, 0, 2].into(), [192, 0, 2, 200].into());
    m.local(dns);
    m.local(second);
    m.open_service(dns, 53, 17);
    m.open_service(HERE, 9000, 6);
    let host = [(OUT, Outcome::ToHost)];
    m.tc(OUT, &udp(CLIENT, (dns, 53))).expect(NEXT, &host);
    m.tc(OUT, &tcp(CLIENT, (HERE, 9000), "S")).expect(NEXT, &host);
    for to in [(dns, 54), (HERE, 22), (second, 9000), (GATEWAY, 9000)] {
        m.tc(OUT, &udp(CLIENT, to)).expect(REDIRECT, &refused(Outcome::CellDenied));
        m.tc(OUT, &tcp(CLIENT, to, "S")).expect(REDIRECT, &refused(Outcome::CellDenied));
    }
    m.open_service(second, 0, 0);
    m.tc(OUT, &udp(CLIENT, (second, 9))).expect(NEXT, &host);
    m.tc(OUT, &ping(FRONTEND, second)).expect(NEXT, &host);
}

#[test]
fn a_rate_counts_new_connections_to_one_destination() {
    let mut m = open_machine();
    let limited = c2c_common::layout::Config { rate_burst: 3, rate_interval_ns: 4_000_000_000, ..config() };
    m.configure(&limited);
    for port in 1..=3 {
        m.tc(OUT, &tcp((FRONTEND, port), SERVER, "S")).expect(REDIRECT, &SENT);
    }
    m.tc(OUT, &tcp((FRONTEND, 4), SERVER, "S")).expect(REDIRECT, &refused(Outcome::RateLimited));
    m.tc(OUT, &tcp((FRONTEND, 1), SERVER, "A")).expect(REDIRECT, &SENT);
    m.tc(OUT, &tcp((FRONTEND, 4), (OUTSIDE, 80), "S")).expect(REDIRECT, &SENT);
    m.tc(OUT, &udp((FRONTEND, 4), SERVER)).expect(REDIRECT, &SENT);
    m.configure(&c2c_common::layout::Config { flags: config_flag::RATE_DRY_RUN, ..limited });
    let dry = [(OUT, Outcome::ToOutside), (OUT, Outcome::RateWouldLimit)];
    m.tc(OUT, &tcp((FRONTEND, 5), SERVER, "S")).expect(REDIRECT, &dry);
}

#[test]
fn a_ceiling_counts_connections_that_are_open() {
    let mut m = open_machine();
    m.configure(&c2c_common::layout::Config { max_connections: 2, ..config() });
    let first = m.tc(OUT, &tcp((FRONTEND, 1), SERVER, "S")).expect(REDIRECT, &SENT);
    m.tc(OUT, &tcp((FRONTEND, 1), SERVER, "S")).expect(REDIRECT, &SENT);
    m.tc(OUT, &tcp((FRONTEND, 2), (OUTSIDE, 80), "S")).expect(REDIRECT, &SENT);
    let third = tcp((FRONTEND, 3), SERVER, "S");
    m.tc(OUT, &third).expect(REDIRECT, &refused(Outcome::ConnectionsLimited));
    m.tc(OUT, &udp((FRONTEND, 3), SERVER)).expect(REDIRECT, &SENT);
    m.tc(IN, &tcp(SERVER, seen_as(&first), "R")).expect(REDIRECT, &CAME);
    m.tc(OUT, &third).expect(REDIRECT, &SENT);
    m.tc(OUT, &tcp((FRONTEND, 4), SERVER, "S")).expect(REDIRECT, &refused(Outcome::ConnectionsLimited));
}

#[test]
fn what_could_pass_for_the_cells_own_tunnel_is_dropped() {
    let mut m = open_machine();
    for to in [THERE, HERE, OUTSIDE] {
        m.tc(OUT, &udp(CLIENT, (to, 4789))).expect(DROP, &[(OUT, Outcome::OwnTunnel)]);
    }
}

#[test]
fn an_error_about_a_masqueraded_packet_reaches_its_container() {
    let mut m = open_machine();
    let sent = m.tc(OUT, &udp(CLIENT, SERVER));
    let router = [203, 0, 113, 1].into();
    let run = m.tc(IN, &unreachable(router, HERE, &sent.packet)).expect(REDIRECT, &CAME);
    let told = read(&run.packet);
    assert_eq!((told.source, told.destination), (router, FRONTEND));
    let Transport::Icmp(_, quote) = told.transport else { panic!("not ICMP") };
    assert_eq!((&quote[12..16], &quote[20..22]), (&FRONTEND.octets()[..], &40_000u16.to_be_bytes()[..]));
    assert_eq!(c2c_common::checksum::of(&quote[..20]), 0, "the quoted header is right");
    let stranger = udp((HERE, 20_999), (OUTSIDE, 9));
    let run = m.tc(IN, &unreachable(router, HERE, &stranger));
    assert_eq!((run.action, run.counted.len()), (NEXT, 0), "about the cell's own packet");
}

#[test]
fn an_error_about_a_mapped_packet_reaches_who_sent_it() {
    let mut m = Machine::new();
    m.map_port(17, 61_000, (FRONTEND, 8080));
    let caller = (OUTSIDE, 50_000);
    let came = m.tc(IN, &udp(caller, (HERE, 61_000)));
    let run = m.tc(OUT, &unreachable(FRONTEND, OUTSIDE, &came.packet)).expect(REDIRECT, &SENT);
    let told = read(&run.packet);
    assert_eq!((told.source, told.destination), (HERE, OUTSIDE));
    let Transport::Icmp(_, quote) = told.transport else { panic!("not ICMP") };
    assert_eq!((&quote[16..20], &quote[22..24]), (&HERE.octets()[..], &61_000u16.to_be_bytes()[..]));
    let other = udp((OUTSIDE, 50_001), (FRONTEND, 8080));
    m.tc(OUT, &unreachable(FRONTEND, OUTSIDE, &other)).expect(DROP, &[(OUT, Outcome::UnrelatedIcmp)]);
}

#[test]
fn pieces_of_a_packet_are_translated_alike() {
    let mut m = open_machine();
    let first = m.tc(OUT, &fragment(CLIENT, SERVER, 0, true)).expect(REDIRECT, &SENT);
    let later = m.tc(OUT, &fragment(CLIENT, SERVER, 100, false)).expect(REDIRECT, &SENT);
    for run in [&first, &later] {
        assert_eq!(run.packet[26..30], HERE.octets());
    }
    let port = u16::from_be_bytes([first.packet[34], first.packet[35]]);
    let first = m.tc(IN, &fragment(SERVER, (HERE, port), 0, true)).expect(REDIRECT, &CAME);
    let later = m.tc(IN, &fragment(SERVER, (HERE, port), 100, false)).expect(REDIRECT, &CAME);
    for run in [&first, &later] {
        assert_eq!(run.packet[30..34], FRONTEND.octets());
    }
    let run = m.tc(IN, &fragment((THERE, 443), (HERE, 22), 100, false));
    assert_eq!((run.action, run.counted.len()), (NEXT, 0), "the cell's own");
}

#[test]
fn a_container_with_limited_bandwidth_gets_its_packets_by_its_queue() {
    let mut m = Machine::new();
    m.frontend_with(0, endpoint_flag::SHAPED);
    m.map_port(6, 61_000, (FRONTEND, 8080));
    let run = m.tc(IN, &tcp((OUTSIDE, 5), (HERE, 61_000), "S")).expect(REDIRECT, &CAME);
    assert_eq!(run.mark, 0xc2c1_0000);
    let context = Context { ingress_ifindex: 9, mark: run.mark, ..Context::default() };
    let run = m.tc_with(Hook::ToContainer, &run.packet, context);
    assert_eq!((run.action, run.counted.len()), (NEXT, 0), "it was counted already");
}

#[test]
fn a_logged_rule_lets_pass_like_any_other() {
    let mut m = Machine::new();
    m.frontend_with(SET, 0);
    m.allow_all(SET, [0, 0, 0, 0].into(), 0, egress_flag::ALL_LOGGED);
    m.tc(OUT, &tcp(CLIENT, SERVER, "S")).expect(REDIRECT, &SENT);
    let flow = *m.translations().values().next().expect("a flow");
    assert!(flow.flow.is(flag::COUNTED) && flow.set == SET);
}
