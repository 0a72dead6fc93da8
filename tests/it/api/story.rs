//! What operators do and see: letting devices in, an incident's whole timeline, remedies by hand, dismissals, bans.

use fleetmend_controller::store::Hello;
use fleetmend_domain::catalogue::Catalogue;
use fleetmend_proto::{Fence, clock::wall_now};
use http::StatusCode;
use serde_json::{Value, json};

use super::fixture::Fleet;

fn kinds(incident: &Value) -> Vec<&str> {
    let timeline = incident["timeline"].as_array().expect("a timeline");
    timeline.iter().map(|moment| moment["kind"].as_str().expect("a kind")).collect()
}

#[tokio::test]
async fn an_incident_tells_its_whole_story() {
    let fleet = Fleet::new().await;
    let device = fleet.device("PC-1").await;
    let incident = fleet.failure(device, 1, 5_124_010).await;
    let orders = fleet.decide().await;
    assert_eq!(orders.len(), 1, "a corrupt component store gets an order at once");

    let answer = fleet.get(&fleet.viewer, &format!("/api/v1/incidents/{incident}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let body = &answer.body;
    assert_eq!(body["id"], incident.to_string());
    assert_eq!(body["device_id"], device.to_string());
    assert_eq!(body["device_name"], "PC-1");
    assert_eq!(body["code"], "0x80073712");
    assert_eq!(body["category"], "component_store_corruption");
    assert_eq!(body["state"], "remediating");
    assert_eq!(body["tier"], 3);
    assert_eq!(body["update"]["kb"], "KB5124010");
    assert!(body["advice"].as_str().is_some_and(|advice| advice.len() > 20));
    assert!(body["opened_at"].as_str().is_some_and(|at| at.ends_with('Z')), "times are UTC: {body}");

    let kinds = kinds(body);
    for kind in ["outcome", "decision", "order"] {
        assert!(kinds.contains(&kind), "{kind} is missing in {kinds:?}");
    }
    let of = |kind: &str| {
        let timeline = body["timeline"].as_array().expect("a timeline");
        timeline.iter().find(|moment| moment["kind"] == kind).expect("it is there").clone()
    };
    let decision = of("decision");
    assert!(decision["rule"].as_str().is_some_and(|rule| rule.starts_with('R')), "{decision}");
    assert!(decision["reason"].as_str().is_some_and(|reason| reason.contains(' ')), "{decision}");
    assert_eq!(decision["next"]["do"], "order");
    // Everything the ladder looked at, so that people can tell why it said so.
    assert_eq!(decision["inputs"]["code"], "0x80073712", "{decision}");
    assert_eq!(decision["inputs"]["update"]["kb"], "KB5124010", "{decision}");
    assert_eq!(of("outcome")["outcome"]["code"], "0x80073712");
    assert_eq!(of("order")["order"]["id"], orders[0].to_string());

    let order = fleet.get(&fleet.viewer, &format!("/api/v1/orders/{}", orders[0])).await;
    assert_eq!(order.body["state"], "queued", "{order:?}");
    assert_eq!(order.body["tier"], 3);
    assert_eq!(order.body["action"]["name"], "repair_image");
    assert_eq!(order.body["steps"], json!([]));
}

#[tokio::test]
async fn filters_narrow_the_lists() {
    let fleet = Fleet::new().await;
    let (one, two) = (fleet.device("PC-1").await, fleet.device("LAB-2").await);
    fleet.quarantined("PC-3").await;
    let first = fleet.failure(one, 1, 5_000_001).await;
    fleet.failure(two, 1, 5_000_002).await;
    fleet.decide().await;
    let counts: &[(String, usize)] = &[
        ("devices".to_owned(), 3),
        ("devices?state=quarantined".to_owned(), 1),
        ("devices?state=active".to_owned(), 2),
        ("devices?name=PC".to_owned(), 2),
        ("devices?name=PC&state=active".to_owned(), 1),
        ("incidents".to_owned(), 2),
        ("incidents?open=true".to_owned(), 2),
        ("incidents?state=resolved".to_owned(), 0),
        (format!("incidents?device={one}"), 1),
        ("incidents?code=-2147010798".to_owned(), 2),
        ("incidents?code=0x80070005".to_owned(), 0),
        ("incidents?tier=3".to_owned(), 2),
        ("incidents?tier=4".to_owned(), 0),
        (format!("orders?incident={first}"), 1),
        (format!("orders?device={two}"), 1),
        ("orders?tier=3&state=queued".to_owned(), 2),
        ("orders?tier=5".to_owned(), 0),
        ("catalog?category=disk_space".to_owned(), usize::MAX),
    ];
    for (path, expected) in counts {
        let answer = fleet.get(&fleet.viewer, &format!("/api/v1/{path}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {answer:?}");
        let count = answer.body["items"].as_array().expect("items").len();
        if *expected == usize::MAX {
            assert!(count > 0 && count < Catalogue::embedded().entries().len(), "{path} gave {count}");
        } else {
            assert_eq!(count, *expected, "{path}");
        }
    }
}

#[tokio::test]
async fn devices_are_let_in_by_id_and_by_serial_number() {
    let fleet = Fleet::new().await;
    let by_id = fleet.quarantined("PC-1").await;
    let by_serial = fleet.quarantined("PC-2").await;
    let approved = fleet.post(&fleet.operator, &format!("/api/v1/devices/{by_id}/approve"), json!({})).await;
    assert_eq!((approved.status, &approved.body["state"]), (StatusCode::OK, &json!("active")));
    let serials = json!({ "serials": ["SN-PC-2", " SN-PC-2 ", "SN-LATER"] });
    let answer = fleet.post(&fleet.admin, "/api/v1/devices/approve", serials).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.body, json!({ "approved": [by_serial.to_string()], "expected": ["SN-LATER"], "banned": [] }));
    let later = fleet.quarantined("LATER").await;
    let shown = fleet.get(&fleet.viewer, &format!("/api/v1/devices/{later}")).await;
    assert_eq!(shown.body["state"], "active", "a remembered serial number needs no approval: {shown:?}");
}

#[tokio::test]
async fn a_ban_cuts_the_stream_and_can_be_taken_back() {
    let fleet = Fleet::new().await;
    let device = fleet.device("PC-1").await;
    let hello = Hello { device, replica: "another", max_fence: Fence(0), instance: None, now: wall_now() };
    fleet.state.store.session_open(hello).await.expect("a session");
    let mut stream = fleet.state.streams.open(device, 1);
    let path = format!("/api/v1/devices/{device}");
    assert_eq!(fleet.get(&fleet.viewer, &path).await.body["connected"], true);
    let banned = fleet.post(&fleet.admin, &format!("{path}/ban"), json!({ "reason": "stolen" })).await;
    assert_eq!(banned.status, StatusCode::OK, "{banned:?}");
    assert_eq!((&banned.body["state"], &banned.body["state_reason"]), (&json!("banned"), &json!("stolen")));
    assert_eq!(banned.body["connected"], false);
    assert!(futures::StreamExt::next(&mut stream).await.is_none(), "the stream has ended");
    let back = fleet.post(&fleet.admin, &format!("{path}/approve"), json!({})).await;
    assert_eq!(back.body["state"], "active", "{back:?}");
}

#[tokio::test]
async fn a_person_asks_for_a_remedy_and_it_is_on_record() {
    let fleet = Fleet::new().await;
    let device = fleet.device("PC-1").await;
    let remediate = format!("/api/v1/devices/{device}/remediate");
    let nothing = fleet.post(&fleet.operator, &remediate, json!({})).await;
    assert_eq!(nothing.status, StatusCode::CONFLICT, "no incident, nothing to remedy: {nothing:?}");

    let incident = fleet.failure(device, 1, 5_124_010).await;
    let asked = fleet.post(&fleet.operator, &remediate, json!({ "tier": 4, "now": true })).await;
    assert_eq!(asked.status, StatusCode::OK, "{asked:?}");
    assert_eq!(asked.body, json!({ "incidents": [incident.to_string()] }));
    let orders = fleet.decide().await;
    let order = fleet.get(&fleet.viewer, &format!("/api/v1/orders/{}", orders[0])).await;
    assert_eq!((&order.body["tier"], &order.body["manual"]), (&json!(4), &json!(true)), "{order:?}");

    let shown = fleet.get(&fleet.viewer, &format!("/api/v1/incidents/{incident}")).await;
    let request = shown.body["timeline"]
        .as_array()
        .and_then(|timeline| timeline.iter().find(|moment| moment["kind"] == "remedy_requested"))
        .expect("the request is on record");
    assert_eq!((&request["tier"], &request["now"]), (&json!(4), &json!(true)));
    assert_eq!(request["by"], "operator of the test");
}

#[tokio::test]
async fn a_dismissed_incident_stays_dismissed() {
    let fleet = Fleet::new().await;
    let device = fleet.device("PC-1").await;
    let incident = fleet.failure(device, 1, 5_124_010).await;
    let orders = fleet.decide().await;
    let path = format!("/api/v1/incidents/{incident}/dismiss");
    let dismissed = fleet.post(&fleet.operator, &path, json!({})).await;
    assert_eq!((dismissed.status, &dismissed.body["state"]), (StatusCode::OK, &json!("dismissed")));
    assert_eq!(dismissed.body["reason"], "operator of the test");
    let order = fleet.get(&fleet.viewer, &format!("/api/v1/orders/{}", orders[0])).await;
    assert_eq!(order.body["state"], "cancelled", "an order that has not begun goes with it");
    assert_eq!(fleet.post(&fleet.operator, &path, json!({})).await.status, StatusCode::CONFLICT);
    let device = fleet.get(&fleet.viewer, &format!("/api/v1/devices/{device}")).await;
    assert_eq!(device.body["open_incidents"], json!([]));
    assert_eq!(device.body["condition"]["model"], "Model 5");
}

#[tokio::test]
async fn the_summary_counts_and_the_catalogue_is_the_embedded_one() {
    let fleet = Fleet::new().await;
    let device = fleet.device("PC-1").await;
    fleet.quarantined("PC-2").await;
    fleet.failure(device, 1, 5_000_001).await;
    fleet.decide().await;
    let summary = fleet.get(&fleet.viewer, "/api/v1/summary").await.body;
    assert_eq!(summary["devices"], json!({ "active": 1, "quarantined": 1 }));
    assert_eq!((&summary["outcomes"], &summary["reporting"], &summary["connected"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(summary["incidents"], json!({ "remediating": 1 }));
    assert_eq!(summary["orders"], json!({ "3": { "queued": 1 } }));

    let list = fleet.get(&fleet.viewer, "/api/v1/catalog").await.body;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(Catalogue::embedded().entries().len()));
    for spelling in ["0x80070103", "80070103", "-2147024637", "0X80070103"] {
        let entry = fleet.get(&fleet.viewer, &format!("/api/v1/catalog/{spelling}")).await.body;
        assert_eq!((&entry["code"], &entry["entry_tier"]), (&json!("0x80070103"), &json!(0)), "{spelling}");
    }
}

#[tokio::test]
async fn readiness_follows_the_database() {
    let fleet = Fleet::new().await;
    let ready = fleet.send(http::Method::GET, "/readyz", None, None).await;
    assert_eq!((ready.status, ready.body), (StatusCode::OK, json!({ "status": "ready" })));
    fleet.state.store.close().await;
    let down = fleet.send(http::Method::GET, "/readyz", None, None).await;
    assert_eq!(down.status, StatusCode::SERVICE_UNAVAILABLE, "{down:?}");
    assert!(down.headers.contains_key("retry-after"));
    let alive = fleet.send(http::Method::GET, "/healthz", None, None).await;
    assert_eq!((alive.status, alive.body), (StatusCode::OK, json!({ "status": "ok" })));
}

#[tokio::test]
async fn an_order_is_taken_back_and_an_incident_dismissed_with_a_reason_that_others_find() {
    let fleet = Fleet::new().await;
    let incident = fleet.failure(fleet.device("PC-1").await, 1, 5_124_010).await;
    let order = fleet.decide().await[0];
    let path = format!("/api/v1/orders/{order}/cancel");
    let refused = fleet.post(&fleet.viewer, &path, json!({})).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{refused:?}");
    let cancelled = fleet.post(&fleet.operator, &path, json!({ "reason": "exam week" })).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (StatusCode::OK, &json!("cancelled")), "{cancelled:?}");
    let again = fleet.send(http::Method::POST, &path, Some(&fleet.operator), None).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{again:?}");

    let path = format!("/api/v1/incidents/{incident}");
    let long = fleet.post(&fleet.operator, &format!("{path}/dismiss"), json!({ "reason": "x".repeat(513) })).await;
    assert_eq!(long.status, StatusCode::BAD_REQUEST, "{long:?}");
    let dismissed = fleet.post(&fleet.operator, &format!("{path}/dismiss"), json!({ "reason": "retired" })).await;
    assert_eq!(dismissed.status, StatusCode::OK, "{dismissed:?}");
    let shown = fleet.get(&fleet.viewer, &path).await;
    let reason_of = |name: &str| {
        let timeline = shown.body["timeline"].as_array().expect("a timeline");
        timeline.iter().find(|moment| moment["name"] == name).map(|moment| moment["data"]["reason"].clone())
    };
    assert_eq!(reason_of("order_cancel_asked"), Some(json!("exam week")), "{shown:?}");
    assert_eq!(reason_of("incident_dismissed"), Some(json!("retired")), "{shown:?}");
}

#[tokio::test]
async fn a_controller_that_stops_or_whose_database_hangs_is_not_ready() {
    let fleet = Fleet::new().await;
    let ready = async || fleet.send(http::Method::GET, "/readyz", None, None).await;
    assert_eq!(ready().await.status, StatusCode::OK);
    fleet.state.streams.drain(true);
    let stopping = ready().await;
    assert_eq!(stopping.status, StatusCode::SERVICE_UNAVAILABLE, "{stopping:?}");
    assert_eq!(stopping.body["type"], "urn:fleetmend:problem:not-ready");
    assert!(stopping.body["detail"].as_str().is_some_and(|it| it.contains("stopping")), "{stopping:?}");
}
