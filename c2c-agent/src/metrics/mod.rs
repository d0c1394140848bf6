//! What the agent says of itself on its pages ([`c2c_proto::pages`]): ready when an ADD can be served and everything known
//! is enforced.

mod page;

use crate::fabric::report_chain;
use crate::status::Observer;
use c2c_proto::pages::Observed;

impl Observed for Observer {
    /// Reading the maps blocks for as long as they are large.
    fn metrics(&self) -> Result<String, String> {
        page::text(self).map_err(|error| report_chain(&error))
    }

    fn problems(&self) -> Vec<String> {
        self.facts().problems()
    }
}
