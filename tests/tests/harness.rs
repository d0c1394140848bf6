//! The harness itself: what it says about traffic must be so, and nothing of it may be left.

use anyhow::{Context, Result, anyhow};
use c2c_tests::lab::{Lab, Place};
use c2c_tests::netns::{Namespace, TemporaryNamespace};
use c2c_tests::observe::network::NetworkState;
use c2c_tests::process::Process;
use c2c_tests::traffic::forged::{CE, Datagram, Header};
use c2c_tests::traffic::frame::{self, Tap};
use c2c_tests::traffic::raw::Ear;
use c2c_tests::traffic::volume::{Flood, Sink};
use c2c_tests::traffic::{Reach, forged, icmp, tcp, udp};
use c2c_tests::wait;
use nix::sys::socket::SockProtocol;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Instant;

const LEFT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// No neighbour answers for it.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

/// Two namespaces joined by a cable; the test's name keeps them apart from those of other tests.
fn pair(test: &str) -> Result<(TemporaryNamespace, TemporaryNamespace)> {
    let name = |side: &str| format!("c2c-test{}-{test}-{side}", std::process::id());
    let (left, right) =
        (TemporaryNamespace::create(&name("left"))?, TemporaryNamespace::create(&name("right"))?);
    left.ip(&[
        &format!("link add eth0 type veth peer name eth0 netns {}", right.name()),
        &format!("addr add {LEFT}/24 dev eth0"),
        "link set eth0 up",
    ])?;
    right.ip(&[&format!("addr add {RIGHT}/24 dev eth0"), "link set eth0 up"])?;
    Ok((left, right))
}

#[test]
fn a_namespace_goes_away_when_its_owner_panics() -> Result<()> {
    let name = format!("c2c-test{}-panic", std::process::id());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let namespace = TemporaryNamespace::create(&name).expect("a namespace can be made");
        assert!(namespace.path().exists());
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(!Namespace::named(&name).exists());
    Ok(())
}

#[test]
fn work_in_a_namespace_leaves_the_thread_where_it_was() -> Result<()> {
    let here = || Ok(std::fs::read_link("/proc/thread-self/ns/net")?);
    let namespace = TemporaryNamespace::create(&format!("c2c-test{}-thread", std::process::id()))?;
    let home: std::path::PathBuf = here()?;
    assert_ne!(namespace.run(here)?, home);
    assert!(namespace.run(|| Err::<(), _>(anyhow!("work that fails"))).is_err());
    assert!(
        catch_unwind(AssertUnwindSafe(|| namespace.run(|| -> Result<()> { panic!("on purpose") }))).is_err()
    );
    assert_eq!(here()?, home);
    Ok(())
}

#[test]
fn connected_refused_and_lost_are_told_apart() -> Result<()> {
    let (left, right) = pair("reach")?;
    let _tcp = tcp::Server::start(&right, 7000)?;
    let udp = udp::Server::start(&right, 7000)?;
    // Frames to a hardware address that nobody has are lost without a word.
    left.ip(&[&format!("neigh add {NOBODY} lladdr 02:00:00:00:00:03 dev eth0")])?;

    assert_eq!(tcp::connect(&left, RIGHT, 7000)?.reach, Reach::Reached(LEFT));
    assert!(tcp::connect(&left, RIGHT, 7001)?.refused_at_once());
    assert_eq!(tcp::connect(&left, NOBODY, 7000)?.reach, Reach::TimedOut);
    assert_eq!(udp::ask(&left, RIGHT, 7000)?.reach, Reach::Reached(LEFT));
    assert!(udp::ask(&left, RIGHT, 7001)?.refused_at_once());
    assert_eq!(udp::ask(&left, NOBODY, 7000)?.reach, Reach::TimedOut);
    assert!(udp.has_received(b"ask"));
    Ok(())
}

#[test]
fn a_transfer_and_a_datagram_stream_account_for_all_they_sent() -> Result<()> {
    let (left, right) = pair("stream")?;
    let _tcp = tcp::Server::start(&right, 7000)?;
    let udp = udp::Server::start(&right, 7000)?;
    let stream = udp::Stream::start(&left, RIGHT, 7000)?;
    let mut transfer = tcp::Transfer::start(&left, RIGHT, 7000)?;
    transfer.goes_on()?;
    assert!(transfer.finish()? > 1 << 20);
    assert!(stream.finish(&udp)? > 0);
    Ok(())
}

#[test]
fn a_lost_datagram_is_noticed() -> Result<()> {
    let (left, right) = pair("loss")?;
    let udp = udp::Server::start(&right, 7000)?;
    let stream = udp::Stream::start(&left, RIGHT, 7000)?;
    stream.sends(10)?;
    // Frames to a hardware address that nobody has are lost without a word.
    left.ip(&[&format!("neigh replace {RIGHT} lladdr 02:00:00:00:00:03 dev eth0")])?;
    stream.sends(10)?;
    left.ip(&[&format!("neigh del {RIGHT} dev eth0")])?;
    stream.sends(10)?;
    let verdict = stream.finish(&udp);
    assert!(verdict.is_err_and(|error| error.to_string().contains("are missing")));
    Ok(())
}

#[test]
fn forged_sources_leave_the_namespace_as_they_were_written() -> Result<()> {
    let (left, right) = pair("forged")?;
    let udp = udp::Server::start(&right, 7000)?;
    let datagram = Datagram { source: NOBODY, destination: RIGHT, port: 7000, payload: b"forged" };
    forged::send_plain(&left, &datagram)?;
    wait::until_true("the forged datagram", || Ok(udp.has_received(b"forged")))
}

#[test]
fn a_server_says_which_port_it_sees() -> Result<()> {
    let (left, right) = pair("ports")?;
    let _tcp = tcp::Server::start(&right, 7000)?;
    let _udp = udp::Server::start(&right, 7000)?;
    let talk = tcp::Conversation::start_from(&left, 5000, RIGHT, 7000)?;
    assert_eq!(talk.seen, SocketAddrV4::new(LEFT, 5000));
    let seen = udp::Client::start(&left, 5001, RIGHT, 7000)?.exchange(&[7; 3_000])?;
    assert_eq!(seen, SocketAddrV4::new(LEFT, 5001));
    Ok(())
}

#[test]
fn an_echo_and_errors_are_heard() -> Result<()> {
    let (left, right) = pair("icmp")?;
    assert_eq!(icmp::ping(&left, RIGHT)?.reach, Reach::Reached(RIGHT));
    let ear = icmp::ear(&left)?;
    udp::Client::start(&left, 5000, RIGHT, 7001)?.send(b"nobody listens")?;
    let error = ear.hear(icmp::error)?.expect("an error comes back");
    assert_eq!((error.from, error.kind, error.code), (RIGHT, icmp::UNREACHABLE, icmp::PORT));
    assert_eq!(error.about_source, SocketAddrV4::new(LEFT, 5000));
    assert_eq!(error.about_destination, SocketAddrV4::new(RIGHT, 7001));
    drop(right);
    Ok(())
}

#[test]
fn options_marks_and_pieces_arrive_as_they_were_sent() -> Result<()> {
    const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
    let (left, right) = pair("headers")?;
    let udp = udp::Server::start(&right, 7000)?;
    let ear = Ear::open(&right, SockProtocol::Udp)?;
    let tap = Tap::open(&right)?;
    let datagram = Datagram { source: LEFT, destination: RIGHT, port: 7000, payload: b"marked" };
    let header = Header { options: &ROUTER_ALERT, ecn: CE, ..Header::default() };
    forged::send_with(&left, &datagram, header)?;
    let seen = ear.hear(|packet| Some((packet.ecn, packet.options.clone())))?;
    assert_eq!(seen, Some((CE, ROUTER_ALERT.to_vec())));
    assert_eq!(tap.hear(|packet| (packet.ecn == CE).then_some(packet.destination))?, Some(RIGHT));

    let long = Datagram { payload: &[9; 64], ..datagram };
    for piece in forged::cut(&forged::packet(&long, Header::default())?, 16, 77)? {
        forged::send_ip(&left, RIGHT, &piece)?;
    }
    wait::until_true("the pieces to be put together", || Ok(udp.has_received(&[9; 64])))
}

#[test]
fn a_frame_goes_out_as_it_is() -> Result<()> {
    let (left, right) = pair("frame")?;
    let neighbours = || right.output(Command::new("ip").args(["neighbour", "show"]));
    // Whoever asks for us is remembered as a neighbour.
    frame::send(&left, "eth0", &frame::arp_request([2, 0, 0, 0, 0, 9], NOBODY, RIGHT))?;
    wait::until_true("the request to be read", || Ok(neighbours()?.contains("02:00:00:00:00:09")))
}

#[test]
fn a_flood_is_as_fast_as_the_queue_in_its_way() -> Result<()> {
    const RATE: f64 = 50_000_000.0;
    const BURST: f64 = 20.0 * 1_024.0 * 8.0;
    let (left, right) = pair("volume")?;
    let limit = "qdisc add dev eth0 root tbf rate 50mbit burst 20kb latency 25ms";
    left.output(Command::new("tc").args(limit.split(' ')))?;
    let (tcp, udp) = (Sink::tcp(&right, 7000)?, Sink::udp(&right, 7000)?);
    for protocol in ["tcp", "udp"] {
        let begun = Instant::now();
        let (sink, flood) = match protocol {
            "tcp" => (&tcp, Flood::tcp(&left, RIGHT, 7000)?),
            _ => (&udp, Flood::udp(&left, RIGHT, 7000, 80_000_000)?),
        };
        sink.gets(1 << 20)?;
        sink.comes_to(RATE * 0.85).context(protocol)?;
        let (bits, most) = (sink.bits(), RATE * begun.elapsed().as_secs_f64() + BURST);
        drop(flood);
        assert!(bits <= most, "{protocol}: {bits} bits where at most {most} may come");
    }
    Ok(())
}

#[test]
fn every_difference_of_a_network_is_seen() -> Result<()> {
    let (left, _right) = pair("state")?;
    let before = NetworkState::of(&left)?;
    assert_eq!(before.differences(&NetworkState::of(&left)?), Vec::<String>::new());
    for (change, back) in [
        ("link add extra type bridge", "link del extra"),
        ("addr add 192.0.2.77/32 dev lo", "addr del 192.0.2.77/32 dev lo"),
        ("route add 198.51.100.0/24 via 192.0.2.2", "route del 198.51.100.0/24"),
        ("rule add from 192.0.2.9 table 100", "rule del from 192.0.2.9 table 100"),
        ("link set eth0 mtu 1400", "link set eth0 mtu 1500"),
        ("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0", "neigh del 192.0.2.9 dev eth0"),
    ] {
        left.ip(&[change])?;
        assert_ne!(before.differences(&NetworkState::of(&left)?), Vec::<String>::new(), "{change}");
        left.ip(&[back])?;
        assert_eq!(before.differences(&NetworkState::of(&left)?), Vec::<String>::new(), "{back}");
    }
    Ok(())
}

#[test]
fn a_detached_process_is_in_the_namespace_and_ends_when_told() -> Result<()> {
    let namespace = TemporaryNamespace::create(&format!("c2c-test{}-process", std::process::id()))?;
    let log = tempfile::NamedTempFile::new()?;
    let process = Process::start(Command::new("sleep").arg("60"), &namespace, log.path())?;
    let inside = namespace.run(|| Ok(std::fs::read_link("/proc/thread-self/ns/net")?))?;
    assert_eq!(std::fs::read_link(format!("/proc/{}/ns/net", process.pid))?, inside);
    process.stop()?;
    assert!(!process.is_alive());
    Ok(())
}

#[test]
fn taking_down_what_is_not_there_is_no_error_and_touches_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = Place::at(directory.path())?;
    let precious = directory.path().join("precious");
    std::fs::write(&precious, "not a lab's")?;
    assert_eq!(Lab::down(&place)?, Vec::<String>::new());
    assert!(precious.exists(), "a directory without a lab's mark is left alone");
    let refused = Lab::up(place, &c2c_tests::lab::Options::default());
    assert!(refused.is_err_and(|error| error.to_string().contains("not empty")));
    assert!(precious.exists());
    Ok(())
}
