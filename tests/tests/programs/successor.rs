//! A container at an address that another had before: nothing that the other left with the outside is its own.

use c2c_common::counter::Outcome;
use c2c_common::layout::{Config, NO_MASQUERADE};

use crate::machine::{BACKEND_TAG, DEVICE, DROP, Machine, NEXT, REDIRECT, Run, config};
use crate::outside::{CAME, CLIENT, IN, OUT, SENT, SERVER, SET, open_machine, refused, seen_as};
use crate::packets::*;

/// A port of the cell, where it leads, and who calls it.
const MAPPED: End = (HERE, 61_000);
const BEHIND: End = (FRONTEND, 8080);
const CALLER: End = (OUTSIDE, 50_000);

fn mapped_machine() -> Machine {
    let mut m = Machine::new();
    m.map_port(17, MAPPED.1, BEHIND);
    m.map_port(6, MAPPED.1, BEHIND);
    m
}

fn expect_not_ours(run: &Run, what: &str) {
    assert_eq!((run.action, run.counted.len()), (NEXT, 0), "{what}");
}

/// Open connections of the frontend, as its ceiling counts them: opened and closed.
fn counted(m: &mut Machine) -> (u64, u64) {
    let connections = m.connections(FRONTEND);
    (connections.opened, connections.closed)
}

#[test]
fn a_call_from_outside_is_no_way_out_for_the_next_container() {
    let mut m = mapped_machine();
    m.tc(IN, &udp(CALLER, MAPPED)).expect(REDIRECT, &CAME);
    m.tc(IN, &tcp(CALLER, MAPPED, "S")).expect(REDIRECT, &CAME);
    m.tc(OUT, &udp(BEHIND, CALLER)).expect(REDIRECT, &SENT);
    m.bequeath_translations();
    for packet in [udp(BEHIND, CALLER), tcp(BEHIND, CALLER, "SA")] {
        m.tc(OUT, &packet).expect(REDIRECT, &refused(Outcome::EgressDenied));
    }
}

#[test]
fn a_call_from_outside_reaches_the_next_container_as_its_own() {
    let mut m = mapped_machine();
    m.tc(IN, &udp(CALLER, MAPPED)).expect(REDIRECT, &CAME);
    m.bequeath_translations();
    m.tc(IN, &udp(CALLER, MAPPED)).expect(REDIRECT, &CAME);
    assert_eq!(seen_as(&m.tc(OUT, &udp(BEHIND, CALLER)).expect(REDIRECT, &SENT)), MAPPED);
}

#[test]
fn an_error_speaks_only_of_a_containers_own_flows() {
    let mut m = mapped_machine();
    let called = m.tc(IN, &udp(CALLER, MAPPED)).packet;
    m.allow_all(SET, [0, 0, 0, 0].into(), 0, 0);
    m.frontend_with(SET, 0);
    let sent = m.tc(OUT, &udp(CLIENT, SERVER)).packet;
    m.bequeath_translations();
    let unrelated = [(OUT, Outcome::UnrelatedIcmp)];
    m.tc(OUT, &unreachable(FRONTEND, OUTSIDE, &called)).expect(DROP, &unrelated);
    let answer = udp(SERVER, CLIENT);
    m.tc(OUT, &unreachable(FRONTEND, OUTSIDE, &answer)).expect(DROP, &unrelated);
    expect_not_ours(&m.tc(IN, &unreachable(OUTSIDE, HERE, &sent)), "about a masqueraded packet");
    let answer = udp(MAPPED, CALLER);
    expect_not_ours(&m.tc(IN, &unreachable(OUTSIDE, HERE, &answer)), "about a mapped port's answer");
}

#[test]
fn a_flow_to_the_outside_ends_with_its_container() {
    let mut m = open_machine();
    let (tcp_end, udp_end) =
        (seen_as(&m.tc(OUT, &tcp(CLIENT, SERVER, "S"))), seen_as(&m.tc(OUT, &udp(CLIENT, SERVER))));
    m.bequeath_translations();
    expect_not_ours(&m.tc(IN, &tcp(SERVER, tcp_end, "SA")), "an answer");
    expect_not_ours(&m.tc(IN, &tcp(SERVER, tcp_end, "R")), "an end");
    expect_not_ours(&m.tc(IN, &udp(SERVER, udp_end)), "a datagram");
    assert_eq!(counted(&mut m), (1, 0), "nothing of the next container was closed");
    m.frontend_with(SET + 1, 0);
    m.tc(OUT, &udp(CLIENT, SERVER)).expect(REDIRECT, &refused(Outcome::EgressDenied));
}

#[test]
fn a_flow_without_masquerading_ends_with_its_container() {
    let mut m = open_machine();
    m.allow_all(NO_MASQUERADE, [198, 51, 100, 0].into(), 24, 0);
    m.tc(OUT, &tcp(CLIENT, SERVER, "S")).expect(REDIRECT, &SENT);
    m.bequeath_translations();
    expect_not_ours(&m.tc(IN, &tcp(SERVER, CLIENT, "SA")), "an answer");
    m.tc(OUT, &tcp(CLIENT, SERVER, "S")).expect(REDIRECT, &SENT);
    assert_eq!(counted(&mut m), (2, 0), "the place was taken, and nothing given back");
    m.tc(IN, &tcp(SERVER, CLIENT, "R")).expect(REDIRECT, &CAME);
    assert_eq!(counted(&mut m), (2, 1));
}

#[test]
fn the_place_of_a_container_that_is_gone_is_free() {
    let mut m = open_machine();
    let end = seen_as(&m.tc(OUT, &tcp(CLIENT, SERVER, "S")));
    m.bequeath_translations();
    assert_eq!(seen_as(&m.tc(OUT, &tcp(CLIENT, SERVER, "S")).expect(REDIRECT, &SENT)), end);
    assert_eq!(counted(&mut m), (2, 0), "another connection, in the place of one that is not its own");
    assert_eq!(m.translations().len(), 1);
    m.tc(IN, &tcp(SERVER, end, "SA")).expect(REDIRECT, &CAME);
}

#[test]
fn so_is_a_further_place() {
    let mut m = open_machine();
    m.configure(&Config { nat_last: 20_001, ..config() });
    // Of two clients one has the first place of both, or each would have its own and there were no further one.
    let clients = [CLIENT, (FRONTEND, CLIENT.1 + 2)];
    let ends = clients.map(|client| seen_as(&m.tc(OUT, &tcp(client, SERVER, "S"))));
    assert_ne!(ends[0], ends[1]);
    m.bequeath_translations();
    for (client, end) in clients.into_iter().zip(ends) {
        assert_eq!(seen_as(&m.tc(OUT, &tcp(client, SERVER, "A")).expect(REDIRECT, &SENT)), end);
    }
    assert_eq!(counted(&mut m), (4, 0), "both were opened anew");
}

#[test]
fn a_neighbours_call_of_a_mapped_port_is_remembered_for_who_was_called() {
    let mut m = Machine::new();
    m.map_port(6, MAPPED.1, (BACKEND, 8080));
    m.allow(6, 8080, 8080);
    let local = [(OUT, Outcome::ToEndpoint)];
    m.tc(OUT, &tcp(CLIENT, MAPPED, "S")).expect(REDIRECT, &local);
    let successor = c2c_common::layout::Endpoint { ifindex: DEVICE, tag: BACKEND_TAG, ..Default::default() };
    m.put_endpoint(BACKEND, &successor);
    let answer = tcp((BACKEND, 8080), CLIENT, "SA");
    let run = m.tc(OUT, &answer).expect(REDIRECT, &local);
    assert_eq!(seen_as(&run), (BACKEND, 8080), "who answers was not called by the port");
    m.tc(OUT, &tcp(CLIENT, MAPPED, "S")).expect(REDIRECT, &local);
    assert_eq!(seen_as(&m.tc(OUT, &answer).expect(REDIRECT, &local)), MAPPED);
}

#[test]
fn a_connection_whose_place_is_taken_is_given_back() {
    let mut m = open_machine();
    m.map_port(6, MAPPED.1, BEHIND);
    m.allow_all(NO_MASQUERADE, [198, 51, 100, 0].into(), 24, 0);
    m.tc(OUT, &tcp(BEHIND, CALLER, "S")).expect(REDIRECT, &SENT);
    m.tc(IN, &tcp(CALLER, MAPPED, "S")).expect(REDIRECT, &CAME);
    assert_eq!(counted(&mut m), (1, 1));
}
