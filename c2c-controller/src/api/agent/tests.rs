//! Agents that believe what they are told, over random histories: each must end up with the controller's world as far as
//! it concerns it, having seen every change once and in order.

use super::machine::{Machine, Step};
use crate::domain::{
    Acquire, AppId, Binding, CellName, Command, Commit, GroupName, GroupRules, Moment, Policy, Pool, Reach,
    Revision, Rules, SecurityGroup, SpaceId, Workload,
};
use crate::ledger::Ledger;
use crate::store::MemoryStore;
use crate::watch::{Hosted, Moves, Subscription};
use c2c_proto::egress::SecurityRule;
use c2c_proto::v1;
use c2c_proto::v1::change::Change;
use c2c_proto::v1::controller_message::Message;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

const APPS: [&str; 4] = ["a", "b", "c", "d"];
const SPACES: [&str; 2] = ["s", "t"];
const GROUPS: [&str; 3] = ["x", "y", "z"];
const CELLS: usize = 3;

fn ledger() -> Ledger {
    let pool = Pool::new("10.255.0.0/20".parse().unwrap(), 24).unwrap();
    Ledger::open(Box::new(MemoryStore::default()), Rules { pool, lease_seconds: 1000 }).unwrap()
}

fn app(n: usize) -> AppId {
    AppId::parse("app", APPS[n % APPS.len()]).unwrap()
}

fn space(n: usize) -> SpaceId {
    SpaceId::parse("space", SPACES[n % SPACES.len()]).unwrap()
}

fn group(n: usize) -> GroupName {
    GroupName::parse("name", GROUPS[n % GROUPS.len()]).unwrap()
}

fn cell(n: usize) -> CellName {
    CellName::parse("cell", &format!("cell-{n}")).unwrap()
}

fn underlay(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, u8::try_from(n).unwrap())
}

fn policy(source: usize, destination: usize, port: u16) -> Policy {
    let (source, destination) = (app(source), app(destination));
    Policy::parse(source.as_str(), destination.as_str(), "tcp", &port.to_string()).unwrap()
}

/// The key of a policy in a message.
type Key = (String, String, i32, u32, u32);

fn key(policy: &v1::Policy) -> Key {
    let v1::Policy { source_app, destination_app, protocol, port_start, port_end, .. } = policy.clone();
    (source_app, destination_app, protocol, port_start, port_end)
}

/// An agent: what it has survives its streams, as an agent saves its world.
struct Agent {
    number: usize,
    hosted: Hosted,
    revision: u64,
    leases: BTreeMap<String, v1::Lease>,
    policies: BTreeMap<Key, v1::Policy>,
    groups: BTreeMap<String, v1::SecurityGroup>,
    stream: Option<(Machine, Subscription)>,
    /// What its subscription yielded and it was not told yet.
    yielded: Vec<Arc<Commit>>,
}

impl Agent {
    fn new(number: usize) -> Self {
        Self {
            number,
            hosted: Hosted::default(),
            revision: 0,
            leases: BTreeMap::new(),
            policies: BTreeMap::new(),
            groups: BTreeMap::new(),
            stream: None,
            yielded: Vec::new(),
        }
    }

    fn connect(&mut self, ledger: &Ledger, resume: bool) {
        let (cell, underlay) = (cell(self.number), underlay(self.number));
        let acquire = Acquire { cell: cell.clone(), underlay, held: None, from_this_store: true, pick: 0 };
        ledger.execute(&Command::Acquire(acquire), Moment::default()).unwrap();
        let resume = Some(Revision::new(self.revision)).filter(|revision| resume && revision.get() > 0);
        let (start, subscription) = ledger.subscribe(&self.hosted, resume);
        let mut machine = Machine::new(cell, underlay, self.hosted.clone(), resume.unwrap_or_default());
        let message = machine.start(start);
        self.stream = Some((machine, subscription));
        self.yielded.clear();
        self.hear(message);
    }

    /// Takes what waits, and says nothing yet: more may happen meanwhile.
    fn take(&mut self) {
        let Some((_, subscription)) = self.stream.as_mut() else { return };
        self.yielded.extend(subscription.drain().unwrap_or_default());
    }

    /// Is told whatever waits, as the conversation does it.
    fn deliver(&mut self, ledger: &Ledger) {
        let yielded = std::mem::take(&mut self.yielded);
        let Some((mut machine, mut subscription)) = self.stream.take() else { return };
        match ledger.news(yielded, &mut subscription, machine.hosted()) {
            None => {
                let (start, fresh) = ledger.subscribe(machine.hosted(), None);
                let message = machine.start(start);
                self.stream = Some((machine, fresh));
                self.hear(message);
            }
            Some(news) if news.commits.is_empty() => self.stream = Some((machine, subscription)),
            Some(news) => {
                let step = machine.news(&news);
                self.stream = Some((machine, subscription));
                self.step(step);
            }
        }
    }

    /// A second passed.
    fn hear_held(&mut self) {
        let held = self.stream.as_mut().and_then(|(machine, _)| machine.held());
        held.into_iter().for_each(|message| self.hear(message));
    }

    /// Something comes to the cell, or leaves it when it is there.
    fn toggle(&mut self, ledger: &Ledger, what: Hosted) {
        let there = what.apps.is_subset(&self.hosted.apps) && what.spaces.is_subset(&self.hosted.spaces);
        let moves = match there {
            true => Moves { removed: what, ..Moves::default() },
            false => Moves { added: what, ..Moves::default() },
        };
        // What was yielded is told before anything else is heard.
        self.deliver(ledger);
        self.hosted = self.hosted.after(&moves);
        if self.stream.is_none() {
            // Without a controller an agent cannot learn of what came: it will want a snapshot.
            self.revision = if there { self.revision } else { 0 };
            return self.forget_others();
        }
        let steps = self.view(ledger, &moves);
        steps.into_iter().for_each(|step| self.step(step));
    }

    fn view(&mut self, ledger: &Ledger, moves: &Moves) -> Vec<Step> {
        let (mut machine, mut subscription) = self.stream.take().unwrap();
        let view = ledger.view(machine.hosted(), moves, &mut subscription).unwrap();
        let steps = machine.view(7, moves, &view);
        self.stream = Some((machine, subscription));
        steps
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Say(message) if self.stream.is_some() => self.hear(message),
            Step::Hold => {}
            // The stream ended before the view came: what the new app may do is not known.
            Step::Say(_) => self.revision = 0,
            Step::End(message) => {
                assert!(matches!(message, Message::LeaseRefused(_)));
                self.stream = None;
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Snapshot(snapshot) => {
                self.revision = snapshot.revision;
                self.leases =
                    snapshot.leases.into_iter().map(|lease| (lease.overlay_block.clone(), lease)).collect();
                self.policies =
                    snapshot.policies.iter().map(|policy| (key(policy), policy.clone())).collect();
                self.groups.clear();
                snapshot.groups.into_iter().for_each(|group| self.put_group(group));
            }
            Message::Delta(delta) => {
                assert_eq!(delta.from_revision, self.revision, "deltas follow one another");
                assert!(delta.to_revision >= delta.from_revision);
                delta.changes.into_iter().for_each(|change| self.change(change.change.unwrap()));
                self.revision = delta.to_revision;
            }
            Message::AppsView(view) => {
                assert_eq!((view.serial, view.revision), (7, self.revision));
                self.policies.extend(view.policies.iter().map(|policy| (key(policy), policy.clone())));
                view.groups.into_iter().for_each(|group| self.put_group(group));
            }
            Message::LeaseGrant(_) | Message::LeaseRefused(_) | Message::HeartbeatAck(_) => unreachable!(),
        }
        self.forget_others();
    }

    /// Each change makes a difference, so none came twice and none was missed.
    fn change(&mut self, change: Change) {
        let made_a_difference = match change {
            Change::LeasePut(lease) => self.leases.insert(lease.overlay_block.clone(), lease).is_none(),
            Change::LeaseRemoved(lease) => self.leases.remove(&lease.overlay_block).is_some(),
            Change::PolicyPut(policy) => self.policies.insert(key(&policy), policy).is_none(),
            Change::PolicyRemoved(policy) => self.policies.remove(&key(&policy)).is_some(),
            // Rules that were changed and changed back are sent, too.
            Change::GroupPut(group) => {
                self.put_group(group);
                true
            }
            Change::GroupRemoved(name) => self.groups.remove(&name).is_some(),
        };
        assert!(made_a_difference);
    }

    fn put_group(&mut self, group: v1::SecurityGroup) {
        self.groups.insert(group.name.clone(), group);
    }

    fn forget_others(&mut self) {
        let hosted = |name: &str| self.hosted.apps.iter().any(|app| app.as_str() == name);
        self.policies.retain(|(source, destination, ..), _| hosted(source) || hosted(destination));
        let hosted = |name: &String| self.hosted.spaces.iter().any(|space| space.as_str() == name);
        self.groups.retain(|_, group| {
            group.running_spaces.retain(hosted);
            group.staging_spaces.retain(hosted);
            let spaces = group.running_spaces.len() + group.staging_spaces.len();
            spaces > 0 || group.running_default || group.staging_default
        });
    }

    fn check(&self, ledger: &Ledger) {
        let (revision, leases) = ledger.leases();
        assert_eq!(self.revision, revision.get());
        let leases: BTreeSet<String> = leases.iter().map(|lease| lease.block.to_string()).collect();
        assert_eq!(self.leases.keys().cloned().collect::<BTreeSet<_>>(), leases);
        let concerned =
            ledger.policies(None).1.into_iter().map(|tagged| super::super::convert::policy(&tagged));
        let hosted = |name: &str| self.hosted.apps.iter().any(|app| app.as_str() == name);
        let concerned =
            concerned.filter(|policy| hosted(&policy.source_app) || hosted(&policy.destination_app));
        let concerned: BTreeMap<Key, v1::Policy> = concerned.map(|policy| (key(&policy), policy)).collect();
        assert_eq!(self.policies, concerned);
        let part = |mut group: SecurityGroup| {
            group.reaches.retain(|reach| self.hosted.is_reached_by(reach));
            (!group.reaches.is_empty())
                .then(|| (group.name.to_string(), super::super::convert::group(&group)))
        };
        let concerned: BTreeMap<_, _> = ledger.groups(None).1.into_iter().filter_map(part).collect();
        assert_eq!(self.groups, concerned);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Toggle(usize, usize, u16),
    Evict(usize),
    Connect(usize, bool),
    Disconnect(usize),
    /// The conversation takes what waits, and is not done with it yet.
    Take(usize),
    Deliver(usize),
    /// What was held back is told.
    Second(usize),
    ChangeApps(usize, usize),
    ChangeSpaces(usize, usize),
    /// A group gets rules, one of two sets.
    SetGroup(usize, bool),
    /// A group is bound or unbound.
    ToggleBinding(Binding),
    DeleteGroup(usize),
    /// More commits than a subscription holds.
    Flood,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let cell = || 0..CELLS;
    let event = prop_oneof![
        12 => (0..4_usize, 0..4_usize, 1..3_u16).prop_map(|(a, b, port)| Event::Toggle(a, b, port)),
        1 => cell().prop_map(Event::Evict),
        4 => (cell(), any::<bool>()).prop_map(|(cell, resume)| Event::Connect(cell, resume)),
        1 => cell().prop_map(Event::Disconnect),
        6 => cell().prop_map(Event::Deliver),
        3 => cell().prop_map(Event::Second),
        6 => (cell(), 0..4_usize).prop_map(|(cell, app)| Event::ChangeApps(cell, app)),
        3 => cell().prop_map(Event::Take),
        6 => (cell(), 0..SPACES.len()).prop_map(|(cell, space)| Event::ChangeSpaces(cell, space)),
        5 => (0..GROUPS.len(), any::<bool>()).prop_map(|(group, one)| Event::SetGroup(group, one)),
        14 => bindings().prop_map(Event::ToggleBinding),
        1 => (0..GROUPS.len()).prop_map(Event::DeleteGroup),
        1 => Just(Event::Flood),
    ];
    prop::collection::vec(event, 0..120)
}

fn bindings() -> impl Strategy<Value = Binding> {
    let spaces = prop_oneof![1 => Just(None), 3 => (0..SPACES.len()).prop_map(|n| Some(space(n)))];
    let workload = prop::sample::select(Workload::ALL.to_vec());
    (0..GROUPS.len(), workload, spaces)
        .prop_map(|(name, workload, space)| Binding { group: group(name), reach: Reach { workload, space } })
}

fn toggle(ledger: &Ledger, policy: Policy) {
    let allowed = ledger.policies(None).1.iter().any(|tagged| tagged.policy == policy);
    let command = if allowed { Command::Remove(policy) } else { Command::Allow(policy) };
    ledger.execute(&command, Moment::default()).unwrap();
}

fn set_group(ledger: &Ledger, number: usize, one: bool) {
    let ports = if one { "80" } else { "443" }.to_owned();
    let rules = vec![SecurityRule { ports, ..SecurityRule::default() }];
    let rules = GroupRules::parse("rules", rules).unwrap();
    ledger.execute(&Command::SetGroup { name: group(number), rules }, Moment::default()).unwrap();
}

fn toggle_binding(ledger: &Ledger, binding: Binding) {
    let bound =
        ledger.groups(Some(&binding.group)).1.iter().any(|group| group.reaches.contains(&binding.reach));
    let command = if bound { Command::Unbind(binding) } else { Command::Bind(binding) };
    // Refused when there is no such group.
    let _ = ledger.execute(&command, Moment::default());
}

fn happen(ledger: &Ledger, agents: &mut [Agent], event: Event) {
    match event {
        Event::Toggle(source, destination, port) => toggle(ledger, policy(source, destination, port)),
        Event::Evict(number) => {
            // Refused when the cell holds no lease.
            let _ = ledger.execute(&Command::Evict { cell: cell(number).to_string() }, Moment::default());
        }
        Event::Connect(number, resume) => agents[number].connect(ledger, resume),
        Event::Disconnect(number) => agents[number].stream = None,
        Event::Deliver(number) => agents[number].deliver(ledger),
        Event::Second(number) => agents[number].hear_held(),
        Event::Take(number) => agents[number].take(),
        Event::ChangeApps(number, toggled) => {
            agents[number].toggle(ledger, Hosted { apps: [app(toggled)].into(), ..Hosted::default() });
        }
        Event::ChangeSpaces(number, toggled) => {
            agents[number].toggle(ledger, Hosted { spaces: [space(toggled)].into(), ..Hosted::default() });
        }
        Event::SetGroup(number, one) => set_group(ledger, number, one),
        Event::ToggleBinding(binding) => toggle_binding(ledger, binding),
        Event::DeleteGroup(number) => {
            // Refused when there is no such group.
            let _ = ledger.execute(&Command::DeleteGroup(group(number)), Moment::default());
        }
        Event::Flood => (0..1100).for_each(|_| toggle(ledger, policy(0, 1, 9))),
    }
}

proptest! {
    #[test]
    fn no_change_is_missed_or_repeated_whatever_the_interleaving(events in events()) {
        let ledger = ledger();
        let mut agents: Vec<Agent> = (0..CELLS).map(Agent::new).collect();
        for event in events {
            happen(&ledger, &mut agents, event);
        }
        for agent in &mut agents {
            agent.deliver(&ledger);
        }
        for number in 0..CELLS {
            if agents[number].stream.is_none() {
                agents[number].connect(&ledger, true);
            }
            // Another agent's connection may have made a lease.
            agents.iter_mut().for_each(|agent| agent.deliver(&ledger));
        }
        agents.iter_mut().for_each(Agent::hear_held);
        agents.iter().for_each(|agent| agent.check(&ledger));
    }
}

#[test]
fn who_is_not_concerned_is_told_once_and_later() {
    let ledger = ledger();
    let mut agent = Agent::new(1);
    agent.connect(&ledger, false);
    let before = agent.revision;
    for port in 1..=3 {
        toggle(&ledger, policy(0, 1, port));
        agent.deliver(&ledger);
    }
    assert_eq!(agent.revision, before, "nobody here has these apps");
    agent.hear_held();
    assert_eq!(agent.revision, ledger.revision().get());
    toggle(&ledger, policy(0, 1, 4));
    agent.deliver(&ledger);
    agent.toggle(&ledger, Hosted { apps: [app(0)].into(), ..Hosted::default() });
    assert_eq!((agent.revision, agent.policies.len()), (ledger.revision().get(), 4));
    toggle(&ledger, policy(0, 1, 5));
    agent.deliver(&ledger);
    assert_eq!((agent.revision, agent.policies.len()), (ledger.revision().get(), 5), "at once");
}

#[test]
fn a_lease_that_is_taken_away_ends_the_stream_and_says_why() {
    let ledger = ledger();
    let mut agent = Agent::new(1);
    agent.connect(&ledger, false);
    ledger.execute(&Command::Evict { cell: "cell-1".to_owned() }, Moment::default()).unwrap();
    let (machine, subscription) = agent.stream.as_mut().unwrap();
    let news = ledger.news(Vec::new(), subscription, machine.hosted()).unwrap();
    let Step::End(Message::LeaseRefused(refused)) = machine.news(&news) else {
        panic!("the stream must end")
    };
    assert_eq!(refused.reason(), v1::lease_refused::Reason::Contradiction);
    let expected = "the lease 10.255.1.0/24 of cell cell-1 at 192.0.2.1 was taken away at revision 2";
    assert_eq!(refused.message, expected);
}
