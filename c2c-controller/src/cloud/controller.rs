//! Cloud Controller's v3 lists, each read whole or not at all: by pages that we count ourselves, because where a page says
//! that the next one is would be followed with our token. Nothing is taken from a list that was not asked for.

use super::tokens::Tokens;
use crate::domain::{AppId, SpaceId};
use crate::https::{Call, CallError, Https};
use hyper::StatusCode;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Ids in one request, and their bytes with commas between: nginx in front of Cloud Controller takes a request line of
/// 8 KiB, and 200 GUIDs are 7,400 bytes.
const CHUNK_IDS: usize = 200;
const CHUNK_BYTES: usize = 7_600;

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

#[derive(Deserialize)]
struct Guid {
    guid: String,
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

    /// Whether it shows us any space.
    pub(super) async fn has_spaces(&self) -> Result<bool, CloudError> {
        let spaces: Page<IgnoredAny> = self.get(Call::get("/v3/spaces?per_page=1&page=1")).await?;
        Ok(!spaces.resources.is_empty())
    }

    /// Those of the apps that there are, and the GUIDs of their spaces.
    async fn apps(&self, apps: &BTreeSet<AppId>) -> Result<BTreeMap<AppId, String>, CloudError> {
        let mut found = BTreeMap::new();
        for chunk in chunks(apps.iter().map(AppId::as_str)) {
            let listed: Vec<App> = self.list(&format!("/v3/apps?guids={chunk}"), CHUNK_IDS, 1).await?;
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
            let roles: Vec<Role> = self.list(&path, CHUNK_IDS, 1).await?;
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
    async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        per_page: usize,
        max_pages: usize,
    ) -> Result<Vec<T>, CloudError> {
        let not_whole = |problem: String| {
            let path = path.split('?').next().unwrap_or(path).to_owned();
            Err(CloudError::NotWhole { path, problem })
        };
        let mut all = Vec::new();
        for page in 1..=max_pages {
            let path = format!("{path}&per_page={per_page}&page={page}");
            let Page { pagination: Pagination { total_results, next }, resources } =
                self.get(Call::get(path)).await?;
            all.extend(resources);
            match next {
                Some(_) => {}
                None if all.len() == total_results => return Ok(all),
                None => return not_whole(format!("it has {} of {total_results} entries", all.len())),
            }
        }
        not_whole(format!("it does not end after {max_pages} pages of {per_page}"))
    }

    /// Asks once more when our token is refused: keys may have been exchanged, or clients changed.
    async fn get<T: DeserializeOwned>(&self, call: Call) -> Result<T, CloudError> {
        let token = self.tokens.get().await?;
        let answer = self.https.json(call.clone().authorized(token.clone())).await;
        match answer {
            Err(error) if error.status() == Some(StatusCode::UNAUTHORIZED) => {
                self.tokens.drop_token(&token).await;
                let token = self.tokens.get().await?;
                Ok(self.https.json(call.authorized(token)).await?)
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
