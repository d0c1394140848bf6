//! What containers may reach outside: by the rules they came with, and by security groups, which change while they run.

use anyhow::{Context, Result, anyhow, ensure};
use c2c_tests::lab::{Cell, Container, Lab, Options, Wanted, in_lab};
use c2c_tests::netns::Namespace;
use c2c_tests::observe::counters;
use c2c_tests::traffic::tcp::Conversation;
use c2c_tests::traffic::{Attempt, Reach, icmp, tcp, udp};
use c2c_tests::wait;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

const SPACE: &str = "here";
const PORT: u16 = 8000;
const CUT_WITHIN: Duration = Duration::from_secs(10);

fn one_cell() -> Options {
    Options { cells: 1, ..Options::default() }
}

/// An address of the network behind the router.
fn far(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, host)
}

/// A container in the space, and servers at the port of the host behind the router, on all its addresses.
struct Scene {
    container: Container,
    _tcp: tcp::Server,
    _udp: udp::Server,
}

impl Scene {
    fn with(lab: &Lab, wanted: &Wanted) -> Result<Self> {
        let far = lab.outside().far();
        Ok(Self {
            container: lab.add_as("a", "client", wanted)?,
            _tcp: tcp::Server::start(&far, PORT)?,
            _udp: udp::Server::start(&far, PORT)?,
        })
    }

    fn in_space(lab: &Lab) -> Result<Self> {
        Self::with(lab, &Wanted::app("app").space(SPACE))
    }

    fn namespace(&self) -> Namespace {
        self.container.namespace()
    }

    fn tcp(&self, to: Ipv4Addr) -> Result<Attempt> {
        tcp::connect(&self.namespace(), to, PORT)
    }

    fn udp(&self, to: Ipv4Addr) -> Result<Attempt> {
        udp::ask(&self.namespace(), to, PORT)
    }

    fn ping(&self, to: Ipv4Addr) -> Result<Attempt> {
        icmp::ping(&self.namespace(), to)
    }
}

/// The attempt must get through, or be refused at once.
fn is(allowed: bool, attempt: &Attempt) -> Result<()> {
    if allowed {
        ensure!(matches!(attempt.reach, Reach::Reached(_)), "{} instead of reached", attempt.reach);
        return Ok(());
    }
    attempt.is_refused()
}

/// A rule of a security group for TCP to the whole network behind the router.
fn tcp_rule() -> Value {
    json!({ "protocol": "tcp", "destination": "198.51.100.0/24", "ports": PORT.to_string() })
}

/// Garden's rule for the same.
fn tcp_net_out() -> Value {
    json!({
        "protocol": 1,
        "networks": [{ "start": "198.51.100.0", "end": "198.51.100.255" }],
        "ports": [{ "start": PORT, "end": PORT }],
    })
}

#[test]
fn without_a_rule_everything_outside_is_refused_at_once() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::with(lab, &Wanted::app("app"))?;
        counters::expect_more(lab, "a", ("from_container/egress_denied", 6), || {
            for to in [lab.outside().far_address, lab.outside().address] {
                scene.tcp(to)?.is_refused()?;
                scene.udp(to)?.is_refused()?;
                scene.ping(to)?.is_refused()?;
            }
            Ok(())
        })
    })
}

#[test]
fn a_container_reaches_what_the_rules_it_came_with_name() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let echo = json!({ "protocol": 3, "icmps": { "type": 8, "code": 0 } });
        let udp_anywhere = json!({ "protocol": 2 });
        let scene = Scene::with(lab, &Wanted::app("app").rule(tcp_net_out()).rule(echo).rule(udp_anywhere))?;
        let (cell, to) = (lab.cell("a")?.underlay_address, lab.outside().far_address);
        scene.tcp(to)?.is_seen_as(cell)?;
        scene.udp(to)?.is_seen_as(cell)?;
        scene.ping(to)?.is_seen_as(to)?;
        tcp::connect(&scene.namespace(), to, PORT + 1)?.is_refused()?;
        let _router = tcp::Server::start(&lab.outside().namespace(), PORT)?;
        tcp::connect(&scene.namespace(), lab.outside().address, PORT)?.is_refused()
    })
}

#[test]
fn a_rule_for_everything_opens_neither_the_overlay_nor_the_cell() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let scene = Scene::with(lab, &Wanted::app("app").rule(json!({ "protocol": 0 })))?;
        let others = [lab.add("a", "near", "other")?, lab.add("b", "away", "other")?];
        let cells = [lab.cell("a")?, lab.cell("b")?];
        let mut servers = Vec::new();
        for namespace in others.iter().map(Container::namespace).chain(cells.map(Cell::namespace)) {
            servers.push((tcp::Server::start(&namespace, PORT)?, udp::Server::start(&namespace, PORT)?));
        }
        for closed in [others[0].address, others[1].address, cells[0].underlay_address] {
            for attempt in [scene.tcp(closed)?, scene.udp(closed)?, scene.ping(closed)?] {
                attempt.is_refused().with_context(|| closed.to_string())?;
            }
        }
        // Another cell is a host as any other.
        is(true, &scene.tcp(cells[1].underlay_address)?)?;
        is(true, &scene.ping(lab.outside().address)?)
    })
}

#[test]
fn a_datagram_flow_ends_with_its_rule() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::in_space(lab)?;
        lab.set_group(
            "datagrams",
            &[json!({ "protocol": "udp", "destination": "0.0.0.0/0", "ports": "1-65535" })],
        )?;
        lab.bind_group("datagrams", "running", None)?;
        let socket = udp::Client::start(&scene.namespace(), 0, lab.outside().far_address, PORT)?;
        socket.exchange(b"allowed")?;
        lab.unbind_group("datagrams", "running", None)?;
        let refused = socket.exchange(b"revoked").err().map(Reach::from);
        ensure!(refused == Some(Reach::Refused), "{refused:?}");
        lab.bind_group("datagrams", "running", None)?;
        socket.exchange(b"allowed again").context("the same flow, allowed again").map(drop)
    })
}

#[test]
fn a_group_that_is_bound_opens_and_unbound_cuts_without_a_restart() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::in_space(lab)?;
        let (cell, to) = (lab.cell("a")?.underlay_address, lab.outside().far_address);
        lab.set_group("web", &[tcp_rule()])?;
        scene.tcp(to)?.is_refused().context("a group that is bound to nothing")?;
        lab.bind_group("web", "running", Some("elsewhere"))?;
        scene.tcp(to)?.is_refused().context("a group of another space")?;

        lab.bind_group("web", "running", Some(SPACE))?;
        scene.tcp(to)?.is_seen_as(cell)?;
        scene.udp(to)?.is_refused()?;
        let live = live(Conversation::start(&scene.namespace(), to, PORT)?);
        lab.unbind_group("web", "running", Some(SPACE))?;
        is_cut(live)?;
        scene.tcp(to)?.is_refused()?;

        lab.bind_group("web", "running", None)?;
        let live = self::live(Conversation::start(&scene.namespace(), to, PORT)?);
        lab.operator(&["security-groups", "delete", "web"])?;
        is_cut(live)
    })
}

fn live(talk: Conversation) -> thread::JoinHandle<Result<Attempt>> {
    thread::spawn(move || talk.until_cut(CUT_WITHIN))
}

fn is_cut(live: thread::JoinHandle<Result<Attempt>>) -> Result<()> {
    let cut = live.join().map_err(|_| anyhow!("a live connection's thread panicked"))??;
    ensure!(cut.reach == Reach::Refused, "a live connection must be reset, not {}", cut.reach);
    Ok(())
}

#[test]
fn a_group_whose_rules_change_cuts_what_it_no_longer_allows_and_only_that() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::in_space(lab)?;
        let other = tcp::Server::start(&lab.outside().far(), PORT + 1)?;
        let to = lab.outside().far_address;
        let ports =
            |ports: &str| json!({ "protocol": "tcp", "destination": "198.51.100.0/24", "ports": ports });
        lab.set_group("web", &[ports("8000-8001")])?;
        lab.bind_group("web", "running", None)?;
        let doomed = live(Conversation::start(&scene.namespace(), to, PORT)?);
        let mut spared = Conversation::start(&scene.namespace(), to, PORT + 1)?;
        lab.set_group("web", &[ports("8001")])?;
        is_cut(doomed)?;
        spared.ping().context("a connection that is still allowed")?;
        scene.tcp(to)?.is_refused()?;
        drop(other);
        Ok(())
    })
}

#[test]
fn destinations_and_ports_are_read_as_cloud_controller_writes_them() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::in_space(lab)?;
        for host in 3..=9 {
            lab.outside().add_far_address(far(host))?;
        }
        let more: Vec<tcp::Server> = (PORT + 1..=PORT + 7)
            .map(|port| tcp::Server::start(&lab.outside().far(), port))
            .collect::<Result<_>>()?;
        let rule = |destination: &str, ports: &str| json!({ "protocol": "tcp", "destination": destination, "ports": ports });
        lab.set_group(
            "mixed",
            &[
                rule("198.51.100.2", "8000, 8002 ,8004-8005"),
                rule("198.51.100.4-198.51.100.5", "8000"),
                rule("198.51.100.6/31", " 8001 - 8002 "),
                rule("198.51.100.8, 198.51.100.9", "8007"),
            ],
        )?;
        lab.bind_group("mixed", "running", Some(SPACE))?;
        let open: [(u8, &[u16]); 8] = [
            (2, &[8000, 8002, 8004, 8005]),
            (3, &[]),
            (4, &[8000]),
            (5, &[8000]),
            (6, &[8001, 8002]),
            (7, &[8001, 8002]),
            (8, &[8007]),
            (9, &[8007]),
        ];
        for (host, ports) in open {
            for port in PORT..=PORT + 7 {
                let attempt = tcp::connect(&scene.namespace(), far(host), port)?;
                is(ports.contains(&port), &attempt).with_context(|| format!("{}:{port}", far(host)))?;
            }
        }
        drop(more);
        Ok(())
    })
}

#[test]
fn a_thousand_rules_are_one_set() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::in_space(lab)?;
        let elsewhere = (0..1_000).map(|number: u32| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(203, 0, 0, 0).to_bits() + 2 * number);
            json!({ "protocol": "tcp", "destination": address, "ports": "1-65535" })
        });
        lab.set_group("many", &elsewhere.chain([tcp_rule()]).collect::<Vec<Value>>())?;
        lab.bind_group("many", "running", Some(SPACE))?;
        is(true, &scene.tcp(lab.outside().far_address)?)?;
        is(false, &scene.udp(lab.outside().far_address)?)?;
        let rows =
            || -> Result<u64> { Ok(counters::maps(lab, "a")?.get("EGRESS").map_or(0, |map| map.entries)) };
        let before = rows()?;
        lab.add_as("a", "another", &Wanted::app("other").space(SPACE))?;
        ensure!(rows()? == before && before > 1_000, "{before} rows for one container, {} for two", rows()?);
        Ok(())
    })
}

#[test]
fn networks_that_are_denied_later_are_denied_at_once() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::with(lab, &Wanted::app("app").rule(tcp_net_out()))?;
        let live = live(Conversation::start(&scene.namespace(), lab.outside().far_address, PORT)?);
        let cell = lab.cell("a")?;
        let config = std::fs::read_to_string(&cell.config)?;
        std::fs::write(&cell.config, format!("deny_networks_always = [\"198.51.100.0/24\"]\n{config}"))?;
        cell.process.context("no agent")?.hang_up()?;
        is_cut(live)?;
        scene.tcp(lab.outside().far_address)?.is_refused()
    })
}

#[test]
fn icmp_is_told_apart_by_type_and_code() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::in_space(lab)?;
        let to = lab.outside().far_address;
        let rule = |kind: i16, code: i16| json!({ "protocol": "icmp", "destination": "198.51.100.0/24", "type": kind, "code": code });
        lab.set_group("echo", &[])?;
        lab.bind_group("echo", "running", None)?;
        for (kind, code, allowed) in [
            (8, 0, true),
            (13, 0, false),
            (8, 1, false),
            (8, -1, true),
            (-1, -1, true),
            (255, 255, true),
            (0, -1, false),
        ] {
            lab.set_group("echo", &[rule(kind, code)])?;
            is(allowed, &scene.ping(to)?).with_context(|| format!("type {kind}, code {code}"))?;
        }
        scene.tcp(to)?.is_refused()?;
        lab.set_group("echo", &[json!({ "protocol": "all", "destination": "198.51.100.0/24" })])?;
        for attempt in [scene.ping(to)?, scene.tcp(to)?, scene.udp(to)?] {
            is(true, &attempt).context("protocol all")?;
        }
        Ok(())
    })
}

#[test]
fn running_and_staging_containers_have_groups_and_denied_networks_of_their_own() -> Result<()> {
    let deny = |key: &str, host: u8| (format!("deny_networks_{key}"), format!("[\"{}/32\"]", far(host)));
    let agent = vec![deny("always", 3), deny("running", 4), deny("staging", 5)];
    in_lab(&Options { agent, ..one_cell() }, |lab| {
        let running = Scene::in_space(lab)?;
        let staging = lab.add_as("a", "staging", &Wanted::app("app").space(SPACE).workload("staging"))?;
        let task = lab.add_as("a", "task", &Wanted::app("app").space(SPACE).workload("task"))?;
        for host in 3..=5 {
            lab.outside().add_far_address(far(host))?;
        }
        let reach = |allowed: [&[u8]; 3]| -> Result<()> {
            for (container, hosts) in [&running.container, &task, &staging].into_iter().zip(allowed) {
                for host in 2..=5 {
                    let attempt = tcp::connect(&container.namespace(), far(host), PORT)?;
                    is(hosts.contains(&host), &attempt)
                        .with_context(|| format!("{} to {}", container.name, far(host)))?;
                }
            }
            Ok(())
        };
        lab.set_group("web", &[tcp_rule()])?;
        reach([&[], &[], &[]])?;
        lab.bind_group("web", "staging", Some(SPACE))?;
        reach([&[], &[], &[2, 4]])?;
        lab.bind_group("web", "running", None)?;
        reach([&[2, 5], &[2, 5], &[2, 4]])?;
        lab.unbind_group("web", "staging", Some(SPACE))?;
        reach([&[2, 5], &[2, 5], &[]])
    })
}

#[test]
fn one_bad_rule_is_skipped_and_named_and_the_others_stand() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::in_space(lab)?;
        let bad = json!({ "protocol": "tcp", "destination": "198.51.100.300", "ports": "1" });
        let said = lab.set_group("web", &[bad, tcp_rule()])?;
        ensure!(said.contains("198.51.100.300"), "the operator was not told: {said}");
        lab.bind_group("web", "running", Some(SPACE))?;
        scene.tcp(lab.outside().far_address)?.is_seen_as(lab.cell("a")?.underlay_address)?;
        let told = lab.ask_agent("a", "egress")?.to_string();
        ensure!(told.contains("198.51.100.300"), "the agent does not tell: {told}");
        Ok(())
    })
}

#[test]
fn the_rules_it_came_with_count_when_no_group_does() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::with(lab, &Wanted::app("app").space(SPACE).rule(tcp_net_out()))?;
        let to = lab.outside().far_address;
        is(true, &scene.tcp(to)?)?;
        let udp = json!({ "protocol": "udp", "destination": "0.0.0.0/0", "ports": PORT.to_string() });
        lab.set_group("datagrams", &[udp])?;
        lab.bind_group("datagrams", "running", Some(SPACE))?;
        is(true, &scene.udp(to)?)?;
        is(false, &scene.tcp(to)?)?;
        lab.unbind_group("datagrams", "running", Some(SPACE))?;
        is(false, &scene.udp(to)?)?;
        is(true, &scene.tcp(to)?)
    })
}

#[test]
fn rules_are_enforced_with_agent_and_controller_dead_and_by_the_next_agent() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let scene = Scene::in_space(lab)?;
        let to = lab.outside().far_address;
        lab.set_group("web", &[tcp_rule()])?;
        lab.bind_group("web", "running", Some(SPACE))?;
        let mut talk = Conversation::start(&scene.namespace(), to, PORT)?;
        let mut holds = |when: &str| -> Result<()> {
            talk.ping().with_context(|| format!("a live connection {when}"))?;
            is(true, &scene.tcp(to)?).with_context(|| format!("tcp {when}"))?;
            is(false, &scene.udp(to)?).with_context(|| format!("udp {when}"))
        };
        lab.kill_controller()?;
        lab.kill_agent("a")?;
        holds("with both dead")?;
        lab.start_agent_unready("a")?;
        lab.wait_until_it_answers("a")?;
        holds("with the next agent, without the controller")?;
        lab.start_controller()?;
        lab.wait_until_ready("a")?;
        holds("with the controller back")
    })
}

#[test]
fn a_rule_that_asks_for_it_has_its_connections_logged() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("flows.log");
    let agent = vec![("flow_log".to_owned(), format!("{log:?}"))];
    in_lab(&Options { agent, ..one_cell() }, |lab| {
        let scene = Scene::in_space(lab)?;
        let to = lab.outside().far_address;
        let udp = json!({ "protocol": "udp", "destination": "198.51.100.2", "ports": PORT.to_string() });
        let mut logged = tcp_rule();
        logged["log"] = json!(true);
        lab.set_group("web", &[logged, udp])?;
        lab.bind_group("web", "running", Some(SPACE))?;
        is(true, &scene.udp(to)?)?;
        is(true, &scene.tcp(to)?)?;
        let record = wait::until("a connection to be logged", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            Ok(text.lines().next().map(str::to_owned))
        })?;
        let record: Value = serde_json::from_str(&record).with_context(|| record.clone())?;
        let packet = record.pointer("/data/packet").with_context(|| format!("{record}"))?;
        let expected = [
            ("direction", json!("egress")),
            ("allowed", json!(true)),
            ("src_ip", json!(scene.container.address)),
            ("dst_ip", json!(to)),
            ("dst_port", json!(PORT)),
            ("protocol", json!("TCP")),
        ];
        for (field, value) in expected {
            ensure!(packet[field] == value, "{field} is not {value}: {record}");
        }
        let source = record.pointer("/data/source").with_context(|| format!("{record}"))?;
        ensure!(source["container_id"] == "client" && source["space_guid"] == SPACE, "{record}");
        Ok(())
    })
}
