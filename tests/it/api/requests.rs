//! What is unknown or malformed is refused by name, nothing is refused without a problem document, and lists end.

use std::collections::BTreeSet;

use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use uuid::Uuid;

use super::fixture::{Answer, Fleet};

fn fields(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{answer:?}");
    assert_eq!(answer.body["status"], 400, "{answer:?}");
    let errors = answer.body["errors"].as_array().expect("a list of wrong fields");
    errors.iter().map(|error| error["field"].as_str().expect("a field")).collect()
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let fleet = Fleet::new().await;
    let cases: &[(&str, &[&str])] = &[
        ("/devices?sate=active", &["sate"]),
        ("/devices?sate=active&limit=2&ordre=x", &["sate", "ordre"]),
        ("/devices?limit=2&limit=3", &["limit"]),
        ("/devices?limit=0", &["limit"]),
        ("/devices?limit=1001", &["limit"]),
        ("/devices?limit=-1", &["limit"]),
        ("/devices?limit=ten", &["limit"]),
        ("/devices?state=asleep", &["state"]),
        ("/devices?cursor=", &["cursor"]),
        ("/devices?cursor=%00%1b", &["cursor"]),
        ("/devices/not-an-id", &["id"]),
        ("/devices/%ff", &["path"]),
        ("/incidents?code=hello", &["code"]),
        ("/incidents?code=0x123456789", &["code"]),
        ("/incidents?device=1", &["device"]),
        ("/incidents?state=exploded", &["state"]),
        ("/incidents?tier=7", &["tier"]),
        ("/incidents?open=maybe", &["open"]),
        ("/incidents/12345", &["id"]),
        ("/orders?state=gone", &["state"]),
        ("/orders?incident=x", &["incident"]),
        ("/orders/0190", &["id"]),
        ("/catalog?category=weather", &["category"]),
        ("/catalog/hello", &["code"]),
        ("/summary?verbose=1", &["verbose"]),
    ];
    for (path, wrong) in cases {
        let answer = fleet.get(&fleet.viewer, &format!("/api/v1{path}")).await;
        assert_eq!(&fields(&answer), wrong, "{path}");
    }
}

#[tokio::test]
async fn a_strange_cursor_is_refused_without_a_fault() {
    let fleet = Fleet::new().await;
    for list in ["devices", "incidents", "orders"] {
        let answer = fleet.get(&fleet.viewer, &format!("/api/v1/{list}?cursor=bm90aGluZw")).await;
        assert!(answer.status.is_client_error(), "{answer:?}");
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("cursor")), "{answer:?}");
    }
}

#[tokio::test]
async fn bodies_are_checked_to_the_last_field() {
    let fleet = Fleet::new().await;
    let device = fleet.device("PC-1").await;
    let (remediate, serials) = (format!("/api/v1/devices/{device}/remediate"), "/api/v1/devices/approve".to_owned());
    let cases: &[(&str, Value, &[&str])] = &[
        (&remediate, json!({ "teir": 3 }), &["body"]),
        (&remediate, json!({ "tier": 7 }), &["body"]),
        (&remediate, json!({ "tier": "3" }), &["body"]),
        (&remediate, json!([]), &["body"]),
        (&serials, json!({}), &["body"]),
        (&serials, json!({ "serials": [] }), &["serials"]),
        (&serials, json!({ "serials": vec!["x"; 1001] }), &["serials"]),
        (
            &serials,
            json!({ "serials": ["ok", "", "a\u{1b}b", "x".repeat(200)] }),
            &["serials[1]", "serials[2]", "serials[3]"],
        ),
    ];
    for (path, body, wrong) in cases {
        let answer = fleet.post(&fleet.operator, path, body.clone()).await;
        assert_eq!(&fields(&answer), wrong, "{path} {body}");
    }
    let ban = format!("/api/v1/devices/{device}/ban");
    let answer = fleet.post(&fleet.operator, &ban, json!({ "reason": "two\nlines" })).await;
    assert_eq!(fields(&answer), ["reason"]);
}

#[tokio::test]
async fn a_body_must_be_json_and_small() {
    let fleet = Fleet::new().await;
    let post = |kind: &str, body: String| {
        Request::builder()
            .method(Method::POST)
            .uri("/api/v1/devices/approve")
            .header(header::AUTHORIZATION, format!("Bearer {}", fleet.operator))
            .header(header::CONTENT_TYPE, kind)
            .body(body)
            .expect("a request")
    };
    let fine = r#"{"serials":["S1"]}"#.to_owned();
    let form = fleet.raw(post("application/x-www-form-urlencoded", fine.clone())).await;
    assert_eq!(form.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(fleet.raw(post("application/json; charset=utf-8", fine.clone())).await.status, StatusCode::OK);
    let max = fleet.state.max_body;
    let padded = |size: usize| format!("{fine}{}", " ".repeat(size - fine.len()));
    assert_eq!(fleet.raw(post("application/json", padded(max))).await.status, StatusCode::OK);
    let large = fleet.raw(post("application/json", padded(max + 1))).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(large.body["type"], "urn:fleetmend:problem:body-too-large");
    assert!(large.body["detail"].as_str().is_some_and(|it| it.contains(&max.to_string())), "{:?}", large.body);
    assert_eq!(fields(&fleet.raw(post("application/json", "{".to_owned())).await), ["body"]);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_document_too() {
    let fleet = Fleet::new().await;
    let id = Uuid::new_v4();
    for path in ["/", "/api/v1", "/api/v2/devices", "/api/v1/devices/", "/metrics", "/api/v1/../../etc/passwd"] {
        let answer = fleet.get(&fleet.admin, path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.body["type"], "urn:fleetmend:problem:no-such-route", "{path}");
    }
    for path in ["devices", "incidents", "orders"] {
        let answer = fleet.get(&fleet.viewer, &format!("/api/v1/{path}/{id}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert!(answer.body["detail"].as_str().is_some_and(|it| it.contains(&id.to_string())), "{answer:?}");
    }
    for path in [format!("/api/v1/devices/{id}/approve"), format!("/api/v1/incidents/{id}/dismiss")] {
        assert_eq!(fleet.post(&fleet.operator, &path, json!({})).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for method in [Method::DELETE, Method::PUT, Method::PATCH] {
        let answer = fleet.send(method, "/api/v1/devices", Some(&fleet.admin), None).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    let unknown = fleet.get(&fleet.viewer, "/api/v1/catalog/0xDEADBEEF").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.body["detail"].as_str().is_some_and(|it| it.contains("0xDEADBEEF")), "{unknown:?}");
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let fleet = Fleet::new().await;
    for (path, token) in [
        ("/healthz", None),
        ("/readyz", None),
        ("/api/v1/summary", Some(&fleet.viewer)),
        ("/api/v1/summary", None),
        ("/nowhere", None),
    ] {
        let answer = fleet.send(Method::GET, path, token.map(String::as_str), None).await;
        let expected = [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
            ("strict-transport-security", "max-age=31536000"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ];
        for (name, value) in expected {
            assert_eq!(answer.headers[name], value, "{path} {name}");
        }
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}");
    }
}

#[tokio::test]
async fn pages_hold_every_row_once() {
    let fleet = Fleet::new().await;
    let mut made = BTreeSet::new();
    for number in 0..7 {
        let device = fleet.device(&format!("PC-{}", number % 3)).await;
        fleet.failure(device, 1, 5_000_000 + number).await;
        made.insert(device.to_string());
    }
    for (list, key) in [("devices", "id"), ("incidents", "device_id")] {
        for limit in [1, 2, 7, 100] {
            let (mut seen, mut pages, mut cursor) = (Vec::new(), 0, None::<String>);
            loop {
                let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
                let answer = fleet.get(&fleet.viewer, &format!("/api/v1/{list}?limit={limit}{after}")).await;
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                let items = answer.body["items"].as_array().expect("items");
                assert!(items.len() <= limit && pages < 20, "{list} by {limit}");
                seen.extend(items.iter().map(|item| item[key].as_str().expect("an id").to_owned()));
                pages += 1;
                cursor = answer.body["next_cursor"].as_str().map(str::to_owned);
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen.len(), 7, "{list} by {limit}");
            assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), made, "{list} by {limit}");
            assert_eq!(pages, 7_usize.div_ceil(limit), "{list} by {limit}");
        }
    }
}
