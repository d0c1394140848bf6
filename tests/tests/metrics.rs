//! The metrics page against what the agent's own commands say.

use anyhow::{Context, Result, ensure};
use c2c_tests::cast::{Cast, OTHER_PORT, PORT};
use c2c_tests::lab::{Options, in_lab};
use c2c_tests::observe::counters::{self, Counters};
use c2c_tests::observe::metrics;
use c2c_tests::traffic::tcp;
use c2c_tests::wait;

#[test]
fn metrics_say_what_the_commands_say() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = Cast::enter(lab)?;
        lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
        for port in [PORT, OTHER_PORT] {
            tcp::connect(&cast.frontend.namespace(), cast.backend_b.address, port)?;
        }
        let cell = lab.cell("b")?;
        let (code, page) = metrics::get(cell, "/metrics")?;
        ensure!(code == 200, "{code}: {page}");
        let value = |series: &str| {
            metrics::value(&page, series).with_context(|| format!("{series} is missing: {page}"))
        };

        let denied = Counters::of(lab, "b")?.packets("from_underlay/policy_denied");
        let denied = u32::try_from(denied)?;
        let drops = value("c2c_agent_drops_total{hook=\"from_underlay\",reason=\"policy_denied\"}")?;
        ensure!(denied > 0 && drops == f64::from(denied), "{drops} and {denied}");
        for (name, map) in counters::maps(lab, "b")? {
            let capacity = value(&format!("c2c_agent_map_capacity{{map=\"{name}\"}}"))?;
            ensure!(capacity == f64::from(u32::try_from(map.capacity)?), "{name}: {capacity} and {map:?}");
        }
        ensure!(value("c2c_agent_endpoints")? == 2.0);
        ensure!(value("c2c_agent_lease_state{state=\"held\"}")? == 1.0);
        ensure!(value("c2c_agent_stream_state{state=\"live\"}")? == 1.0);
        let revision = lab.status("b")?.revision().context("no revision")?;
        ensure!(value("c2c_agent_policy_revision_applied")? == f64::from(u32::try_from(revision)?));
        ensure!(value("c2c_agent_policy_lag_seconds")? == 0.0);
        Ok(())
    })
}

#[test]
fn readiness_follows_the_agent() -> Result<()> {
    in_lab(&Options { cells: 1, ..Options::default() }, |lab| {
        let cell = lab.cell("a")?;
        ensure!(metrics::get(cell, "/healthz")?.0 == 200);
        ensure!(metrics::get(cell, "/readyz")?.0 == 200);
        ensure!(metrics::get(cell, "/nothing")?.0 == 404);
        lab.kill_controller()?;
        wait::until_true("the agent to notice", || Ok(!lab.status("a")?.stream_is_live()))?;
        let (code, page) = metrics::get(lab.cell("a")?, "/readyz")?;
        ensure!(code == 200, "a cell that holds a lease serves ADDs without the controller: {code} {page}");
        let (_, page) = metrics::get(lab.cell("a")?, "/metrics")?;
        ensure!(metrics::value(&page, "c2c_agent_stream_state{state=\"live\"}") == Some(0.0), "{page}");
        Ok(())
    })
}
