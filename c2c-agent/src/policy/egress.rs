//! From what applies to each container (permissions and denied networks) to the rows of `EGRESS` and `EGRESS_PORTS`, and
//! the id of each container's set: pure, but for a memory of what was compiled before. Which rules apply to a container
//! is decided elsewhere, and so is the order in which rows are written.
//!
//! A selection is first made a map from every address to its class, which is what may be sent there. That map alone
//! decides the rows, so selections that mean the same share them, however they are written. `prefixes` finds the fewest
//! rows for it. Ids are hashes of contents: the same world has the same rows after a restart.

mod class;
mod ids;
mod prefixes;

use crate::datapath::{EgressRange, EgressRows};
use c2c_common::addr::from_ipv4;
use c2c_common::layout::{EgressClass, EgressPorts, EgressPortsKey, NO_MASQUERADE, egress_flag};
use c2c_proto::egress::Permission;
use class::{Class, Item};
use ids::{Digest, Ids};
use ipnet::Ipv4Net;
use prefixes::{Piece, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What applies to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selection {
    /// What it may send; order and repetition mean nothing.
    pub permissions: Vec<Permission>,
    /// Where it may send nothing, whatever is permitted.
    pub denied: Vec<Ipv4Net>,
}

/// What the selections of one call come to.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The set of each selection, in the order they were given: [`layout::Endpoint::egress`]. 0 where nothing may be
    /// sent anywhere.
    ///
    /// [`layout::Endpoint::egress`]: c2c_common::layout::Endpoint::egress
    pub ids: Vec<u32>,
    /// The rows of all of them, and of the networks that are not masqueraded. The same `Arc` as before when nothing
    /// changed.
    pub rows: Arc<EgressRows>,
}

/// Compiles, and remembers the previous call: a selection that was in it costs nothing, and its ids stay.
///
/// The rows of one call may be added to those of the call before, in any order: no key has two values in them. So no
/// packet ever finds half of a set under an id that it knows.
#[derive(Debug, Default)]
pub struct Compiler {
    sets: BTreeMap<Selection, Arc<Set>>,
    set_ids: Ids,
    class_ids: Ids,
    latest: Option<Latest>,
}

/// The rows of the previous call, and what they were made of.
#[derive(Debug)]
struct Latest {
    sets: BTreeSet<Digest>,
    unmasqueraded: Vec<Ipv4Net>,
    rows: Arc<EgressRows>,
}

/// A compiled selection. No prefixes: nothing may be sent anywhere.
#[derive(Debug)]
struct Set {
    digest: Digest,
    prefixes: Vec<Prefix>,
    /// What [`Prefix::class`] counts.
    classes: Vec<Numbered>,
}

/// A class, and what the id of its ports follows from; `None` without ports.
#[derive(Debug)]
struct Numbered {
    class: Class,
    ports: Option<Digest>,
}

impl Compiler {
    /// The sets of these selections, one for each container, and all rows. `unmasqueraded` are the networks outside that
    /// containers reach with their own address; the overlay, which the programs know, need not be one of them.
    pub fn compile<'a>(
        &mut self,
        selections: impl IntoIterator<Item = &'a Selection>,
        unmasqueraded: &[Ipv4Net],
    ) -> Compiled {
        let wanted = self.sets_of(selections);
        let sets: BTreeMap<Digest, &Set> = wanted.iter().map(|set| (set.digest, set.as_ref())).collect();
        self.set_ids.assign(sets.keys().copied().collect());
        let classes = sets.values().flat_map(|set| set.classes.iter().filter_map(|class| class.ports));
        self.class_ids.assign(classes.collect());
        let rows = self.rows(&sets, unmasqueraded);
        Compiled { ids: wanted.iter().map(|set| self.set_id(set)).collect(), rows }
    }

    /// The set of each selection. Sets that no selection of this call has are forgotten.
    fn sets_of<'a>(&mut self, selections: impl IntoIterator<Item = &'a Selection>) -> Vec<Arc<Set>> {
        let mut before = std::mem::take(&mut self.sets);
        let mut set_of = |selection: &Selection| {
            if let Some(set) = self.sets.get(selection) {
                return Arc::clone(set);
            }
            let known = before.remove_entry(selection);
            let (selection, set) = known.unwrap_or_else(|| (selection.clone(), Arc::new(Set::of(selection))));
            self.sets.insert(selection, Arc::clone(&set));
            set
        };
        selections.into_iter().map(&mut set_of).collect()
    }

    fn set_id(&self, set: &Set) -> u32 {
        if set.prefixes.is_empty() { 0 } else { self.set_ids.of(&set.digest) }
    }

    fn rows(&mut self, sets: &BTreeMap<Digest, &Set>, unmasqueraded: &[Ipv4Net]) -> Arc<EgressRows> {
        if let Some(latest) = &self.latest
            && latest.sets.iter().eq(sets.keys())
            && latest.unmasqueraded == unmasqueraded
        {
            return Arc::clone(&latest.rows);
        }
        let ranges = sets.values().flat_map(|set| self.ranges(set));
        let ports = sets.values().flat_map(|set| set.classes.iter().flat_map(|class| self.ports(class)));
        let rows = Arc::new(EgressRows {
            ranges: ranges.chain(no_masquerade(unmasqueraded)).collect(),
            ports: ports.collect(),
        });
        self.latest = Some(Latest {
            sets: sets.keys().copied().collect(),
            unmasqueraded: unmasqueraded.to_vec(),
            rows: Arc::clone(&rows),
        });
        rows
    }

    fn ranges(&self, set: &Set) -> impl Iterator<Item = (EgressRange, EgressClass)> {
        let id = self.set_id(set);
        let row = |class: &Numbered| EgressClass { class: self.class_id(class), flags: class.class.flags };
        let classes: Vec<_> = set.classes.iter().map(row).collect();
        set.prefixes.iter().filter_map(move |prefix| {
            let addr = from_ipv4(Ipv4Addr::from_bits(prefix.first));
            let class = classes.get(prefix.class)?;
            Some((EgressRange { set: id, addr, prefix: prefix.length }, *class))
        })
    }

    fn ports(&self, class: &Numbered) -> impl Iterator<Item = (EgressPortsKey, EgressPorts)> {
        let id = self.class_id(class);
        class.class.ports.iter().map(move |&(key, (allowed, logged))| {
            (EgressPortsKey { class: id, ..key }, EgressPorts { allowed, logged })
        })
    }

    fn class_id(&self, class: &Numbered) -> u32 {
        class.ports.map_or(0, |ports| self.class_ids.of(&ports))
    }
}

impl Set {
    fn of(selection: &Selection) -> Self {
        let (classes, pieces) = pieces(selection);
        let prefixes = prefixes::cover(&pieces);
        let mut content = Vec::new();
        for prefix in &prefixes {
            content.extend(prefix.first.to_be_bytes());
            content.push(prefix.length);
            if let Some(class) = classes.get(prefix.class) {
                class.write(&mut content);
            }
        }
        let classes = classes.into_iter().map(|class| Numbered { ports: class.digest(), class }).collect();
        Self { digest: ids::digest(&content), prefixes, classes }
    }
}

/// A step of the walk over all addresses: what begins or ends before the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    /// One after the last address ends what reaches to the end.
    at: u64,
    what: Change,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Begins(Item),
    Ends(Item),
    DenialBegins,
    DenialEnds,
}

/// What may be sent to each address, from the first to the last, and the classes that occur, in their own order. Class 0
/// is "nothing"; neighbours are of different classes.
fn pieces(selection: &Selection) -> (Vec<Class>, Vec<Piece>) {
    let mut known: BTreeMap<Vec<Item>, Class> = BTreeMap::from([(Vec::new(), Class::default())]);
    let mut found: Vec<(u32, Vec<Item>)> = Vec::new();
    for (first, items) in walk(selection) {
        if !known.contains_key(&items) {
            known.insert(items.clone(), Class::of(&items));
        }
        found.push((first, items));
    }
    let distinct: BTreeSet<&Class> = known.values().collect();
    let numbers: BTreeMap<&Class, usize> = distinct.iter().copied().zip(0..).collect();
    let number = |items| known.get(items).and_then(|class| numbers.get(class)).copied().unwrap_or(0);
    let mut pieces: Vec<Piece> =
        found.iter().map(|(first, items)| Piece { first: *first, class: number(items) }).collect();
    pieces.dedup_by_key(|piece| piece.class);
    (distinct.into_iter().cloned().collect(), pieces)
}

/// The items in force from each address on at which they change, beginning with address 0; none where denied.
fn walk(selection: &Selection) -> Vec<(u32, Vec<Item>)> {
    let mut steps = steps(selection).into_iter().peekable();
    let mut active: BTreeMap<Item, u32> = BTreeMap::new();
    let mut denials = 0u32;
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(address) = u32::try_from(at) {
        while let Some(step) = steps.next_if(|step| step.at == at) {
            match step.what {
                Change::Begins(item) => *active.entry(item).or_default() += 1,
                Change::Ends(item) => end(&mut active, item),
                Change::DenialBegins => denials += 1,
                Change::DenialEnds => denials -= 1,
            }
        }
        let items = if denials > 0 { Vec::new() } else { active.keys().copied().collect() };
        found.push((address, items));
        let Some(next) = steps.peek() else { break };
        at = next.at;
    }
    found
}

fn end(active: &mut BTreeMap<Item, u32>, item: Item) {
    let left = active.get(&item).copied().unwrap_or(0);
    if left > 1 {
        active.insert(item, left - 1)
    } else {
        active.remove(&item)
    };
}

fn steps(selection: &Selection) -> Vec<Step> {
    let between = |first: Ipv4Addr, last: Ipv4Addr, begins, ends| {
        let [first, last] = [first, last].map(|address| u64::from(address.to_bits()));
        [Step { at: first, what: begins }, Step { at: last + 1, what: ends }]
    };
    let permitted = selection.permissions.iter().flat_map(|permission| {
        let item = Item::of(permission);
        between(permission.first, permission.last, Change::Begins(item), Change::Ends(item))
    });
    let denied = selection
        .denied
        .iter()
        .flat_map(|net| between(net.network(), net.broadcast(), Change::DenialBegins, Change::DenialEnds));
    let mut steps: Vec<_> = permitted.chain(denied).collect();
    steps.sort_unstable();
    steps
}

/// These rows change in place, so there are none that take back what a shorter prefix says.
fn no_masquerade(networks: &[Ipv4Net]) -> impl Iterator<Item = (EgressRange, EgressClass)> {
    let all = EgressClass { class: 0, flags: egress_flag::ALL };
    Ipv4Net::aggregate(&networks.to_vec()).into_iter().map(move |net| {
        let addr = from_ipv4(net.network());
        (EgressRange { set: NO_MASQUERADE, addr, prefix: net.prefix_len() }, all)
    })
}

#[cfg(test)]
mod tests;
