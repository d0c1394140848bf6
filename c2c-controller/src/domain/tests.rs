//! Commands in sequence: the rules one by one, and what holds whatever the sequence is.

mod groups;
mod tags;

use super::*;
use c2c_proto::egress::SecurityRule;
use ipnet::Ipv4Net;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

const LEASE_SECONDS: u64 = 1000;

/// Three blocks may be leased: 10.255.{1,2,3}.0/24.
fn rules() -> Rules {
    Rules { pool: Pool::new("10.255.0.0/22".parse().unwrap(), 24).unwrap(), lease_seconds: LEASE_SECONDS }
}

/// The process is up for so long that only the time of day counts.
fn long_up(wall: u64) -> Moment {
    Moment { wall: Timestamp(wall), up: Uptime(u64::MAX) }
}

fn cell(n: u8) -> CellName {
    CellName::parse("cell", &format!("cell-{n}")).unwrap()
}

fn underlay(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

fn block(n: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(10, 255, n, 0), 24).unwrap()
}

/// Cell `n` at address `n` asks for a lease and holds none.
fn fresh(n: u8) -> Acquire {
    Acquire { cell: cell(n), underlay: underlay(n), held: None, from_this_store: false, pick: 0 }
}

fn holding(n: u8, held: Ipv4Net) -> Acquire {
    Acquire { held: Some(held), ..fresh(n) }
}

fn policy(source: &str, destination: &str, ports: &str) -> Policy {
    Policy::parse(source, destination, "tcp", ports).unwrap()
}

fn group(name: &str) -> GroupName {
    GroupName::parse("name", name).unwrap()
}

fn space(name: &str) -> SpaceId {
    SpaceId::parse("space", name).unwrap()
}

fn binding(name: &str, workload: &str, space: &str) -> Binding {
    Binding { group: group(name), reach: Reach::parse(workload, space).unwrap() }
}

/// A rule for each of these.
fn rules_of(ports: &[&str]) -> GroupRules {
    let rule = |ports: &&str| SecurityRule { ports: (*ports).to_owned(), ..SecurityRule::default() };
    GroupRules::parse("rules", ports.iter().map(rule).collect()).unwrap()
}

fn allow_all(policies: Vec<Policy>) -> Command {
    Command::AllowAll { policies, per_source: None }
}

fn set(name: &str, ports: &[&str]) -> Command {
    Command::SetGroup { name: group(name), rules: rules_of(ports) }
}

fn delete(name: &str) -> Command {
    Command::DeleteGroup(group(name))
}

/// A group with its bindings, as (workload, space).
fn whole(name: &str, ports: &[&str], reaches: &[(&str, &str)]) -> SecurityGroup {
    let reaches = reaches.iter().map(|(workload, space)| Reach::parse(workload, space).unwrap());
    let guid = Some(GroupGuid::parse("guid", &format!("guid-of-{name}")).unwrap());
    SecurityGroup { name: group(name), guid, rules: rules_of(ports), reaches: reaches.collect() }
}

#[derive(Default)]
struct World {
    state: State,
}

impl World {
    fn run(&mut self, now: u64, command: Command) -> Result<Vec<Change>, Refusal> {
        let changes =
            decide(&self.state, &rules(), Now { moment: long_up(now), heard: &Heard::default() }, &command)?;
        if !changes.is_empty() {
            let revision = self.state.revision().next();
            self.state.apply(&Commit { revision, changes: changes.clone() });
        }
        Ok(changes)
    }

    /// The block that the cell holds after it asked.
    fn acquire(&mut self, now: u64, request: Acquire) -> Result<Ipv4Net, LeaseRefusal> {
        let underlay = request.underlay;
        match self.run(now, Command::Acquire(request)) {
            Ok(_) => {
                self.state.renew(underlay, Timestamp(now));
                Ok(self.state.lease_at(underlay).unwrap().block)
            }
            Err(Refusal::Lease(refusal)) => Err(refusal),
            Err(other) => panic!("{other}"),
        }
    }

    fn allow(&mut self, now: u64, allowed: &Policy) -> (u16, u16) {
        self.run(now, Command::Allow(allowed.clone())).unwrap();
        let tagged = self.state.policy(allowed).unwrap();
        (tagged.source_tag.get(), tagged.destination_tag.get())
    }
}

#[test]
fn the_argument_picks_a_free_block_and_the_first_is_reserved() {
    let picked =
        [0, 1, 2, 3, u64::MAX].map(|pick| World::default().acquire(0, Acquire { pick, ..fresh(1) }).unwrap());
    assert_eq!(picked, [block(1), block(2), block(3), block(1), block(1)]);
}

#[test]
fn the_same_address_gets_its_lease_back_and_nothing_changes() {
    let mut world = World::default();
    let first = world.acquire(0, fresh(1)).unwrap();
    let revision = world.state.revision();
    assert_eq!(world.acquire(5, Acquire { pick: 2, ..fresh(1) }), Ok(first));
    assert_eq!(world.acquire(5, holding(1, first)), Ok(first));
    assert_eq!(world.acquire(5 * LEASE_SECONDS, fresh(1)), Ok(first), "expired, and still nobody else's");
    assert_eq!(world.state.revision(), revision);
}

#[test]
fn a_full_pool_reclaims_the_lease_that_expired_first_or_refuses() {
    let mut world = World::default();
    for n in 1..=3 {
        world.acquire(u64::from(n), fresh(n)).unwrap();
    }
    let refused = world.acquire(LEASE_SECONDS, fresh(4)).unwrap_err();
    assert_eq!(refused, LeaseRefusal::PoolExhausted { pool: rules().pool, blocks: 3 });
    // Cells 1 and 2 have expired, cell 1 first.
    assert_eq!(world.acquire(LEASE_SECONDS + 2, fresh(4)), Ok(block(1)));
    assert_eq!(world.state.lease_at(underlay(1)), None);
    assert!(world.state.lease_at(underlay(2)).is_some());
}

#[test]
fn a_wiped_store_takes_leases_back_from_the_cells_that_hold_them() {
    let mut world = World::default();
    assert_eq!(world.acquire(0, holding(1, block(3))), Ok(block(3)));
    assert_eq!(
        world.acquire(0, Acquire { pick: 2, ..fresh(2) }),
        Ok(block(1)),
        "what was taken back is not free"
    );
}

#[test]
fn a_lease_that_contradicts_the_store_is_refused_and_nothing_changes() {
    let mut world = World::default();
    world.acquire(0, fresh(1)).unwrap();
    let before = world.state.clone();
    let pool = rules().pool;
    let taken = world.state.lease_at(underlay(1)).cloned().unwrap();
    let outside: Ipv4Net = "10.9.1.0/24".parse().unwrap();
    let half: Ipv4Net = "10.255.2.0/25".parse().unwrap();
    let cases = [
        (holding(2, block(1)), LeaseRefusal::HeldByAnother { held: block(1), other: Box::new(taken) }),
        (holding(1, block(2)), LeaseRefusal::NotThisOne { held: block(2), known: block(1) }),
        (holding(2, outside), LeaseRefusal::OutsidePool { held: outside, pool }),
        (holding(2, half), LeaseRefusal::OutsidePool { held: half, pool }),
        (holding(2, block(0)), LeaseRefusal::OutsidePool { held: block(0), pool }),
        (
            Acquire { from_this_store: true, ..holding(2, block(2)) },
            LeaseRefusal::TakenAway { held: block(2) },
        ),
    ];
    for (request, refusal) in cases {
        assert_eq!(world.acquire(1, request), Err(refusal));
    }
    assert_eq!(world.state, before);
}

#[test]
fn an_expired_lease_yields_to_the_cell_that_holds_its_block() {
    let mut world = World::default();
    world.acquire(0, fresh(1)).unwrap();
    assert_eq!(world.acquire(LEASE_SECONDS, holding(2, block(1))), Ok(block(1)));
    assert_eq!(world.state.lease_at(underlay(1)), None);
}

#[test]
fn a_name_in_use_at_another_address_is_refused_until_that_machine_is_gone() {
    let mut world = World::default();
    let first = world.acquire(0, fresh(1)).unwrap();
    let elsewhere = || Acquire { underlay: underlay(9), ..fresh(1) };
    let refused = world.acquire(30, elsewhere()).unwrap_err().to_string();
    let expected = "cell name cell-1 is used by the cell at 192.0.2.1, which was alive 30 s ago";
    assert!(refused.starts_with(expected), "{refused}");
    assert_eq!(world.acquire(600, elsewhere()), Ok(first), "the lease moves with the cell");
    assert_eq!(world.state.lease_at(underlay(1)), None);
}

#[test]
fn a_machine_that_was_given_another_name_keeps_its_lease() {
    let mut world = World::default();
    let first = world.acquire(0, fresh(1)).unwrap();
    assert_eq!(world.acquire(1, Acquire { cell: cell(7), ..fresh(1) }), Ok(first));
    assert_eq!(world.state.lease_of(&cell(1)), None);
    assert_eq!(world.state.lease_of(&cell(7)).unwrap().underlay, underlay(1));
}

#[test]
fn after_the_network_changed_a_cell_without_containers_gets_a_new_lease() {
    let mut world = World::default();
    let old = Lease {
        cell: cell(1),
        underlay: underlay(1),
        block: "10.1.0.0/24".parse().unwrap(),
        renewed: Timestamp(0),
    };
    world.state = State::restore(Parts { leases: vec![old.clone()], ..Parts::default() }).unwrap();
    let refused = world.acquire(1, holding(1, old.block)).unwrap_err();
    assert_eq!(refused, LeaseRefusal::OutsidePool { held: old.block, pool: rules().pool });
    assert_eq!(world.acquire(1, fresh(1)), Ok(block(1)));
    assert_eq!(world.state.leases().count(), 1);
}

#[test]
fn evict_knows_names_and_addresses_and_release_is_idempotent() {
    let mut world = World::default();
    world.acquire(0, fresh(1)).unwrap();
    world.acquire(0, fresh(2)).unwrap();
    let evict = |cell: &str| Command::Evict { cell: cell.to_owned() };
    assert_eq!(world.run(1, evict("cell-1")).unwrap().len(), 1);
    assert_eq!(world.run(1, evict("192.0.2.2")).unwrap().len(), 1);
    let unknown = Err(Refusal::UnknownCell("cell-1".to_owned()));
    assert_eq!(world.run(1, evict("cell-1")), unknown);
    assert_eq!(world.run(1, Command::Release { underlay: underlay(1) }), Ok(Vec::new()));
}

#[test]
fn a_tag_lives_from_the_first_policy_that_names_its_app_to_the_last() {
    let mut world = World::default();
    let [ab, ac, bb] = [policy("a", "b", "1"), policy("a", "c", "1"), policy("b", "b", "1")];
    assert_eq!(world.allow(0, &ab), (1, 2));
    assert_eq!(world.allow(0, &ac), (1, 3));
    assert_eq!(world.allow(0, &bb), (2, 2));
    let revision = world.state.revision();
    assert_eq!(world.allow(0, &ab), (1, 2), "allowed already");
    assert_eq!(world.state.revision(), revision);
    let freed = |changes: Vec<Change>| {
        let freed = |change| if let Change::TagFreed(freed) = change { Some(freed.tag.get()) } else { None };
        changes.into_iter().filter_map(freed).collect::<Vec<_>>()
    };
    assert!(freed(world.run(0, Command::Remove(ab.clone())).unwrap()).is_empty());
    assert_eq!(freed(world.run(0, Command::Remove(bb)).unwrap()), [2]);
    assert_eq!(freed(world.run(0, Command::Remove(ac)).unwrap()), [1, 3]);
    assert_eq!(world.run(0, Command::Remove(ab)), Ok(Vec::new()), "removed already");
}

#[test]
fn a_freed_tag_is_quarantined_for_all_but_its_app() {
    let mut world = World::default();
    let [ab, cd] = [policy("a", "b", "1"), policy("c", "d", "1")];
    world.allow(0, &ab);
    world.run(100, Command::Remove(ab.clone())).unwrap();
    assert_eq!(world.allow(100 + QUARANTINE_SECONDS - 1, &cd), (3, 4));
    world.run(800, Command::Remove(cd)).unwrap();
    assert_eq!(world.allow(100 + QUARANTINE_SECONDS, &policy("e", "f", "1")), (1, 2), "lowest free first");
    let mut world = World::default();
    world.allow(0, &ab);
    world.run(100, Command::Remove(ab)).unwrap();
    assert_eq!(world.allow(101, &policy("b", "x", "1")), (2, 1 + 2), "its own app gets it back");
}

#[test]
fn several_policies_are_allowed_and_removed_in_one_commit() {
    let mut world = World::default();
    let [ab, ac, cc] = [policy("a", "b", "1"), policy("a", "c", "1"), policy("c", "c", "1")];
    world.allow(0, &ab);
    let all = vec![cc.clone(), ac.clone(), ab.clone(), ac.clone()];
    assert_eq!(world.run(0, allow_all(all.clone())).unwrap().len(), 2, "those that are new, once");
    let tags = |policy| {
        let tagged = world.state.policy(policy).unwrap();
        (tagged.source_tag.get(), tagged.destination_tag.get())
    };
    assert_eq!((tags(&ac), tags(&cc)), ((1, 3), (3, 3)));
    assert_eq!(world.run(0, allow_all(all.clone())), Ok(Vec::new()));
    assert_eq!(world.state.tags().map(|(tag, _)| tag.get()).collect::<Vec<_>>(), [1, 2, 3]);
    let changes = world.run(5, Command::RemoveAll(all)).unwrap();
    assert_eq!(changes.len(), 6, "three policies and the tags of three apps: {changes:?}");
    assert_eq!(world.state.policies().count() + world.state.tags().count(), 0);
    let again = world.run(6, allow_all(vec![policy("x", "c", "1"), policy("b", "y", "1")])).unwrap();
    let given = |change: &Change| {
        let Change::PolicyPut(put) = change else { panic!("{change:?}") };
        (put.source_tag.get(), put.destination_tag.get())
    };
    assert_eq!(again.iter().map(given).collect::<Vec<_>>(), [(2, 4), (5, 3)], "apps get theirs back");
}

#[test]
fn a_quota_counts_each_policy_of_a_source_once_and_only_when_there_is_a_new_one() {
    let mut world = World::default();
    let all = |ports: &[&str], limit| Command::AllowAll {
        policies: ports.iter().map(|port| policy("a", "b", port)).collect(),
        per_source: Some(limit),
    };
    world.allow(0, &policy("b", "a", "9"));
    let exceeded = |count, limit| {
        let app = AppId::parse("app", "a").unwrap();
        Err(Refusal::Quota { app, count, limit })
    };
    assert_eq!(world.run(0, all(&["1", "2", "3"], 2)), exceeded(3, 2), "all or nothing");
    assert_eq!(world.run(0, all(&["1", "2", "1"], 2)).unwrap().len(), 2, "named twice, counted once");
    assert_eq!(world.run(0, all(&["2", "1"], 2)), Ok(Vec::new()), "there already, at the limit");
    assert_eq!(world.run(0, all(&["2", "3"], 2)), exceeded(3, 2));
    assert_eq!(world.run(0, all(&["2"], 1)), Ok(Vec::new()), "an administrator made more than the limit");
    assert_eq!(world.run(0, all(&["2", "3"], 3)).unwrap().len(), 1);
    let both = vec![policy("c", "a", "1"), policy("a", "c", "1")];
    let both = Command::AllowAll { policies: both, per_source: Some(3) };
    assert_eq!(world.run(0, both), exceeded(4, 3), "every source of a request is asked");
    world.allow(0, &policy("a", "c", "1"));
}

#[test]
fn groups_are_replaced_by_the_fewest_changes() {
    let mut world = World::default();
    world.run(0, set("old", &["80"])).unwrap();
    world.run(0, Command::Bind(binding("old", "running", "s"))).unwrap();
    let web = whole("web", &["80"], &[("running", "s"), ("staging", "")]);
    let dns = whole("dns", &["53"], &[]);
    let groups = Command::ReplaceGroups(vec![web.clone(), dns.clone()]);
    let set = |group: &SecurityGroup| Change::GroupSet {
        name: group.name.clone(),
        guid: group.guid.clone(),
        rules: group.rules.clone(),
    };
    let changes = [
        Change::GroupUnbound(binding("old", "running", "s")),
        Change::GroupRemoved(group("old")),
        set(&dns),
        set(&web),
        Change::GroupBound(binding("web", "running", "s")),
        Change::GroupBound(binding("web", "staging", "")),
    ];
    assert_eq!(world.run(0, groups.clone()).unwrap(), changes);
    assert_eq!(world.run(0, groups).unwrap(), [], "equal already");
    let fewer = SecurityGroup { reaches: [Reach::parse("running", "t").unwrap()].into(), ..web.clone() };
    let changes = [
        Change::GroupBound(binding("web", "running", "t")),
        Change::GroupUnbound(binding("web", "running", "s")),
        Change::GroupUnbound(binding("web", "staging", "")),
    ];
    assert_eq!(world.run(0, Command::ReplaceGroups(vec![dns.clone(), fewer.clone()])).unwrap(), changes);
    let other_guid = SecurityGroup { guid: None, ..fewer };
    assert_eq!(
        world.run(0, Command::ReplaceGroups(vec![other_guid.clone(), dns])).unwrap(),
        [set(&other_guid)]
    );
    assert_eq!(world.run(0, Command::ReplaceGroups(Vec::new())).unwrap().len(), 3);
    assert_eq!(world.state.groups().count(), 0);
}

#[test]
fn a_stored_state_that_cannot_be_is_refused() {
    let lease = |n: u8, block: &str| Lease {
        cell: cell(n),
        underlay: underlay(n),
        block: block.parse().unwrap(),
        renewed: Timestamp(0),
    };
    let tagged = |source: &str, destination: &str, tags: [u16; 2]| {
        let [source_tag, destination_tag] = tags.map(|tag| Tag::new(tag).unwrap());
        TaggedPolicy { policy: policy(source, destination, "1"), source_tag, destination_tag }
    };
    let leases =
        |leases: &[Lease]| State::restore(Parts { leases: leases.to_vec(), ..Parts::default() }).is_err();
    assert!(leases(&[lease(1, "10.255.1.0/24"), lease(2, "10.255.1.0/25")]));
    assert!(leases(&[lease(1, "10.255.1.128/25"), lease(2, "10.255.1.0/24")]));
    assert!(leases(&[lease(1, "10.255.1.0/24"), lease(1, "10.255.2.0/24")]));
    assert!(!leases(&[lease(1, "10.255.1.0/24"), lease(2, "10.255.2.0/24")]));
    let policies = |policies: &[TaggedPolicy]| {
        State::restore(Parts { policies: policies.to_vec(), ..Parts::default() }).is_err()
    };
    assert!(policies(&[tagged("a", "b", [1, 1])]));
    assert!(policies(&[tagged("a", "a", [1, 2])]));
    assert!(policies(&[tagged("a", "b", [1, 2]), tagged("a", "c", [3, 4])]));
    assert!(policies(&[tagged("a", "b", [1, 2]), tagged("c", "d", [3, 2])]));
    assert!(!policies(&[tagged("a", "b", [1, 2]), tagged("c", "b", [3, 2])]));
    let router =
        |app: &str, tag| TagHeld { tag: Tag::new(tag).unwrap(), app: AppId::parse("id", app).unwrap() };
    let held = |held: &[TagHeld]| {
        let policies = vec![tagged("a", "b", [1, 2])];
        State::restore(Parts { policies, held: held.to_vec(), ..Parts::default() }).is_err()
    };
    assert!(held(&[router("r", 2)]) && held(&[router("a", 3)]) && held(&[router("r", 3), router("s", 3)]));
    assert!(!held(&[router("a", 1), router("r", 3)]));
    let bound = |groups: Vec<SecurityGroup>| {
        let parts = Parts { groups, bindings: vec![binding("web", "running", "s")], ..Parts::default() };
        State::restore(parts).map_err(|error| error.to_string())
    };
    let nothing = "security group web is bound to space s for running and does not exist";
    assert_eq!(bound(Vec::new()).unwrap_err(), nothing);
    assert!(bound(vec![whole("web", &["80"], &[])]).is_ok());
}

/// A step of a random history: seconds that pass, and what is asked then.
fn steps() -> impl Strategy<Value = Vec<(u64, Command)>> {
    let acquire = (0..5_u8, 0..5_u8, proptest::option::of(0..5_u8), any::<bool>(), any::<u64>());
    let acquire = acquire.prop_map(|(name, address, held, from_this_store, pick)| {
        let (cell, underlay, held) = (cell(name), underlay(address), held.map(block));
        Command::Acquire(Acquire { cell, underlay, held, from_this_store, pick })
    });
    let app = || prop::sample::select(vec!["a", "b", "c", "d"]);
    let policies = (app(), app(), 1..3_u16).prop_map(|(a, b, port)| policy(a, b, &port.to_string()));
    let command = prop_oneof![
        4 => acquire,
        1 => (0..5_u8).prop_map(|n| Command::Release { underlay: underlay(n) }),
        1 => (0..5_u8).prop_map(|n| Command::Evict { cell: cell(n).to_string() }),
        4 => policies.clone().prop_map(Command::Allow),
        4 => policies.clone().prop_map(Command::Remove),
        2 => prop::collection::vec(policies.clone(), 0..4).prop_map(allow_all),
        2 => prop::collection::vec(policies, 0..4).prop_map(Command::RemoveAll),
        1 => app().prop_map(|id| Command::HoldTag(AppId::parse("id", id).unwrap())),
        6 => group_commands(),
    ];
    let pause = prop_oneof![Just(0), 0..700_u64, Just(LEASE_SECONDS)];
    prop::collection::vec((pause, command), 0..60)
}

fn group_commands() -> impl Strategy<Value = Command> {
    let name = || prop::sample::select(vec!["x", "y"]);
    let ports = prop::sample::select(vec!["80", "443"]);
    let workload = prop::sample::select(vec!["running", "staging"]);
    let space = prop::sample::select(vec!["", "s", "t"]);
    let reach = (workload, space);
    let bindings = (name(), reach.clone());
    let bindings = bindings.prop_map(|(name, (workload, space))| binding(name, workload, space));
    prop_oneof![
        2 => (name(), ports.clone()).prop_map(|(name, ports)| set(name, &[ports])),
        3 => bindings.clone().prop_map(Command::Bind),
        2 => bindings.prop_map(Command::Unbind),
        1 => name().prop_map(delete),
        2 => prop::collection::btree_map(name(), (ports, prop::collection::vec(reach, 0..3)), 0..3).prop_map(replace),
    ]
}

/// These groups and no others, each with a rule for a port and bound to these.
fn replace(groups: impl IntoIterator<Item = (&'static str, (&'static str, Reaches))>) -> Command {
    let whole = |(name, (ports, reaches)): (&str, (&str, Reaches))| whole(name, &[ports], &reaches);
    Command::ReplaceGroups(groups.into_iter().map(whole).collect())
}

type Reaches = Vec<(&'static str, &'static str)>;

proptest! {
    #[test]
    fn two_cells_never_hold_overlapping_leases_and_tags_are_unique(steps in steps()) {
        let mut world = World::default();
        let mut now = 0;
        let mut freed_at: BTreeMap<Tag, (AppId, u64)> = BTreeMap::new();
        for (pause, command) in steps {
            now += pause;
            let before = world.state.clone();
            let replaced = if let Command::ReplaceGroups(groups) = &command { Some(groups.clone()) } else { None };
            let result = world.run(now, command);
            match &result {
                Ok(changes) if !changes.is_empty() => prop_assert!(world.state.revision() > before.revision()),
                Ok(_) | Err(_) => prop_assert_eq!(&world.state, &before),
            }
            if let Some(groups) = replaced {
                prop_assert_eq!(world.state.groups().collect::<Vec<_>>(), groups);
            }
            check_leases(&world.state)?;
            check_tags(&world.state, &mut freed_at, now, &result.unwrap_or_default())?;
            check_groups(&world.state)?;
            let rebuilt = State::restore(parts(&world.state));
            prop_assert_eq!(rebuilt.as_ref(), Ok(&world.state), "a state can be stored and restored");
        }
    }
}

fn parts(state: &State) -> Parts {
    let bindings = |SecurityGroup { name, reaches, .. }: SecurityGroup| {
        reaches.into_iter().map(move |reach| Binding { group: name.clone(), reach })
    };
    let routers = state.tags().filter(|(_, app)| state.is_router(app));
    Parts {
        revision: state.revision(),
        leases: state.leases().cloned().collect(),
        policies: state.policies().collect(),
        freed: state.freed_tags().cloned().collect(),
        held: routers.map(|(tag, app)| TagHeld { tag, app: app.clone() }).collect(),
        stamp: state.stamp(),
        groups: state.groups().map(|group| SecurityGroup { reaches: BTreeSet::new(), ..group }).collect(),
        bindings: state.groups().flat_map(bindings).collect(),
    }
}

/// What a cell is told of is what a plain look at all groups finds.
fn check_groups(state: &State) -> Result<(), TestCaseError> {
    for spaces in [vec![], vec![space("s")], vec![space("s"), space("t")]] {
        let spaces: BTreeSet<SpaceId> = spaces.into_iter().collect();
        let part = |mut group: SecurityGroup| {
            group.reaches.retain(|reach| reach.space.as_ref().is_none_or(|space| spaces.contains(space)));
            Some(group).filter(|group| !group.reaches.is_empty())
        };
        let plain: Vec<SecurityGroup> = state.groups().filter_map(part).collect();
        prop_assert_eq!(state.groups_for(&spaces), plain);
    }
    Ok(())
}

fn check_leases(state: &State) -> Result<(), TestCaseError> {
    let leases: Vec<&Lease> = state.leases().collect();
    for (i, a) in leases.iter().enumerate() {
        prop_assert!(rules().pool.contains(a.block));
        for b in &leases[i + 1..] {
            prop_assert!(!a.block.contains(&b.block) && !b.block.contains(&a.block), "{} and {}", a, b);
            prop_assert!(a.cell != b.cell && a.underlay != b.underlay);
        }
    }
    Ok(())
}

/// One app, one tag and the other way round; and no tag goes to another app before its quarantine is over.
fn check_tags(
    state: &State,
    freed_at: &mut BTreeMap<Tag, (AppId, u64)>,
    now: u64,
    changes: &[Change],
) -> Result<(), TestCaseError> {
    let pairs = |tagged: TaggedPolicy| {
        [(tagged.policy.source, tagged.source_tag), (tagged.policy.destination, tagged.destination_tag)]
    };
    let routers = state.tags().filter(|(_, app)| state.is_router(app)).map(|(tag, app)| (app.clone(), tag));
    let held: BTreeSet<(AppId, Tag)> = state.policies().flat_map(pairs).chain(routers).collect();
    prop_assert_eq!(held.len(), state.tags().count());
    let (apps, tags): (BTreeSet<_>, BTreeSet<_>) = held.iter().cloned().unzip();
    prop_assert_eq!((apps.len(), tags.len()), (held.len(), held.len()));
    for (app, tag) in &held {
        if let Some((owner, at)) = freed_at.remove(tag) {
            prop_assert!(
                owner == *app || now - at >= QUARANTINE_SECONDS,
                "tag {} given to {} too early",
                tag,
                app
            );
        }
    }
    for change in changes {
        if let Change::TagFreed(freed) = change {
            prop_assert!(!tags.contains(&freed.tag));
            freed_at.insert(freed.tag, (freed.app.clone(), now));
        }
    }
    Ok(())
}
