//! The same order delivered to an agent again and again, by one process of it or the next, is executed once.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::TimeDelta;
use fleetmend_agent::{
    execute::{Admission, Executor, Lease, ProgressSink},
    guard::LocalPolicy,
    journal::OrderUpdate,
    state::AgentDb,
};
use fleetmend_proto::{
    Action, Clock as _, DeviceId, Fence, FleetId, IncidentId, OrderId,
    order::{OrderKey, OrderText, Refusal},
};
use fleetmend_simulator::{
    ScaledClock, effects,
    pc::{Options, Pc, causes::Cause, profile::Profile},
};
use uuid::Uuid;

struct Leave;

#[async_trait]
impl Lease for Leave {
    async fn is_live(&self, _order: OrderId, _fence: Fence) -> bool {
        true
    }
}

struct Deaf;

#[async_trait]
impl ProgressSink for Deaf {
    async fn progress(&self, _update: &OrderUpdate) {}
}

/// A PC with a failing update, and what signs its orders.
struct Bench {
    dir: tempfile::TempDir,
    pc: Arc<Pc>,
    clock: Arc<ScaledClock>,
    key: OrderKey,
}

const FLEET: FleetId = FleetId(Uuid::from_u128(1));
const DEVICE: DeviceId = DeviceId(Uuid::from_u128(2));

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(ScaledClock::starting_now(100_000.0).expect("a speed"));
        let profile = Profile::new(11, 4);
        let cause = Cause::StoreBeyondRepair;
        let episode = profile.episode_of(0, cause, cause.plain_code());
        let options = Options { fsync: true, packages: None };
        let pc = Pc::open(&dir.path().join("pc"), profile, clock.clone(), options).expect("a PC");
        pc.arrive(&episode).expect("an update");
        Self { dir, pc, clock, key: OrderKey::from_seed("test", [7; 32]) }
    }

    /// A new process of the agent.
    async fn agent(&self) -> Executor {
        let db = AgentDb::open(&self.dir.path().join("agent.db"), self.clock.now()).await.expect("its file");
        let (view, keys) = (self.pc.start_agent().expect("started"), vec![self.key.verifier()]);
        Executor::new(view, db, self.clock.clone(), LocalPolicy::default(), keys, FLEET, DEVICE)
    }

    fn note(&self, order: OrderId, fence: i64) -> Vec<u8> {
        let now = self.clock.now();
        let update = self.pc.state(|state| state.offers.first().map(|it| it.update.clone())).expect("an offer");
        let text = OrderText {
            fleet: FLEET,
            device: DEVICE,
            order,
            incident: IncidentId(Uuid::from_u128(3)),
            fence: Fence(fence),
            not_before: now - TimeDelta::hours(1),
            not_after: now + TimeDelta::days(3_000),
            action: Action::Retry,
            update_id: update.update_id,
            revision: update.revision,
            kb: update.kb,
        };
        self.key.sign(&text).0
    }

    fn effects(&self) -> usize {
        effects::list(self.pc.dir()).expect("its log").len()
    }

    fn assert_once(&self) {
        let violations = effects::audit(self.pc.dir()).expect("its log");
        assert!(violations.is_empty(), "{violations:?}");
    }
}

fn assert_duplicate(admission: &Admission) {
    assert!(matches!(admission, Admission::Duplicate(_)), "{admission:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_delivered_many_times_runs_once() {
    let bench = Bench::new();
    let order = OrderId(Uuid::now_v7());
    let note = bench.note(order, 5);
    let agent = bench.agent().await;
    let first = agent.accept(&note).await.expect("judged");
    assert!(matches!(first, Admission::Accepted(_)), "{first:?}");
    assert_duplicate(&agent.accept(&note).await.expect("judged"));
    // It arrives again and again while it runs.
    let redelivered = async {
        for _ in 0..20 {
            assert_duplicate(&agent.accept(&note).await.expect("judged"));
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let (ended, ()) = tokio::join!(agent.execute(order, &Leave, &Deaf), redelivered);
    let ended = ended.expect("the journal works");
    let effects = bench.effects();
    assert!(effects > 0, "nothing was done, so nothing could be done twice");

    // After its end, under its old fence and under a new one, by this process and by the next.
    assert_duplicate(&agent.accept(&note).await.expect("judged"));
    let refenced = bench.note(order, 6);
    assert_duplicate(&agent.accept(&refenced).await.expect("judged"));
    let late = agent.accept(&note).await.expect("judged");
    assert!(matches!(late, Admission::Refused { refusal: Refusal::StaleFence, .. }), "{late:?}");
    let again = agent.execute(order, &Leave, &Deaf).await.expect("the journal works");
    assert_eq!(again.phase, ended.phase);
    drop(agent);
    let next = bench.agent().await;
    assert!(next.resume(&Leave, &Deaf).await.expect("the journal works").is_empty());
    assert_duplicate(&next.accept(&refenced).await.expect("judged"));
    assert!(next.unbegun().await.expect("read").is_empty());
    assert_eq!(bench.effects(), effects, "an order that had ended changed the PC");
    bench.assert_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_ignores_a_stale_fence() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    let newer = OrderId(Uuid::now_v7());
    let accepted = agent.accept(&bench.note(newer, 9)).await.expect("judged");
    assert!(matches!(accepted, Admission::Accepted(_)), "{accepted:?}");
    agent.execute(newer, &Leave, &Deaf).await.expect("the journal works");
    let effects = bench.effects();
    for fence in [1, 8, 9] {
        let stale = agent.accept(&bench.note(OrderId(Uuid::now_v7()), fence)).await.expect("judged");
        let refused = matches!(&stale, Admission::Refused { refusal: Refusal::StaleFence, .. });
        assert!(refused, "fence {fence} after 9: {stale:?}");
    }
    assert!(agent.unbegun().await.expect("read").is_empty());
    assert_eq!(bench.effects(), effects);
    bench.assert_once();
}
