//! `serve --check-config`: reads all that `serve` reads before it starts anything, and shows what it would run with. Secrets
//! are not shown; the store is not opened, and nothing is asked over the network.

use super::{Failure, output};
use crate::assembly;
use crate::cloud::ImportSettings;
use crate::config::{CloudConfig, Config, InternalConfig, RestConfig, StorePlace};
use std::fmt::Display;

type Row = Vec<String>;

/// Exit code 0 when all can be used. A file that cannot is refused, which is exit code 1.
pub(super) fn run(config: &Config) -> Result<(), Failure> {
    assembly::check(config).map_err(|error| Failure::Refused(format!("{error:#}")))?;
    println!("{}", output::table(&["key", "value"], rows(config)));
    Ok(())
}

fn rows(config: &Config) -> Vec<Row> {
    let mut rows = vec![
        row("listen", config.listen),
        store(&config.store),
        row("ca", config.files.ca.display()),
        row("certificate", config.files.cert.display()),
        row("key", config.files.key.display()),
        row("overlay_network", config.rules.pool.network()),
        row("block_prefix_length", config.rules.pool.block_prefix()),
        row("lease_hours", config.rules.lease_seconds / 3600),
        row("heartbeat_seconds", config.heartbeat_seconds),
        row("vni", config.vni),
        row("udp_port", config.udp_port),
        row("metrics_address", config.metrics_address),
        row("log", &config.log),
    ];
    rows.extend(config.rest.iter().flat_map(rest));
    rows.extend(config.cloud.iter().flat_map(cloud));
    rows.extend(config.cloud.iter().filter_map(|cloud| cloud.import.as_ref()).flat_map(import));
    rows.extend(config.internal.iter().flat_map(internal));
    rows
}

fn store(place: &StorePlace) -> Row {
    match place {
        StorePlace::Directory(path) => row("data_dir", path.display()),
        StorePlace::Postgres(url) => row("postgres", url),
    }
}

fn rest(rest: &RestConfig) -> [Row; 9] {
    let online = rest.uaa.online.as_ref();
    [
        row("rest_listen", rest.listen),
        row("rest_certificate", rest.certificate.display()),
        row("rest_key", rest.key.display()),
        row("rest_cors_origins", &rest.origins),
        row("uaa_url", &rest.uaa.uaa_url),
        row("uaa_issuer", &rest.uaa.issuer),
        row("uaa_ca", rest.uaa.ca.display()),
        row("uaa_online_check", online.is_some()),
        row("uaa_online_check_cache_seconds", online.map_or(0, |online| online.age.as_secs())),
    ]
}

fn internal(internal: &InternalConfig) -> [Row; 4] {
    [
        row("internal_listen", internal.listen),
        row("internal_ca", internal.ca.display()),
        row("internal_certificate", internal.certificate.display()),
        row("internal_key", internal.key.display()),
    ]
}

fn cloud(cloud: &CloudConfig) -> [Row; 6] {
    [
        row("cc_url", &cloud.settings.url),
        row("cc_ca", cloud.settings.ca.display()),
        row("uaa_client", &cloud.settings.client.id),
        row("enable_space_developer_self_service", cloud.self_service),
        row("max_policies_per_app_source", cloud.policies_per_source),
        row("policy_cleanup_minutes", cloud.cleanup_every.as_secs() / 60),
    ]
}

fn import(import: &ImportSettings) -> [Row; 5] {
    [
        row("cc_internal_url", &import.url),
        row("cc_internal_ca", import.ca.display()),
        row("cc_internal_certificate", import.certificate.display()),
        row("cc_internal_key", import.key.display()),
        row("security_group_poll_seconds", import.every.as_secs()),
    ]
}

fn row(key: &str, value: impl Display) -> Row {
    vec![key.to_owned(), value.to_string()]
}
