//! What the agent can tell about itself: gathers it and says what is wrong. Only reads; how it is shown is `cli`'s and
//! `metrics`'.

mod egress;
mod pages;
mod passes;

pub use pages::{
    CounterLine, CountersPage, DatapathPage, EgressRow, EndpointRow, FlowsPage, LeasePage, OffloadPage,
    PolicyPage, PolicyRow, PortRow, ReconcilePage, StatusPage, StreamPage,
};
pub use passes::Passes;

use crate::control_stream::{self, StreamState, now};
use crate::datapath::{self, CounterRow, MapUse};
use crate::endpoint::{self, Manager, Record};
use crate::fabric::{self, Fabric};
use crate::policy::world::Policy;
use crate::self_test;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A pass is due every 10 s; one that is this late hangs.
const PASS_OVERDUE: Duration = Duration::from_secs(60);

/// Sees everything.
#[derive(Clone, Debug)]
pub struct Observer {
    /// The cell's name.
    pub cell: String,
    /// The cell's address on the underlay.
    pub underlay: Ipv4Addr,
    /// The controller's address.
    pub controller: String,
    /// When the agent started.
    pub started: Instant,
    /// What is enforced.
    pub fabric: Arc<Fabric>,
    /// The containers.
    pub manager: Arc<Manager>,
    /// The stream and the lease.
    pub stream: watch::Receiver<control_stream::View>,
    /// The reconcile passes.
    pub passes: watch::Receiver<Passes>,
    /// The offload self-test.
    pub self_test: watch::Receiver<self_test::View>,
    /// Lines of the flow log that could not be written.
    pub flow_log_lost: Arc<AtomicU64>,
}

/// Everything at one time.
#[derive(Debug)]
pub struct Facts {
    /// What is enforced.
    pub fabric: fabric::View,
    /// The stream and the lease.
    pub stream: control_stream::View,
    /// The reconcile passes.
    pub passes: Passes,
    /// Where new containers get addresses.
    pub lease: Option<fabric::CellLease>,
    /// Why there is no address for the next container, if there is none.
    pub no_address: Option<String>,
    /// The offload self-test.
    pub self_test: self_test::View,
    /// Lines of the flow log that could not be written.
    pub flow_log_lost: u64,
    /// When this was seen, since the Unix epoch.
    pub now: Duration,
}

impl Facts {
    /// Why an ADD cannot be served, or something that is known is not enforced. Empty when the agent is ready.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.lease.is_none() {
            problems.push(self.no_lease());
        }
        let failure = self.fabric.failure.as_deref();
        problems.extend(failure.map(|failure| format!("not everything is enforced: {failure}")));
        let untold = |failed: &&String| failure.is_none_or(|failure| !failed.contains(failure));
        problems.extend(
            self.passes.failed.iter().filter(untold).map(|failed| format!("cannot repair: {failed}")),
        );
        if self.passes.age().is_some_and(|age| age > PASS_OVERDUE) {
            problems.push(format!("no reconcile pass has ended for {} s", PASS_OVERDUE.as_secs()));
        }
        problems
    }

    fn no_lease(&self) -> String {
        let stream = &self.stream;
        match (&stream.alarm, &stream.last_error) {
            (Some(alarm), _) => alarm.clone(),
            (None, Some(error)) => format!("no lease: {error}"),
            (None, None) => "no lease yet: the controller was asked".to_owned(),
        }
    }

    /// What works, but not as it should.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        // A cell that is full works as it should.
        if self.lease.is_some() {
            warnings.extend(self.no_address.clone());
        }
        if !self.fabric.settled {
            let what =
                "what an earlier agent enforced stays in force until the controller has said what is right";
            warnings.push(what.to_owned());
        }
        if self.stream.stream != StreamState::Live {
            let why = self.stream.last_error.as_deref().unwrap_or("connecting");
            warnings.push(format!(
                "the controller is away, the world is that of revision {}: {why}",
                self.fabric.applied.received
            ));
        }
        if let Some(first) = self.fabric.skipped.first() {
            let more = self.fabric.skipped.len() - 1;
            let more =
                if more == 0 { String::new() } else { format!(" (and {more} more, see c2c-agent egress)") };
            warnings.push(format!("an egress rule is skipped: {first}{more}"));
        }
        warnings.extend(self.self_test.warning());
        if self.stream.behind() > 0 && self.lag() > Duration::from_secs(5) {
            warnings.push(format!(
                "{} revisions behind for {} s",
                self.stream.behind(),
                self.lag().as_secs()
            ));
        }
        warnings
    }

    /// How long a newer revision has been known than the one enforced.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.stream.behind_since.map_or(Duration::ZERO, |since| self.now.saturating_sub(since))
    }

    /// Since the lease was renewed, and until it expires, in seconds.
    #[must_use]
    pub fn tenure_seconds(&self) -> Option<(u64, u64)> {
        let tenure = self.stream.tenure.as_ref()?;
        let ago = self.now.saturating_sub(tenure.renewed).as_secs();
        Some((ago, tenure.grant.lease_seconds.saturating_sub(ago)))
    }
}

impl Observer {
    /// Everything now.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts {
            fabric: self.fabric.view(),
            stream: self.stream.borrow().clone(),
            passes: self.passes.borrow().clone(),
            lease: self.fabric.cell_lease(),
            no_address: self.manager.ready().err().map(|error| format!("{}: {}", error.msg, error.details)),
            self_test: self.self_test.borrow().clone(),
            flow_log_lost: self.flow_log_lost.load(Ordering::Relaxed),
            now: now(),
        }
    }

    /// One page about the agent.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn status(&self) -> Result<StatusPage, datapath::Error> {
        let facts = self.facts();
        let problems = facts.problems();
        Ok(StatusPage {
            cell: self.cell.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: problems.is_empty(),
            problems,
            warnings: facts.warnings(),
            lease: self.lease_page(&facts),
            stream: self.stream_page(&facts),
            policy: policy_page(&facts),
            datapath: DatapathPage {
                adopted: facts.fabric.adopted,
                failure: facts.fabric.failure.clone(),
                maps: self.fabric.maps()?,
            },
            offload: offload_page(&facts.self_test),
            endpoints: facts.fabric.endpoints as u64,
            reconcile: facts.passes.page(),
        })
    }

    fn lease_page(&self, facts: &Facts) -> LeasePage {
        let grant = facts.stream.tenure.as_ref().map(|tenure| &tenure.grant);
        let seconds = facts.tenure_seconds();
        LeasePage {
            state: facts.stream.lease_state.to_owned(),
            block: grant.map(|grant| grant.lease.block),
            overlay: grant.map(|grant| grant.overlay),
            underlay: self.underlay,
            mtu: facts.lease.map(|lease| lease.mtu),
            renewed_seconds_ago: seconds.map(|(ago, _)| ago),
            expires_in_seconds: seconds.map(|(_, left)| left),
        }
    }

    fn stream_page(&self, facts: &Facts) -> StreamPage {
        StreamPage {
            state: facts.stream.stream.as_str().to_owned(),
            controller: self.controller.clone(),
            live_seconds: facts.stream.live_since.map(|since| facts.now.saturating_sub(since).as_secs()),
            opened: facts.stream.opened,
            last_error: facts.stream.last_error.clone(),
        }
    }

    /// The containers of this cell.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointRow> {
        let apps = self.fabric.view().apps;
        let rows = self.manager.list().into_iter().map(|record| EndpointRow {
            tag: apps.get(&record.app).copied().unwrap_or(0),
            state: state(record.state).to_owned(),
            container_id: record.attachment.container_id,
            ifname: record.attachment.ifname,
            address: record.address,
            app: record.app,
            device: record.host_name,
        });
        rows.collect()
    }

    /// The policies that touch this cell's apps.
    #[must_use]
    pub fn policies(&self) -> Vec<PolicyRow> {
        self.fabric.policies().into_iter().map(policy_row).collect()
    }

    /// The flow tables.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn flows(&self) -> Result<FlowsPage, datapath::Error> {
        Ok(FlowsPage { flows: self.fabric.flows()?, translations: self.fabric.translations()? })
    }

    /// What each container may reach outside.
    #[must_use]
    pub fn egress(&self) -> Vec<EgressRow> {
        let names = self.manager.list().into_iter();
        let mut names: BTreeMap<_, _> =
            names.map(|record| (record.address, record.attachment.container_id)).collect();
        let views = self.fabric.egress().into_iter();
        views.map(|view| egress::row(names.remove(&view.address).unwrap_or_default(), view)).collect()
    }

    /// The cell's ports that lead into containers, in their order.
    #[must_use]
    pub fn ports(&self) -> Vec<PortRow> {
        let mut rows: Vec<_> = self.manager.list().iter().flat_map(port_rows).collect();
        rows.sort();
        rows
    }

    /// Counters, and how full every map is.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn counters(&self) -> Result<CountersPage, datapath::Error> {
        let counters = self.fabric.counters()?.into_iter().map(counter_line).collect();
        Ok(CountersPage { counters, maps: self.fabric.maps()? })
    }

    /// The same as the kernel has it, for metrics.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn kernel(&self) -> Result<(Vec<CounterRow>, Vec<MapUse>), datapath::Error> {
        Ok((self.fabric.counters()?, self.fabric.maps()?))
    }
}

fn state(state: endpoint::State) -> &'static str {
    match state {
        endpoint::State::Wiring => "wiring",
        endpoint::State::Wired => "wired",
        endpoint::State::Unwiring => "unwiring",
    }
}

fn port_rows(record: &Record) -> impl Iterator<Item = PortRow> {
    record.ports.iter().map(|mapping| PortRow {
        host_port: mapping.host_port,
        protocol: mapping.protocol.map_or("tcp+udp", egress::transport).to_owned(),
        address: record.address,
        container_port: mapping.container_port,
        container_id: record.attachment.container_id.clone(),
    })
}

fn policy_page(facts: &Facts) -> PolicyPage {
    PolicyPage {
        known_revision: facts.stream.known_revision.max(facts.fabric.applied.received),
        enforced_revision: facts.fabric.applied.enforced,
        lag_seconds: facts.lag().as_secs(),
        policies: facts.fabric.policies as u64,
        security_groups: facts.fabric.groups as u64,
        skipped_rules: facts.fabric.skipped.clone(),
        peers: facts.fabric.peers as u64,
    }
}

fn offload_page(view: &self_test::View) -> OffloadPage {
    OffloadPage {
        self_test: view.mode.as_str().to_owned(),
        device: view.device.clone(),
        verdict: view.verdict().to_owned(),
        switched_off: view.off.iter().cloned().collect(),
        undo: view.undo(),
        failure: view.failure.clone(),
    }
}

fn policy_row(policy: Policy) -> PolicyRow {
    let rule = policy.rule;
    let ports = if rule.port_start == rule.port_end {
        rule.port_start.to_string()
    } else {
        format!("{}-{}", rule.port_start, rule.port_end)
    };
    PolicyRow {
        source: rule.source,
        source_tag: policy.tags.source,
        destination: rule.destination,
        destination_tag: policy.tags.destination,
        protocol: rule.protocol.to_string(),
        ports,
    }
}

fn counter_line(row: CounterRow) -> CounterLine {
    CounterLine {
        hook: row.hook.as_str().to_owned(),
        outcome: row.outcome.as_str().to_owned(),
        drop: row.outcome.is_drop(),
        packets: row.packets,
        bytes: row.bytes,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::datapath::Swept;
    use crate::fabric::{Applied, CellLease, Report, View};

    /// A cell that is 4 revisions behind since 12 s.
    pub(crate) fn facts() -> Facts {
        Facts {
            fabric: View {
                applied: Applied { received: 7, enforced: 5 },
                failure: None,
                adopted: true,
                live: true,
                settled: true,
                lease: None,
                peers: 2,
                endpoints: 3,
                apps: [("frontend".to_owned(), 1)].into(),
                policies: 0,
                groups: 4,
                skipped: Vec::new(),
                mapped_ports: 6,
                max_connections: 0,
            },
            stream: control_stream::View {
                stream: StreamState::Live,
                lease_state: "held",
                known_revision: 9,
                applied: Applied { received: 7, enforced: 5 },
                behind_since: Some(Duration::from_secs(100)),
                ..control_stream::View::default()
            },
            passes: Passes::default(),
            lease: None,
            no_address: None,
            self_test: self_test::View::default(),
            flow_log_lost: 0,
            now: Duration::from_secs(112),
        }
    }

    fn ready() -> Facts {
        let block = "10.255.1.0/24".parse().unwrap();
        let lease = CellLease { block, overlay: "10.255.0.0/16".parse().unwrap(), mtu: 1450 };
        Facts { lease: Some(lease), ..facts() }
    }

    #[test]
    fn a_cell_with_a_lease_is_ready_and_its_lag_is_a_warning() {
        assert_eq!(ready().problems(), Vec::<String>::new());
        assert_eq!(ready().warnings(), ["4 revisions behind for 12 s"]);
        let full = Facts { no_address: Some("no address is free: in 10.255.1.0/24".to_owned()), ..ready() };
        assert_eq!(full.problems(), Vec::<String>::new());
        assert_eq!(full.warnings()[0], "no address is free: in 10.255.1.0/24");
    }

    #[test]
    fn without_a_lease_the_reason_is_said() {
        let mut facts = facts();
        assert_eq!(facts.problems(), ["no lease yet: the controller was asked"]);
        facts.stream.last_error = Some("cannot reach it".to_owned());
        assert_eq!(facts.problems(), ["no lease: cannot reach it"]);
        facts.stream.alarm = Some("contradicted".to_owned());
        assert_eq!(facts.problems(), ["contradicted"]);
    }

    #[test]
    fn what_is_not_enforced_is_a_problem_and_said_once() {
        let mut facts = ready();
        facts.fabric.failure = Some("map POLICIES is full".to_owned());
        let failed =
            vec!["writing policies: map POLICIES is full".to_owned(), "attaching to s-1: gone".to_owned()];
        facts.passes.take(Report { repaired: Vec::new(), failed }, Swept::default(), Instant::now());
        let said =
            ["not everything is enforced: map POLICIES is full", "cannot repair: attaching to s-1: gone"];
        assert_eq!(facts.problems(), said);
    }

    #[test]
    fn a_rule_that_is_skipped_is_a_warning() {
        let mut facts =
            Facts { stream: control_stream::View { behind_since: None, ..facts().stream }, ..ready() };
        facts.fabric.skipped = vec!["security group dns: bad".to_owned(), "worse".to_owned()];
        let said = "an egress rule is skipped: security group dns: bad (and 1 more, see c2c-agent egress)";
        assert_eq!((facts.problems(), facts.warnings()), (Vec::new(), vec![said.to_owned()]));
    }

    #[test]
    fn a_controller_that_is_away_and_maps_that_wait_for_it_are_warnings() {
        let mut facts = ready();
        facts.fabric.settled = false;
        facts.stream.stream = StreamState::Waiting;
        assert_eq!(facts.problems(), Vec::<String>::new());
        assert_eq!(facts.warnings().len(), 3);
    }
}
