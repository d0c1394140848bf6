//! Who calls, and what they may: administrators everything, others as far as Cloud Controller says that they are space
//! developers.

use super::answer::Failure;
use super::{Rest, Version};
use crate::auth::Token;
use crate::cloud::{Cloud, Developer};
use crate::domain::{AppId, Policy, TaggedPolicy};
use axum::extract::{FromRequestParts, Path};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use std::collections::BTreeSet;

/// Who may do everything here.
const ADMIN: &str = "network.admin";
/// Who may change policies between apps of spaces in which they are space developers.
const WRITE: &str = "network.write";

/// Who may besides administrators, and how much.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where it is asked who is a space developer; nothing: only administrators are let in.
    pub cloud: Option<Cloud>,
    /// Whether space developers need no scope.
    pub self_service: bool,
    /// Of how many policies those who are no administrators may make an app the source.
    pub policies_per_source: usize,
}

/// Somebody who may ask for policies, in this version.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) version: Version,
    pub(super) subject: String,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    Administrator,
    Developer { cloud: Cloud, developer: Developer, policies_per_source: usize },
}

/// An administrator.
#[derive(Debug)]
pub(super) struct Administrator {
    pub(super) subject: String,
}

impl FromRequestParts<Rest> for Administrator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, rest: &Rest) -> Result<Self, Failure> {
        let (_, token) = authenticate(parts, rest).await?;
        token.may(&[ADMIN])?;
        Ok(Self { subject: token.subject })
    }
}

impl FromRequestParts<Rest> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, rest: &Rest) -> Result<Self, Failure> {
        let (version, token) = authenticate(parts, rest).await?;
        let standing = Standing::of(&token, &rest.shared.access)?;
        Ok(Self { version, subject: token.subject, standing })
    }
}

async fn authenticate(parts: &mut Parts, rest: &Rest) -> Result<(Version, Token), Failure> {
    let version = match Path::<String>::from_request_parts(parts, rest).await {
        Ok(Path(version)) if version == "v0" => Version::V0,
        Ok(Path(version)) if version == "v1" => Version::V1,
        Ok(Path(version)) => return Err(Failure::Version(version)),
        // It is in the route of every page that asks who calls, so it cannot be decoded.
        Err(_) => return Err(Failure::Version(String::new())),
    };
    // A header that is no text is no token either, and as wrong as any other.
    let header = parts.headers.get(AUTHORIZATION).map_or(Ok(""), |value| value.to_str());
    Ok((version, rest.shared.verifier.verify(header.unwrap_or("not text")).await?))
}

impl Standing {
    fn of(token: &Token, access: &Access) -> Result<Self, Failure> {
        let Some(cloud) = access.cloud.as_ref().filter(|_| token.may(&[ADMIN]).is_err()) else {
            token.may(&[ADMIN])?;
            return Ok(Self::Administrator);
        };
        if !access.self_service {
            token.may(&[ADMIN, WRITE])?;
        }
        Ok(Self::Developer {
            cloud: cloud.clone(),
            developer: Developer::from(token.subject.as_str()),
            policies_per_source: access.policies_per_source,
        })
    }
}

impl Caller {
    /// Of how many policies the caller may make an app the source; nothing: of any number.
    pub(super) fn policies_per_source(&self) -> Option<usize> {
        match &self.standing {
            Standing::Administrator => None,
            Standing::Developer { policies_per_source, .. } => Some(*policies_per_source),
        }
    }

    /// Whether the caller may make and remove these policies.
    pub(super) async fn check(&self, policies: &[Policy]) -> Result<(), Failure> {
        let Standing::Developer { cloud, developer, .. } = &self.standing else { return Ok(()) };
        let apps = policies.iter().flat_map(|policy| [&policy.source, &policy.destination]);
        let apps: BTreeSet<AppId> = apps.cloned().collect();
        match cloud.may_change(developer, &apps).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Forbidden("one or more applications cannot be found or accessed")),
            Err(error) => Err(Failure::internal("check access failed", &error)),
        }
    }

    /// Those of the policies that the caller may see.
    pub(super) async fn visible(&self, policies: Vec<TaggedPolicy>) -> Result<Vec<TaggedPolicy>, Failure> {
        match &self.standing {
            Standing::Administrator => Ok(policies),
            Standing::Developer { cloud, developer, .. } => cloud
                .visible(developer, policies)
                .await
                .map_err(|error| Failure::internal("filter policies failed", &error)),
        }
    }
}
