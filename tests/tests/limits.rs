//! Bad input, damaged files and full maps: one clear line each, and nothing changes.

use anyhow::{Context, Result, ensure};
use c2c_tests::lab::{Lab, Options, Wanted, command, in_lab, output_of};
use c2c_tests::netns::Namespace;
use c2c_tests::traffic::{Reach, forged, tcp};
use c2c_tests::wait;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Output;
use std::thread;

fn one_cell() -> Options {
    Options { cells: 1, ..Options::default() }
}

/// Runs one of our programs in a namespace, whatever becomes of it.
fn run(lab: &Lab, namespace: &Namespace, name: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = command(name)?;
    command.args(arguments).envs(lab.operator_environment());
    namespace.run(|| command.output().context("cannot start a program"))
}

/// The program must fail, say so in one line on stderr, and name in it what was wrong.
fn is_refused(output: &Output, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "exit code 0, and it said {said:?}");
    ensure!(output.status.code().is_some_and(|code| code != 101), "it panicked: {said}");
    for word in words {
        ensure!(said.contains(word), "{said:?} does not name {word:?}");
    }
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    ensure!(lines.len() == 1, "more than one line: {said}");
    Ok(())
}

#[test]
fn an_operator_who_mistypes_gets_one_line_and_changes_nothing() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        lab.allow("frontend", "backend", "tcp", "7000")?;
        let before = lab.operator(&["list-access"])?;
        let long = "x".repeat(300);
        let table: &[(&[&str], &[&str])] = &[
            (&["frontend", "backend", "--port", "0", "--protocol", "tcp"], &["port", "0"]),
            (&["frontend", "backend", "--port", "70000", "--protocol", "tcp"], &["port", "70000"]),
            (&["frontend", "backend", "--port", "9-8", "--protocol", "tcp"], &["port", "9-8"]),
            (&["frontend", "backend", "--port", "abc", "--protocol", "tcp"], &["port", "abc"]),
            (&["frontend", "backend", "--port", "7000-", "--protocol", "tcp"], &["port", "7000-"]),
            (&["frontend", "backend", "--port", "-1", "--protocol", "tcp"], &["port"]),
            (&["frontend", "backend", "--port", "7000", "--protocol", "icmp"], &["protocol", "icmp"]),
            (&["", "backend", "--port", "7000", "--protocol", "tcp"], &["source"]),
            (&["frontend", "", "--port", "7000", "--protocol", "tcp"], &["destination"]),
            (&[&long, "backend", "--port", "7000", "--protocol", "tcp"], &["source"]),
        ];
        let namespace = lab.controller().namespace();
        for verb in ["allow-access", "remove-access"] {
            for (arguments, words) in table {
                let arguments = [&[verb], *arguments].concat();
                let output = run(lab, &namespace, "c2c-controller", &arguments)?;
                is_refused(&output, words).with_context(|| format!("{arguments:?}"))?;
            }
        }
        let after = lab.operator(&["list-access"])?;
        ensure!(before == after, "{before} became {after}");
        Ok(())
    })
}

#[test]
fn a_certificate_that_is_missing_damaged_foreign_or_of_the_wrong_role_is_refused_by_name() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let stranger = lab.place().path("stranger");
        let directory = stranger.to_str().context("not text")?;
        output_of("c2c-controller", &["pki", "init", "--dir", directory])?;
        output_of(
            "c2c-controller",
            &["pki", "issue", "--dir", directory, "--role", "operator", "--name", "operator"],
        )?;
        let pki = lab.place().path("pki");
        let damaged = lab.place().path("damaged.crt");
        std::fs::write(&damaged, "-----BEGIN CERTIFICATE-----\nnonsense")?;
        let path = |directory: &Path, file: &str| directory.join(file).display().to_string();
        let ours = [path(&pki, "ca.crt"), path(&pki, "operator.crt"), path(&pki, "operator.key")];
        let with = |place: usize, file: String| {
            let mut files = ours.clone();
            files[place] = file;
            files
        };
        let foreign = [ours[0].clone(), path(&stranger, "operator.crt"), path(&stranger, "operator.key")];
        let table: [([String; 3], &str); 7] = [
            (with(0, path(&pki, "none.crt")), "none.crt"),
            (with(1, path(&pki, "none.crt")), "none.crt"),
            (with(2, path(&pki, "none.key")), "none.key"),
            (with(1, damaged.display().to_string()), "damaged.crt"),
            (with(2, path(&pki, "controller.key")), "controller.key"),
            (foreign, "operator.crt"),
            ([ours[0].clone(), path(&pki, "cell-a.crt"), path(&pki, "cell-a.key")], "operator"),
        ];
        for (files, word) in &table {
            let arguments = ["leases", "--ca", &files[0], "--certificate", &files[1], "--key", &files[2]];
            let output = run(lab, &lab.controller().namespace(), "c2c-controller", &arguments)?;
            is_refused(&output, &[word]).with_context(|| format!("{files:?}"))?;
        }
        Ok(())
    })
}

#[test]
fn a_socket_that_is_not_ours_is_refused_by_name() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let file = lab.place().path("file.sock");
        std::fs::write(&file, "no socket")?;
        let babbling = lab.place().path("babbling.sock");
        let listener = UnixListener::bind(&babbling)?;
        let babbler = thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        });
        let namespace = lab.cell("a")?.namespace();
        for socket in [&lab.place().path("none.sock"), &file, &babbling] {
            let socket = socket.to_str().context("not text")?;
            let output = run(lab, &namespace, "c2c-agent", &["status", "--socket", socket])?;
            is_refused(&output, &[socket])?;
        }
        babbler.join().ok().context("the babbler panicked")??;
        Ok(())
    })
}

#[test]
fn garbage_on_every_listener_harms_nothing() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cell = lab.cell("a")?;
        let garbage: [&[u8]; 5] = [
            b"",
            b"\n\n\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0],
            b"{\"request\":\"del\",\"container_id\":7}\n{\"request\":\"status\"}\n",
        ];
        let controller: SocketAddr = SocketAddr::from((lab.controller().underlay_address, 4103));
        for bytes in garbage {
            cell.namespace().run(|| babble(TcpStream::connect(controller)?, bytes))?;
            cell.namespace().run(|| babble(TcpStream::connect(cell.metrics_address)?, bytes))?;
            babble(UnixStream::connect(&cell.agent_socket)?, bytes)?;
            forged::send_udp(&lab.cell("b")?.namespace(), cell.underlay_address, forged::VXLAN_PORT, bytes)?;
        }
        // One that opens every door and says nothing at all must not keep others out.
        let _silent_controller = cell.namespace().run(|| Ok(TcpStream::connect(controller)?))?;
        let _silent_metrics = cell.namespace().run(|| Ok(TcpStream::connect(cell.metrics_address)?))?;
        let _silent_socket = UnixStream::connect(&cell.agent_socket)?;
        lab.operator(&["leases"])?;
        lab.ask_agent("a", "endpoints")?;
        let (one, two) = (lab.add("a", "one", "app")?, lab.add("b", "two", "app")?);
        lab.allow("app", "app", "tcp", "7000")?;
        let _server = tcp::Server::start(&two.namespace(), 7000)?;
        let attempt = tcp::connect(&one.namespace(), two.address, 7000)?;
        ensure!(attempt.reach == Reach::Reached(one.address), "{}", attempt.reach);
        Ok(())
    })
}

/// Says something and hangs up; the other side may have done so before.
fn babble(mut stream: impl Write, bytes: &[u8]) -> Result<()> {
    let _hung_up = stream.write_all(bytes);
    Ok(())
}

#[test]
fn a_state_file_cut_short_is_named_kept_and_replaced() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let (one, two) = (lab.add("a", "one", "app")?, lab.add("b", "two", "app")?);
        lab.allow("app", "app", "tcp", "7000")?;
        let _server = tcp::Server::start(&two.namespace(), 7000)?;
        let state = lab.cell("a")?.state_dir.clone();
        let files = ["lease", "world"].map(|name| state.join(name));
        wait::until_true("the agent to save what it knows", || Ok(files.iter().all(|file| file.is_file())))?;
        lab.kill_agent("a")?;
        for file in &files {
            let half = std::fs::metadata(file)?.len() / 2;
            std::fs::File::options().write(true).open(file)?.set_len(half)?;
        }
        lab.start_agent("a")?;
        let log = std::fs::read_to_string(&lab.cell("a")?.log)?;
        for file in &files {
            ensure!(
                log.contains(&format!("{} is damaged", file.display())),
                "the log does not name it: {log}"
            );
            let copy = file.with_extension("damaged");
            ensure!(copy.is_file(), "{} was not kept", copy.display());
        }
        let attempt = tcp::connect(&one.namespace(), two.address, 7000)?;
        ensure!(
            attempt.reach == Reach::Reached(one.address),
            "after the resynchronisation: {}",
            attempt.reach
        );
        Ok(())
    })
}

#[test]
fn a_full_endpoint_map_refuses_the_next_container_and_keeps_the_others() -> Result<()> {
    let options = Options { map_capacity: vec![("ENDPOINTS".to_owned(), 2)], ..one_cell() };
    in_lab(&options, |lab| {
        let (one, two) = (lab.add("a", "one", "app")?, lab.add("a", "two", "app")?);
        lab.allow("app", "app", "tcp", "7000")?;
        let refused = lab.add("a", "three", "app");
        let said = refused.err().context("a third container fitted into a map of two")?.to_string();
        ensure!(said.contains("ENDPOINTS") && said.contains("2 entries"), "{said}");
        let _server = tcp::Server::start(&two.namespace(), 7000)?;
        let attempt = tcp::connect(&one.namespace(), two.address, 7000)?;
        ensure!(attempt.reach == Reach::Reached(one.address), "{}", attempt.reach);
        lab.remove("two")?;
        lab.add("a", "three", "app").map(drop)
    })
}

#[test]
fn a_full_policy_map_is_reported_and_what_was_there_keeps_working() -> Result<()> {
    let options = Options { map_capacity: vec![("POLICIES".to_owned(), 2)], ..one_cell() };
    in_lab(&options, |lab| {
        let (one, two) = (lab.add("a", "one", "app")?, lab.add("a", "two", "app")?);
        let _server = tcp::Server::start(&two.namespace(), 7000)?;
        lab.allow("app", "app", "tcp", "7000")?;
        for port in ["1000", "2000", "3000"] {
            // Without waiting for cells: this one cannot enforce them all.
            lab.operator(&["allow-access", "app", "app", "--port", port, "--wait", "0"])?;
        }
        wait::until_true("the agent to name the full map", || {
            let page = lab.status("a")?.page().to_string();
            Ok(page.contains("POLICIES") && page.contains("2 entries"))
        })?;
        let attempt = tcp::connect(&one.namespace(), two.address, 7000)?;
        ensure!(attempt.reach == Reach::Reached(one.address), "what was allowed before: {}", attempt.reach);
        for port in ["1000", "2000", "3000"] {
            lab.operator(&["remove-access", "app", "app", "--port", port, "--wait", "0"])?;
        }
        wait::until_true("the agent to be well again", || Ok(lab.status("a")?.page()["ready"] == true))
    })
}

#[test]
fn a_full_egress_map_is_reported_and_what_was_there_keeps_working() -> Result<()> {
    let options = Options { map_capacity: vec![("EGRESS".to_owned(), 8)], ..one_cell() };
    in_lab(&options, |lab| {
        let one = lab.add_as("a", "one", &Wanted::app("app").space("here"))?;
        let _server = tcp::Server::start(&lab.outside().far(), 7000)?;
        let rule =
            |destination: &str| json!({ "protocol": "tcp", "destination": destination, "ports": "7000" });
        lab.set_group("few", &[rule("198.51.100.0/24")])?;
        lab.bind_group("few", "running", Some("here"))?;
        let reached = || -> Result<()> {
            let attempt = tcp::connect(&one.namespace(), lab.outside().far_address, 7000)?;
            attempt.is_seen_as(lab.cell("a")?.underlay_address)
        };
        reached()?;
        // Of another space, so that the first container's set stays what it is.
        let many: Vec<Value> = (0..20).map(|number| rule(&format!("203.0.113.{}", 2 * number))).collect();
        lab.set_group("many", &many)?;
        let _two = lab.add_as("a", "two", &Wanted::app("app").space("there"))?;
        let bind = ["security-groups", "bind", "many", "--space", "there", "--wait", "0"];
        lab.operator(&bind)?;
        wait::until_true("the agent to name the full map", || {
            let page = lab.status("a")?.page().to_string();
            Ok(page.contains("EGRESS") && page.contains("8 entries"))
        })?;
        reached().context("what was allowed before")?;
        lab.unbind_group("many", "running", Some("there"))?;
        wait::until_true("the agent to be well again", || Ok(lab.status("a")?.page()["ready"] == true))?;
        reached()
    })
}

#[test]
fn a_configuration_that_cannot_be_right_is_refused_by_name() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        lab.stop_agent("a")?;
        let cell = lab.cell("a")?;
        let text = std::fs::read_to_string(&cell.config)?;
        let wrong = lab.place().path("wrong.toml");
        let wrong_path = wrong.to_str().context("not text")?;
        let table: &[(&str, &[&str])] = &[
            ("mapped_ports = \"61000-66000\"", &["mapped_ports", "61000-66000"]),
            ("nat_ports = \"20000-10000\"", &["nat_ports", "20000-10000"]),
            ("nat_ports = \"60999-62000\"", &["nat_ports", "mapped_ports"]),
            ("nat_ports = \"30000-40000\"", &["nat_ports", "ip_local_reserved_ports"]),
            ("nat_ports = \"4000-5000\"", &["nat_ports", "4789"]),
            ("no_masquerade = [\"198.51.100.0/33\"]", &["no_masquerade", "198.51.100.0/33"]),
            (
                "dns_servers = [\"localhost\"]",
                &["invalid DNS server \"localhost\", must be valid IP address"],
            ),
            ("host_tcp_services = [\"192.0.2.11\"]", &["host_tcp_services", "192.0.2.11"]),
            ("deny_networks_running = [\"here\"]", &["deny_networks_running", "here"]),
            ("outbound_burst = 0", &["outbound_burst", "0"]),
            ("static_egress = \"maybe\"", &["static_egress", "maybe"]),
        ];
        for (line, words) in table {
            std::fs::write(&wrong, format!("{line}\n{text}"))?;
            let output = run(lab, &cell.namespace(), "c2c-agent", &["serve", "--config", wrong_path])?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success(), "{line} was taken");
            for word in *words {
                ensure!(said.contains(word), "{line}: {said:?} does not name {word:?}");
            }
        }
        lab.start_agent("a")
    })
}

#[test]
fn an_agent_s_configuration_is_checked_while_another_one_serves() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let cell = lab.cell("a")?;
        let config = cell.config.to_str().context("not text")?;
        let check = |more: &[&str]| {
            let arguments = [&["serve", "--check-config", "--config", config], more].concat();
            let output = run(lab, &cell.namespace(), "c2c-agent", &arguments)?;
            let text = |bytes| String::from_utf8(bytes).context("not text");
            Ok::<_, anyhow::Error>((output.status.code(), text(output.stdout)?, text(output.stderr)?))
        };
        let (code, out, error) = check(&[])?;
        ensure!((code, error.as_str()) == (Some(0), ""), "{code:?} {error}");
        for row in ["eth0 192.0.2.11, MTU 1500", "192.0.2.0/24", "1450", "61000-65535"] {
            ensure!(out.contains(row), "{out} does not show {row:?}");
        }
        // Of the operator is the certificate that `run` names in the environment.
        let other_key = lab.place().path("pki/cell-a.key");
        let other_key = other_key.to_str().context("not text")?;
        for (flags, code, word) in [
            (["--underlay-interface", "eth7"], 1, "underlay_interface = \"eth7\""),
            (["--key", other_key], 1, "does not match the certificate"),
            (["--nat-ports", "4000-5000"], 1, "4789"),
            (["--trace", "all"], 2, "trace"),
        ] {
            let (seen, out, error) = check(&flags)?;
            ensure!(seen == Some(code) && out.is_empty(), "{flags:?}: {seen:?} {out}");
            ensure!(error.lines().count() == 1 && error.contains(word), "{flags:?}: {error}");
        }
        Ok(())
    })
}

#[test]
fn an_unknown_key_in_a_configuration_is_refused_by_name() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        for (name, config) in
            [("c2c-agent", &lab.cell("a")?.config), ("c2c-controller", &lab.controller().config)]
        {
            let text = std::fs::read_to_string(config)?;
            let wrong = lab.place().path("wrong.toml");
            std::fs::write(&wrong, format!("colour = \"blue\"\n{text}"))?;
            let wrong = wrong.to_str().context("not text")?;
            let output = run(lab, &lab.cell("a")?.namespace(), name, &["serve", "--config", wrong])?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success() && said.contains("colour"), "{name}: {said}");
        }
        Ok(())
    })
}

#[test]
fn an_address_of_nobody_is_refused_at_once() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let one = lab.add("a", "one", "app")?;
        for nobody in [Ipv4Addr::from_bits(one.address.to_bits() ^ 0x40), Ipv4Addr::new(10, 255, 200, 2)] {
            let attempt = tcp::connect(&one.namespace(), nobody, 7000)?;
            ensure!(attempt.refused_at_once(), "{nobody}: {}", attempt.reach);
        }
        Ok(())
    })
}
