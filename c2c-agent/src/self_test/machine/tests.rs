//! The machine against a wire that breaks and loses things.

use super::*;
use proptest::prelude::*;

const MTU: u16 = 1450;
/// More than any run takes.
const BOUND: usize = 10_000;

/// What becomes of probes between this cell and another.
#[derive(Clone, Debug)]
struct Way {
    /// What the other cell never gets whole while less than this is switched off; `None`: it gets all.
    breaks: Option<(Kind, Step)>,
    /// Whether it answers at all.
    answers: bool,
    /// Probes that are lost on top, by their turn.
    lost: Vec<bool>,
}

impl Way {
    fn good() -> Self {
        Self { breaks: None, answers: true, lost: Vec::new() }
    }

    fn broken(kind: Kind, cure: Step) -> Self {
        Self { breaks: Some((kind, cure)), ..Self::good() }
    }

    fn away() -> Self {
        Self { answers: false, ..Self::good() }
    }

    fn passes(&self, kind: Kind, off: &[Step], turn: usize) -> bool {
        let broken =
            self.breaks.is_some_and(|(from, cure)| kind >= from && off.iter().all(|step| *step < cure));
        let lost = self.lost.get(turn % self.lost.len().max(1)).is_some_and(|lost| *lost);
        self.answers && !broken && !lost
    }
}

/// What a run came to.
#[derive(Debug, Default, PartialEq)]
struct Run {
    off: Vec<Step>,
    tried: Vec<Step>,
    told: Vec<Verdict>,
    sent: usize,
    took: Duration,
}

/// Runs a machine until it is done or rests for the first time.
fn run(fixes: bool, ways: &[Way]) -> Run {
    let peers: Vec<_> = ways.iter().zip(0u8..).map(|(_, at)| Ipv4Addr::new(10, 255, at, 0)).collect();
    let mut machine = Machine::new(fixes, 7, MTU);
    let mut run = Run::default();
    let mut commands: Vec<_> = machine.on(Input::Peers(peers.iter().copied().collect()), run.took);
    for _ in 0..BOUND {
        if commands.is_empty() {
            match (&machine.state, machine.due()) {
                (State::Asking(_), Some(due)) => run.took = due,
                _ => return run,
            }
            commands = machine.on(Input::Tick, run.took);
        }
        let mut next = Vec::new();
        for command in commands {
            next.extend(obey(command, &mut machine, &mut run, (&peers, ways)));
        }
        commands = next;
    }
    panic!("no end: {machine:?}");
}

fn obey(
    command: Command,
    machine: &mut Machine,
    run: &mut Run,
    (peers, ways): (&[Ipv4Addr], &[Way]),
) -> Vec<Command> {
    match command {
        Command::Send { to, kind, nonce } => {
            run.sent += 1;
            let at = peers.iter().position(|peer| *peer == to).expect("a peer");
            if !ways[at].passes(kind, &run.off, run.sent) {
                return Vec::new();
            }
            let half = kind.len(MTU) / 2;
            let pieces = [(0, half), (half, kind.len(MTU) - half)];
            let answers = pieces.map(|(offset, len)| Piece { nonce, offset, len, whole: true });
            answers.into_iter().flat_map(|piece| machine.on(Input::Answer(to, piece), run.took)).collect()
        }
        Command::Switch(step) => {
            run.off.push(step);
            run.tried.push(step);
            machine.on(Input::Switched(true), run.took)
        }
        Command::Restore => {
            run.off.clear();
            Vec::new()
        }
        Command::Tell(verdict) => {
            run.told.push(verdict);
            Vec::new()
        }
    }
}

#[test]
fn a_sound_device_is_found_sound_by_two_attempts_at_two_cells() {
    let run = run(true, &[Way::good(), Way::good(), Way::good()]);
    assert_eq!((run.told, run.off, run.sent), (vec![Verdict::Sound], vec![], 12));
    assert_eq!(run.took, 2 * ATTEMPT);
}

#[test]
fn the_least_that_helps_is_switched_off() {
    let table = [
        (Kind::Segmentation, Step::Segmentation, vec![Step::Segmentation]),
        (Kind::Segmentation, Step::Checksum, vec![Step::Segmentation, Step::Checksum]),
        (Kind::Checksum, Step::Checksum, vec![Step::Checksum]),
    ];
    for (kind, cure, tried) in table {
        let run = run(true, &[Way::broken(kind, cure)]);
        assert_eq!((&run.tried, &run.off), (&tried, &tried), "{kind:?} {cure:?}");
        assert_eq!(
            (run.told.first(), run.told.last()),
            (Some(&Verdict::Broken(kind)), Some(&Verdict::Sound))
        );
    }
}

#[test]
fn what_nothing_helps_against_is_put_back() {
    let hopeless = Way { breaks: None, lost: vec![true, false, true], ..Way::good() };
    let run = run(true, &[hopeless]);
    assert_eq!((run.tried, run.off), (vec![Step::Checksum], vec![]));
    assert!(run.told.iter().all(|verdict| *verdict == Verdict::Broken(Kind::Checksum)), "{:?}", run.told);
}

#[test]
fn a_report_changes_nothing() {
    let run = run(false, &[Way::broken(Kind::Segmentation, Step::Segmentation)]);
    assert_eq!((run.told, run.tried), (vec![Verdict::Broken(Kind::Segmentation)], vec![]));
}

#[test]
fn who_does_not_answer_is_no_finding_and_not_in_the_way() {
    let nobody = run(true, &[Way::away(), Way::away()]);
    assert_eq!((nobody.told, nobody.tried), (vec![], vec![]));
    let one = run(true, &[Way::away(), Way::good(), Way::away()]);
    assert_eq!(one.told, [Verdict::Sound]);
}

#[test]
fn one_cell_that_cannot_hear_is_outvoted() {
    let deaf = Way::broken(Kind::Segmentation, Step::Checksum);
    let run = run(true, &[deaf, Way::good(), Way::good()]);
    assert_eq!((run.told, run.tried), (vec![Verdict::Sound], vec![]));
}

#[test]
fn it_rests_longer_each_time_and_a_new_cell_ends_the_rest() {
    let mut machine = Machine::new(true, 0, MTU);
    assert_eq!((machine.due(), machine.on(Input::Tick, Duration::ZERO)), (None, vec![]));
    let one: BTreeSet<_> = [Ipv4Addr::new(10, 255, 1, 0)].into();
    let mut now = Duration::ZERO;
    machine.on(Input::Peers(one.clone()), now);
    let mut rests = Vec::new();
    while rests.len() < 8 {
        let due = machine.due().unwrap();
        if matches!(machine.state, State::Resting { .. }) {
            rests.push((due - now).as_secs());
        }
        now = due;
        machine.on(Input::Tick, now);
    }
    assert_eq!(rests, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    while machine.is_asking() {
        now = machine.due().unwrap();
        machine.on(Input::Tick, now);
    }
    let two: BTreeSet<_> = one.into_iter().chain([Ipv4Addr::new(10, 255, 2, 0)]).collect();
    assert_eq!(machine.on(Input::Peers(two), now).len(), 3, "three probes for the new cell, at once");
}

#[test]
fn an_answer_that_no_one_asked_for_is_nothing() {
    let mut machine = Machine::new(true, 0, MTU);
    let peer = Ipv4Addr::new(10, 255, 1, 0);
    let sent = machine.on(Input::Peers([peer].into()), Duration::ZERO);
    let whole = |nonce| Piece { nonce, offset: 0, len: u32::MAX, whole: true };
    for nonce in [0, 99] {
        machine.on(Input::Answer(peer, whole(nonce)), Duration::ZERO);
    }
    machine.on(Input::Answer(Ipv4Addr::new(10, 255, 9, 0), whole(1)), Duration::ZERO);
    let State::Asking(round) = &machine.state else { panic!("it asks") };
    assert_eq!((sent.len(), round.trial.whole.len()), (3, 0));
}

fn way() -> impl Strategy<Value = Way> {
    let breaks = prop_oneof![
        Just(None),
        Just(Some((Kind::Segmentation, Step::Segmentation))),
        Just(Some((Kind::Segmentation, Step::Checksum))),
        Just(Some((Kind::Checksum, Step::Checksum))),
    ];
    let lost = proptest::collection::vec(any::<bool>(), 0..40);
    (breaks, any::<bool>(), lost).prop_map(|(breaks, answers, lost)| Way { breaks, answers, lost })
}

proptest! {
    #[test]
    fn it_comes_to_an_end_and_never_switches_for_nothing(ways in proptest::collection::vec(way(), 1..10), fixes: bool) {
        let run = run(fixes, &ways);
        let rounds = run.tried.len() + 1;
        prop_assert!(run.sent <= rounds * ASKED * 3 * ATTEMPTS as usize);
        prop_assert!(fixes || run.tried.is_empty());
        prop_assert!(run.tried.is_empty() || matches!(run.told.first(), Some(Verdict::Broken(_))));
        let mut tried = run.tried.clone();
        tried.dedup();
        prop_assert_eq!(tried, run.tried, "nothing is switched off twice");
    }

    #[test]
    fn a_healthy_wire_that_loses_less_than_half_is_never_found_broken(
        lost in proptest::collection::vec(prop::bool::weighted(0.25), 24),
    ) {
        // Not so many that all of one kind are lost by accident: that is what the number of attempts is for.
        prop_assume!((0..3).all(|kind| lost.iter().skip(kind).step_by(3).any(|lost| !lost)));
        let run = run(true, &[Way { lost, ..Way::good() }]);
        prop_assert!(run.tried.is_empty(), "{run:?}");
    }
}
