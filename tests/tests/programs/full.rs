//! Tables of flows that take no more: packets are decided without them, and it is counted.

use c2c_common::counter::{Hook, Outcome};
use c2c_common::layout::NO_MASQUERADE;

use crate::machine::{FRONTEND_TAG, Machine, NEXT, REDIRECT, VNI};
use crate::packets::*;

const OUT: Hook = Hook::FromContainer;
const IN: Hook = Hook::FromUnderlay;
const TO: Hook = Hook::ToContainer;
const SET: u32 = 5;
const CLIENT: End = (FRONTEND, 40_000);
const SERVER: End = (OUTSIDE, 443);

/// A machine whose tables are full.
fn full_machine() -> Machine {
    let mut m = Machine::with_full_tables();
    m.frontend_with(SET, 0);
    m.allow_all(SET, [0, 0, 0, 0].into(), 0, 0);
    m.allow(6, 80, 80);
    m.allow(17, 80, 80);
    m.tc(OUT, &tcp(CLIENT, (BACKEND, 80), "S")).expect(REDIRECT, &[(OUT, Outcome::ToEndpoint)]);
    m.tc(OUT, &udp((FRONTEND, 1), SERVER)).expect(REDIRECT, &[(OUT, Outcome::ToOutside)]);
    m
}

/// The packet is delivered like any other, and counted a second time as one whose flow was not stored.
fn expect_unstored(m: &mut Machine, hook: Hook, packet: &[u8], action: u32, delivered: Outcome) {
    m.tc(hook, packet).expect(action, &[(hook, delivered), (hook, Outcome::FlowNotStored)]);
}

#[test]
fn packets_between_containers_are_decided_without_the_table() {
    let mut m = full_machine();
    for packet in [tcp((FRONTEND, 2), (BACKEND, 80), "S"), udp((FRONTEND, 2), (BACKEND, 80))] {
        expect_unstored(&mut m, OUT, &packet, REDIRECT, Outcome::ToEndpoint);
        expect_unstored(&mut m, OUT, &packet, REDIRECT, Outcome::ToEndpoint);
    }
    let elsewhere = tcp((FRONTEND, 2), (REMOTE, 80), "S");
    expect_unstored(&mut m, OUT, &elsewhere, REDIRECT, Outcome::ToCell);
    let from_elsewhere = tunnelled(THERE, VNI, FRONTEND_TAG, &tcp((REMOTE, 1), (BACKEND, 80), "S"));
    expect_unstored(&mut m, IN, &from_elsewhere, REDIRECT, Outcome::ToEndpoint);
    let from_cell = tcp((GATEWAY, 50_000), (FRONTEND, 8080), "S");
    expect_unstored(&mut m, TO, &from_cell, NEXT, Outcome::ToEndpoint);
    m.tc(OUT, &tcp((FRONTEND, 2), (BACKEND, 81), "S"))
        .expect(REDIRECT, &[(OUT, Outcome::PolicyDenied), (OUT, Outcome::RefusalSent)]);
}

#[test]
fn packets_of_a_mapped_port_find_their_way_without_the_table() {
    let mut m = full_machine();
    m.map_port(6, 61_000, (FRONTEND, 8080));
    let caller = (OUTSIDE, 50_000);
    expect_unstored(&mut m, IN, &tcp(caller, (HERE, 61_000), "S"), REDIRECT, Outcome::ToEndpoint);
    let answer = tcp((FRONTEND, 8080), caller, "A");
    expect_unstored(&mut m, OUT, &answer, REDIRECT, Outcome::ToOutside);
    m.map_port(6, 61_001, (BACKEND, 80));
    let counted = m.tc(OUT, &tcp(CLIENT, (HERE, 61_001), "A")).counted;
    assert_eq!(counted[&(OUT, Outcome::ToEndpoint)], 1);
    assert_eq!(counted[&(OUT, Outcome::FlowNotStored)], 1, "the policy's flow is in its table: {counted:?}");
}

#[test]
fn packets_to_the_outside_leave_without_the_table_only_by_their_own_address() {
    let mut m = full_machine();
    m.tc(OUT, &tcp(CLIENT, SERVER, "S"))
        .expect(REDIRECT, &[(OUT, Outcome::NatExhausted), (OUT, Outcome::RefusalSent)]);
    m.allow_all(NO_MASQUERADE, [198, 51, 100, 0].into(), 24, 0);
    expect_unstored(&mut m, OUT, &tcp(CLIENT, SERVER, "S"), REDIRECT, Outcome::ToOutside);
}
