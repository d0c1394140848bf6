//! What a container sends.

use c2c_common::counter::{Hook, Outcome};
use c2c_common::flow::{State, flag};
use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};

use crate::machine::{Context, DROP, FRONTEND_TAG, Machine, NEXT, REDIRECT, config};
use crate::packets::*;

const HOOK: Hook = Hook::FromContainer;
const CLIENT: End = (FRONTEND, 40_000);
const LOCAL: End = (BACKEND, 7000);
const AWAY: End = (REMOTE, 7000);

fn refused(outcome: Outcome) -> [(Hook, Outcome); 2] {
    [(HOOK, outcome), (HOOK, Outcome::RefusalSent)]
}

#[test]
fn to_another_cell_is_encapsulated_with_the_own_tag() {
    let mut m = Machine::new();
    let sent = tcp(CLIENT, AWAY, "S");
    let run = m.tc(HOOK, &sent).expect(REDIRECT, &[(HOOK, Outcome::ToCell)]);
    let (outer, vxlan, inner) = unwrap_tunnel(&run.packet);
    assert_eq!((outer.source, outer.destination), (HERE, THERE));
    let [_, tag] = FRONTEND_TAG.to_be_bytes();
    assert_eq!(vxlan, [0x88, 0, 0, tag, 0, 0, 1, 0]);
    let read = read(&inner);
    assert_eq!(read.macs, ([0xee, 0xee, 10, 255, 2, 0], [0xee, 0xee, 10, 255, 1, 0]));
    assert_eq!(inner[14..], sent[14..], "the inner packet is what the container sent");
    let flow = *m.flows().values().next().expect("a flow");
    assert!(!flow.is(flag::ENFORCED) && flow.state == State::Opening as u8);
}

/// The kernel gives test packets a segment size but no segment type, and so refuses to encapsulate them: which shows
/// the way of everything that the program cannot encapsulate. Real aggregates are the system tests' matter.
#[test]
fn what_cannot_be_encapsulated_takes_the_slow_path_and_counts_its_segments() {
    let mut m = Machine::new();
    let big = tcp_with(CLIENT, AWAY, "A", &[7; 3000]);
    let run = m.tc_with(HOOK, &big, Context { gso: Some((3, 1400)), ..Context::default() });
    assert_eq!(run.action, REDIRECT);
    assert_eq!(run.counted.into_iter().collect::<Vec<_>>(), [((HOOK, Outcome::ToSlowPath), 3)]);
    assert_eq!(run.packet, big, "left to the kernel's VXLAN device as it is");
}

#[test]
fn what_does_not_fit_the_overlay_and_must_stay_whole_is_told_the_mtu() {
    let mut m = Machine::new();
    let big = tcp_with(CLIENT, AWAY, "A", &[7; 1411]);
    let run = m.tc(HOOK, &big).expect(REDIRECT, &refused(Outcome::TooBig));
    let told = read(&run.packet);
    assert_eq!((told.source, told.destination), (REMOTE, FRONTEND));
    let Transport::Icmp(icmp, quote) = told.transport else { panic!("not ICMP: {told:?}") };
    let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1450 };
    assert_eq!(icmp.icmp_type, Icmpv4Type::DestinationUnreachable(needed));
    assert_eq!(quote, big[14..42]);
    let fits = tcp_with(CLIENT, AWAY, "A", &[7; 1410]);
    m.tc(HOOK, &fits).expect(REDIRECT, &[(HOOK, Outcome::ToCell)]);
}

#[test]
fn what_does_not_fit_and_may_be_cut_is_cut_by_the_kernels_device() {
    let mut m = Machine::new();
    let big = divisible(tcp_with(CLIENT, AWAY, "A", &[7; 1411]));
    m.tc(HOOK, &big).expect(REDIRECT, &[(HOOK, Outcome::ToSlowPath)]);
}

#[test]
fn fragments_share_the_ports_of_their_first() {
    let mut m = Machine::new();
    m.allow(17, 7000, 7000);
    let (first, later) = (fragment(CLIENT, LOCAL, 0, true), fragment(CLIENT, LOCAL, 100, false));
    m.tc(HOOK, &later).expect(DROP, &[(HOOK, Outcome::Fragment)]);
    m.tc(HOOK, &first).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    m.tc(HOOK, &later).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    let denied = (BACKEND, 7001);
    m.tc(HOOK, &fragment(CLIENT, denied, 0, true)).expect(REDIRECT, &refused(Outcome::PolicyDenied));
    m.tc(HOOK, &fragment(CLIENT, denied, 100, false)).expect(DROP, &[(HOOK, Outcome::PolicyDenied)]);
}

#[test]
fn fragments_to_another_cell_take_one_path() {
    let mut m = Machine::new();
    let port = |run: crate::machine::Run| {
        let (outer, ..) = unwrap_tunnel(&run.packet);
        let Transport::Udp(udp, _) = outer.transport else { panic!("not UDP") };
        udp.source_port
    };
    let first = port(m.tc(HOOK, &fragment(CLIENT, AWAY, 0, true)));
    assert_eq!(first, port(m.tc(HOOK, &fragment(CLIENT, AWAY, 100, false))));
}

#[test]
fn options_pass_unless_they_choose_the_route() {
    let mut m = Machine::new();
    m.allow(17, 7000, 7000);
    m.tc(HOOK, &udp_with_options(CLIENT, LOCAL)).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    for options in [[131, 3, 4, 0], [1, 137, 3, 4]] {
        m.tc(HOOK, &udp_with(CLIENT, LOCAL, options)).expect(DROP, &[(HOOK, Outcome::SourceRoute)]);
    }
}

#[test]
fn to_the_same_cell_needs_a_policy() {
    let mut m = Machine::new();
    let syn = tcp(CLIENT, LOCAL, "S");
    m.tc(HOOK, &syn).expect(REDIRECT, &refused(Outcome::PolicyDenied));
    m.allow(6, 7000, 7000);
    let run = m.tc(HOOK, &syn).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    assert_eq!(read(&run.packet).macs, (BACKEND_MAC, GATEWAY_MAC));
    assert_eq!(run.packet[14..], syn[14..]);
}

#[test]
fn a_policy_speaks_of_its_protocol_and_ports_only() {
    let rows: [(&str, Vec<u8>, bool); 8] = [
        ("first of the range", tcp(CLIENT, (BACKEND, 7000), "S"), true),
        ("inside the range", tcp(CLIENT, (BACKEND, 7999), "S"), true),
        ("last of the range", tcp(CLIENT, (BACKEND, 8999), "S"), true),
        ("below the range", tcp(CLIENT, (BACKEND, 6999), "S"), false),
        ("above the range", tcp(CLIENT, (BACKEND, 9000), "S"), false),
        ("another protocol", udp(CLIENT, (BACKEND, 7000)), false),
        ("the UDP policy", udp(CLIENT, (BACKEND, 9000)), true),
        ("a ping", ping(FRONTEND, BACKEND), false),
    ];
    for (name, packet, allowed) in rows {
        let mut m = Machine::new();
        m.allow(6, 7000, 8999);
        m.allow(17, 9000, 9000);
        let run = m.tc(HOOK, &packet);
        assert_eq!(run.counted.contains_key(&(HOOK, Outcome::ToEndpoint)), allowed, "{name}");
        assert_eq!(run.counted.contains_key(&(HOOK, Outcome::PolicyDenied)), !allowed, "{name}");
    }
}

#[test]
fn a_refused_connection_gets_a_reset() {
    let mut m = Machine::new();
    let run = m.tc(HOOK, &tcp(CLIENT, LOCAL, "S")).expect(REDIRECT, &refused(Outcome::PolicyDenied));
    let answer = read(&run.packet);
    assert_eq!(answer.macs, (FRONTEND_MAC, GATEWAY_MAC));
    assert_eq!((answer.source, answer.destination), (BACKEND, FRONTEND));
    let Transport::Tcp(tcp) = answer.transport else { panic!("not TCP: {answer:?}") };
    assert_eq!((tcp.source_port, tcp.destination_port), (7000, 40_000));
    assert!(tcp.rst && tcp.ack && !tcp.syn);
    assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (0, 1001));
}

#[test]
fn a_refused_datagram_gets_a_port_unreachable() {
    let mut m = Machine::new();
    let sent = udp(CLIENT, LOCAL);
    let run = m.tc(HOOK, &sent).expect(REDIRECT, &refused(Outcome::PolicyDenied));
    let answer = read(&run.packet);
    assert_eq!((answer.source, answer.destination), (BACKEND, FRONTEND));
    let Transport::Icmp(icmp, quote) = answer.transport else { panic!("not ICMP: {answer:?}") };
    assert_eq!(icmp.icmp_type, Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port));
    assert_eq!(quote, sent[14..42]);
}

#[test]
fn a_small_datagram_is_stretched_to_its_answer() {
    let mut m = Machine::new();
    let mut sent = udp(CLIENT, LOCAL);
    sent.truncate(42);
    sent[16..18].copy_from_slice(&28u16.to_be_bytes());
    sent[38..40].copy_from_slice(&8u16.to_be_bytes());
    let run = m.tc(HOOK, &sent).expect(REDIRECT, &refused(Outcome::PolicyDenied));
    assert_eq!(run.packet.len(), 14 + 56);
    read(&run.packet);
}

#[test]
fn resets_and_errors_are_never_answered() {
    let mut m = Machine::new();
    m.tc(HOOK, &tcp(CLIENT, LOCAL, "R")).expect(DROP, &[(HOOK, Outcome::PolicyDenied)]);
    let about = udp(LOCAL, CLIENT);
    m.tc(HOOK, &unreachable(FRONTEND, BACKEND, &about)).expect(DROP, &[(HOOK, Outcome::UnrelatedIcmp)]);
}

#[test]
fn refusals_are_limited_and_drops_are_not() {
    let mut m = Machine::new();
    let syn = tcp(CLIENT, LOCAL, "S");
    m.tc(HOOK, &syn).expect(REDIRECT, &refused(Outcome::PolicyDenied));
    m.spend_refusals(FRONTEND);
    let limited = [(HOOK, Outcome::PolicyDenied), (HOOK, Outcome::RefusalLimited)];
    m.tc(HOOK, &syn).expect(DROP, &limited);
}

#[test]
fn an_address_that_is_not_its_own_is_spoofed() {
    let mut m = Machine::new();
    for source in [BACKEND, REMOTE, HERE, "8.8.8.8".parse().unwrap()] {
        let packet = tcp((source, 40_000), AWAY, "S");
        m.tc(HOOK, &packet).expect(DROP, &[(HOOK, Outcome::SpoofedSource)]);
    }
    assert!(m.flows().is_empty());
}

#[test]
fn unknown_is_denied() {
    let mut m = Machine::new();
    for nobody in ["10.255.9.9", "10.255.0.7", "10.255.1.77"] {
        let packet = tcp(CLIENT, (nobody.parse().unwrap(), 7000), "S");
        m.tc(HOOK, &packet).expect(REDIRECT, &refused(Outcome::UnknownDestination));
    }
}

#[test]
fn a_single_address_out_of_the_reserved_block_is_reached() {
    let mut m = Machine::new();
    let router = "10.255.0.7".parse().unwrap();
    m.lease(router, 32, THERE);
    let run = m.tc(HOOK, &tcp(CLIENT, (router, 7000), "S")).expect(REDIRECT, &[(HOOK, Outcome::ToCell)]);
    assert_eq!(unwrap_tunnel(&run.packet).0.destination, THERE);
}

#[test]
fn outside_and_the_cell_are_closed() {
    let mut m = Machine::new();
    let outside = tcp(CLIENT, ("198.51.100.1".parse().unwrap(), 443), "S");
    m.tc(HOOK, &outside).expect(REDIRECT, &refused(Outcome::EgressDenied));
    for cell in [GATEWAY, HERE] {
        m.tc(HOOK, &tcp(CLIENT, (cell, 22), "S")).expect(REDIRECT, &refused(Outcome::CellDenied));
    }
}

#[test]
fn the_cell_is_answered() {
    let mut m = Machine::new();
    let from_cell = tcp((GATEWAY, 50_000), (FRONTEND, 8080), "S");
    m.tc(Hook::ToContainer, &from_cell).expect(NEXT, &[(Hook::ToContainer, Outcome::ToEndpoint)]);
    let answer = tcp((FRONTEND, 8080), (GATEWAY, 50_000), "SA");
    m.tc(HOOK, &answer).expect(NEXT, &[(HOOK, Outcome::ToHost)]);
    let other = tcp((FRONTEND, 8081), (GATEWAY, 50_000), "SA");
    m.tc(HOOK, &other).expect(REDIRECT, &refused(Outcome::CellDenied));
}

#[test]
fn what_cannot_be_read_is_dropped_by_name() {
    let good = tcp(CLIENT, LOCAL, "S");
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    let rows: [(&str, Vec<u8>, Outcome); 8] = [
        ("ARP", with(13, 0x06), Outcome::Arp),
        (
            "IPv6",
            {
                let mut p = with(12, 0x86);
                p[13] = 0xdd;
                p
            },
            Outcome::NotIpv4,
        ),
        ("version 5", with(14, 0x55), Outcome::Malformed),
        ("header of 16 bytes", with(14, 0x44), Outcome::Malformed),
        ("longer than the frame", with(16, 0xff), Outcome::Malformed),
        ("shorter than its headers", with(17, 30), Outcome::Malformed),
        ("a cut frame", good[..40].to_vec(), Outcome::Malformed),
        ("a later fragment", fragment(CLIENT, LOCAL, 100, false), Outcome::Fragment),
    ];
    for (name, packet, outcome) in rows {
        let mut m = Machine::new();
        let run = m.tc(HOOK, &packet);
        assert_eq!((run.action, run.counted.keys().next()), (DROP, Some(&(HOOK, outcome))), "{name}");
    }
}

#[test]
fn options_do_not_hide_ports() {
    let mut m = Machine::new();
    m.tc(HOOK, &udp_with_options(CLIENT, LOCAL)).expect(DROP, &[(HOOK, Outcome::PolicyDenied)]);
    m.allow(17, 7000, 7000);
    m.tc(HOOK, &udp_with_options(CLIENT, LOCAL)).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
}

#[test]
fn a_removed_policy_cuts_a_live_connection() {
    let mut m = Machine::new();
    m.allow(6, 7000, 7000);
    m.endpoint(BACKEND, crate::machine::DEVICE, crate::machine::BACKEND_TAG, BACKEND_MAC);
    m.tc(HOOK, &tcp(CLIENT, LOCAL, "S")).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    m.tc(HOOK, &tcp(LOCAL, CLIENT, "SA")).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    m.forbid_everything();
    let run = m.tc(HOOK, &tcp(LOCAL, CLIENT, "A")).expect(REDIRECT, &[(HOOK, Outcome::PolicyRevoked)]);
    let told = read(&run.packet);
    assert_eq!(
        (told.source, told.destination),
        (BACKEND, FRONTEND),
        "who waits for the server hears of the end"
    );
    let Transport::Tcp(end) = told.transport else { panic!("not TCP") };
    assert!(end.rst && end.sequence_number == 1000);
    for packet in [tcp(CLIENT, LOCAL, "A"), tcp(LOCAL, CLIENT, "A")] {
        let run = m.tc(HOOK, &packet).expect(REDIRECT, &refused(Outcome::PolicyRevoked));
        let Transport::Tcp(tcp) = read(&run.packet).transport else { panic!("not TCP") };
        assert!(tcp.rst && tcp.sequence_number == 2000, "a reset that the sender believes");
    }
}

#[test]
fn a_full_or_lost_flow_table_does_not_cut_a_connection() {
    let mut m = Machine::new();
    m.allow(6, 7000, 7000);
    m.tc(HOOK, &tcp(CLIENT, LOCAL, "S")).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    m.forget_flows();
    m.tc(HOOK, &tcp(CLIENT, LOCAL, "A")).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
}

#[test]
fn nothing_passes_before_the_cell_has_a_lease() {
    let mut m = Machine::new();
    m.configure(&c2c_common::layout::Config { ready: 0, ..config() });
    m.tc(HOOK, &tcp(CLIENT, AWAY, "S")).expect(DROP, &[(HOOK, Outcome::Failed)]);
}
