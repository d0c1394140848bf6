//! What needs Cloud Controller: its place, our client at the UAA, and what space developers may.

use super::{ConfigError, Layers};
use crate::auth::OnlineCheck;
use crate::cloud::{Client, ImportSettings, Settings};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Flags about Cloud Controller.
#[derive(Clone, Debug, Default, Args)]
pub struct CloudArgs {
    /// Cloud Controller, which knows the space developers and the apps; absent: only administrators may
    #[arg(long, env = "C2C_CC_URL", value_name = "URL")]
    pub cc_url: Option<String>,
    /// CA of its certificate (PEM) [default: that of the UAA]
    #[arg(long, env = "C2C_CC_CA", value_name = "FILE")]
    pub cc_ca: Option<String>,
    /// Our client at the UAA [default: network-policy]
    #[arg(long, env = "C2C_UAA_CLIENT", value_name = "NAME")]
    pub uaa_client: Option<String>,
    /// Its secret; better not as a flag
    #[arg(long, env = "C2C_UAA_CLIENT_SECRET", hide_env_values = true, value_name = "TEXT")]
    pub uaa_client_secret: Option<String>,
    /// Ask the UAA at each request whether the token was revoked [default: false]
    #[arg(long, env = "C2C_UAA_ONLINE_CHECK", value_name = "BOOL")]
    pub uaa_online_check: Option<String>,
    /// How long a token that was good is not asked for again [default: 0]
    #[arg(long, env = "C2C_UAA_ONLINE_CHECK_CACHE_SECONDS", value_name = "SECONDS")]
    pub uaa_online_check_cache_seconds: Option<String>,
    /// Let space developers without the scope network.write in [default: false]
    #[arg(long, env = "C2C_ENABLE_SPACE_DEVELOPER_SELF_SERVICE", value_name = "BOOL")]
    pub enable_space_developer_self_service: Option<String>,
    /// Policies that an app may be the source of, unless an administrator makes them [default: 150]
    #[arg(long, env = "C2C_MAX_POLICIES_PER_APP_SOURCE", value_name = "NUMBER")]
    pub max_policies_per_app_source: Option<String>,
    /// How often policies of apps that are gone are removed [default: 60]
    #[arg(long, env = "C2C_POLICY_CLEANUP_MINUTES", value_name = "MINUTES")]
    pub policy_cleanup_minutes: Option<String>,
    /// Cloud Controller's internal API; with it, security groups are imported from Cloud Controller
    #[arg(long, env = "C2C_CC_INTERNAL_URL", value_name = "URL")]
    pub cc_internal_url: Option<String>,
    /// CA of its certificate there (PEM) [default: that of cc_url]
    #[arg(long, env = "C2C_CC_INTERNAL_CA", value_name = "FILE")]
    pub cc_internal_ca: Option<String>,
    /// The certificate that we show there (PEM) [default: the controller's]
    #[arg(long, env = "C2C_CC_INTERNAL_CERTIFICATE", value_name = "FILE")]
    pub cc_internal_certificate: Option<String>,
    /// Its private key (PEM) [default: the controller's]
    #[arg(long, env = "C2C_CC_INTERNAL_KEY", value_name = "FILE")]
    pub cc_internal_key: Option<String>,
    /// How often Cloud Controller is asked whether its security groups changed [default: 60]
    #[arg(long, env = "C2C_SECURITY_GROUP_POLL_SECONDS", value_name = "SECONDS")]
    pub security_group_poll_seconds: Option<String>,
}

/// What is done with Cloud Controller.
#[derive(Clone, Debug)]
pub struct CloudConfig {
    /// Where it is, and who we are to it.
    pub settings: Settings,
    /// Whether space developers need no scope.
    pub self_service: bool,
    /// Of how many policies those who are no administrators may make an app the source.
    pub policies_per_source: usize,
    /// How often policies of apps that are gone are removed.
    pub cleanup_every: Duration,
    /// Where security groups are imported from; nothing: operators set them here.
    pub import: Option<ImportSettings>,
}

pub(super) fn flags(args: &CloudArgs) -> [(&'static str, &Option<String>); 14] {
    [
        ("cc_url", &args.cc_url),
        ("cc_ca", &args.cc_ca),
        ("uaa_client", &args.uaa_client),
        ("uaa_client_secret", &args.uaa_client_secret),
        ("uaa_online_check", &args.uaa_online_check),
        ("uaa_online_check_cache_seconds", &args.uaa_online_check_cache_seconds),
        ("enable_space_developer_self_service", &args.enable_space_developer_self_service),
        ("max_policies_per_app_source", &args.max_policies_per_app_source),
        ("policy_cleanup_minutes", &args.policy_cleanup_minutes),
        ("cc_internal_url", &args.cc_internal_url),
        ("cc_internal_ca", &args.cc_internal_ca),
        ("cc_internal_certificate", &args.cc_internal_certificate),
        ("cc_internal_key", &args.cc_internal_key),
        ("security_group_poll_seconds", &args.security_group_poll_seconds),
    ]
}

/// Cloud Controller, if one is named.
pub(super) fn cloud(layers: &Layers) -> Result<Option<CloudConfig>, ConfigError> {
    if !layers.has("cc_url") {
        return without(layers).map(|()| None);
    }
    let ca = layers.first_of(&["uaa_ca", "ca"], "a PEM file")?;
    let minutes: u64 =
        layers.value("policy_cleanup_minutes", "60", "minutes from 1 to 10080", |minutes| {
            (1..=10_080).contains(minutes)
        })?;
    Ok(Some(CloudConfig {
        settings: Settings {
            url: layers.required("cc_url", "a URL")?.to_owned(),
            ca: layers.first_of(&["cc_ca", "uaa_ca", "ca"], "a PEM file")?.into(),
            uaa_url: layers.required("uaa_url", "the UAA's URL such as https://uaa.example.org")?.to_owned(),
            uaa_ca: ca.into(),
            client: client(layers)?,
        },
        self_service: self_service(layers)?,
        policies_per_source: layers.value(
            "max_policies_per_app_source",
            "150",
            "a number from 1",
            |most: &usize| *most >= 1,
        )?,
        cleanup_every: Duration::from_secs(minutes.saturating_mul(60)),
        import: import(layers)?,
    }))
}

fn client(layers: &Layers) -> Result<Client, ConfigError> {
    Ok(Client {
        id: layers.value("uaa_client", "network-policy", "a client's name", |_| true)?,
        secret: layers.required("uaa_client_secret", "the secret of uaa_client")?.to_owned(),
    })
}

/// Whether and how the UAA is asked for revoked tokens.
pub(super) fn online(layers: &Layers) -> Result<Option<OnlineCheck>, ConfigError> {
    if !layers.value("uaa_online_check", "false", "true or false", |_: &bool| true)? {
        return Ok(None);
    }
    let seconds = layers
        .value("uaa_online_check_cache_seconds", "0", "seconds from 0 to 300", |s| (0..=300).contains(s))?;
    Ok(Some(OnlineCheck { client: client(layers)?, age: Duration::from_secs(seconds) }))
}

/// Security groups, if they are to be imported.
fn import(layers: &Layers) -> Result<Option<ImportSettings>, ConfigError> {
    if !layers.has("cc_internal_url") {
        return Ok(None);
    }
    let file = |keys| layers.first_of(keys, "a PEM file").map(PathBuf::from);
    let seconds = layers
        .value("security_group_poll_seconds", "60", "seconds from 1 to 3600", |s| (1..=3600).contains(s))?;
    Ok(Some(ImportSettings {
        url: layers.required("cc_internal_url", "a URL")?.to_owned(),
        ca: file(&["cc_internal_ca", "cc_ca", "uaa_ca", "ca"])?,
        certificate: file(&["cc_internal_certificate", "certificate"])?,
        key: file(&["cc_internal_key", "key"])?,
        every: Duration::from_secs(seconds),
    }))
}

/// What would silently not be so.
fn without(layers: &Layers) -> Result<(), ConfigError> {
    let needed = self_service(layers)? || layers.has("cc_internal_url");
    let needs = "Cloud Controller's URL, because it knows the space developers and the security groups";
    if needed { layers.required("cc_url", needs).map(drop) } else { Ok(()) }
}

fn self_service(layers: &Layers) -> Result<bool, ConfigError> {
    layers.value("enable_space_developer_self_service", "false", "true or false", |_| true)
}
