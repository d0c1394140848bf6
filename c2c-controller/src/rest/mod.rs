//! The external policy API of Cloud Foundry, as `cf add-network-policy` and its like speak it:
//! `/networking/{v0,v1}/external/…`, over TLS, for callers with a UAA token.
//!
//! What Cloud Foundry's policy server answers is answered here in the same words: status codes, JSON, headers and error
//! texts. `wire` knows the JSON and what is wrong with it, `query` the filters of a list, `answer` what can fail, `headers`
//! what goes with each reply, and `caller` who may do what.

mod answer;
mod caller;
mod headers;
mod policies;
pub(crate) mod query;
pub(crate) mod wire;

pub use caller::Access;
pub use headers::{Origins, OriginsError};

use crate::auth::Verifier;
use crate::domain::{AppId, Tag};
use crate::ledger::Ledger;
use crate::web;
use answer::Failure;
use axum::extract::State;
use axum::handler::Handler;
use axum::http::header::{ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use caller::Administrator;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the requests are served from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rest {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: Arc<Ledger>,
    verifier: Verifier,
    origins: Origins,
    access: Access,
    began: Instant,
}

impl Rest {
    /// Over this state, for callers that the verifier knows and for pages of these origins.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, verifier: Verifier, origins: Origins, access: Access) -> Self {
        Self { shared: Arc::new(Shared { ledger, verifier, origins, access, began: Instant::now() }) }
    }

    /// The routes.
    pub fn router(self) -> Router {
        let external = Router::new()
            .route("/policies", route("GET, POST, OPTIONS", get(policies::list).post(policies::create)))
            .route("/policies/delete", route("POST, OPTIONS", post(policies::delete)))
            .route("/policies/cleanup", route("POST, OPTIONS", post(policies::cleanup)))
            .route("/tags", route("GET, OPTIONS", get(tags)))
            .route("/whoami", route("GET, OPTIONS", get(whoami)));
        Router::new()
            .route("/", route("GET, OPTIONS", get(uptime)))
            .route("/networking", route("GET, OPTIONS", get(uptime)))
            .route("/health", route("GET, OPTIONS", get(health)))
            .nest("/networking/{version}/external", external)
            .fallback(async || Failure::NotFound)
            .method_not_allowed_fallback(async || Failure::Method)
            .layer(middleware::from_fn_with_state(self.clone(), headers::dress))
            .with_state(self)
    }
}

/// A route that also answers a browser's preflight request (Fetch standard, 3.3.3): which methods there are, and that a
/// token may be sent.
fn route(methods: &'static str, route: MethodRouter<Rest>) -> MethodRouter<Rest> {
    let preflight = async move || {
        [(ACCESS_CONTROL_ALLOW_METHODS, methods), (ACCESS_CONTROL_ALLOW_HEADERS, "authorization")]
    };
    options(preflight, route)
}

fn options<H: Handler<T, Rest>, T: 'static>(handler: H, route: MethodRouter<Rest>) -> MethodRouter<Rest> {
    route.options(handler)
}

/// Which JSON is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// One port for each policy.
    V0,
    /// Ranges of ports.
    V1,
}

async fn uptime(State(rest): State<Rest>) -> String {
    format!("Network policy server, up for {}\n", Uptime(rest.shared.began.elapsed()))
}

/// Whether changes can be stored.
async fn health(State(rest): State<Rest>) -> Result<(), Failure> {
    const FAILED: Failure = Failure::Internal("check database failed");
    let failed = *rest.shared.ledger.failed().borrow();
    if failed { Err(FAILED) } else { rest.read(|_| ()).await.map_err(|_| FAILED) }
}

async fn whoami(Administrator { subject }: Administrator) -> Response {
    #[derive(Serialize)]
    struct WhoAmI {
        subject: String,
    }
    web::json(&WhoAmI { subject })
}

async fn tags(State(rest): State<Rest>, _: Administrator) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Tags {
        tags: Vec<TagOf>,
    }
    #[derive(Serialize)]
    struct TagOf {
        id: String,
        tag: String,
        r#type: &'static str,
    }
    let tag_of = |(tag, app, router): (Tag, AppId, bool)| TagOf {
        id: app.to_string(),
        tag: tag.hex(),
        r#type: if router { "router" } else { "app" },
    };
    let tags = rest.read(Ledger::tags).await?;
    Ok(web::json(&Tags { tags: tags.into_iter().map(tag_of).collect() }))
}

/// A time as Go writes it, in whole seconds: `1h2m3s`.
struct Uptime(Duration);

impl fmt::Display for Uptime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, s) => write!(f, "{s}s"),
            (0, m, s) => write!(f, "{m}m{s}s"),
            (h, m, s) => write!(f, "{h}h{m}m{s}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_as_go_writes_them() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m0s"), (3_599, "59m59s"), (90_061, "25h1m1s")]
        {
            assert_eq!(Uptime(Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
