//! What comes through the tunnel.

use c2c_common::counter::{Hook, Outcome};
use c2c_common::flow::State;
use c2c_common::layout::Config;

use crate::machine::{
    BACKEND_TAG, Context, DEVICE, DROP, FRONTEND_TAG, Machine, NEXT, REDIRECT, REFUSED_MARK, Run, VNI, config,
};
use crate::packets::*;

const HOOK: Hook = Hook::FromUnderlay;
/// A frontend's container on the other cell.
const CLIENT: End = (REMOTE, 40_000);
const SERVER: End = (BACKEND, 7000);

fn arrives(m: &mut Machine, inner: &[u8], tag: u16) -> Run {
    m.tc(HOOK, &tunnelled(THERE, VNI, tag, inner))
}

/// A refused packet is counted, marked, and left to the kernel's VXLAN device, which brings it back for its answer.
trait Refused {
    fn expect_refusal(self, outcome: Outcome);
}

impl Refused for Run {
    fn expect_refusal(self, outcome: Outcome) {
        let run = self.expect(NEXT, &[(HOOK, outcome)]);
        assert_eq!(run.mark, REFUSED_MARK);
    }
}

/// What the kernel's VXLAN device brings of a refused packet, and what is sent back by it.
fn answered(inner: &[u8]) -> Run {
    let mut m = Machine::new();
    m.configure(&Config { vxlan_ifindex: DEVICE, ..config() });
    let refused = Context { mark: REFUSED_MARK, ..Context::default() };
    m.tc_with(HOOK, inner, refused).expect(REDIRECT, &[(HOOK, Outcome::RefusalSent)])
}

#[test]
fn an_allowed_packet_is_unwrapped_and_delivered() {
    let mut m = Machine::new();
    m.allow(6, 7000, 7000);
    let inner = tcp(CLIENT, SERVER, "S");
    let run = arrives(&mut m, &inner, FRONTEND_TAG).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    assert_eq!(run.packet[14..], inner[14..], "the container gets what the other container sent");
    assert_eq!(read(&run.packet).macs, (BACKEND_MAC, GATEWAY_MAC));
}

/// As for encapsulation, the kernel refuses to change a test packet that claims segments.
#[test]
fn what_cannot_be_unwrapped_here_is_left_to_the_kernels_device() {
    let mut m = Machine::new();
    m.allow(6, 7000, 7000);
    let packet = tunnelled(THERE, VNI, FRONTEND_TAG, &tcp_with(CLIENT, SERVER, "A", &[7; 3000]));
    let gso = Context { gso: Some((3, 1400)), ..Context::default() };
    let run = m.tc_with(HOOK, &packet, gso).expect(NEXT, &[]);
    assert_eq!(run.packet, packet);
}

#[test]
fn only_the_tag_that_a_policy_names_gets_in() {
    for (tag, allowed) in [(FRONTEND_TAG, true), (BACKEND_TAG, false), (999, false), (0, false)] {
        let mut m = Machine::new();
        m.allow(6, 7000, 7000);
        let run = arrives(&mut m, &tcp(CLIENT, SERVER, "S"), tag);
        let outcome = if allowed { Outcome::ToEndpoint } else { Outcome::PolicyDenied };
        assert!(run.counted.contains_key(&(HOOK, outcome)), "tag {tag}: {:?}", run.counted);
    }
}

#[test]
fn a_refused_connection_gets_a_reset() {
    let mut m = Machine::new();
    let syn = tcp(CLIENT, SERVER, "S");
    arrives(&mut m, &syn, FRONTEND_TAG).expect_refusal(Outcome::PolicyDenied);
    let answer = read(&answered(&syn).packet);
    assert_eq!((answer.source, answer.destination), (BACKEND, REMOTE));
    assert_eq!(answer.macs, (FRONTEND_MAC, GATEWAY_MAC));
    let Transport::Tcp(tcp) = answer.transport else { panic!("not TCP: {answer:?}") };
    assert!(tcp.rst && tcp.ack && tcp.acknowledgment_number == 1001);
}

#[test]
fn a_refused_datagram_gets_a_port_unreachable() {
    let mut m = Machine::new();
    let sent = udp(CLIENT, SERVER);
    arrives(&mut m, &sent, FRONTEND_TAG).expect_refusal(Outcome::PolicyDenied);
    let Transport::Icmp(_, quote) = read(&answered(&sent).packet).transport else { panic!("not ICMP") };
    assert_eq!(quote, sent[14..42]);
}

#[test]
fn a_flood_is_refused_in_silence() {
    let mut m = Machine::new();
    m.spend_refusals(REMOTE);
    let limited = [(HOOK, Outcome::PolicyDenied), (HOOK, Outcome::RefusalLimited)];
    arrives(&mut m, &tcp(CLIENT, SERVER, "S"), FRONTEND_TAG).expect(DROP, &limited);
}

#[test]
fn the_reply_of_a_known_flow_comes_in_without_a_policy() {
    let mut m = Machine::new();
    let (client, server) = ((FRONTEND, 40_000), (REMOTE, 7000));
    m.tc(Hook::FromContainer, &tcp(client, server, "S"))
        .expect(REDIRECT, &[(Hook::FromContainer, Outcome::ToCell)]);
    let reply = tcp(server, client, "SA");
    arrives(&mut m, &reply, BACKEND_TAG).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    let flow = *m.flows().values().next().unwrap();
    assert_eq!(State::from_raw(flow.state), State::Established);
    let opening = tcp(server, client, "S");
    arrives(&mut m, &opening, BACKEND_TAG).expect_refusal(Outcome::PolicyDenied);
}

#[test]
fn a_reply_whose_flow_was_lost_still_comes_in() {
    let mut m = Machine::new();
    m.allow(6, 7000, 7000);
    let reply = tcp((REMOTE, 7000), (FRONTEND, 40_000), "A");
    arrives(&mut m, &reply, BACKEND_TAG).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    let datagram = udp((REMOTE, 7000), (FRONTEND, 40_001));
    arrives(&mut m, &datagram, BACKEND_TAG).expect_refusal(Outcome::PolicyDenied);
}

#[test]
fn the_refusal_of_another_cell_comes_in_untagged() {
    let mut m = Machine::new();
    let sent = udp((FRONTEND, 40_000), (REMOTE, 7000));
    m.tc(Hook::FromContainer, &sent).expect(REDIRECT, &[(Hook::FromContainer, Outcome::ToCell)]);
    let error = unreachable("10.255.2.0".parse().unwrap(), FRONTEND, &sent);
    arrives(&mut m, &error, 0).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    let unrelated = unreachable(REMOTE, FRONTEND, &udp((FRONTEND, 40_001), (REMOTE, 7000)));
    arrives(&mut m, &unrelated, 0).expect(DROP, &[(HOOK, Outcome::UnrelatedIcmp)]);
    let foreign = unreachable(REMOTE, FRONTEND, &udp((BACKEND, 40_000), (REMOTE, 7000)));
    arrives(&mut m, &foreign, 0).expect(DROP, &[(HOOK, Outcome::UnrelatedIcmp)]);
}

#[test]
fn forged_and_foreign_tunnel_packets_are_dropped_by_name() {
    let good = tcp(CLIENT, SERVER, "S");
    let rows: [(&str, Vec<u8>, Outcome); 7] = [
        ("a host that is no cell", tunnelled(STRANGER, VNI, FRONTEND_TAG, &good), Outcome::UnknownCell),
        (
            "our own address",
            tunnelled(HERE, VNI, FRONTEND_TAG, &tcp((FRONTEND, 1), SERVER, "S")),
            Outcome::UnknownCell,
        ),
        (
            "a cell that sends for our block",
            tunnelled(THERE, VNI, FRONTEND_TAG, &tcp((FRONTEND, 1), SERVER, "S")),
            Outcome::ForeignLease,
        ),
        (
            "a cell that sends for nobody's block",
            tunnelled(THERE, VNI, FRONTEND_TAG, &tcp(("10.255.9.9".parse().unwrap(), 1), SERVER, "S")),
            Outcome::ForeignLease,
        ),
        ("another network", tunnelled(THERE, 2, FRONTEND_TAG, &good), Outcome::WrongVni),
        (
            "no network at all",
            {
                let mut p = tunnelled(THERE, VNI, FRONTEND_TAG, &good);
                p[42] = 0;
                p
            },
            Outcome::Malformed,
        ),
        (
            "not IPv4 inside",
            {
                let mut p = tunnelled(THERE, VNI, FRONTEND_TAG, &good);
                p[62] = 0x86;
                p
            },
            Outcome::NotIpv4,
        ),
    ];
    for (name, packet, outcome) in rows {
        let mut m = Machine::new();
        m.allow(6, 7000, 7000);
        let run = m.tc(HOOK, &packet);
        let counted: Vec<_> = run.counted.into_keys().collect();
        assert_eq!((run.action, &counted[..]), (DROP, &[(HOOK, outcome)][..]), "{name}");
    }
}

#[test]
fn a_container_that_is_gone_is_refused() {
    let mut m = Machine::new();
    let packet = tcp(CLIENT, ("10.255.1.99".parse().unwrap(), 7000), "S");
    arrives(&mut m, &packet, FRONTEND_TAG).expect_refusal(Outcome::UnknownDestination);
}

#[test]
fn what_is_cut_short_inside_is_dropped() {
    let whole = tunnelled(THERE, VNI, FRONTEND_TAG, &tcp(CLIENT, SERVER, "S"));
    for len in [43, 50, 64, 80, 84, 100] {
        let mut m = Machine::new();
        m.allow(6, 7000, 7000);
        let run = m.tc(HOOK, &whole[..len]);
        let counted: Vec<_> = run.counted.keys().collect();
        assert!(
            run.action == DROP && matches!(counted[..], [(HOOK, o)] if o.is_drop()),
            "{len}: {counted:?}"
        );
    }
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let ours = tunnelled(THERE, VNI, FRONTEND_TAG, &tcp(CLIENT, SERVER, "S"));
    let with = |at: usize, byte: u8| {
        let mut packet = ours.clone();
        packet[at] = byte;
        packet
    };
    let rows: [(&str, Vec<u8>); 6] = [
        ("another destination", with(33, 77)),
        ("another port", with(37, 0xb6)),
        ("TCP", with(23, 6)),
        ("ARP", with(13, 6)),
        ("a later fragment", with(21, 1)),
        ("the underlay's own SSH", tcp((THERE, 50_000), (HERE, 22), "S")),
    ];
    for (name, packet) in rows {
        let mut m = Machine::new();
        let run = m.tc(HOOK, &packet);
        assert_eq!((run.action, run.counted.len(), &run.packet), (NEXT, 0, &packet), "{name}");
    }
    let mut m = Machine::new();
    m.configure(&Config { ready: 0, ..config() });
    assert_eq!(m.tc(HOOK, &ours).expect(NEXT, &[]).packet, ours, "nothing is ours without a lease");
}

#[test]
fn a_removed_policy_cuts_a_connection_from_another_cell() {
    let mut m = Machine::new();
    m.allow(6, 7000, 7000);
    m.endpoint(BACKEND, DEVICE, BACKEND_TAG, BACKEND_MAC);
    let hook = Hook::FromContainer;
    arrives(&mut m, &tcp(CLIENT, SERVER, "S"), FRONTEND_TAG).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    m.tc(hook, &tcp(SERVER, CLIENT, "SA")).expect(REDIRECT, &[(hook, Outcome::ToCell)]);
    m.forbid_everything();
    arrives(&mut m, &tcp(CLIENT, SERVER, "A"), FRONTEND_TAG).expect_refusal(Outcome::PolicyRevoked);
    m.tc(hook, &tcp(SERVER, CLIENT, "A"))
        .expect(REDIRECT, &[(hook, Outcome::PolicyRevoked), (hook, Outcome::RefusalSent)]);
}

#[test]
fn congestion_on_the_way_reaches_who_understands_it() {
    let inner = |tos| with_tos(tcp((REMOTE, 40_000), (FRONTEND, 7000), "S"), tos);
    let outer = |tos, inner: &[u8]| with_tos(tunnelled(THERE, VNI, BACKEND_TAG, inner), tos);
    let mut m = Machine::new();
    m.allow_back(6, 7000, 7000);
    let run = m.tc(HOOK, &outer(3, &inner(2))).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    read(&run.packet);
    assert_eq!(run.packet[15], 3, "the signal is inside");
    m.tc(HOOK, &outer(3, &inner(0))).expect(DROP, &[(HOOK, Outcome::Ecn)]);
    let run = m.tc(HOOK, &outer(0, &inner(2))).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    assert_eq!(run.packet[15], 2, "and stays away without one");
}

#[test]
fn who_called_from_another_cell_hears_of_the_end_by_the_servers_next_packet() {
    let mut m = Machine::new();
    m.allow(6, 7000, 7000);
    m.endpoint(BACKEND, DEVICE, BACKEND_TAG, BACKEND_MAC);
    let hook = Hook::FromContainer;
    arrives(&mut m, &tcp(CLIENT, SERVER, "S"), FRONTEND_TAG).expect(REDIRECT, &[(HOOK, Outcome::ToEndpoint)]);
    m.tc(hook, &tcp(SERVER, CLIENT, "SA")).expect(REDIRECT, &[(hook, Outcome::ToCell)]);
    m.forbid_everything();
    let run = m.tc(hook, &tcp(SERVER, CLIENT, "A")).expect(REDIRECT, &[(hook, Outcome::PolicyRevoked)]);
    let (outer, _, inner) = unwrap_tunnel(&run.packet);
    assert_eq!(outer.destination, THERE);
    let Transport::Tcp(end) = read(&inner).transport else { panic!("not TCP") };
    assert!(end.rst && end.sequence_number == 1000);
    let refused = [(hook, Outcome::PolicyRevoked), (hook, Outcome::RefusalSent)];
    m.tc(hook, &tcp(SERVER, CLIENT, "A")).expect(REDIRECT, &refused);
}
