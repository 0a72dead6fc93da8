//! Who may call what: every route by every kind of caller, and the routes as the documentation lists them.

use fleetmend_controller::http::{Policy, ROUTES, Role};
use http::StatusCode;
use uuid::Uuid;

use super::fixture::Fleet;

/// The whole matrix as people agreed on it. A change of the route table must be made here too.
const MATRIX: &[(&str, &str, &str)] = &[
    ("GET", "/healthz", "anybody"),
    ("GET", "/readyz", "anybody"),
    ("GET", "/api/v1/summary", "viewer operator admin"),
    ("GET", "/api/v1/devices", "viewer operator admin"),
    ("POST", "/api/v1/devices/approve", "operator admin"),
    ("GET", "/api/v1/devices/{id}", "viewer operator admin"),
    ("POST", "/api/v1/devices/{id}/approve", "operator admin"),
    ("POST", "/api/v1/devices/{id}/ban", "operator admin"),
    ("POST", "/api/v1/devices/{id}/remediate", "operator"),
    ("GET", "/api/v1/incidents", "viewer operator admin"),
    ("GET", "/api/v1/incidents/{id}", "viewer operator admin"),
    ("POST", "/api/v1/incidents/{id}/dismiss", "operator"),
    ("GET", "/api/v1/orders", "viewer operator admin"),
    ("GET", "/api/v1/orders/{id}", "viewer operator admin"),
    ("POST", "/api/v1/orders/{id}/cancel", "operator"),
    ("GET", "/api/v1/catalog", "viewer operator admin"),
    ("GET", "/api/v1/catalog/{code}", "viewer operator admin"),
];

#[tokio::test]
async fn every_route_by_every_caller() {
    let fleet = Fleet::new().await;
    let never_made = fleetmend_controller::secret::new(fleetmend_controller::secret::Kind::Api);
    let callers = [
        ("nobody", None),
        ("bad token", Some("fm_nonsense")),
        ("unknown token", Some(never_made.as_str())),
        ("expired", Some(&fleet.expired)),
        ("revoked", Some(&fleet.revoked)),
        ("viewer", Some(&fleet.viewer)),
        ("operator", Some(&fleet.operator)),
        ("admin", Some(&fleet.admin)),
    ];
    assert_eq!(ROUTES.len(), MATRIX.len(), "a route was added or taken away: say here who may call it");
    for (route, (method, path, allowed)) in ROUTES.iter().zip(MATRIX) {
        assert_eq!((route.verb.method().as_str(), route.path), (*method, *path));
        let uri = path.replace("{id}", &Uuid::new_v4().to_string()).replace("{code}", "0x80070103");
        for (caller, token) in callers {
            let body = (*method == "POST").then(|| serde_json::json!({ "serials": ["S1"] }));
            let answer = fleet.send(route.verb.method(), &uri, token, body.as_ref()).await;
            let passed = *allowed == "anybody" || allowed.split(' ').any(|role| role == caller);
            let is_person = ["viewer", "operator", "admin"].contains(&caller);
            let what = format!("{method} {path} by {caller}: {answer:?}");
            match (passed, is_person) {
                (true, _) => {
                    assert!(!matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), "{what}");
                }
                (false, true) => {
                    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{what}");
                    assert_eq!(answer.body["type"], "urn:fleetmend:problem:not-permitted", "{what}");
                }
                (false, false) => {
                    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
                    assert!(answer.headers.contains_key("www-authenticate"), "{what}");
                    assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn one_token_by_one_header_and_nothing_else() {
    let fleet = Fleet::new().await;
    let token = &fleet.viewer;
    let refused = [
        vec![("authorization", format!("Basic {token}"))],
        vec![("authorization", token.clone())],
        vec![("authorization", format!("Bearer {token}x"))],
        vec![("authorization", format!("Bearer {token}")), ("authorization", format!("Bearer {token}"))],
        vec![("cookie", format!("token={token}"))],
        vec![("x-forwarded-user", "admin".to_owned())],
    ];
    for headers in refused {
        let mut request = http::Request::builder().uri("/api/v1/summary");
        for (name, value) in &headers {
            request = request.header(*name, value);
        }
        let answer = fleet.raw(request.body(String::new()).expect("a request")).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{headers:?}");
    }
    let lower = http::Request::builder().uri("/api/v1/summary").header("authorization", format!("bearer {token}"));
    assert_eq!(fleet.raw(lower.body(String::new()).expect("a request")).await.status, StatusCode::OK);
}

#[test]
fn the_documentation_lists_these_routes() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md")).expect("docs/api.md");
    let documented: Vec<_> = page
        .lines()
        .skip_while(|line| *line != "## Routes")
        .take_while(|line| *line != "## Lists")
        .filter_map(|line| line.strip_prefix("| `"))
        .filter(|line| line.starts_with("GET /") || line.starts_with("POST /"))
        .map(|line| line.replace('`', ""))
        .collect();
    let built: Vec<_> = ROUTES
        .iter()
        .map(|route| {
            let roles = match route.policy {
                Policy::Open => "none needed".to_owned(),
                Policy::Roles(roles) => roles.iter().copied().map(Role::word).collect::<Vec<_>>().join(", "),
            };
            let query = route.query.join(", ");
            let end = if query.is_empty() { "|".to_owned() } else { format!("{query} |") };
            format!("{} {} | {roles} | {end}", route.verb.method(), route.path)
        })
        .collect();
    assert_eq!(documented, built);
}
