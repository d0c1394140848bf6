//! The shield.

use c2c_common::counter::{Hook, Outcome};

use crate::machine::{FRONTEND_TAG, Machine, VNI, XDP_DROP, XDP_PASS};
use crate::packets::*;

const HOOK: Hook = Hook::XdpUnderlay;

#[test]
fn forged_packets_are_dropped_before_they_cost() {
    let inner = tcp((REMOTE, 40_000), (BACKEND, 7000), "S");
    let mut no_vni = tunnelled(THERE, VNI, FRONTEND_TAG, &inner);
    no_vni[42] = 0;
    let rows: [(&str, Vec<u8>, Outcome); 4] = [
        ("a host that is no cell", tunnelled(STRANGER, VNI, FRONTEND_TAG, &inner), Outcome::UnknownCell),
        ("another network", tunnelled(THERE, 9, FRONTEND_TAG, &inner), Outcome::WrongVni),
        ("no network", no_vni, Outcome::Malformed),
        ("cut short", tunnelled(THERE, VNI, FRONTEND_TAG, &inner)[..60].to_vec(), Outcome::Malformed),
    ];
    for (name, packet, outcome) in rows {
        let mut m = Machine::new();
        let run = m.xdp(&packet);
        let counted: Vec<_> = run.counted.into_iter().collect();
        assert_eq!((run.action, &counted[..]), (XDP_DROP, &[((HOOK, outcome), 1)][..]), "{name}");
    }
}

#[test]
fn everything_else_is_left_to_those_behind() {
    let inner = tcp((REMOTE, 40_000), (BACKEND, 7000), "S");
    let mut fragment = tunnelled(STRANGER, VNI, 0, &inner);
    fragment[21] = 3;
    let mut another_port = tunnelled(STRANGER, VNI, 0, &inner);
    another_port[37] = 1;
    let rows = [
        ("a cell's packet", tunnelled(THERE, VNI, 0, &inner)),
        ("SSH", tcp((STRANGER, 50_000), (HERE, 22), "S")),
        ("a fragment", fragment),
        ("another port", another_port),
        ("a runt", vec![0; 14]),
    ];
    for (name, packet) in rows {
        let run = Machine::new().xdp(&packet);
        assert_eq!((run.action, run.counted.len()), (XDP_PASS, 0), "{name}");
    }
}
