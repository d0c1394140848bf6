//! What needs Cloud Controller: its place, our client at the UAA, and what space developers may.

use super::{ConfigError, Layers};
use crate::cloud::{Client, Settings};
use clap::Args;
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
    /// Let space developers without the scope network.write in [default: false]
    #[arg(long, env = "C2C_ENABLE_SPACE_DEVELOPER_SELF_SERVICE", value_name = "BOOL")]
    pub enable_space_developer_self_service: Option<String>,
    /// Policies that an app may be the source of, unless an administrator makes them [default: 150]
    #[arg(long, env = "C2C_MAX_POLICIES_PER_APP_SOURCE", value_name = "NUMBER")]
    pub max_policies_per_app_source: Option<String>,
    /// How often policies of apps that are gone are removed [default: 60]
    #[arg(long, env = "C2C_POLICY_CLEANUP_MINUTES", value_name = "MINUTES")]
    pub policy_cleanup_minutes: Option<String>,
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
}

pub(super) fn flags(args: &CloudArgs) -> [(&'static str, &Option<String>); 7] {
    [
        ("cc_url", &args.cc_url),
        ("cc_ca", &args.cc_ca),
        ("uaa_client", &args.uaa_client),
        ("uaa_client_secret", &args.uaa_client_secret),
        ("enable_space_developer_self_service", &args.enable_space_developer_self_service),
        ("max_policies_per_app_source", &args.max_policies_per_app_source),
        ("policy_cleanup_minutes", &args.policy_cleanup_minutes),
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
            client: Client {
                id: layers.value("uaa_client", "network-policy", "a client's name", |_| true)?,
                secret: layers.required("uaa_client_secret", "the secret of uaa_client")?.to_owned(),
            },
        },
        self_service: self_service(layers)?,
        policies_per_source: layers.value(
            "max_policies_per_app_source",
            "150",
            "a number from 1",
            |most: &usize| *most >= 1,
        )?,
        cleanup_every: Duration::from_secs(minutes.saturating_mul(60)),
    }))
}

/// What would silently not be so.
fn without(layers: &Layers) -> Result<(), ConfigError> {
    match self_service(layers)? {
        true => layers
            .required("cc_url", "Cloud Controller's URL, because it knows the space developers")
            .map(drop),
        false => Ok(()),
    }
}

fn self_service(layers: &Layers) -> Result<bool, ConfigError> {
    layers.value("enable_space_developer_self_service", "false", "true or false", |_| true)
}
