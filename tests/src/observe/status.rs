//! What an agent says about itself, as `c2c-agent status --json` prints it.

use serde_json::Value;

/// One page about an agent.
#[derive(Clone, Debug)]
pub struct Status(Value);

impl Status {
    /// Takes the page as it was printed.
    #[must_use]
    pub fn new(page: Value) -> Self {
        Self(page)
    }

    /// The page itself.
    #[must_use]
    pub fn page(&self) -> &Value {
        &self.0
    }

    /// Whether the cell holds a lease.
    #[must_use]
    pub fn lease_is_held(&self) -> bool {
        self.text("/lease/state") == Some("held")
    }

    /// The cell's block of the overlay, as CIDR.
    #[must_use]
    pub fn block(&self) -> Option<&str> {
        self.text("/lease/block")
    }

    /// Whether the agent follows the controller now.
    #[must_use]
    pub fn stream_is_live(&self) -> bool {
        self.text("/stream/state") == Some("live")
    }

    /// Whether the agent found programs and maps of an earlier one and took them over.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.0.pointer("/datapath/adopted").and_then(Value::as_bool) == Some(true)
    }

    /// The policy revision that the cell enforces.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.0.pointer("/policy/enforced_revision").and_then(Value::as_u64)
    }

    fn text(&self, pointer: &str) -> Option<&str> {
        self.0.pointer(pointer).and_then(Value::as_str)
    }
}
