use super::*;

fn list(text: &str) -> Option<List> {
    let Ok(list) = text.parse();
    Some(list)
}

fn said(layer: &Layer) -> String {
    Network::check(layer).unwrap_err().to_string()
}

fn none() -> Layer {
    Layer::default()
}

#[test]
fn without_a_word_nothing_is_open_and_nothing_limited() {
    let network = Network::check(&none()).unwrap();
    assert_eq!((network.mapped_ports.clone(), network.nat_ports.clone()), (61000..=65535, 16384..=32767));
    assert_eq!((network.dns.clone(), network.host.clone()), (Dns::default(), HostAccess::default()));
    assert_eq!(
        (network.deny.clone(), network.outbound.clone()),
        (DenyNetworks::default(), Outbound::default())
    );
    assert_eq!(network.bandwidth, Bandwidth::default());
    assert_eq!(network.static_egress, StaticEgress::Fallback);
    assert!(network.host_services().is_empty() && network.no_masquerade.is_empty());
}

#[test]
fn pools_are_ranges_apart_from_each_other() {
    for bad in ["", "61000", "65535-61000", "80-90", "61000-65536", "a-b", "61000-", "+61000-65535"] {
        let layer = Layer { mapped_ports: Some(bad.into()), ..none() };
        assert!(said(&layer).contains("mapped_ports"), "{bad}");
    }
    let touching = Layer { nat_ports: Some("50000-61000".into()), ..none() };
    assert!(said(&touching).contains("nat_ports = \"50000-61000\""));
    let beside = Layer { nat_ports: Some("50000 - 60999".into()), ..none() };
    assert_eq!(Network::check(&beside).unwrap().nat_ports, 50000..=60999);
}

#[test]
fn networks_are_masked_and_one_address_is_one() {
    let layer = Layer { deny_networks_always: list("10.1.2.3/8, 192.0.2.7"), ..none() };
    let want: Vec<Ipv4Net> = vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.7/32".parse().unwrap()];
    assert_eq!(Network::check(&layer).unwrap().deny.always, want);
}

#[test]
fn a_bad_element_names_key_and_element() {
    let bad = |text| list(&format!("{text},x"));
    let layers = [
        ("no_masquerade", Layer { no_masquerade: bad("10.0.0.0/8"), ..none() }),
        ("search_domains", Layer { search_domains: list("x,a b"), ..none() }),
        ("search_domains", Layer { search_domains: list("x,"), ..none() }),
        ("host_tcp_services", Layer { host_tcp_services: bad("10.0.0.1:1"), ..none() }),
        ("host_udp_services", Layer { host_udp_services: list("10.0.0.1:0"), ..none() }),
        ("host_accept", Layer { host_accept: list("10.0.0.0/8"), ..none() }),
        ("deny_networks_always", Layer { deny_networks_always: bad("10.0.0.0/8"), ..none() }),
        ("deny_networks_running", Layer { deny_networks_running: list("fd00::/8"), ..none() }),
        ("deny_networks_staging", Layer { deny_networks_staging: list("10.0.0.0/33"), ..none() }),
        ("static_egress", Layer { static_egress: Some("x".into()), ..none() }),
        ("outbound_burst", Layer { outbound_burst: Some(0), ..none() }),
        ("outbound_rate_per_sec", Layer { outbound_rate_per_sec: Some(0), ..none() }),
        ("outbound_rate_per_sec", Layer { outbound_rate_per_sec: Some(u32::MAX), ..none() }),
        ("bandwidth_burst", Layer { bandwidth_rate: Some(1), ..none() }),
        ("bandwidth_rate", Layer { bandwidth_burst: Some(1), ..none() }),
        ("bandwidth_rate", Layer { bandwidth_rate: Some(u64::MAX), bandwidth_burst: Some(1), ..none() }),
        ("bandwidth_burst", Layer { bandwidth_rate: Some(1), bandwidth_burst: Some(u64::MAX), ..none() }),
        ("bandwidth_burst", Layer { bandwidth_rate: Some(1), bandwidth_burst: Some(33_554_432), ..none() }),
    ];
    for (key, layer) in layers {
        let said = said(&layer);
        assert!(said.starts_with(key) && said.contains("expected"), "{key}: {said}");
    }
}

#[test]
fn a_bad_name_server_is_told_in_silks_words() {
    for bad in ["nowhere", "", "10.0.0.300", "::1"] {
        let said = said(&Layer { dns_servers: list(&format!("10.0.0.1,{bad}")), ..none() });
        assert!(said.contains(&format!("invalid DNS server \"{bad}\", must be valid IP address")), "{said}");
        assert!(said.contains("dns_servers"), "{said}");
    }
}

#[test]
fn an_empty_list_of_name_servers_is_not_an_absent_one() {
    let layer = Layer { dns_servers: list(""), search_domains: list(""), ..none() };
    let dns = Network::check(&layer).unwrap().dns;
    assert_eq!(dns, Dns { servers: Some(vec![]), search: Some(vec![]) });
}

#[test]
fn host_services_are_rows_in_the_programs_terms() {
    let layer = Layer {
        dns_servers: list("169.254.0.2,8.8.8.8"),
        host_tcp_services: list("10.0.0.1:8080"),
        host_udp_services: list("169.254.0.2:53,10.0.0.1:123"),
        host_accept: list("10.0.0.9"),
        ..none()
    };
    let rows = Network::check(&layer).unwrap().host_services();
    let key = |ip: [u8; 4], port: u16, protocol| ServiceKey {
        addr: addr::from_ipv4(ip.into()),
        port: u16::from_ne_bytes(port.to_be_bytes()),
        protocol,
    };
    let want = [
        key([169, 254, 0, 2], 53, 6),
        key([169, 254, 0, 2], 53, 17),
        key([10, 0, 0, 1], 8080, 6),
        key([10, 0, 0, 1], 123, 17),
        key([10, 0, 0, 9], 0, 0),
    ];
    assert_eq!(rows, BTreeSet::from(want));
}

#[test]
fn a_dry_run_alone_is_a_limit_that_refuses_nothing() {
    let limit = |limit, dry_run| {
        let layer = Layer { outbound_limit: limit, outbound_dry_run: dry_run, ..none() };
        Network::check(&layer).unwrap().outbound.limit
    };
    let rate = |dry_run| Some(Rate { burst: 1000, per_second: 100, dry_run });
    assert_eq!(limit(None, None), None);
    assert_eq!(limit(Some(true), None), rate(false));
    assert_eq!(limit(Some(false), Some(true)), rate(true));
    assert_eq!(limit(Some(true), Some(true)), rate(true));
}

#[test]
fn bandwidth_is_in_bits() {
    let layer = Layer { bandwidth_rate: Some(1_000), bandwidth_burst: Some(33_554_431), ..none() };
    let bandwidth = Network::check(&layer).unwrap().bandwidth;
    assert_eq!((bandwidth.ingress_rate, bandwidth.egress_rate), (1_024_000, 1_024_000));
    assert_eq!((bandwidth.ingress_burst, bandwidth.egress_burst), (33_554_431 << 10, 33_554_431 << 10));
}
