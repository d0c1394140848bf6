//! What is served to cells that still run Silk.

use super::{ConfigError, Layers};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Flags about cells that run Silk.
#[derive(Clone, Debug, Default, Args)]
pub struct InternalArgs {
    /// Where to serve silk-controller's API and the internal policy API to cells that still run Silk; absent: nowhere
    #[arg(long, env = "C2C_INTERNAL_LISTEN", value_name = "IP:PORT")]
    pub internal_listen: Option<String>,
    /// CA whose certificates are accepted there (PEM): that of Silk's components, and not the one of our agents
    #[arg(long, env = "C2C_INTERNAL_CA", value_name = "FILE")]
    pub internal_ca: Option<String>,
    /// The certificate shown there (PEM) [default: the controller's]
    #[arg(long, env = "C2C_INTERNAL_CERTIFICATE", value_name = "FILE")]
    pub internal_certificate: Option<String>,
    /// Its private key (PEM) [default: the controller's]
    #[arg(long, env = "C2C_INTERNAL_KEY", value_name = "FILE")]
    pub internal_key: Option<String>,
}

/// What Silk's cells are served with.
#[derive(Clone, Debug)]
pub struct InternalConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whose clients are let in.
    pub ca: PathBuf,
    /// The certificate that clients are shown.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

pub(super) fn flags(args: &InternalArgs) -> [(&'static str, &Option<String>); 4] {
    [
        ("internal_listen", &args.internal_listen),
        ("internal_ca", &args.internal_ca),
        ("internal_certificate", &args.internal_certificate),
        ("internal_key", &args.internal_key),
    ]
}

/// Silk's cells, if they are to be served.
pub(super) fn internal(layers: &Layers) -> Result<Option<InternalConfig>, ConfigError> {
    if !layers.has("internal_listen") {
        return Ok(None);
    }
    let file = |key, otherwise| layers.first_of(&[key, otherwise], "a PEM file");
    Ok(Some(InternalConfig {
        listen: layers.value("internal_listen", "", "an address and port such as 0.0.0.0:4003", |_| true)?,
        ca: layers.required("internal_ca", "a PEM file with the CA of Silk's clients")?.into(),
        certificate: file("internal_certificate", "certificate")?.into(),
        key: file("internal_key", "key")?.into(),
    }))
}
