//! The offload self-test's packets: how they leave a cell, and how far they come on another.

use std::net::Ipv4Addr;

use c2c_common::counter::{Hook, Outcome};
use c2c_common::layout::Config;
use c2c_common::self_test::{self, MARK};

use crate::machine::{
    Context, DEVICE, DROP, FRONTEND_TAG, Machine, NEXT, REDIRECT, VNI, XDP_DROP, XDP_PASS, config,
};
use crate::packets::*;

const HOOK: Hook = Hook::FromUnderlay;
/// First addresses of the blocks of this cell and of the other.
const OWN: End = (Ipv4Addr::new(10, 255, 1, 0), 1);
const OTHERS: End = (Ipv4Addr::new(10, 255, 2, 0), 1);
const PROBE_VNI: u32 = self_test::vni(VNI);

#[test]
fn a_probe_leaves_as_a_containers_packet_under_another_vni() {
    let mut m = Machine::new();
    let probe = tcp_with(OWN, OTHERS, "A", &[7; 1000]);
    let run = m.self_test(&probe);
    assert_eq!(run.action, REDIRECT);
    let outer = &run.packet[14..50];
    assert_eq!((&outer[12..16], &outer[16..20]), (&HERE.octets()[..], &THERE.octets()[..]));
    assert_eq!(run.packet[46..49], PROBE_VNI.to_be_bytes()[1..]);
    assert_eq!(run.packet[64..], probe[14..], "and the rest is as it was");
}

#[test]
fn nobody_but_the_agent_sends_one() {
    let mut m = Machine::new();
    for (from, to) in [((FRONTEND, 1), OTHERS), (OWN, (BACKEND, 1)), (OWN, (OUTSIDE, 1))] {
        assert_eq!(m.self_test(&tcp(from, to, "A")).action, DROP, "{from:?} to {to:?}");
    }
    assert_eq!(m.self_test(&[0; 60]).action, DROP);
    let spoofed = m.tc(Hook::FromContainer, &tcp(OWN, OTHERS, "A"));
    spoofed.expect(DROP, &[(Hook::FromContainer, Outcome::SpoofedSource)]);
}

#[test]
fn what_another_cell_sends_goes_on_to_the_agent_and_no_further() {
    let mut m = Machine::new();
    let probe = tcp(OTHERS, OWN, "A");
    let run = m.tc(HOOK, &tunnelled(THERE, PROBE_VNI, 0, &probe)).expect(NEXT, &[]);
    assert_eq!(run.mark, MARK);
    m.configure(&Config { vxlan_ifindex: DEVICE, ..config() });
    let marked = Context { mark: MARK, ..Context::default() };
    m.tc_with(HOOK, &probe, marked).expect(DROP, &[(HOOK, Outcome::SelfTest)]);
}

#[test]
fn what_is_forged_is_dropped_by_name() {
    let probe = tcp(OTHERS, OWN, "A");
    let rows = [
        ("a host that is no cell", tunnelled(STRANGER, PROBE_VNI, 0, &probe), Outcome::UnknownCell),
        ("for nobody's block", tunnelled(THERE, PROBE_VNI, 0, &tcp(OWN, OTHERS, "A")), Outcome::ForeignLease),
        ("cut short", tunnelled(THERE, PROBE_VNI, 0, &probe)[..76].to_vec(), Outcome::Malformed),
    ];
    for (name, packet, outcome) in rows {
        let mut m = Machine::new();
        let counted: Vec<_> = m.tc(HOOK, &packet).counted.into_keys().collect();
        assert_eq!(counted, [(HOOK, outcome)], "{name}");
    }
}

#[test]
fn it_reaches_no_container() {
    let mut m = Machine::new();
    m.allow(6, 7000, 7000);
    let packet = tcp((REMOTE, 40_000), (BACKEND, 7000), "S");
    let run = m.tc(HOOK, &tunnelled(THERE, PROBE_VNI, FRONTEND_TAG, &packet)).expect(NEXT, &[]);
    assert_eq!(run.mark, MARK, "on to the kernel's device, where it ends");
}

#[test]
fn the_shield_lets_cells_probe_and_nobody_else() {
    let probe = tcp(OTHERS, OWN, "A");
    let mut m = Machine::new();
    assert_eq!(m.xdp(&tunnelled(THERE, PROBE_VNI, 0, &probe)).action, XDP_PASS);
    assert_eq!(m.xdp(&tunnelled(STRANGER, PROBE_VNI, 0, &probe)).action, XDP_DROP);
}
