//! The shim as Garden's external networker, called as guardian calls it: well, in parallel, again and again, and wrongly.

use anyhow::{Context, Result, ensure};
use c2c_tests::lab::{GardenAnswer, Lab, Options, Sandbox, Wanted, command, in_lab};
use c2c_tests::observe::traces::Traces;
use c2c_tests::traffic::{icmp, tcp, udp};
use c2c_tests::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Child;

const PORT: u16 = 8080;
/// What Diego creates at a time, `create_work_pool_size`.
const AT_A_TIME: usize = 32;

fn one_cell() -> Options {
    Options { cells: 1, ..Options::default() }
}

fn with_agent(agent: &[(&str, &str)]) -> Options {
    let agent = agent.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Options { agent, ..one_cell() }
}

fn succeeds(answer: GardenAnswer) -> Result<GardenAnswer> {
    ensure!(answer.ok, "{answer:?}");
    Ok(answer)
}

/// It must fail, with one line for Garden's log and nothing for Garden.
fn fails(answer: &GardenAnswer) -> Result<()> {
    ensure!(!answer.ok && answer.document.is_null(), "{answer:?}");
    ensure!(answer.log.trim().lines().count() == 1, "{answer:?}");
    Ok(())
}

fn up(lab: &Lab, sandbox: &Sandbox, handle: &str, wanted: &Wanted) -> Result<GardenAnswer> {
    succeeds(lab.garden("a", "up", handle, &wanted.garden(sandbox.pid()))?)
}

fn down(lab: &Lab, handle: &str) -> Result<()> {
    let answer = succeeds(lab.garden("a", "down", handle, &Value::Null)?)?;
    ensure!(answer.document.is_null(), "{answer:?}");
    Ok(())
}

fn address(answer: &GardenAnswer) -> Result<Ipv4Addr> {
    answer.property("garden.network.container-ip").context("no address")?.parse().context("no address")
}

/// The pairs of ports in an answer to `up`.
fn mapped(answer: &GardenAnswer) -> Result<Vec<(u64, u64)>> {
    let text = answer.property("garden.network.mapped-ports").context("no mapped ports")?;
    let rows: Vec<Value> = serde_json::from_str(text).with_context(|| text.to_owned())?;
    let number = |row: &Value, key: &str| row[key].as_u64().with_context(|| format!("{key} in {text}"));
    rows.iter().map(|row| Ok((number(row, "HostPort")?, number(row, "ContainerPort")?))).collect()
}

#[test]
fn up_wires_what_it_was_told_and_down_leaves_nothing() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        for round in 0..3 {
            let sandbox = lab.sandbox("one")?;
            let rule = json!({ "protocol": 1, "networks": [{ "start": "198.51.100.2", "end": "198.51.100.2" }],
                "ports": [{ "start": PORT, "end": PORT }] });
            let wanted = Wanted::app("app").space("here").port(0, PORT).port(0, 2222).rule(rule);
            let answer = up(lab, &sandbox, "one", &wanted)?;
            ensure!(answer.property("garden.network.host-ip") == Some("255.255.255.255"), "{answer:?}");
            ensure!(answer.property("garden.network.interface") == Some("eth0"), "{answer:?}");
            let ports = mapped(&answer)?;
            ensure!(ports.iter().map(|(_, port)| *port).eq([u64::from(PORT), 2222]), "{round}: {ports:?}");

            let _inside = tcp::Server::start(sandbox.namespace(), PORT)?;
            let _far = tcp::Server::start(&lab.outside().far(), PORT)?;
            let (cell, port) = (lab.cell("a")?.underlay_address, u16::try_from(ports[0].0)?);
            let outside = lab.outside();
            tcp::connect(&outside.far(), cell, port)?.is_seen_as(outside.far_address)?;
            tcp::connect(sandbox.namespace(), outside.far_address, PORT)?.is_seen_as(cell)?;
            tcp::connect(sandbox.namespace(), outside.far_address, PORT + 1)?.is_refused()?;
            down(lab, "one")?;
            down(lab, "one").context("again")?;
        }
        down(lab, "never-seen")?;
        before.are_all_there_is(lab, "a")
    })
}

#[test]
fn ports_and_rules_can_be_added_to_a_container_that_runs() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        let sandbox = lab.sandbox("one")?;
        let answer = up(lab, &sandbox, "one", &Wanted::app("app"))?;
        let (ip, outside) = (address(&answer)?, lab.outside().clone());
        let (_inside, _far) =
            (tcp::Server::start(sandbox.namespace(), PORT)?, udp::Server::start(&outside.far(), PORT)?);
        let cell = lab.cell("a")?.underlay_address;

        let request = json!({ "HostIP": cell, "HostPort": 0, "ContainerIP": ip, "ContainerPort": PORT });
        let port = succeeds(lab.garden("a", "net-in", "one", &request)?)?.document;
        ensure!(port["container_port"] == PORT, "{port}");
        let port = u16::try_from(port["host_port"].as_u64().context("no port")?)?;
        tcp::connect(&outside.namespace(), cell, port)?.is_seen_as(outside.address)?;

        udp::ask(sandbox.namespace(), outside.far_address, PORT)?.is_refused()?;
        icmp::ping(sandbox.namespace(), outside.far_address)?.is_refused()?;
        let rule = json!({ "protocol": 2, "networks": [{ "start": "198.51.100.2", "end": "198.51.100.2" }] });
        succeeds(lab.garden("a", "net-out", "one", &json!({ "container_ip": ip, "netout_rule": rule }))?)?;
        udp::ask(sandbox.namespace(), outside.far_address, PORT)?.is_seen_as(cell)?;
        let rules = json!([{ "protocol": 3, "icmps": { "type": 8, "code": 0 } }, { "protocol": 1 }]);
        succeeds(lab.garden(
            "a",
            "bulk-net-out",
            "one",
            &json!({ "container_ip": ip, "netout_rules": rules }),
        )?)?;
        icmp::ping(sandbox.namespace(), outside.far_address)?.is_seen_as(outside.far_address)?;

        lab.kill_agent("a")?;
        lab.start_agent("a")?;
        tcp::connect(&outside.namespace(), cell, port)?
            .is_seen_as(outside.address)
            .context("the next agent")?;
        udp::ask(sandbox.namespace(), outside.far_address, PORT)?
            .is_seen_as(cell)
            .context("the next agent")?;
        down(lab, "one")?;
        before.are_all_there_is(lab, "a")
    })
}

#[test]
fn many_at_a_time_get_addresses_and_ports_of_their_own() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        let names: Vec<String> = (0..AT_A_TIME).map(|number| format!("c{number}")).collect();
        let sandboxes: Vec<Sandbox> = names.iter().map(|name| lab.sandbox(name)).collect::<Result<_>>()?;
        let wanted = Wanted::app("app").port(0, PORT).port(0, 61_001);
        let start = |(name, sandbox): (&String, &Sandbox)| {
            lab.start_garden("a", "up", name, &wanted.garden(sandbox.pid()))
        };
        let ups: Vec<Child> = names.iter().zip(&sandboxes).map(start).collect::<Result<_>>()?;
        let (mut addresses, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for networker in ups {
            let answer = succeeds(GardenAnswer::of(networker)?)?;
            addresses.insert(address(&answer)?);
            ports.extend(mapped(&answer)?.into_iter().map(|(cell, _)| cell));
        }
        ensure!(addresses.len() == AT_A_TIME && ports.len() == 2 * AT_A_TIME, "{addresses:?} {ports:?}");
        let stop = |name: &String| lab.start_garden("a", "down", name, &Value::Null);
        let downs: Vec<Child> = names.iter().map(stop).collect::<Result<_>>()?;
        for networker in downs {
            succeeds(GardenAnswer::of(networker)?)?;
        }
        before.are_all_there_is(lab, "a")
    })
}

#[test]
fn a_second_up_does_not_harm_the_first() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let sandbox = lab.sandbox("one")?;
        let wanted = Wanted::app("app").port(0, PORT);
        let port = mapped(&up(lab, &sandbox, "one", &wanted)?)?[0].0;
        let _inside = tcp::Server::start(sandbox.namespace(), PORT)?;
        let again = lab.garden("a", "up", "one", &wanted.garden(sandbox.pid()))?;
        fails(&again)?;
        let (cell, outside) = (lab.cell("a")?.underlay_address, lab.outside());
        tcp::connect(&outside.namespace(), cell, u16::try_from(port)?)?.is_seen_as(outside.address)
    })
}

#[test]
fn bad_calls_get_one_line_and_change_nothing() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        let sandbox = lab.sandbox("one")?;
        let wanted = Wanted::app("app").port(0, PORT);
        let with = |key: &str, value: Value| {
            let mut inputs = wanted.garden(sandbox.pid());
            inputs[key] = value;
            inputs
        };
        let gone = lab.sandbox("gone")?;
        let nobody = gone.pid();
        drop(gone);
        let calls = [
            ("up", "one", json!("nonsense")),
            ("up", "one", Value::Null),
            ("up", "one", with("Pid", json!(nobody))),
            ("up", "one", with("Pid", json!(-1))),
            ("up", "one", with("netin", json!([{ "host_port": -1, "container_port": PORT }]))),
            ("up", "one", with("netin", json!([{ "host_port": 0, "container_port": 70_000 }]))),
            ("up", "bad/handle", with("Properties", json!({}))),
            ("up", "", with("Properties", json!({}))),
            ("net-in", "never-seen", json!({ "HostPort": 0, "ContainerPort": PORT })),
            ("net-out", "never-seen", json!({ "netout_rule": { "protocol": 0 } })),
            ("sideways", "one", Value::Null),
        ];
        for (action, handle, input) in &calls {
            let answer = lab.garden("a", action, handle, input)?;
            fails(&answer).with_context(|| format!("{action} {handle:?} {input}"))?;
        }
        before.are_all_there_is(lab, "a")
    })
}

#[test]
fn keys_may_be_spelled_in_any_case_and_the_namespace_may_be_descriptor_three() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let sandbox = lab.sandbox("one")?;
        let spelled = json!({ "pid": sandbox.pid(), "properties": { "policy_group_id": "app" },
            "NetIn": [{ "HostPort": 0, "ContainerPort": PORT }] });
        let answer = succeeds(lab.garden("a", "up", "one", &spelled)?)?;
        ensure!(mapped(&answer)?.len() == 1, "{answer:?}");
        down(lab, "one")?;

        let cell = lab.cell("a")?;
        let c2c_cni = command("c2c-cni")?;
        let mut shell = std::process::Command::new("sh");
        let inputs = Wanted::app("app").garden(0).to_string();
        shell.args(["-c", "printf %s \"$INPUT\" | \"$0\" \"$@\" 3<\"$NETNS\""]).arg(c2c_cni.get_program());
        shell.args(["--action", "up", "--handle", "two", "--configFile"]).arg(&cell.networker_config);
        shell.env("INPUT", inputs).env("NETNS", sandbox.namespace().path());
        let printed = cell.namespace().output(&mut shell)?;
        let ip =
            serde_json::from_str::<Value>(&printed)?["properties"]["garden.network.container-ip"].clone();
        let inside =
            sandbox.namespace().output(std::process::Command::new("ip").args(["-4", "address", "show"]))?;
        ensure!(inside.contains(ip.as_str().context("no address")?), "{ip} is not in {inside}");
        down(lab, "two")
    })
}

#[test]
fn the_metadata_file_names_every_container_in_silks_format() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("store.json");
    in_lab(&with_agent(&[("container_metadata_file", &format!("{store:?}"))]), |lab| {
        let read = || -> Result<Value> { Ok(serde_json::from_slice(&std::fs::read(&store)?)?) };
        let sandbox = lab.sandbox("one")?;
        let wanted = Wanted::app("app").space("here");
        let ip = address(&up(lab, &sandbox, "one", &wanted)?)?;
        let two = lab.add_as("a", "two", &wanted)?;
        let entry =
            |handle: &str, ip: Ipv4Addr| json!({ "handle": handle, "ip": ip, "metadata": wanted.metadata() });
        let both = json!({ "one": entry("one", ip), "two": entry("two", two.address) });
        ensure!(read()? == both, "{}", read()?);
        lab.kill_agent("a")?;
        std::fs::remove_file(&store)?;
        lab.start_agent("a")?;
        wait::until_true("the next agent to write the file", || Ok(read().is_ok_and(|read| read == both)))?;
        down(lab, "one")?;
        ensure!(read()? == json!({ "two": entry("two", two.address) }), "{}", read()?);
        lab.remove("two")?;
        ensure!(read()? == json!({}), "{}", read()?);
        Ok(())
    })
}

#[test]
fn name_servers_and_search_domains_are_told_as_they_are_configured() -> Result<()> {
    // What the configuration holds, as TOML and as JSON; nothing at first.
    for (servers, domains) in
        [(None, None), (Some("[]"), Some("[]")), (Some("[\"169.254.0.2\"]"), Some("[\"apps.internal\"]"))]
    {
        let keys = [("dns_servers", servers), ("search_domains", domains)];
        let agent: Vec<(&str, &str)> =
            keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let value = |text: Option<&str>| text.map_or(Ok(Value::Null), serde_json::from_str);
        let (servers, domains) = (value(servers)?, value(domains)?);
        in_lab(&with_agent(&agent), |lab| {
            let sandbox = lab.sandbox("one")?;
            let garden = up(lab, &sandbox, "one", &Wanted::app("app"))?.document;
            ensure!(garden.get("dns_servers").unwrap_or(&Value::Null) == &servers, "{garden}");
            ensure!(garden.get("search_domains").unwrap_or(&Value::Null) == &domains, "{garden}");
            let other = lab.sandbox("two")?;
            let cni = lab.shim_as("a", "ADD", "two", &Wanted::app("app"))?.document;
            let told = |key: &str| cni.pointer(&format!("/dns/{key}")).cloned().unwrap_or(json!([]));
            // CNI cannot tell an empty list from none.
            let list = |value: &Value| if value.is_null() { json!([]) } else { value.clone() };
            ensure!(told("nameservers") == list(&servers) && told("search") == list(&domains), "{cni}");
            drop(other);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_down_without_the_agent_is_done_when_it_is_back() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        let sandbox = lab.sandbox("one")?;
        up(lab, &sandbox, "one", &Wanted::app("app").port(0, PORT))?;
        lab.kill_agent("a")?;
        fails(&lab.garden("a", "up", "two", &Wanted::app("app").garden(sandbox.pid()))?)?;
        down(lab, "one")?;
        lab.start_agent("a")?;
        before.are_all_there_is(lab, "a")
    })
}
