//! What leaves by a container's host device.

use c2c_common::counter::{Hook, Outcome};

use crate::machine::{Context, DROP, Machine, NEXT};
use crate::packets::*;

const HOOK: Hook = Hook::ToContainer;

#[test]
fn the_cell_reaches_its_containers() {
    let mut m = Machine::new();
    for packet in [tcp((GATEWAY, 50_000), (FRONTEND, 8080), "S"), ping(GATEWAY, FRONTEND)] {
        let run = m.tc(HOOK, &packet).expect(NEXT, &[(HOOK, Outcome::ToEndpoint)]);
        assert_eq!(run.packet, packet);
    }
    assert_eq!(m.flows().len(), 2, "the connection's and the ping's, so that both are answered");
}

#[test]
fn what_the_cell_forwards_does_not() {
    let mut m = Machine::new();
    m.allow(6, 7000, 7000);
    let packet = tcp((BACKEND, 40_000), (FRONTEND, 7000), "S");
    let forwarded = Context { ingress_ifindex: 1, ..Context::default() };
    m.tc_with(HOOK, &packet, forwarded).expect(DROP, &[(HOOK, Outcome::NotFromCell)]);
    assert!(m.flows().is_empty());
}

#[test]
fn what_cannot_be_read_is_dropped_by_name() {
    let mut m = Machine::new();
    let mut arp = ping(GATEWAY, FRONTEND);
    arp[13] = 6;
    m.tc(HOOK, &arp).expect(DROP, &[(HOOK, Outcome::Arp)]);
    let cut = &ping(GATEWAY, FRONTEND)[..36];
    m.tc(HOOK, cut).expect(DROP, &[(HOOK, Outcome::Malformed)]);
}
