//! State × input, and that no sequence of inputs takes the lease from a live container.

use super::*;
use crate::lease::Lease;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const TOLERANCE: Duration = Duration::from_secs(168 * 3600);
const ASK_ANEW: Command = Command::EndStream { ask_anew: true };
const LATER: Command = Command::EndStream { ask_anew: false };
const START: Duration = Duration::from_secs(1_800_000_000);

fn grant(block: &str) -> Grant {
    Grant {
        lease: Lease {
            cell: "a".into(),
            underlay: [192, 0, 2, 1].into(),
            block: block.parse().unwrap(),
            mac: [0xee, 0xee, 10, 255, 1, 0],
        },
        overlay: "10.255.0.0/16".parse().unwrap(),
        block_prefix: 24,
        vni: 1,
        udp_port: 4789,
        lease_seconds: 168 * 3600,
        heartbeat_seconds: 30,
        store_id: "s".into(),
    }
}

fn held() -> Keeper {
    let mut keeper = Keeper::new(TOLERANCE, None);
    keeper.on(Input::Opened, 0, START);
    assert_eq!(keeper.on(Input::Granted(grant("10.255.1.0/24")), 0, START), []);
    keeper
}

fn contradiction() -> Input {
    Input::Refused(Refusal::Contradiction, "b has it".into())
}

#[test]
fn a_first_lease_is_asked_for_and_held() {
    let mut keeper = Keeper::new(TOLERANCE, None);
    assert!(!keeper.admits());
    keeper.on(Input::Opened, 0, START);
    assert_eq!(keeper.state(), &State::Requesting);
    assert!(!keeper.admits());
    keeper.on(Input::Granted(grant("10.255.1.0/24")), 0, START);
    assert!(keeper.admits());
}

#[test]
fn heartbeats_are_sent_every_period_and_only_on_a_stream() {
    let mut keeper = held();
    assert_eq!(keeper.on(Input::Tick, 0, START + Duration::from_secs(29)), []);
    assert_eq!(keeper.on(Input::Tick, 0, START + Duration::from_secs(30)), [Command::Heartbeat]);
    assert_eq!(keeper.on(Input::Tick, 0, START + Duration::from_secs(31)), []);
    keeper.on(Input::Closed, 0, START + Duration::from_secs(32));
    assert_eq!(keeper.on(Input::Tick, 0, START + Duration::from_secs(90)), []);
}

#[test]
fn a_clock_set_back_does_not_silence_heartbeats() {
    let mut keeper = held();
    assert_eq!(keeper.on(Input::Tick, 0, START.saturating_sub(HOUR)), [Command::Heartbeat]);
}

#[test]
fn unanswered_heartbeats_are_grace_and_an_answer_ends_it() {
    let mut keeper = held();
    keeper.on(Input::Tick, 0, START + Duration::from_secs(91));
    assert!(matches!(keeper.state(), State::Grace(_)));
    assert!(keeper.admits());
    keeper.on(Input::Acked, 0, START + Duration::from_secs(92));
    let State::Held(tenure) = keeper.state() else { panic!("{:?}", keeper.state()) };
    assert_eq!(tenure.renewed, START + Duration::from_secs(92));
}

#[test]
fn after_the_tolerance_new_containers_are_refused_and_the_lease_stays() {
    let mut keeper = held();
    keeper.on(Input::Closed, 3, START);
    assert_eq!(keeper.on(Input::Tick, 3, START + TOLERANCE), []);
    let commands = keeper.on(Input::Tick, 3, START + TOLERANCE + HOUR);
    assert_eq!(commands, [Command::Alarm(Alarm::Partitioned { hours: 168 })]);
    assert!(!keeper.admits());
    assert!(keeper.tenure().is_some());
    assert_eq!(keeper.on(Input::Tick, 3, START + TOLERANCE + HOUR * 2), [], "one alarm is enough");
    keeper.on(Input::Opened, 3, START + TOLERANCE + HOUR * 3);
    keeper.on(Input::Granted(grant("10.255.1.0/24")), 3, START + TOLERANCE + HOUR * 3);
    assert!(keeper.admits());
}

#[test]
fn a_saved_lease_works_before_the_controller_confirms_it() {
    let tenure = Tenure { grant: grant("10.255.1.0/24"), renewed: START };
    let keeper = Keeper::new(TOLERANCE, Some(tenure));
    assert!(keeper.admits());
}

#[test]
fn a_contradiction_with_live_containers_keeps_them_and_alarms() {
    let mut keeper = held();
    let commands = keeper.on(contradiction(), 2, START);
    assert!(matches!(commands.as_slice(), [Command::Alarm(Alarm::Contradicted { live: 2, .. }), LATER]));
    assert!(keeper.tenure().is_some());
    assert!(!keeper.admits());
    assert_eq!(keeper.on(Input::Tick, 1, START + HOUR), []);
    assert_eq!(keeper.on(Input::Tick, 0, START + HOUR), [ASK_ANEW]);
    assert_eq!(keeper.state(), &State::Unleased);
}

#[test]
fn a_contradiction_without_containers_drops_the_lease() {
    let mut keeper = held();
    assert_eq!(keeper.on(contradiction(), 0, START), [ASK_ANEW]);
    assert_eq!(keeper.state(), &State::Unleased);
}

#[test]
fn another_block_is_a_contradiction_only_while_containers_live() {
    let mut keeper = held();
    let commands = keeper.on(Input::Granted(grant("10.255.2.0/24")), 1, START);
    assert!(matches!(commands.as_slice(), [Command::Alarm(Alarm::Contradicted { .. }), LATER]));
    assert_eq!(keeper.tenure().unwrap().grant, grant("10.255.1.0/24"));
    assert_eq!(keeper.on(Input::Granted(grant("10.255.2.0/24")), 0, START), []);
    assert_eq!(keeper.tenure().unwrap().grant, grant("10.255.2.0/24"));
}

#[test]
fn a_late_answer_does_not_heal_a_contradiction() {
    let mut keeper = held();
    keeper.on(contradiction(), 2, START);
    assert_eq!(keeper.on(Input::Acked, 2, START), []);
    assert!(!keeper.admits());
}

#[test]
fn other_refusals_say_why_and_keep_what_is_held() {
    let mut keeper = held();
    let commands = keeper.on(Input::Refused(Refusal::NotYou, "no".into()), 0, START);
    assert!(matches!(commands.as_slice(), [Command::Alarm(Alarm::Refused { .. }), LATER]));
    assert!(matches!(keeper.state(), State::Grace(_)));
    let mut keeper = Keeper::new(TOLERANCE, None);
    keeper.on(Input::Opened, 0, START);
    keeper.on(Input::Refused(Refusal::PoolExhausted, "full".into()), 0, START);
    assert_eq!(keeper.state(), &State::Unleased);
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::Opened),
        Just(Input::Granted(grant("10.255.1.0/24"))),
        Just(Input::Granted(grant("10.255.2.0/24"))),
        Just(contradiction()),
        Just(Input::Refused(Refusal::PoolExhausted, "full".into())),
        Just(Input::Acked),
        Just(Input::Closed),
        Just(Input::Tick),
    ]
}

proptest! {
    #[test]
    fn a_live_container_never_loses_its_block(inputs in proptest::collection::vec((any_input(), 0u64..400_000), 1..60)) {
        let mut keeper = held();
        let mut now = START;
        for (input, pause) in inputs {
            now += Duration::from_secs(pause);
            keeper.on(input, 1, now);
            let tenure = keeper.tenure();
            prop_assert_eq!(tenure.map(|t| t.grant.lease.block), Some("10.255.1.0/24".parse().unwrap()));
        }
    }

    #[test]
    fn a_grant_without_containers_always_ends_in_held(inputs in proptest::collection::vec((any_input(), 0u64..400_000), 0..30)) {
        let mut keeper = Keeper::new(TOLERANCE, None);
        let mut now = START;
        for (input, pause) in inputs {
            now += Duration::from_secs(pause);
            keeper.on(input, 0, now);
        }
        keeper.on(Input::Opened, 0, now);
        keeper.on(Input::Granted(grant("10.255.3.0/24")), 0, now);
        prop_assert!(matches!(keeper.state(), State::Held(_)));
    }
}
