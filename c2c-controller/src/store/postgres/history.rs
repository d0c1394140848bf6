//! What concurrent callers of several controllers were told, judged: is there one order of all calls, that of the clock
//! where one ended before another began, in which one single controller would have answered the same?
//!
//! Every answer carries the revision it was given at, and that is the order: a call that ended before another began must not
//! have the later revision, no two changes have the same one, and played through in order of revisions, changes before what
//! found nothing to change and before reads, each call must have found just what it said. Such an order is a linearization;
//! and as a revision is the number of changes until then, any other linearization would have the same revisions.

use std::collections::BTreeSet;

/// What was asked for, of ports that are allowed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Allow(u16),
    Remove(u16),
    /// With what was read.
    List(BTreeSet<u16>),
}

/// A call that was answered.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) call: Call,
    /// Ticks of a clock that all callers share.
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) revision: u64,
    /// Whether it changed something.
    pub(super) changed: bool,
}

/// What cannot be, if anything.
pub(super) fn judge(mut history: Vec<Record>) -> Result<(), String> {
    history.sort_by_key(|record| (record.revision, !record.changed, record.began));
    in_order_of_time(&history)?;
    let (mut ports, mut revision) = (BTreeSet::new(), 0);
    for record in &history {
        let expected = match &record.call {
            Call::Allow(port) => ports.insert(*port),
            Call::Remove(port) => ports.remove(port),
            Call::List(read) if *read == ports => false,
            Call::List(_) => return Err(format!("{record:?} should have read {ports:?}")),
        };
        revision += u64::from(expected);
        if (record.changed, record.revision) != (expected, revision) {
            return Err(format!("{record:?} should be at revision {revision}, changed: {expected}"));
        }
    }
    Ok(())
}

/// Of records in the order they are thought to have happened in: none began after a later one had ended.
fn in_order_of_time(history: &[Record]) -> Result<(), String> {
    let mut latest_begin: Option<&Record> = None;
    for record in history {
        if let Some(before) = latest_begin.filter(|before| before.began > record.ended) {
            return Err(format!("{record:?} ended before {before:?} began"));
        }
        latest_begin = latest_begin.filter(|before| before.began > record.began).or(Some(record));
    }
    Ok(())
}

#[test]
fn histories_that_cannot_be_are_found() {
    let record = |call, began, ended, revision, changed| Record { call, began, ended, revision, changed };
    let list = |ports: &[u16]| Call::List(ports.iter().copied().collect());
    let good = vec![
        record(Call::Allow(1), 0, 5, 1, true),
        record(Call::Allow(1), 1, 9, 1, false),
        record(list(&[]), 2, 3, 0, false),
        record(list(&[1]), 6, 7, 1, false),
        record(Call::Remove(1), 6, 8, 2, true),
        record(Call::Remove(1), 10, 11, 2, false),
    ];
    assert_eq!(judge(good.clone()), Ok(()));
    let with = |index: usize, other: Record| {
        let mut history = good.clone();
        history[index] = other;
        judge(history)
    };
    // What was acknowledged was not read.
    assert!(with(3, record(list(&[]), 6, 7, 0, false)).is_err());
    // What was read is nothing that ever was.
    assert!(with(3, record(list(&[2]), 6, 7, 1, false)).is_err());
    // A change was done twice.
    assert!(with(1, record(Call::Allow(1), 1, 9, 2, true)).is_err());
    // Nothing was changed, though there was something to change.
    assert!(with(4, record(Call::Remove(1), 6, 8, 1, false)).is_err());
    // A change was lost.
    assert!(with(0, record(list(&[]), 0, 5, 0, false)).is_err());
    // Decided on a state of before what was already acknowledged.
    assert!(with(5, record(Call::Remove(1), 0, 1, 2, false)).is_err());
}
