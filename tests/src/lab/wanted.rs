//! What a container shall be, in the words of the shim's configuration: `metadata` and `runtimeConfig`.

use serde_json::{Map, Value, json};

/// A container that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    app: String,
    space: Option<String>,
    workload: String,
    ports: Vec<(u16, u16)>,
    rules: Vec<Value>,
    bandwidth: Option<Bandwidth>,
}

/// A rate and a burst, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bits per second.
    pub rate: u64,
    /// Bits.
    pub burst: u64,
}

impl Wanted {
    /// An instance of an app, in no space, without ports, rules or limits.
    #[must_use]
    pub fn app(app: &str) -> Self {
        Self {
            app: app.to_owned(),
            space: None,
            workload: "app".to_owned(),
            ports: Vec::new(),
            rules: Vec::new(),
            bandwidth: None,
        }
    }

    /// The app that it is an instance of.
    #[must_use]
    pub fn app_name(&self) -> &str {
        &self.app
    }

    /// In a space.
    #[must_use]
    pub fn space(self, space: &str) -> Self {
        Self { space: Some(space.to_owned()), ..self }
    }

    /// As `app`, `task` or `staging`.
    #[must_use]
    pub fn workload(self, workload: &str) -> Self {
        Self { workload: workload.to_owned(), ..self }
    }

    /// With a port of the cell that leads to a port of the container; 0: the agent chooses the cell's.
    #[must_use]
    pub fn port(mut self, cell_port: u16, container_port: u16) -> Self {
        self.ports.push((cell_port, container_port));
        self
    }

    /// With a rule for what it may reach outside, Garden's `NetOutRule`.
    #[must_use]
    pub fn rule(mut self, rule: Value) -> Self {
        self.rules.push(rule);
        self
    }

    /// With a limited bandwidth.
    #[must_use]
    pub fn bandwidth(self, bandwidth: Bandwidth) -> Self {
        Self { bandwidth: Some(bandwidth), ..self }
    }

    pub(super) fn has_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    /// As `metadata`, and as Garden's `Properties`.
    #[must_use]
    pub fn metadata(&self) -> Value {
        let mut metadata = json!({
            "app_id": self.app,
            "policy_group_id": self.app,
            "container_workload": self.workload,
        });
        if let Some(space) = &self.space {
            metadata["space_id"] = json!(space);
        }
        metadata
    }

    /// As Garden's `up` has it, for a process by its number.
    #[must_use]
    pub fn garden(&self, pid: i32) -> Value {
        let mut inputs = json!({ "Pid": pid, "Properties": self.metadata() });
        if !self.ports.is_empty() {
            inputs["netin"] = self.mappings();
        }
        if !self.rules.is_empty() {
            inputs["netout_rules"] = json!(self.rules);
        }
        inputs
    }

    /// As `runtimeConfig`; none when there is nothing to say.
    pub(super) fn runtime_config(&self) -> Option<Value> {
        let mut fields = Map::new();
        if !self.ports.is_empty() {
            fields.insert("portMappings".to_owned(), self.mappings());
        }
        if !self.rules.is_empty() {
            fields.insert("netOutRules".to_owned(), json!(self.rules));
        }
        if let Some(Bandwidth { rate, burst }) = self.bandwidth {
            let limits = json!({
                "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst,
            });
            fields.insert("bandwidth".to_owned(), limits);
        }
        (!fields.is_empty()).then_some(Value::Object(fields))
    }

    /// In the spelling of CF's networker.
    fn mappings(&self) -> Value {
        let mapping =
            |(host, container): &(u16, u16)| json!({ "host_port": host, "container_port": container });
        self.ports.iter().map(mapping).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_not_mentioned() {
        let plain = Wanted::app("one");
        assert_eq!(plain.runtime_config(), None);
        assert_eq!(
            plain.garden(7),
            json!({
                "Pid": 7,
                "Properties": { "app_id": "one", "policy_group_id": "one", "container_workload": "app" },
            })
        );
    }

    #[test]
    fn ports_and_rules_are_spelled_as_the_networker_spells_them() {
        let rule = json!({ "protocol": 2 });
        let wanted = Wanted::app("one").space("here").port(0, 8080).rule(rule.clone());
        let mappings = json!([{ "host_port": 0, "container_port": 8080 }]);
        assert_eq!(wanted.runtime_config(), Some(json!({ "portMappings": mappings, "netOutRules": [rule] })));
        let garden = wanted.garden(7);
        assert_eq!((&garden["netin"], &garden["Properties"]["space_id"]), (&mappings, &json!("here")));
    }
}
