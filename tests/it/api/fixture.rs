//! A small fleet in a database, with the API's router in front of it.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use fleetmend_controller::{
    config::{DrainSettings, OperatorLimits},
    http::{ApiState, Role, router},
    nudge::Nudges,
    secret,
    store::{DecisionApplied, DecisionMade, DeviceReport, Enrolling, NewApiToken, NewToken, PageRequest, Store},
    streams::Streams,
};
use fleetmend_domain::{
    catalogue::Catalogue,
    ladder,
    policy::{Policy, Posture},
};
use fleetmend_proto::{
    Condition, DeviceId, FleetId, HResult, IncidentId, Kb, Operation, OrderId, Outcome, OutcomeResult, Source,
    UpdateKind, UpdateRef,
    clock::{SystemClock, wall_now},
};
use fleetmend_tests::fixtures::condition;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;
use uuid::Uuid;

/// A component store corruption: enters at tier 3.
pub const CODE: HResult = HResult(0x8007_3712);

pub struct Fleet {
    _dir: tempfile::TempDir,
    pub state: ApiState,
    pub viewer: String,
    pub operator: String,
    pub admin: String,
    pub expired: String,
    pub revoked: String,
    /// Lets devices in without approval.
    enrollment: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Fleet {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the database");
        let url = format!("sqlite://{}", dir.path().join("controller.db").display());
        let store = Store::connect(&url).await.expect("SQLite opens");
        store.migrate().await.expect("the schema is made");
        store.fleet_ensure(FleetId(Uuid::new_v4())).await.expect("the database is claimed");
        let later = wall_now() + TimeDelta::days(1);
        let viewer = api_token(&store, Role::Viewer, later).await.0;
        let operator = api_token(&store, Role::Operator, later).await.0;
        let admin = api_token(&store, Role::Admin, later).await.0;
        let expired = api_token(&store, Role::Operator, wall_now() - TimeDelta::seconds(1)).await.0;
        let (revoked, id) = api_token(&store, Role::Operator, later).await;
        store.api_token_revoke(id, "test", wall_now()).await.expect("the token is revoked");
        let enrollment = enrollment_token(&store, true).await;
        let state = ApiState {
            store,
            clock: Arc::new(SystemClock),
            catalogue: Catalogue::embedded(),
            nudges: Nudges::default(),
            streams: Streams::new(DrainSettings::default()),
            max_body: OperatorLimits::default().max_body.bytes(),
            data_dir: dir.path().to_owned(),
        };
        Self { _dir: dir, state, viewer, operator, admin, expired, revoked, enrollment }
    }

    pub fn router(&self) -> axum::Router {
        router(self.state.clone())
    }

    /// A device that needed no approval.
    pub async fn device(&self, name: &str) -> DeviceId {
        enroll(&self.state.store, &self.enrollment, name).await
    }

    /// A device that waits for people.
    pub async fn quarantined(&self, name: &str) -> DeviceId {
        let token = enrollment_token(&self.state.store, false).await;
        enroll(&self.state.store, &token, name).await
    }

    /// The device reports that an update failed; returns the incident.
    pub async fn failure(&self, device: DeviceId, seq: i64, kb: u32) -> IncidentId {
        let now = wall_now();
        let row = self.state.store.device_get(device).await.expect("the device is read").expect("it is enrolled");
        let outcome = Outcome {
            update: UpdateRef {
                update_id: Some(Uuid::from_u128(u128::from(kb))),
                revision: 200,
                kb: Some(Kb(kb)),
                title: format!("Cumulative Update (KB{kb})"),
                kind: UpdateKind::Quality,
                supersedes: Vec::new(),
            },
            operation: Operation::Install,
            result: OutcomeResult::Failed,
            code: CODE,
            raw_code: CODE,
            occurred_at: now,
            source: Source::EventLog,
        };
        let report = DeviceReport {
            device,
            epoch: 1,
            outcomes: vec![(seq, outcome)],
            condition: Some(Condition { computer_name: row.name, serial: row.serial, ..condition(wall_now()) }),
            received_at: now,
        };
        self.state.store.reports_record(&[report]).await.expect("the report is recorded");
        let filter = fleetmend_controller::store::IncidentFilter { device: Some(device), ..Default::default() };
        let page = self.state.store.incident_list(&filter, &PageRequest::default()).await.expect("incidents are read");
        page.items.first().expect("a failure opens an incident").id
    }

    /// Lets the ladder decide everything that is due; returns the orders made.
    pub async fn decide(&self) -> Vec<OrderId> {
        let (store, now) = (&self.state.store, wall_now());
        let policy = Policy { posture: Posture::Recommended, ..Policy::default() };
        let due = store.incidents_due(now, 100).await.expect("due incidents are read");
        let made = due
            .into_iter()
            .map(|incident| {
                let decision = ladder::decide(&incident.case, &policy, Catalogue::embedded(), now);
                DecisionMade { incident, decision }
            })
            .collect();
        let applied = store.decisions_apply(made, &policy, now).await.expect("decisions are applied");
        let order = |applied: DecisionApplied| {
            let DecisionApplied::Applied { order } = applied else { panic!("a decision was not applied: {applied:?}") };
            order
        };
        applied.into_iter().filter_map(order).collect()
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(Method::GET, path, Some(token), None).await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(token), Some(&body)).await
    }

    pub async fn send(&self, method: Method, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        self.raw(request.body(body).expect("a request")).await
    }

    pub async fn raw(&self, request: Request<String>) -> Answer {
        let response = self.router().oneshot(request).await.expect("the router answers");
        read(response).await
    }
}

async fn read(response: Response<axum::body::Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("the body is read").to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        panic!("{} is not JSON: {}", parts.status, String::from_utf8_lossy(&bytes));
    });
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn api_token(store: &Store, role: Role, expires_at: chrono::DateTime<Utc>) -> (String, Uuid) {
    let token = secret::new(secret::Kind::Api);
    let row = NewApiToken {
        hash: secret::hash(&token),
        name: format!("{role} of the test"),
        role: role.word().to_owned(),
        expires_at,
        created_by: "test".to_owned(),
        now: wall_now(),
    };
    let id = store.api_token_insert(row).await.expect("the token is kept");
    (token, id)
}

async fn enrollment_token(store: &Store, preapproved: bool) -> String {
    let token = secret::new(secret::Kind::Enrollment);
    let row = NewToken {
        hash: secret::hash(&token),
        uses: 100,
        expires_at: wall_now() + TimeDelta::hours(1),
        ring: "canary".to_owned(),
        preapproved,
        created_by: "test".to_owned(),
        note: String::new(),
        now: wall_now(),
    };
    store.token_insert(row).await.expect("the token is kept");
    token
}

async fn enroll(store: &Store, token: &str, name: &str) -> DeviceId {
    let device = DeviceId(Uuid::new_v4());
    let enrolling = Enrolling {
        token_hash: secret::hash(token),
        device,
        computer_name: name.to_owned(),
        serial: format!("SN-{name}"),
        smbios_uuid: Some(Uuid::new_v4()),
        ek_hash: None,
        agent_version: "0.1.0".to_owned(),
        key_hash: [7; 32],
        certificate_not_after: wall_now() + TimeDelta::days(14),
        now: wall_now(),
    };
    store.device_enroll(enrolling, wall_now()).await.expect("the database works").expect("the token is good");
    device
}
