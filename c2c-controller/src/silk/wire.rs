//! The JSON of silk-controller's API, as Go's encoder writes it and its decoder takes it.

use crate::domain;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize)]
pub(super) struct Leases {
    pub(super) leases: Vec<Lease>,
}

/// A cell's lease.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lease {
    pub(super) underlay_ip: String,
    pub(super) overlay_subnet: String,
    pub(super) overlay_hardware_addr: String,
}

impl From<&domain::Lease> for Lease {
    fn from(lease: &domain::Lease) -> Self {
        Self {
            underlay_ip: lease.underlay.to_string(),
            overlay_subnet: lease.block.to_string(),
            overlay_hardware_addr: lease.hardware_address(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Acquire {
    pub(super) underlay_ip: String,
    pub(super) single_overlay_ip: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Release {
    pub(super) underlay_ip: String,
}
