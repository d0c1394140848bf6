//! What somebody may do who is no administrator: everything with policies between apps of spaces in which they are space
//! developers. An app that Cloud Controller does not know is in no space.

use super::{Cloud, CloudError, Developer};
use crate::domain::{AppId, SpaceId, TaggedPolicy};
use std::collections::BTreeSet;
use std::time::Duration;

/// For all calls that one request needs. Forty chunks of apps at a usual speed; a router gives up after 15 minutes.
const DEADLINE: Duration = Duration::from_secs(30);

impl Cloud {
    /// Whether somebody may make and remove policies between all of these apps.
    pub(crate) async fn may_change(
        &self,
        developer: &Developer,
        apps: &BTreeSet<AppId>,
    ) -> Result<bool, CloudError> {
        let check = async {
            let spaces = self.spaces_of(apps).await?;
            if spaces.len() < apps.len() {
                return Ok(false);
            }
            let spaces: BTreeSet<SpaceId> = spaces.into_values().collect();
            Ok(self.developed(developer, &spaces).await? == spaces)
        };
        tokio::time::timeout(DEADLINE, check).await.unwrap_or(Err(CloudError::TooSlow))
    }

    /// Those of the policies that somebody may see: whose apps both are in spaces of theirs.
    pub(crate) async fn visible(
        &self,
        developer: &Developer,
        mut policies: Vec<TaggedPolicy>,
    ) -> Result<Vec<TaggedPolicy>, CloudError> {
        let check = async {
            let apps = policies.iter().flat_map(|tagged| [&tagged.policy.source, &tagged.policy.destination]);
            let mut spaces = self.spaces_of(&apps.cloned().collect()).await?;
            let developed = self.developed(developer, &spaces.values().cloned().collect()).await?;
            spaces.retain(|_, space| developed.contains(space));
            Ok(spaces)
        };
        let mine = tokio::time::timeout(DEADLINE, check).await.unwrap_or(Err(CloudError::TooSlow))?;
        policies.retain(|TaggedPolicy { policy, .. }| {
            mine.contains_key(&policy.source) && mine.contains_key(&policy.destination)
        });
        Ok(policies)
    }
}
