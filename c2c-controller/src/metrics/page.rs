//! The text of `/metrics`, made anew for each scrape. Names begin with `c2c_controller_`; units are in the names.

use super::Observer;
use crate::api::now;
use crate::domain::Figures;
use c2c_proto::pages::{self, by_state, gauge, number};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Shown {
    by: &'static str,
}

pub(super) fn text(observer: &Observer) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("c2c_controller");
    let figures = observer.ledger.figures(now().wall);
    answered(&mut registry, observer);
    streams(&mut registry, observer, &figures);
    store(&mut registry, observer);
    state(&mut registry, &figures);
    certificates(&mut registry, observer);
    pages::build(&mut registry, "The controller's version", env!("CARGO_PKG_VERSION"));
    pages::text(&registry)
}

fn answered(registry: &mut Registry, observer: &Observer) {
    let (requests, calls) = (observer.meters.requests.clone(), observer.meters.calls.clone());
    registry.register(
        "rest_requests",
        "Requests of the policy API that were answered, by route and status",
        requests,
    );
    registry.register("grpc_calls", "Calls of agents and operators that ended, by method and code", calls);
}

fn streams(registry: &mut Registry, observer: &Observer, figures: &Figures) {
    let progress = observer.sessions.progress();
    gauge(registry, "streams", "Cells that are connected", progress.connected as u64);
    let current = figures.revision.get();
    let lag = progress.slowest.map_or(0, |slowest| current.saturating_sub(slowest.get()));
    gauge(
        registry,
        "stream_lag_revisions",
        "Revisions that the slowest connected cell does not enforce yet",
        lag,
    );
}

fn store(registry: &mut Registry, observer: &Observer) {
    let meter = observer.ledger.meter();
    let (seconds, failures) = (meter.seconds.clone(), meter.failures.clone());
    registry.register_with_unit(
        "store_commit",
        "How long the store took to write a change",
        Unit::Seconds,
        seconds,
    );
    registry.register("store_failures", "What the store was asked for and could not do", failures);
}

fn state(registry: &mut Registry, figures: &Figures) {
    let Figures { revision, policies, groups, leases, tags } = figures;
    gauge(registry, "revision", "The state's revision", revision.get());
    gauge(registry, "policies", "Policies", *policies as u64);
    gauge(registry, "security_groups", "Security groups", *groups as u64);
    gauge(registry, "leases_total", "Blocks of the overlay network that can be leased", leases.total as u64);
    let of = |number: usize| number as u64;
    let states = [("held", of(leases.held)), ("expired", of(leases.expired)), ("free", of(leases.free))];
    by_state(
        registry,
        "leases",
        "Blocks by what they are: an expired one is its cell's until it is needed",
        states,
    );
    let states = [("used", of(tags.used)), ("quarantined", of(tags.quarantined)), ("free", of(tags.free))];
    by_state(registry, "tags", "Tags of apps by what they are", states);
}

fn certificates(registry: &mut Registry, observer: &Observer) {
    let expiry = Family::<Shown, Gauge>::default();
    for (by, at) in observer.certificates.expiry() {
        expiry.get_or_create(&Shown { by }).set(number(at));
    }
    let help = "When the certificate in use ends, in seconds since 1970";
    registry.register("certificate_expiry_timestamp_seconds", help, expiry);
}
