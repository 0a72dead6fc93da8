//! A database of a test's own, and short words for what every story needs.

use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use fleetmend_controller::store::{
    Begin, DecisionApplied, DecisionMade, DeviceReport, DueIncident, Enrolling, Hello, LeaseTerms, Leased, NewToken,
    OrderProgress, ReportRecorded, SessionOpened, Store,
};
use fleetmend_domain::{
    ladder::{Decision, Next},
    policy::Policy,
};
use fleetmend_proto::{
    Action, DeviceId, Fence, FleetId, HResult, IncidentId, Kb, Operation, OrderId, Outcome, OutcomeResult, Position,
    Source, UpdateKind, UpdateRef,
    clock::wall_now,
    order::{OrderKey, OrderPhase},
};
use fleetmend_tests::postgres::shared_url;
use uuid::Uuid;

/// A store over an empty database with the newest schema.
pub struct World {
    pub store: Store,
    pub url: String,
    /// Domain time at which the story begins.
    pub now: DateTime<Utc>,
    pub fleet: FleetId,
    _folder: Option<tempfile::TempDir>,
}

/// A transaction of another process.
pub enum Held {
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

impl Held {
    async fn commit(self) {
        match self {
            Self::Sqlite(tx) => tx.commit().await.expect("a commit"),
            Self::Postgres(tx) => tx.commit().await.expect("a commit"),
        }
    }
}

impl World {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the database");
        let url = format!("sqlite://{}", folder.path().join("controller.db").display());
        Self::open(url, Some(folder)).await
    }

    pub async fn postgres() -> Self {
        let shared = shared_url().expect("a PostgreSQL server");
        let name = format!("store_{}", Uuid::new_v4().simple());
        let pool = sqlx::PgPool::connect(&shared).await.expect("the shared server");
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        // Two tests cannot copy the template at once.
        for _ in 0..100 {
            match sqlx::raw_sql(sqlx::AssertSqlSafe(create.0.clone())).execute(&pool).await {
                Ok(_) => break,
                Err(error) if error.to_string().contains("being accessed by other users") => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                Err(error) => panic!("cannot make a database: {error}"),
            }
        }
        pool.close().await;
        let (server, _) = shared.rsplit_once('/').expect("a URL with a database");
        Self::open(format!("{server}/{name}"), None).await
    }

    async fn open(url: String, folder: Option<tempfile::TempDir>) -> Self {
        let store = Store::connect(&url).await.expect("an empty database");
        store.migrate().await.expect("the schema");
        let now = Utc.with_ymd_and_hms(2026, 1, 14, 3, 0, 0).single().expect("a time");
        Self { store, url, now, fleet: FleetId(Uuid::new_v4()), _folder: folder }
    }

    /// A device that needs no approval.
    pub async fn device(&self) -> DeviceId {
        let token = self.token(1, true).await;
        let enrolling = enrolling(token, self.now);
        let device = enrolling.device;
        self.store.device_enroll(enrolling, wall_now()).await.expect("enrolment").expect("a good token");
        device
    }

    /// The hash of a new token.
    pub async fn token(&self, uses: u32, preapproved: bool) -> [u8; 32] {
        let mut hash = [7; 32];
        hash[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        let token = NewToken {
            hash,
            uses,
            expires_at: wall_now() + TimeDelta::minutes(10),
            ring: "broad".to_owned(),
            preapproved,
            created_by: "ada".to_owned(),
            note: String::new(),
            now: self.now,
        };
        self.store.token_insert(token).await.expect("a new token");
        hash
    }

    pub async fn report(&self, device: DeviceId, outcomes: Vec<(i64, Outcome)>) -> ReportRecorded {
        self.report_at(device, outcomes, self.now).await
    }

    pub async fn report_at(
        &self,
        device: DeviceId,
        outcomes: Vec<(i64, Outcome)>,
        at: DateTime<Utc>,
    ) -> ReportRecorded {
        let report = DeviceReport { device, epoch: 1, outcomes, condition: None, received_at: at };
        self.store.reports_record(&[report]).await.expect("a recorded report")[0]
    }

    /// A device with one open incident, due now.
    pub async fn failing(&self) -> (DeviceId, IncidentId) {
        let device = self.device().await;
        self.report(device, vec![(1, failure(1, self.now))]).await;
        let due = self.due(self.now).await;
        let incident = due.iter().find(|it| it.device == device).expect("an incident that is due").case.incident;
        (device, incident)
    }

    pub async fn due(&self, now: DateTime<Utc>) -> Vec<DueIncident> {
        self.store.incidents_due(now, 1_000).await.expect("due incidents")
    }

    pub async fn due_of(&self, incident: IncidentId, now: DateTime<Utc>) -> DueIncident {
        self.due(now).await.into_iter().find(|it| it.case.incident == incident).expect("the incident is due")
    }

    pub async fn apply(&self, incident: DueIncident, next: Next, now: DateTime<Utc>) -> DecisionApplied {
        let made = DecisionMade { incident, decision: decision(next) };
        self.store.decisions_apply(vec![made], &Policy::default(), now).await.expect("an applied decision")[0]
    }

    /// Decides that the incident gets this action; gives the order.
    pub async fn order(&self, incident: IncidentId, action: Action, now: DateTime<Utc>) -> OrderId {
        let due = self.due_of(incident, now).await;
        let applied = self.apply(due, Next::Order { action }, now).await;
        if let DecisionApplied::Applied { order: Some(order) } = applied {
            return order;
        }
        panic!("no order was placed: {applied:?}");
    }

    pub async fn lease(&self, order: OrderId, now: DateTime<Utc>) -> Option<Leased> {
        let key = OrderKey::from_seed("test", [3; 32]);
        let device = self.store.order_get(order).await.expect("a look-up").expect("the order").device;
        let leased = self.store.orders_lease(&[(order, device)], self.terms(now), &|text| key.sign(text)).await;
        leased.expect("a lease or none").pop()
    }

    /// Opens the device's session there; gives its stream epoch.
    pub async fn session(&self, device: DeviceId, replica: &str) -> i64 {
        self.hello(device, replica, Fence(0), None).await.stream_epoch
    }

    pub async fn hello(&self, device: DeviceId, replica: &str, seen: Fence, instance: Option<u128>) -> SessionOpened {
        let instance = instance.map(Uuid::from_u128);
        let hello = Hello { device, replica, max_fence: seen, instance, now: self.now };
        self.store.session_open(hello).await.expect("a session")
    }

    pub fn terms(&self, now: DateTime<Utc>) -> LeaseTerms {
        LeaseTerms { fleet: self.fleet, lease_until: wall_now() + TimeDelta::seconds(60), now }
    }

    /// A statement past the store, with one id bound: what another process or an older version may have left.
    pub async fn execute(&self, sql: &'static str, id: Uuid) {
        if self.url.starts_with("sqlite") {
            let pool = sqlx::SqlitePool::connect(&self.url).await.expect("the database");
            sqlx::query(sql).bind(id).execute(&pool).await.expect("a statement");
            pool.close().await;
        } else {
            let pool = sqlx::PgPool::connect(&self.url).await.expect("the database");
            sqlx::query(sql).bind(id).execute(&pool).await.expect("a statement");
            pool.close().await;
        }
    }

    /// One number that a query past the store gives for an id.
    pub async fn number(&self, sql: &'static str, id: Uuid) -> i64 {
        if self.url.starts_with("sqlite") {
            let pool = sqlx::SqlitePool::connect(&self.url).await.expect("the database");
            sqlx::query_scalar(sql).bind(id).fetch_one(&pool).await.expect("a number")
        } else {
            let pool = sqlx::PgPool::connect(&self.url).await.expect("the database");
            sqlx::query_scalar(sql).bind(id).fetch_one(&pool).await.expect("a number")
        }
    }

    /// Runs a call while another process holds a row with a statement that it commits once the call has had time to
    /// come to it.
    pub async fn while_locked<T: Send + 'static>(
        &self,
        sql: &'static str,
        id: Uuid,
        call: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let held = self.hold(sql, id).await;
        let call = tokio::spawn(call);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        held.commit().await;
        call.await.expect("no panic")
    }

    /// Another process's transaction with one statement; dropping it takes that back.
    pub async fn hold(&self, sql: &'static str, id: Uuid) -> Held {
        if self.url.starts_with("sqlite") {
            let pool = sqlx::SqlitePool::connect(&self.url).await.expect("the database");
            let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("a transaction");
            sqlx::query(sql).bind(id).execute(&mut *tx).await.expect("a statement");
            Held::Sqlite(tx)
        } else {
            let pool = sqlx::PgPool::connect(&self.url).await.expect("the database");
            let mut tx = pool.begin().await.expect("a transaction");
            sqlx::query(sql).bind(id).execute(&mut *tx).await.expect("a statement");
            Held::Postgres(tx)
        }
    }

    /// Leases an order and begins it after the outcome `seq`.
    pub async fn begin(&self, order: OrderId, seq: i64, now: DateTime<Utc>) -> Leased {
        let leased = self.lease(order, now).await.expect("a queued order");
        self.store.order_begin(begin(&leased, order, seq, now)).await.expect("leave to begin");
        leased
    }

    pub async fn finish(&self, leased: &Leased, phase: OrderPhase, now: DateTime<Utc>) -> bool {
        let progress = progress(leased.device, leased.order.order, leased.fence, phase, now);
        self.store.order_update(progress).await.expect("progress kept")
    }
}

pub fn begin(leased: &Leased, order: OrderId, seq: i64, now: DateTime<Utc>) -> Begin {
    Begin {
        device: leased.device,
        order,
        fence: leased.fence,
        position: Position { epoch: 1, seq },
        now,
        now_wall: wall_now(),
        lease_until: wall_now() + TimeDelta::seconds(60),
    }
}

pub fn progress(
    device: DeviceId,
    order: OrderId,
    fence: Fence,
    phase: OrderPhase,
    now: DateTime<Utc>,
) -> OrderProgress {
    OrderProgress { device, order, fence, phase, steps: Vec::new(), detail: String::new(), refusal: None, now }
}

pub fn decision(next: Next) -> Decision {
    Decision { next, rule: "R1.test".to_owned(), reason: "because the story says so".to_owned() }
}

pub fn enrolling(token_hash: [u8; 32], now: DateTime<Utc>) -> Enrolling {
    let device = DeviceId(Uuid::new_v4());
    Enrolling {
        token_hash,
        device,
        computer_name: format!("PC-{}", &device.to_string()[..8]),
        serial: format!("S{}", device.0.simple()),
        smbios_uuid: Some(Uuid::new_v4()),
        ek_hash: None,
        agent_version: "0.1.0".to_owned(),
        key_hash: [1; 32],
        certificate_not_after: now + TimeDelta::days(14),
        now,
    }
}

/// The n-th update.
pub fn update(n: u32) -> UpdateRef {
    UpdateRef {
        update_id: Some(Uuid::from_u128(u128::from(n) + 1)),
        revision: 200,
        kb: Some(Kb(5_000_000 + n)),
        title: format!("2026-01 Cumulative Update {n}"),
        kind: UpdateKind::Quality,
        supersedes: Vec::new(),
    }
}

pub fn outcome(n: u32, result: OutcomeResult, code: u32, at: DateTime<Utc>) -> Outcome {
    Outcome {
        update: update(n),
        operation: Operation::Install,
        result,
        code: HResult(code),
        raw_code: HResult(code),
        occurred_at: at,
        source: Source::EventLog,
    }
}

pub fn failure(n: u32, at: DateTime<Utc>) -> Outcome {
    outcome(n, OutcomeResult::Failed, 0x8007_3712, at)
}

pub fn success(n: u32, at: DateTime<Utc>) -> Outcome {
    outcome(n, OutcomeResult::Succeeded, 0, at)
}

pub fn seconds(count: i64) -> TimeDelta {
    TimeDelta::seconds(count)
}
