//! What is simulated, computed and not drawn: which cell hosts which app, which policies there are, and therefore what
//! every cell must know in the end. Two runs with the same options ask for the same.

use anyhow::{Result, ensure};
use c2c_proto::v1;
use c2c_proto::v1::Protocol;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Instances of each app, each on another cell where there are that many.
pub(super) const INSTANCES: u32 = 2;
/// 198.18.0.0/15 is for benchmarks (RFC 2544); the addresses are only names here.
const FIRST_UNDERLAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The ports of the policies that are there from the beginning start above the privileged ones.
const FIRST_PORT: u32 = 1_024;
const LAST_PORT: u32 = 65_535;
/// A tag is needed for each app and there are 65,535; some are left for those that are still in quarantine.
const MOST_APPS: u32 = 60_000;

/// How much to simulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Cells, from 1 to 10,000.
    pub cells: u32,
    /// Apps, from 2 to 60,000, each with two instances.
    pub apps: u32,
    /// Policies that are there before the first cell comes, up to 1,000,000.
    pub policies: u32,
    /// How often each kind of change is measured, from 1 to 1,000.
    pub samples: u32,
}

/// An app by its number; the last one is [`Plan::everywhere`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct App(u32);

impl App {
    /// As long as a Cloud Foundry guid, so that what is kept and sent is as large as it would be.
    pub(super) fn name(self) -> String {
        format!("{:08x}-0c2c-4000-8000-{:012x}", self.0.wrapping_mul(0x9e37_79b9), self.0)
    }

    fn parse(name: &str) -> Option<Self> {
        let (_, number) = name.rsplit_once('-')?;
        let app = Self(u32::from_str_radix(number, 16).ok()?);
        (app.name() == name).then_some(app)
    }
}

/// A policy of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access {
    pub(super) source: App,
    pub(super) destination: App,
    pub(super) protocol: Protocol,
    pub(super) port: u32,
}

impl Access {
    /// What a cell is told; nothing when it is none of a simulation's.
    pub(super) fn of(policy: &v1::Policy) -> Option<Self> {
        let (source, destination) = (App::parse(&policy.source_app)?, App::parse(&policy.destination_app)?);
        let access = Self { source, destination, protocol: policy.protocol(), port: policy.port_start };
        (policy.port_end == policy.port_start).then_some(access)
    }

    /// As an operator asks for it.
    pub(super) fn request(&self, wait_milliseconds: u32) -> v1::AccessRequest {
        v1::AccessRequest {
            source_app: self.source.name(),
            destination_app: self.destination.name(),
            protocol: self.protocol.as_str_name().to_owned(),
            ports: self.port.to_string(),
            wait_milliseconds,
        }
    }
}

/// The simulated foundation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) options: Options,
}

impl Plan {
    pub(super) fn new(options: &Options) -> Result<Self> {
        let Options { cells, apps, policies, samples } = *options;
        let check = |name, value, first, last| {
            ensure!(
                value >= first && value <= last,
                "--{name} {value}: expected a number from {first} to {last}"
            );
            Ok(())
        };
        check("cells", cells, 1, 10_000)?;
        check("apps", apps, 2, MOST_APPS)?;
        check("policies", policies, 0, 1_000_000)?;
        check("samples", samples, 1, 1_000)?;
        let most = u64::from(apps) * u64::from(apps - 1) * u64::from(LAST_PORT - FIRST_PORT + 1);
        ensure!(u64::from(policies) <= most, "--policies {policies}: {apps} apps have at most {most}");
        Ok(Self { options: *options })
    }

    /// An app that every cell hosts: its policies concern all of them.
    pub(super) fn everywhere(&self) -> App {
        App(self.options.apps)
    }

    /// The policies that are there from the beginning; no two are the same.
    pub(super) fn standing(&self) -> impl Iterator<Item = Access> + use<> {
        let Options { apps, policies, .. } = self.options;
        (0..policies).map(move |number| {
            let (source, round) = (number % apps, number / apps);
            let (step, turn) = (round % (apps - 1), round / (apps - 1));
            let destination = App((source + 1 + step) % apps);
            Access { source: App(source), destination, protocol: Protocol::Tcp, port: FIRST_PORT + turn }
        })
    }

    /// A policy between two apps that is measured.
    pub(super) fn sample(&self, number: u32) -> Access {
        let source = self.spread(number);
        let destination = App((source.0 + 1) % self.options.apps);
        Access { source, destination, protocol: Protocol::Udp, port: 1 + number }
    }

    /// A policy that concerns every cell and is measured.
    pub(super) fn sample_everywhere(&self, number: u32) -> Access {
        let (source, destination) = (self.spread(number), self.everywhere());
        Access { source, destination, protocol: Protocol::Udp, port: 1 + number }
    }

    /// A policy of every cell before the first one that is measured: it is applied when all that came with the cells'
    /// arrival, each told of every other one's lease, is done with.
    pub(super) fn settling(&self) -> Access {
        self.sample_everywhere(self.options.samples)
    }

    /// A policy of every cell after all others: who knows it knows everything.
    pub(super) fn last(&self) -> Access {
        self.sample_everywhere(self.options.samples + 1)
    }

    /// The cells that host an app.
    pub(super) fn hosts(&self, app: App) -> BTreeSet<u32> {
        let cells = self.options.cells;
        if app == self.everywhere() {
            return (0..cells).collect();
        }
        let stride = (cells / INSTANCES).max(1);
        (0..INSTANCES).map(|instance| (app.0 + instance * stride) % cells).collect()
    }

    /// The cells that a policy concerns.
    pub(super) fn concerned(&self, access: &Access) -> BTreeSet<u32> {
        &self.hosts(access.source) | &self.hosts(access.destination)
    }

    /// For each cell, the apps that it hosts.
    pub(super) fn hosted(&self) -> Vec<Vec<String>> {
        self.per_cell((0..=self.options.apps).map(App), |app| self.hosts(*app), |app| app.name())
    }

    /// For each cell, the policies that it must know when these are all that there are.
    pub(super) fn worlds(&self, all: impl Iterator<Item = Access>) -> Vec<BTreeSet<Access>> {
        self.per_cell(all, |access| self.concerned(access), |access| *access)
    }

    /// The address that a cell says it has.
    pub(super) fn underlay(cell: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_UNDERLAY.to_bits() + cell)
    }

    /// Spreads the samples over the apps.
    fn spread(&self, number: u32) -> App {
        let (apps, samples) = (u64::from(self.options.apps), u64::from(self.options.samples));
        let app = (u64::from(number) * apps / samples) % apps;
        App(u32::try_from(app).unwrap_or_default())
    }

    fn per_cell<T, V, C>(
        &self,
        all: impl Iterator<Item = T>,
        cells: impl Fn(&T) -> BTreeSet<u32>,
        value: impl Fn(&T) -> V,
    ) -> Vec<C>
    where
        C: Default + Extend<V>,
    {
        let mut sorted: Vec<C> = (0..self.options.cells).map(|_| C::default()).collect();
        for item in all {
            for cell in cells(&item) {
                let place = usize::try_from(cell).ok().and_then(|cell| sorted.get_mut(cell));
                place.into_iter().for_each(|place| place.extend([value(&item)]));
            }
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cells: u32, apps: u32, policies: u32) -> Plan {
        Plan::new(&Options { cells, apps, policies, samples: 10 }).unwrap()
    }

    #[test]
    fn no_policy_comes_twice_and_none_is_of_an_app_to_itself() {
        for (apps, policies) in [(2, 7), (3, 40), (50, 2_600)] {
            let plan = plan(5, apps, policies);
            let samples = (0..10).flat_map(|number| [plan.sample(number), plan.sample_everywhere(number)]);
            let others = [plan.settling(), plan.last()];
            let all: Vec<Access> = plan.standing().chain(samples).chain(others).collect();
            let distinct: BTreeSet<Access> = all.iter().copied().collect();
            assert_eq!((all.len(), distinct.len()), (policies as usize + 22, policies as usize + 22));
            assert!(all.iter().all(|access| access.source != access.destination));
        }
    }

    #[test]
    fn a_policy_is_known_where_either_app_is_hosted() {
        let plan = plan(7, 20, 100);
        let (hosted, worlds) = (plan.hosted(), plan.worlds(plan.standing()));
        for access in plan.standing() {
            for (apps, world) in hosted.iter().zip(&worlds) {
                let concerned =
                    apps.contains(&access.source.name()) || apps.contains(&access.destination.name());
                assert_eq!(concerned, world.contains(&access));
            }
        }
        assert!(hosted.iter().all(|apps| apps.contains(&plan.everywhere().name())));
        assert_eq!(plan.concerned(&plan.sample_everywhere(3)).len(), 7);
    }

    #[test]
    fn one_cell_hosts_everything() {
        assert_eq!(plan(1, 2, 2).hosted()[0].len(), 3);
    }

    #[test]
    fn what_is_asked_for_is_what_a_cell_reads() {
        let access = plan(3, 9, 0).sample(4);
        let request = access.request(0);
        let policy = v1::Policy {
            source_app: request.source_app,
            destination_app: request.destination_app,
            protocol: Protocol::Udp.into(),
            port_start: 5,
            port_end: 5,
            ..v1::Policy::default()
        };
        assert_eq!(Access::of(&policy), Some(access));
        assert_eq!(Access::of(&v1::Policy { port_end: 6, ..policy.clone() }), None);
        assert_eq!(Access::of(&v1::Policy { source_app: "frontend".to_owned(), ..policy }), None);
    }

    #[test]
    fn options_that_cannot_be_right_are_refused() {
        let right = Options { cells: 1, apps: 2, policies: 0, samples: 1 };
        let cases = [
            (Options { cells: 0, ..right }, "--cells 0: expected a number from 1 to 10000"),
            (Options { apps: 1, ..right }, "--apps 1: expected a number from 2 to 60000"),
            (Options { samples: 0, ..right }, "--samples 0: expected a number from 1 to 1000"),
            (Options { policies: 129_025, ..right }, "--policies 129025: 2 apps have at most 129024"),
        ];
        for (options, message) in cases {
            assert_eq!(Plan::new(&options).unwrap_err().to_string(), message);
        }
    }
}
