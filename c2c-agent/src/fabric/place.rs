//! What the maps need to know of a container, out of its record.

use crate::endpoint::Record;
use crate::policy::compile::Placed;
use crate::policy::group::Workload;

/// What the runtime says in a container's metadata, as Cloud Foundry names it.
const GROUP: &str = "policy_group_id";
const SPACE: &str = "space_id";
const WORKLOAD: &str = "container_workload";

/// The container of a record. As Silk has it, security groups apply only where the runtime names both app and space.
pub(super) fn of(record: &Record) -> Placed {
    let said = |key| record.metadata.get(key).and_then(|value| value.as_str()).unwrap_or_default();
    let space = if said(GROUP).is_empty() { "" } else { said(SPACE) };
    Placed {
        app: record.app.clone(),
        space: space.to_owned(),
        workload: Workload::of(said(WORKLOAD)),
        host_name: record.host_name.clone(),
        ifindex: record.ifindex,
        host_mac: record.host_mac,
        container_mac: record.container_mac,
        egress: record.egress.clone(),
        ports: record.ports.clone(),
        shaped: record.bandwidth.ingress_rate > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn record(metadata: &Value) -> Record {
        let record = json!({
            "container_id": "h", "ifname": "eth0", "app": "f", "metadata": metadata, "address": "10.255.1.2",
            "host_name": "c2c-1", "host_mac": "02:00:00:00:00:01", "container_mac": "02:00:00:00:00:02",
            "ifindex": 20, "netns": "", "netns_id": { "dev": 1, "inode": 2 }, "mtu": 1450, "state": "wired",
            "created": 7,
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn a_space_counts_only_where_the_app_is_named_too() {
        let whole = json!({ "policy_group_id": "f", "space_id": "s", "container_workload": "task" });
        let place = of(&record(&whole));
        assert_eq!((place.space.as_str(), place.workload), ("s", Workload::Running));
        for metadata in
            [json!({ "space_id": "s" }), json!({ "policy_group_id": "", "space_id": "s" }), json!({})]
        {
            let place = of(&record(&metadata));
            assert_eq!((place.space.as_str(), place.workload), ("", Workload::Other));
        }
    }

    #[test]
    fn only_what_limits_the_way_to_the_container_shapes_it() {
        let mut record = record(&json!({}));
        record.bandwidth.egress_rate = 1_000;
        assert!(!of(&record).shaped);
        record.bandwidth.ingress_rate = 1_000;
        assert!(of(&record).shaped);
    }
}
