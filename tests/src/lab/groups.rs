//! Security groups, as the controller's operator sets and binds them.

use super::Lab;
use super::place::write_json;
use anyhow::Result;
use serde_json::Value;

impl Lab {
    /// Makes the rules of a group these, in Cloud Controller's words; gives the reply as JSON.
    pub fn set_group(&self, name: &str, rules: &[Value]) -> Result<String> {
        let file = self.place.path(&format!("group-{name}.json"));
        write_json(&file, &rules)?;
        self.operator(&["security-groups", "set", name, &file.display().to_string(), "--json"])
    }

    /// Binds a group to a space, or to all of them, for what is running or staging there.
    pub fn bind_group(&self, name: &str, workload: &str, space: Option<&str>) -> Result<String> {
        self.operator(&binding("bind", name, workload, space))
    }

    /// Takes back what [`Lab::bind_group`] did.
    pub fn unbind_group(&self, name: &str, workload: &str, space: Option<&str>) -> Result<String> {
        self.operator(&binding("unbind", name, workload, space))
    }
}

fn binding<'a>(verb: &'a str, name: &'a str, workload: &'a str, space: Option<&'a str>) -> Vec<&'a str> {
    let words = ["security-groups", verb, name, "--workload", workload];
    let spaces = space.map_or_else(|| vec!["--default"], |space| vec!["--space", space]);
    words.into_iter().chain(spaces).collect()
}
