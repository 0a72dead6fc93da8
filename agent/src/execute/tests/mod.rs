//! Each action on a scripted PC: its end, and its end when the agent is cut at every durable write.

mod actions;
mod crash;
mod fake;
mod later;
mod restored;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Action, Clock, DeviceId, Fence, FleetId, IncidentId, Kb, OrderId, UpdateKind, UpdateRef,
    order::{OrderKey, OrderText},
};
use uuid::Uuid;

use self::fake::Fake;
use super::{Admission, ExecuteError, Executor, Lease, ProgressSink};
use crate::{guard::LocalPolicy, journal::OrderUpdate, state::AgentDb};

/// 2026-01-14T03:00:00Z
pub(super) const START: DateTime<Utc> = DateTime::from_timestamp(1_768_359_600, 0).expect("a valid time");

/// Time passes with every look and every wait; nobody really waits.
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now(&self) -> DateTime<Utc> {
        START + chrono::Duration::milliseconds(self.0.fetch_add(1, SeqCst))
    }

    fn real(&self, domain: Duration) -> Duration {
        self.0.fetch_add(i64::try_from(domain.as_millis()).expect("short"), SeqCst);
        Duration::ZERO
    }
}

struct Leased(bool);

#[async_trait]
impl Lease for Leased {
    async fn is_live(&self, _order: OrderId, _fence: Fence) -> bool {
        self.0
    }
}

struct Deaf;

#[async_trait]
impl ProgressSink for Deaf {
    async fn progress(&self, _update: &OrderUpdate) {}
}

fn update() -> UpdateRef {
    UpdateRef {
        update_id: Some(Uuid::from_u128(7)),
        revision: 200,
        kb: Some(Kb(5_124_010)),
        title: String::new(),
        kind: UpdateKind::Unknown,
        supersedes: Vec::new(),
    }
}

fn key() -> OrderKey {
    OrderKey::from_seed("test-order-key", [1; 32])
}

/// One PC with its agent's file; agents come and go on it.
struct Bench {
    fake: Arc<Fake>,
    clock: Arc<Ticking>,
    local: LocalPolicy,
    lease: Leased,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            fake: Arc::new(Fake::new(update())),
            clock: Arc::new(Ticking(AtomicI64::new(0))),
            local: LocalPolicy::default(),
            lease: Leased(true),
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// The PC is off for so long.
    fn pass(&self, time: chrono::Duration) {
        self.clock.0.fetch_add(time.num_milliseconds(), SeqCst);
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("agent.db")
    }

    async fn db(&self) -> AgentDb {
        AgentDb::open(&self.file(), START).await.expect("the file opens")
    }

    fn agent(&self, db: &AgentDb) -> Executor {
        Executor::new(
            self.fake.clone(),
            db.clone(),
            self.clock.clone(),
            self.local.clone(),
            vec![key().verifier()],
            FleetId(Uuid::from_u128(1)),
            DeviceId(Uuid::from_u128(2)),
        )
    }

    fn text(action: Action, fence: i64) -> OrderText {
        OrderText {
            fleet: FleetId(Uuid::from_u128(1)),
            device: DeviceId(Uuid::from_u128(2)),
            order: OrderId(Uuid::from_u128(3)),
            incident: IncidentId(Uuid::from_u128(4)),
            fence: Fence(fence),
            not_before: START - chrono::Duration::hours(1),
            not_after: START + chrono::Duration::hours(24),
            action,
            update_id: update().update_id,
            revision: 200,
            kb: update().kb,
        }
    }

    fn note(action: Action) -> Vec<u8> {
        key().sign(&Self::text(action, 12)).0
    }

    /// One life of an agent: takes up what is open, then takes the order if it is delivered.
    async fn life(&self, db: &AgentDb, note: &[u8]) -> Result<OrderUpdate, ExecuteError> {
        let agent = self.agent(db);
        let mut ended = agent.resume(&self.lease, &Deaf).await?;
        for (order, _) in agent.unbegun().await? {
            ended.push(agent.execute(order, &self.lease, &Deaf).await?);
        }
        if let Some(update) = ended.pop() {
            return Ok(update);
        }
        match agent.accept(note).await? {
            Admission::Accepted(order) => agent.execute(order.order, &self.lease, &Deaf).await,
            Admission::Duplicate(update) => Ok(update),
            Admission::Refused { refusal, detail, .. } => panic!("refused: {refusal} {detail}"),
        }
    }

    /// A whole life without a cut.
    async fn run(&self, action: Action) -> OrderUpdate {
        let db = self.db().await;
        let update = self.life(&db, &Self::note(action)).await.expect("the journal works");
        db.close().await;
        update
    }
}
