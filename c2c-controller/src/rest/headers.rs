//! What goes with every reply: headers for browsers, and a name of the request, which the log has too.

use super::Rest;
use axum::extract::{Request, State};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

/// How a router names a request; `cf` shows it with an error that it does not know.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-vcap-request-id");
/// Longer names are replaced by one of ours.
const REQUEST_ID_MAX_BYTES: usize = 128;

/// The origins (RFC 6454) whose pages may read replies, such as `https://apps.example.org`; `*` is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

/// A text that names no origins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin; expected * or one such as https://apps.example.org, with commas between several"
)]
pub struct OriginsError(String);

impl FromStr for Origins {
    type Err = OriginsError;

    fn from_str(text: &str) -> Result<Self, OriginsError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let origin = |part: &str| {
            let host = part.strip_prefix("https://").or_else(|| part.strip_prefix("http://"));
            let is_host = |host: &str| {
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
            };
            match part == "*" || host.is_some_and(is_host) {
                true => Ok(part.to_ascii_lowercase()),
                false => Err(OriginsError(part.to_owned())),
            }
        };
        parts.map(origin).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl Origins {
    /// What a page of this origin is told.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.0.iter().any(|allowed| allowed == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        self.0.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }
}

/// Around every request.
pub(super) async fn dress(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    let origins = &rest.shared.origins;
    let origin = request.headers().get(ORIGIN).and_then(|origin| origins.allowed(origin));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    tracing::debug!(request = ?id, %method, path, status, elapsed = ?began.elapsed(), "answered");
    let headers = response.headers_mut();
    crate::web::secure(headers);
    headers.insert(REQUEST_ID, id);
    if !origins.0.is_empty() {
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

/// The router's name for the request, or one of ours.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fits = |id: &&HeaderValue| !id.is_empty() && id.len() <= REQUEST_ID_MAX_BYTES && id.to_str().is_ok();
    let ours = || HeaderValue::from_str(&format!("{:032x}", rand::random::<u128>()));
    let ours = || ours().unwrap_or_else(|_| HeaderValue::from_static("none"));
    headers.get(REQUEST_ID).filter(fits).cloned().unwrap_or_else(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(origins: &str, origin: &'static str) -> Option<String> {
        let origins: Origins = origins.parse().unwrap();
        let told = origins.allowed(&HeaderValue::from_static(origin));
        told.map(|told| told.to_str().unwrap().to_owned())
    }

    #[test]
    fn pages_of_named_origins_may_read() {
        let (both, apps) = ("https://Apps.example.org, http://localhost:3000", "https://apps.example.org");
        assert_eq!(told(both, apps).as_deref(), Some(apps));
        assert_eq!(told(both, "http://localhost:3000").as_deref(), Some("http://localhost:3000"));
        assert_eq!(told(both, "http://apps.example.org"), None);
        assert_eq!(told("", apps), None);
        assert_eq!(told("*", apps).as_deref(), Some("*"));
        for text in ["apps.example.org", "https://", "https://a/b", "https://a b", "null"] {
            assert!(text.parse::<Origins>().unwrap_err().to_string().contains("is no origin"), "{text}");
        }
    }

    #[test]
    fn a_request_keeps_its_name_if_that_is_one() {
        let named = |name: &str| {
            let value = HeaderValue::from_bytes(name.as_bytes()).unwrap();
            request_id(&[(REQUEST_ID, value)].into_iter().collect())
        };
        assert_eq!(named("router-1"), "router-1");
        for name in ["", "\u{e9}", "x".repeat(129).as_str()] {
            assert_eq!(named(name).len(), 32, "{name}");
        }
    }
}
