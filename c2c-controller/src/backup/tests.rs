//! What was written is read again, and nothing else is.

use super::*;
use crate::domain::{Change, Commit, State};
use crate::store::conformance::{binding, group_set, lease, policy};
use proptest::prelude::*;

fn state() -> State {
    let freed = crate::domain::TagFreed {
        tag: crate::domain::Tag::new(9).unwrap(),
        app: policy("gone", "b", [9, 2]).policy.source,
        at: Timestamp(5),
    };
    let router = crate::domain::TagHeld {
        tag: crate::domain::Tag::new(7).unwrap(),
        app: policy("router", "b", [7, 2]).policy.source,
    };
    let changes = vec![
        Change::LeasePut(lease(1)),
        Change::LeasePut(lease(2)),
        Change::PolicyPut(policy("a", "b", [1, 2])),
        Change::PolicyPut(policy("a", "a", [1, 1])),
        Change::TagFreed(freed),
        Change::TagHeld(router),
        Change::Stamped(crate::domain::Stamp(1_763_000_000_000_000_001)),
        group_set("web", "80, 443"),
        group_set("dns", "not a port"),
        Change::GroupBound(binding("web", "running", "s")),
        Change::GroupBound(binding("web", "staging", "")),
    ];
    let mut state = State::default();
    state.apply(&Commit { revision: Revision::new(17), changes });
    state
}

fn written(state: &State) -> Vec<u8> {
    let parts = state.parts();
    let mut bytes = Vec::new();
    write(&mut bytes, &Header::new(&StoreId::from("0123"), Timestamp(1_763_000_000), &parts), &parts)
        .unwrap();
    bytes
}

/// The same lines with one changed, and the checksum of that.
fn forged(change: impl Fn(&mut Vec<String>)) -> Vec<u8> {
    let text = String::from_utf8(written(&state())).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.pop();
    change(&mut lines);
    signed(&lines)
}

/// These lines and their checksum.
fn signed(lines: &[String]) -> Vec<u8> {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let sha256 = hex(ring::digest::digest(&ring::digest::SHA256, body.as_bytes()).as_ref());
    format!("{body}{{\"end\":{{\"sha256\":\"{sha256}\"}}}}\n").into_bytes()
}

fn refused(bytes: &[u8]) -> String {
    let error = read(bytes).unwrap_err();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let line = format!("{error}{cause}");
    assert!(!line.contains('\n'), "{line}");
    line
}

#[test]
fn what_was_written_is_read_again() {
    for state in [state(), State::default()] {
        let backup = read(&written(&state)[..]).unwrap();
        assert_eq!(backup.state, state);
        assert_eq!(backup.header.counts, Counts::of(&state.parts()));
        assert_eq!((backup.header.store.as_str(), backup.header.taken), ("0123", 1_763_000_000));
    }
    assert_eq!(read(&forged(|_| {})[..]).unwrap().state, state());
}

#[test]
fn a_file_says_what_it_is() {
    let text = String::from_utf8(written(&state())).unwrap();
    let first = "{\"format\":\"c2c-controller backup\",\"version\":2,\"store\":\"0123\",\"revision\":17,";
    assert!(text.starts_with(first), "{text}");
    let lease = "{\"lease\":{\"cell\":\"cell-1\",\"underlay\":\"192.0.2.1\",\"block\":\"10.255.1.0/24\",\"renewed\":1000}}";
    assert_eq!(text.lines().nth(1), Some(lease));
}

#[test]
fn what_is_no_whole_backup_is_refused_in_a_line_that_says_why() {
    let whole = written(&state());
    let cut = whole.len() - 1;
    for (bytes, problem) in [
        (&b""[..], "the first line is not that of a backup"),
        (b"{}\n", "the first line is not that of a backup"),
        (b"\x89PNG\r\n\x1a\n", "the first line is not that of a backup"),
        (
            b"{\"format\":\"c2c-controller backup\",\"version\":3}\n",
            "format version 3; this controller reads",
        ),
        (
            b"{\"format\":\"c2c-controller backup\",\"version\":1}\n",
            "line 1 of the backup is damaged: missing field",
        ),
        (&whole[..cut], "the backup ends after 11 lines"),
        (&[&whole[..], b"\n"].concat(), "something follows its end"),
    ] {
        let error = refused(bytes);
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn what_nobody_wrote_is_refused_even_with_a_right_checksum() {
    type Change = fn(&mut Vec<String>);
    let cases: [(Change, &str); 6] = [
        (|lines| drop(lines.pop()), "it does not hold as much as it says"),
        (|lines| lines.push(lines[1].clone()), "the backup makes no state: lease 10.255.1.0/24"),
        (|lines| lines.push(lines[9].clone()), "it does not hold as much as it says"),
        (
            |lines| lines[1] = lines[1].replace("cell-1", "cell 1"),
            "line 2 of the backup is damaged: it says what",
        ),
        (|lines| lines[2] = "{\"leese\":{}}".into(), "line 3 of the backup is damaged: unknown variant"),
        (
            |lines| lines.retain(|line| !line.contains("dns") && !line.contains("\"name\":\"web\"")),
            "does not exist",
        ),
    ];
    for (change, problem) in cases {
        let error = refused(&forged(change));
        assert!(error.contains(problem), "{error}");
    }
}

/// Byte for byte what version 1 wrote.
#[test]
fn a_backup_of_before_routers_tags_is_read() {
    let text = String::from_utf8(written(&State::default())).unwrap();
    let now = r#""policies_changed":0,"counts":{"leases":0,"policies":0,"freed_tags":0,"held_tags":0,"#;
    assert!(text.contains(now), "{text}");
    let header = text.lines().next().unwrap().replace("\"version\":2", "\"version\":1");
    let header = header.replace("\"policies_changed\":0,", "").replace("\"held_tags\":0,", "");
    let bytes = signed(&[header]);
    assert_eq!(
        read(&bytes[..]).unwrap().state,
        State::restore(Parts { revision: Revision::ZERO, ..Parts::default() }).unwrap()
    );
}

proptest! {
    #[test]
    fn a_byte_that_changed_and_an_end_that_is_missing_are_noticed(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let whole = written(&state());
        let at = at.index(whole.len());
        prop_assert!(read(&whole[..at]).is_err());
        let mut altered = whole.clone();
        altered[at] = to;
        prop_assert!(altered == whole || read(&altered[..]).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&bytes[..]).is_err());
    }
}
