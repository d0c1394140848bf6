//! What cells that still run Silk ask on `internal_listen`: silk-controller's API (`silk`), and here the internal policy API
//! of Cloud Foundry, `/networking/:version/internal/…`, as policy-server-internal serves it to their policy agents. Its texts,
//! status codes and JSON are theirs; the version is not looked at, and what is answered has the shape of version 1. Who calls
//! has a certificate of Silk's CA, which says no more than that.
//!
//! `query` reads the queries, `wire` knows the JSON, `page` cuts a list of security groups into pages.

mod failure;
mod page;
pub(crate) mod query;
pub(crate) mod wire;

use crate::api::now;
use crate::domain::{AppId, Command, Stamp};
use crate::ledger::{Ledger, LedgerError};
use crate::{silk, web};
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, put};
use axum::{Router, middleware};
use failure::Failure;
use query::Listing;
use std::sync::Arc;
use wire::WantedTag;

/// Far more than the longest request: a name and a type.
const BODY_MAX_BYTES: usize = 16 << 10;

/// All that such cells are served.
pub(crate) fn router(ledger: Arc<Ledger>) -> Router {
    let policies = Router::new()
        .route("/policies", get(policies))
        .route("/policies_last_updated", get(last_updated))
        .route("/security_groups", get(security_groups))
        .route("/tags", put(tags));
    Router::new()
        .nest("/networking/{version}/internal", policies)
        .with_state(Arc::clone(&ledger))
        .merge(silk::router(ledger))
        .fallback(async || web::error(StatusCode::NOT_FOUND, "not found"))
        .method_not_allowed_fallback(async || {
            web::error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
        })
        .layer(middleware::map_response(async |mut response: Response| {
            web::only_over_tls(response.headers_mut());
            response
        }))
}

/// The policies that name one of the apps, or all.
async fn policies(State(ledger): State<Arc<Ledger>>, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    let apps = query::apps(&query.unwrap_or_default());
    let policies = read(ledger, move |ledger| match apps {
        Some(apps) => ledger.policies_naming(&apps),
        None => ledger.policies(None).1,
    });
    Ok(web::json(&wire::Policies::from(&policies.await?[..])))
}

/// A bare number: who polls takes the policies when it is greater than the last one.
async fn last_updated(State(ledger): State<Arc<Ledger>>) -> Result<Response, Failure> {
    let changed = web::blocking(move || changed(&ledger)).await.map_err(|error| Failure::read(&error))?;
    let Stamp(nanoseconds) = changed.map_err(|error| Failure::read(&error))?;
    Ok(web::json(&nanoseconds))
}

/// Who polls may have polled another server before: so it is never less than the time of the first question.
fn changed(ledger: &Ledger) -> Result<Stamp, LedgerError> {
    ledger.refresh(now())?;
    if ledger.stamp() == Stamp::default() {
        ledger.execute(&Command::Stamp, now())?;
    }
    Ok(ledger.stamp())
}

/// The groups that are bound to one of the spaces or to all, each with all its bindings.
async fn security_groups(
    State(ledger): State<Arc<Ledger>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let Listing { spaces, from, limit } = Listing::parse(&query.unwrap_or_default())?;
    let groups = read(ledger, move |ledger| ledger.groups_of(&spaces)).await?;
    let (groups, next) = page::cut(groups, from, limit);
    Ok(web::json(&wire::SecurityGroups {
        next,
        security_groups: groups.iter().map(wire::SecurityGroup::from).collect(),
    }))
}

/// The tag of a router, given if it has none, or of an app.
async fn tags(State(ledger): State<Arc<Ledger>>, body: Body) -> Result<Response, Failure> {
    let body = web::read(body, BODY_MAX_BYTES).await.ok_or(Failure::Read)?;
    let wanted = WantedTag::parse(&body).ok_or(Failure::Json)?;
    let tag = web::blocking(move || tag_of(&ledger, wanted)).await.map_err(|_| Failure::Create)?;
    Ok(web::json(&tag?))
}

/// An app's tag is only told: policies give it, and the last one takes it away.
fn tag_of(ledger: &Ledger, WantedTag { id, r#type }: WantedTag) -> Result<wire::Tag, Failure> {
    let app = AppId::parse("id", &id).map_err(|error| Failure::create(&error))?;
    let router = r#type == "router";
    if router {
        let done = ledger.execute(&Command::HoldTag(app.clone()), now());
        if done.map_err(|error| Failure::create(&error))?.commit.is_some() {
            tracing::info!(id, "a router holds a tag from now on");
        }
    } else {
        ledger.refresh(now()).map_err(|error| Failure::create(&error))?;
    }
    match ledger.tag_of(&app) {
        Some((tag, is_router)) if is_router == router && (router || r#type == "app") => {
            Ok(wire::Tag { id, tag: tag.hex(), r#type })
        }
        Some(_) | None => Err(Failure::Create),
    }
}

/// What the ledger knows once it has heard of all that others did.
async fn read<T: Send + 'static>(
    ledger: Arc<Ledger>,
    read: impl FnOnce(&Ledger) -> T + Send + 'static,
) -> Result<T, Failure> {
    let refreshed = web::blocking(move || ledger.refresh(now()).map(|()| read(&ledger))).await;
    refreshed.map_err(|error| Failure::read(&error))?.map_err(|error| Failure::read(&error))
}
