//! Which set of egress rules each container has, and the rows of all sets: what containers chose, compiled and kept, so
//! that one more container with rules that are known costs a look.

use crate::config::Network;
use crate::datapath::EgressRows;
use crate::policy::compile::Placed;
use crate::policy::egress::Compiler;
use crate::policy::select::{Choice, Reader, Selected};
use crate::policy::world::World;
use c2c_proto::egress::SecurityRule;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct Outside {
    network: Network,
    compiler: Compiler,
    known: BTreeMap<Choice, Known>,
    /// The groups' rules that `known` was read from.
    seen: BTreeMap<String, Vec<SecurityRule>>,
    /// Whether groups or the operator's word changed since `known` was read.
    stale: bool,
    /// The rows of all that is known, and of the networks that are not masqueraded.
    rows: Arc<EgressRows>,
    /// Whether `rows` may not all be in the kernel.
    owed: bool,
    /// Whether the kernel may hold rows that are not in `rows`.
    surplus: bool,
    /// Rules that are skipped and were told of.
    told: BTreeSet<String>,
}

/// What a choice came to.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The set of egress rules; 0: none.
    pub(super) set: u32,
    /// In words.
    pub(super) selected: Arc<Selected>,
}

impl Outside {
    pub(super) fn new(network: Network) -> Self {
        Self {
            network,
            compiler: Compiler::default(),
            known: BTreeMap::new(),
            seen: BTreeMap::new(),
            stale: true,
            rows: Arc::default(),
            owed: true,
            surplus: true,
            told: BTreeSet::new(),
        }
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// To be followed by [`Outside::settle`].
    pub(super) fn set_network(&mut self, network: Network) {
        self.network = network;
        self.known.clear();
        self.stale = true;
    }

    /// The rows of all that is known.
    pub(super) fn rows(&self) -> &EgressRows {
        &self.rows
    }

    /// Whether rows have to be written before one of the sets may be used.
    pub(super) fn owed(&self) -> bool {
        self.owed
    }

    /// All rows are in the kernel.
    pub(super) fn written(&mut self) {
        self.owed = false;
    }

    /// Whether rows may have to be removed, once no endpoint has their set.
    pub(super) fn surplus(&self) -> bool {
        self.surplus
    }

    /// No other rows are in the kernel.
    pub(super) fn pruned(&mut self) {
        self.surplus = false;
    }

    /// Rules that are skipped, one line each.
    pub(super) fn skipped(&self) -> &BTreeSet<String> {
        &self.told
    }

    /// The set of each container. Afterwards these are all that is known, as of this world's groups.
    pub(super) fn settle(
        &mut self,
        world: &World,
        placed: &BTreeMap<Ipv4Addr, Placed>,
    ) -> BTreeMap<Ipv4Addr, u32> {
        self.look_at(world);
        let choices: BTreeMap<_, _> =
            placed.iter().map(|(address, place)| (*address, self.choice(world, place))).collect();
        let wanted: BTreeSet<_> = choices.values().cloned().collect();
        if self.stale || !wanted.iter().eq(self.known.keys()) {
            self.compile(world, wanted);
        }
        let set = |choice: &Choice| self.known.get(choice).map_or(0, |known| known.set);
        choices.iter().map(|(address, choice)| (*address, set(choice))).collect()
    }

    /// The set of one more container. The world's groups must be those of the last [`Outside::settle`].
    pub(super) fn learn(&mut self, world: &World, place: &Placed) -> u32 {
        let choice = self.choice(world, place);
        if !self.known.contains_key(&choice) {
            let wanted = self.known.keys().cloned().chain([choice.clone()]).collect();
            self.compile(world, wanted);
        }
        self.known.get(&choice).map_or(0, |known| known.set)
    }

    /// What a container's choice is, and what it came to, if it is known.
    pub(super) fn look(&self, world: &World, place: &Placed) -> (Choice, Option<&Known>) {
        let choice = self.choice(world, place);
        let known = self.known.get(&choice);
        (choice, known)
    }

    fn choice(&self, world: &World, place: &Placed) -> Choice {
        Choice::of(place, world, self.network.static_egress)
    }

    /// When rules are others now, what they came to is read anew.
    fn look_at(&mut self, world: &World) {
        let rules = || world.groups.iter().map(|(name, group)| (name, &group.rules));
        if !rules().eq(&self.seen) {
            self.seen = rules().map(|(name, rules)| (name.clone(), rules.clone())).collect();
            self.known.clear();
            self.stale = true;
        }
    }

    fn compile(&mut self, world: &World, wanted: BTreeSet<Choice>) {
        let mut reader = Reader::new(world, &self.network);
        let selected: Vec<_> = wanted
            .iter()
            .map(|choice| match self.known.get(choice) {
                Some(known) => Arc::clone(&known.selected),
                None => Arc::new(reader.read(choice)),
            })
            .collect();
        let selections = selected.iter().map(|selected| &selected.selection);
        let compiled = self.compiler.compile(selections, &self.network.no_masquerade);
        let changed = self.rows != compiled.rows;
        self.owed |= changed;
        self.surplus |= changed;
        self.rows = compiled.rows;
        self.stale = false;
        self.tell(&selected);
        let known = compiled.ids.into_iter().zip(selected).map(|(set, selected)| Known { set, selected });
        self.known = wanted.into_iter().zip(known).collect();
    }

    /// Each rule that is skipped is told of once, until it is mended.
    fn tell(&mut self, selected: &[Arc<Selected>]) {
        let skipped: BTreeSet<_> =
            selected.iter().flat_map(|selected| selected.skipped.iter().cloned()).collect();
        for rule in skipped.difference(&self.told) {
            tracing::warn!(rule, "an egress rule is skipped, the others are enforced");
        }
        self.told = skipped;
    }
}
