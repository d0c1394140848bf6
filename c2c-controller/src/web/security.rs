//! Headers that say how a browser has to treat a reply.

use axum::http::header::{
    CONTENT_SECURITY_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    X_XSS_PROTECTION,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

const SECURITY: [(HeaderName, &str); 4] = [
    (X_FRAME_OPTIONS, "deny"),
    (CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
    (X_XSS_PROTECTION, "1; mode=block"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// Adds them.
pub(crate) fn secure(headers: &mut HeaderMap) {
    headers.extend(SECURITY.map(|(name, value)| (name, HeaderValue::from_static(value))));
    only_over_tls(headers);
}

/// Adds the one that policy-server-internal sends alone.
pub(crate) fn only_over_tls(headers: &mut HeaderMap) {
    headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
}
