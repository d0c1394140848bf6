//! Cloud Controller's v3 lists, each read whole or not at all: by pages that we count ourselves, because where a page says
//! that the next one is would be followed with our token. Nothing is taken from a list that was not asked for.

use super::groups::Listed;
use super::tokens::Tokens;
use crate::domain::{AppId, SpaceId};
use crate::https::{Call, CallError, Https};
use hyper::StatusCode;
use hyper::body::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Ids in one request, and their bytes with commas between: nginx in front of Cloud Controller takes a request line of
/// 8 KiB, and 200 GUIDs are 7,400 bytes.
const CHUNK_IDS: usize = 200;
const CHUNK_BYTES: usize = 7_600;
/// An app is some 3 KiB.
const OF_CHUNK: Limits =
    Limits { per_page: CHUNK_IDS, pages: 1, bytes: 8 << 20, deadline: Duration::from_secs(10) };
/// Twenty thousand groups are more than anybody has. A group of many rules that is bound to some thousand spaces is some
/// hundred KiB, so that a page is not too long for Cloud Controller either.
const OF_GROUPS: Limits =
    Limits { per_page: 100, pages: 200, bytes: 128 << 20, deadline: Duration::from_secs(30) };

/// Why Cloud Controller's answer is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloudError {
    /// The UAA, or Cloud Controller, does not answer well.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Another call just failed to get a token.
    #[error("the UAA gave no token for Cloud Controller a moment ago")]
    NoToken,
    /// Something that no header can hold.
    #[error("uaa_client, uaa_client_secret or the UAA's token holds characters that no HTTP header can")]
    Unsendable,
    /// A list that does not end, or not where it says.
    #[error("the list {path} of Cloud Controller is not whole: {problem}")]
    NotWhole {
        /// Which list.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It took too long, all together.
    #[error("Cloud Controller did not answer all that was asked in time")]
    TooSlow,
}

/// Somebody who may be a space developer: a user's GUID, as a token says it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Developer(Arc<str>);

impl From<&str> for Developer {
    fn from(subject: &str) -> Self {
        Self(subject.into())
    }
}

#[derive(Debug)]
pub(super) struct Controller {
    https: Https,
    tokens: Tokens,
}

/// How long a list may be.
#[derive(Clone, Copy, Debug)]
struct Limits {
    per_page: usize,
    pages: usize,
    /// Of all pages together.
    bytes: usize,
    /// For a page.
    deadline: Duration,
}

#[derive(Deserialize)]
struct Page<T> {
    pagination: Pagination,
    resources: Vec<T>,
}

#[derive(Deserialize)]
struct Pagination {
    total_results: usize,
    next: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct App {
    guid: String,
    relationships: AppRelationships,
}

#[derive(Deserialize)]
struct AppRelationships {
    space: ToOne,
}

#[derive(Deserialize)]
struct Role {
    r#type: String,
    relationships: RoleRelationships,
}

#[derive(Deserialize)]
struct RoleRelationships {
    user: ToOne,
    space: ToOne,
}

/// A relationship to one other thing.
#[derive(Deserialize)]
struct ToOne {
    data: Option<Guid>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Guid {
    pub(super) guid: String,
}

impl ToOne {
    fn guid(&self) -> &str {
        self.data.as_ref().map_or("", |data| &data.guid)
    }
}

impl Controller {
    pub(super) fn new(https: Https, tokens: Tokens) -> Self {
        Self { https, tokens }
    }

    /// The spaces of those of the apps that there are.
    pub(super) async fn spaces_of(
        &self,
        apps: &BTreeSet<AppId>,
    ) -> Result<BTreeMap<AppId, SpaceId>, CloudError> {
        let known = self.apps(apps).await?.into_iter();
        Ok(known.filter_map(|(app, space)| Some((app, SpaceId::parse("space", &space).ok()?))).collect())
    }

    /// Those of the apps that there are.
    pub(super) async fn known(&self, apps: &BTreeSet<AppId>) -> Result<BTreeSet<AppId>, CloudError> {
        Ok(self.apps(apps).await?.into_keys().collect())
    }

    /// All security groups, in the order in which they were made, so that new ones come last.
    pub(super) async fn groups(&self) -> Result<Vec<Listed>, CloudError> {
        self.list("/v3/security_groups?order_by=created_at", OF_GROUPS).await
    }

    /// Whether it shows us any space.
    pub(super) async fn has_spaces(&self) -> Result<bool, CloudError> {
        let spaces = self.get(Call::get("/v3/spaces?per_page=1&page=1")).await?;
        Ok(!self.https.read::<Page<IgnoredAny>>("/v3/spaces", &spaces)?.resources.is_empty())
    }

    /// Those of the apps that there are, and the GUIDs of their spaces.
    async fn apps(&self, apps: &BTreeSet<AppId>) -> Result<BTreeMap<AppId, String>, CloudError> {
        let mut found = BTreeMap::new();
        for chunk in chunks(apps.iter().map(AppId::as_str)) {
            let listed: Vec<App> = self.list(&format!("/v3/apps?guids={chunk}"), OF_CHUNK).await?;
            found.extend(listed.into_iter().filter_map(|app| {
                let space = app.relationships.space.guid().to_owned();
                Some((AppId::parse("app", &app.guid).ok()?, space))
            }));
        }
        found.retain(|app, _| apps.contains(app));
        Ok(found)
    }

    /// Those of the spaces in which somebody is a space developer.
    pub(super) async fn developed(
        &self,
        Developer(subject): &Developer,
        spaces: &BTreeSet<SpaceId>,
    ) -> Result<BTreeSet<SpaceId>, CloudError> {
        let user: String = form_urlencoded::byte_serialize(subject.as_bytes()).collect();
        let mut developed = BTreeSet::new();
        for chunk in chunks(spaces.iter().map(SpaceId::as_str)) {
            let path = format!("/v3/roles?types=space_developer&user_guids={user}&space_guids={chunk}");
            let roles: Vec<Role> = self.list(&path, OF_CHUNK).await?;
            let roles = roles.iter().filter(|role| {
                role.r#type == "space_developer" && role.relationships.user.guid() == &**subject
            });
            developed.extend(
                roles.filter_map(|role| SpaceId::parse("space", role.relationships.space.guid()).ok()),
            );
        }
        developed.retain(|space| spaces.contains(space));
        Ok(developed)
    }

    /// All pages of a list. `path` has a query already.
    async fn list<T: DeserializeOwned>(&self, path: &str, limits: Limits) -> Result<Vec<T>, CloudError> {
        let Limits { per_page, pages, bytes, deadline } = limits;
        let not_whole = |problem: String| {
            let path = path.split('?').next().unwrap_or(path).to_owned();
            Err(CloudError::NotWhole { path, problem })
        };
        let mut all = Vec::new();
        let mut bytes_left = bytes;
        for page in 1..=pages {
            let path = format!("{path}&per_page={per_page}&page={page}");
            let body = self.get(Call::get(path.as_str()).within(deadline, bytes_left)).await?;
            bytes_left = bytes_left.saturating_sub(body.len());
            let Page { pagination: Pagination { total_results, next }, resources } =
                self.https.read(&path, &body)?;
            all.extend(resources);
            match next {
                Some(_) => {}
                None if all.len() == total_results => return Ok(all),
                None => return not_whole(format!("it has {} of {total_results} entries", all.len())),
            }
        }
        not_whole(format!("it does not end after {pages} pages of {per_page}"))
    }

    /// Asks once more when our token is refused: keys may have been exchanged, or clients changed.
    async fn get(&self, call: Call) -> Result<Bytes, CloudError> {
        let token = self.tokens.get().await?;
        let answer = self.https.call(call.clone().authorized(token.clone())).await;
        match answer {
            Err(error) if error.status() == Some(StatusCode::UNAUTHORIZED) => {
                self.tokens.drop_token(&token).await;
                let token = self.tokens.get().await?;
                Ok(self.https.call(call.authorized(token)).await?)
            }
            answer => Ok(answer?),
        }
    }
}

/// Ids with commas between them, in as many texts as are needed.
fn chunks<'a>(ids: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut chunks: Vec<(usize, String)> = Vec::new();
    for id in ids {
        match chunks.last_mut() {
            Some((count, chunk)) if *count < CHUNK_IDS && chunk.len() + 1 + id.len() <= CHUNK_BYTES => {
                *count += 1;
                chunk.push(',');
                chunk.push_str(id);
            }
            Some(_) | None => chunks.push((1, id.to_owned())),
        }
    }
    chunks.into_iter().map(|(_, chunk)| chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_200_guids_or_fewer_and_lines_that_servers_take() {
        let guids: Vec<String> = (0..401).map(|n| format!("{n:036}")).collect();
        let of_guids = chunks(guids.iter().map(String::as_str));
        assert_eq!(of_guids.iter().map(|chunk| chunk.split(',').count()).collect::<Vec<_>>(), [200, 200, 1]);
        assert_eq!(of_guids.join(","), guids.join(","));
        let long: Vec<String> = (0..100).map(|n| format!("{n:0255}")).collect();
        let of_long = chunks(long.iter().map(String::as_str));
        assert!(of_long.iter().all(|chunk| chunk.len() <= CHUNK_BYTES) && of_long.len() == 4);
        assert_eq!(of_long.join(","), long.join(","));
        assert!(chunks([]).is_empty());
    }
}
