//! What every answer carries: headers that keep browsers and caches from doing anything with it.

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::Response,
};

static HEADERS: [(HeaderName, HeaderValue); 8] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Adds the headers to every answer, errors included.
pub async fn harden(mut response: Response) -> Response {
    for (name, value) in &HEADERS {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
}
