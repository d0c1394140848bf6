//! Agents that believe what they are told, over random histories: each must end up with the controller's world as far as
//! it concerns it, having seen every change once and in order.

use super::machine::{Machine, Step};
use crate::domain::{Acquire, AppId, CellName, Command, Policy, Pool, Revision, Rules, Timestamp};
use crate::ledger::Ledger;
use crate::store::MemoryStore;
use crate::watch::Subscription;
use c2c_proto::v1;
use c2c_proto::v1::change::Change;
use c2c_proto::v1::controller_message::Message;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

const APPS: [&str; 4] = ["a", "b", "c", "d"];
const CELLS: usize = 3;

fn ledger() -> Ledger {
    let pool = Pool::new("10.255.0.0/20".parse().unwrap(), 24).unwrap();
    Ledger::open(Box::new(MemoryStore::default()), Rules { pool, lease_seconds: 1000 }).unwrap()
}

fn app(n: usize) -> AppId {
    AppId::parse("app", APPS[n % APPS.len()]).unwrap()
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
    apps: BTreeSet<AppId>,
    revision: u64,
    leases: BTreeMap<String, v1::Lease>,
    policies: BTreeMap<Key, v1::Policy>,
    stream: Option<(Machine, Subscription)>,
}

impl Agent {
    fn new(number: usize) -> Self {
        let (leases, policies) = (BTreeMap::new(), BTreeMap::new());
        Self { number, apps: BTreeSet::new(), revision: 0, leases, policies, stream: None }
    }

    fn connect(&mut self, ledger: &Ledger, resume: bool) {
        let (cell, underlay) = (cell(self.number), underlay(self.number));
        let acquire = Acquire { cell: cell.clone(), underlay, held: None, from_this_store: true, pick: 0 };
        ledger.execute(&Command::Acquire(acquire), Timestamp(0)).unwrap();
        let resume = Some(Revision::new(self.revision)).filter(|revision| resume && revision.get() > 0);
        let (start, subscription) = ledger.subscribe(&self.apps, resume).unwrap();
        let mut machine = Machine::new(cell, underlay, self.apps.clone(), resume.unwrap_or_default());
        let message = machine.start(start);
        self.stream = Some((machine, subscription));
        self.hear(message);
    }

    /// Takes whatever waits, as the conversation does.
    fn deliver(&mut self, ledger: &Ledger) {
        let Some((mut machine, mut subscription)) = self.stream.take() else { return };
        match subscription.drain() {
            None => {
                let (start, fresh) = ledger.subscribe(machine.apps(), None).unwrap();
                let message = machine.start(start);
                self.stream = Some((machine, fresh));
                self.hear(message);
            }
            Some(commits) if commits.is_empty() => self.stream = Some((machine, subscription)),
            Some(commits) => {
                let step = machine.commits(&commits);
                self.stream = Some((machine, subscription));
                self.step(step);
            }
        }
    }

    fn change_apps(&mut self, ledger: &Ledger, toggled: AppId) {
        let came = self.apps.insert(toggled.clone());
        let (added, removed) = match came {
            true => (BTreeSet::from([toggled]), BTreeSet::new()),
            false => (BTreeSet::new(), BTreeSet::from([toggled])),
        };
        self.apps.retain(|app| !removed.contains(app));
        let Some((mut machine, mut subscription)) = self.stream.take() else {
            // Without a controller an agent cannot learn of an app: it will want a snapshot.
            self.revision = if came { 0 } else { self.revision };
            self.forget_others();
            return;
        };
        let Some((before, policies)) = ledger.view(&added, &mut subscription) else {
            self.stream = Some((machine, subscription));
            return self.deliver_and_view(ledger, &removed, &added);
        };
        let steps = machine.view(7, [&removed, &added], &before, &policies);
        self.stream = Some((machine, subscription));
        steps.into_iter().for_each(|step| self.step(step));
    }

    fn deliver_and_view(&mut self, ledger: &Ledger, removed: &BTreeSet<AppId>, added: &BTreeSet<AppId>) {
        self.deliver(ledger);
        let (mut machine, mut subscription) = self.stream.take().unwrap();
        let (before, policies) = ledger.view(added, &mut subscription).unwrap();
        let steps = machine.view(7, [removed, added], &before, &policies);
        self.stream = Some((machine, subscription));
        steps.into_iter().for_each(|step| self.step(step));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Say(message) if self.stream.is_some() => self.hear(message),
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
        };
        assert!(made_a_difference);
    }

    fn forget_others(&mut self) {
        let hosted = |name: &str| self.apps.iter().any(|app| app.as_str() == name);
        self.policies.retain(|(source, destination, ..), _| hosted(source) || hosted(destination));
    }

    fn check(&self, ledger: &Ledger) {
        let (revision, leases) = ledger.leases();
        assert_eq!(self.revision, revision.get());
        let leases: BTreeSet<String> = leases.iter().map(|lease| lease.block.to_string()).collect();
        assert_eq!(self.leases.keys().cloned().collect::<BTreeSet<_>>(), leases);
        let concerned =
            ledger.policies(None).1.into_iter().map(|tagged| super::super::convert::policy(&tagged));
        let hosted = |name: &str| self.apps.iter().any(|app| app.as_str() == name);
        let concerned =
            concerned.filter(|policy| hosted(&policy.source_app) || hosted(&policy.destination_app));
        let concerned: BTreeMap<Key, v1::Policy> = concerned.map(|policy| (key(&policy), policy)).collect();
        assert_eq!(self.policies, concerned);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Toggle(usize, usize, u16),
    Evict(usize),
    Connect(usize, bool),
    Disconnect(usize),
    Deliver(usize),
    ChangeApps(usize, usize),
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
        6 => (cell(), 0..4_usize).prop_map(|(cell, app)| Event::ChangeApps(cell, app)),
        1 => Just(Event::Flood),
    ];
    prop::collection::vec(event, 0..80)
}

fn toggle(ledger: &Ledger, policy: Policy) {
    let allowed = ledger.policies(None).1.iter().any(|tagged| tagged.policy == policy);
    let command = if allowed { Command::Remove(policy) } else { Command::Allow(policy) };
    ledger.execute(&command, Timestamp(0)).unwrap();
}

fn happen(ledger: &Ledger, agents: &mut [Agent], event: Event) {
    match event {
        Event::Toggle(source, destination, port) => toggle(ledger, policy(source, destination, port)),
        Event::Evict(number) => {
            // Refused when the cell holds no lease.
            let _ = ledger.execute(&Command::Evict { cell: cell(number).to_string() }, Timestamp(0));
        }
        Event::Connect(number, resume) => agents[number].connect(ledger, resume),
        Event::Disconnect(number) => agents[number].stream = None,
        Event::Deliver(number) => agents[number].deliver(ledger),
        Event::ChangeApps(number, toggled) => agents[number].change_apps(ledger, app(toggled)),
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
        agents.iter().for_each(|agent| agent.check(&ledger));
    }
}

#[test]
fn a_lease_that_is_taken_away_ends_the_stream_and_says_why() {
    let ledger = ledger();
    let mut agent = Agent::new(1);
    agent.connect(&ledger, false);
    ledger.execute(&Command::Evict { cell: "cell-1".to_owned() }, Timestamp(0)).unwrap();
    let (machine, subscription) = agent.stream.as_mut().unwrap();
    let commits = subscription.drain().unwrap();
    let Step::End(Message::LeaseRefused(refused)) = machine.commits(&commits) else {
        panic!("the stream must end")
    };
    assert_eq!(refused.reason(), v1::lease_refused::Reason::Contradiction);
    let expected = "the lease 10.255.1.0/24 of cell cell-1 at 192.0.2.1 was taken away at revision 2";
    assert_eq!(refused.message, expected);
}
