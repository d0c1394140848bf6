//! How often, and how often at one time, a container may call the outside.

use anyhow::{Context, Result, ensure};
use c2c_tests::lab::{Container, Lab, Options, Wanted, in_lab};
use c2c_tests::observe::counters::Counters;
use c2c_tests::traffic::tcp::{self, Conversation};
use c2c_tests::wait;
use serde_json::json;
use std::time::Instant;

const PORT: u16 = 8000;
const BURST: u64 = 5;
/// How many more are tried.
const BEYOND: u64 = 4;
const CEILING: usize = 4;

fn cell_with(agent: &[(&str, String)]) -> Options {
    let agent = agent.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Options { cells: 1, agent, ..Options::default() }
}

fn client(lab: &Lab, name: &str) -> Result<Container> {
    lab.add_as("a", name, &Wanted::app("app").rule(json!({ "protocol": 0 })))
}

/// Connects again and again, beyond the burst, and gives how often that was refused: as often as the rate lets none in.
fn refusals(client: &Container, lab: &Lab, port: u16) -> Result<u64> {
    let (started, mut refused) = (Instant::now(), 0);
    for _ in 0..BURST + BEYOND {
        let attempt = tcp::connect(&client.namespace(), lab.outside().far_address, port)?;
        if attempt.is_refused().is_ok() {
            refused += 1;
        } else {
            attempt.is_seen_as(lab.cell(&client.cell)?.underlay_address)?;
        }
    }
    // One comes back every second, also to a slow machine.
    let fewest = BEYOND.saturating_sub(started.elapsed().as_secs() + 1);
    ensure!((fewest..=BEYOND).contains(&refused), "{refused} refused");
    Ok(refused)
}

fn rate_limit(dry_run: bool) -> [(&'static str, String); 4] {
    [
        ("outbound_limit", "true".to_owned()),
        ("outbound_burst", BURST.to_string()),
        ("outbound_rate_per_sec", "1".to_owned()),
        ("outbound_dry_run", dry_run.to_string()),
    ]
}

#[test]
fn connections_beyond_the_burst_are_refused_and_counted_for_each_destination() -> Result<()> {
    in_lab(&cell_with(&rate_limit(false)), |lab| {
        let (one, two) = (client(lab, "one")?, client(lab, "two")?);
        let far = lab.outside().far();
        let _servers = [tcp::Server::start(&far, PORT)?, tcp::Server::start(&far, PORT + 1)?];
        let before = Counters::of(lab, "a")?;
        let refused = refusals(&one, lab, PORT)?;
        let moved = Counters::of(lab, "a")?.since(&before);
        ensure!(moved.get("from_container/rate_limited") == Some(&refused), "{moved:?}");
        refusals(&one, lab, PORT + 1).context("another destination has its own")?;
        refusals(&two, lab, PORT).context("another container has its own")?;
        // Once a second is over there is room again.
        wait::until_true("the rate to let one in", || {
            Ok(tcp::connect(&one.namespace(), lab.outside().far_address, PORT)?.is_refused().is_err())
        })
    })
}

#[test]
fn a_dry_run_refuses_nothing_and_counts() -> Result<()> {
    in_lab(&cell_with(&rate_limit(true)), |lab| {
        let client = client(lab, "client")?;
        let _server = tcp::Server::start(&lab.outside().far(), PORT)?;
        let before = Counters::of(lab, "a")?;
        for _ in 0..BURST + BEYOND {
            let attempt = tcp::connect(&client.namespace(), lab.outside().far_address, PORT)?;
            attempt.is_seen_as(lab.cell("a")?.underlay_address)?;
        }
        let moved = Counters::of(lab, "a")?.since(&before);
        let counted = moved.get("from_container/rate_would_limit").copied().unwrap_or(0);
        ensure!((1..=BEYOND).contains(&counted), "{moved:?}");
        Ok(())
    })
}

#[test]
fn the_ceiling_of_connections_is_exact_and_closing_makes_room() -> Result<()> {
    in_lab(&cell_with(&[("outbound_max_connections", CEILING.to_string())]), |lab| {
        let (one, two) = (client(lab, "one")?, client(lab, "two")?);
        let far = lab.outside().far();
        let _servers = [tcp::Server::start(&far, PORT)?, tcp::Server::start(&far, PORT + 1)?];
        let to = lab.outside().far_address;
        let open = |container: &Container, port| Conversation::start(&container.namespace(), to, port);
        // It is one for all destinations.
        let mut talks: Vec<Conversation> = (0..CEILING)
            .map(|number| open(&one, PORT + u16::from(number % 2 == 0)))
            .collect::<Result<_>>()?;
        for round in 0..2 {
            let before = Counters::of(lab, "a")?;
            for port in [PORT, PORT + 1] {
                tcp::connect(&one.namespace(), to, port)?.is_refused()?;
            }
            let moved = Counters::of(lab, "a")?.since(&before);
            ensure!(moved.get("from_container/connections_limited") == Some(&2), "{round}: {moved:?}");
            talks.iter_mut().try_for_each(Conversation::ping).context("those that are open")?;
            drop(talks.pop());
            let room = wait::until("a closed connection to make room", || Ok(open(&one, PORT).ok()))?;
            talks.push(room);
        }
        // Who is turned away at the other end has no connection.
        drop(talks);
        wait::until_true("room for one", || Ok(open(&one, PORT).is_ok()))?;
        let before = Counters::of(lab, "a")?;
        for _ in 0..2 * CEILING {
            tcp::connect(&one.namespace(), to, PORT + 2)?.is_refused()?;
        }
        let moved = Counters::of(lab, "a")?.since(&before);
        ensure!(!moved.contains_key("from_container/connections_limited"), "{moved:?}");
        open(&two, PORT).context("another container has a ceiling of its own").map(drop)
    })
}

#[test]
fn the_ceiling_outlives_the_agent() -> Result<()> {
    in_lab(&cell_with(&[("outbound_max_connections", CEILING.to_string())]), |lab| {
        let client = client(lab, "client")?;
        let _server = tcp::Server::start(&lab.outside().far(), PORT)?;
        let to = lab.outside().far_address;
        let open = || Conversation::start(&client.namespace(), to, PORT);
        let mut talks: Vec<Conversation> = (0..CEILING).map(|_| open()).collect::<Result<_>>()?;
        lab.kill_agent("a")?;
        tcp::connect(&client.namespace(), to, PORT)?.is_refused()?;
        lab.start_agent("a")?;
        tcp::connect(&client.namespace(), to, PORT)?.is_refused()?;
        drop(talks.pop());
        wait::until_true("a closed connection to make room", || Ok(open().is_ok()))
    })
}
