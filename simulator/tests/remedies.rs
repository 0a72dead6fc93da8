//! The agent's real actions on the model of a PC: each tier's action cures its own causes, and no lighter one does.
#![allow(clippy::unwrap_used)]

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use chrono::TimeDelta;
use fleetmend_agent::{
    execute::{Admission, Executor, Lease, ProgressSink},
    guard::LocalPolicy,
    journal::OrderUpdate,
    state::AgentDb,
};
use fleetmend_proto::{
    Action, Clock, DeviceId, Fence, FleetId, IncidentId, OrderId, PackageHash, Tier,
    order::{OrderKey, OrderPhase, OrderText},
};
use fleetmend_simulator::{
    ScaledClock, effects,
    pc::{
        Options, Pc,
        causes::{Cause, Cure},
        profile::Profile,
        write_packages,
    },
};
use sha2::{Digest as _, Sha256};
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

/// A PC with a trouble and an agent, without a network between them and the test.
struct Patient {
    dir: tempfile::TempDir,
    pc: Arc<Pc>,
    clock: Arc<ScaledClock>,
    fence: i64,
}

impl Patient {
    fn new(cause: Cause) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let packages = dir.path().join("packages");
        write_packages(&packages).unwrap();
        let clock = Arc::new(ScaledClock::starting_now(100_000.0).unwrap());
        let profile = Profile::new(11, 4);
        let episode = profile.episode_of(0, cause, cause.plain_code());
        let options = Options { fsync: false, packages: Some(packages) };
        let pc = Pc::open(&dir.path().join("pc"), profile, clock.clone(), options).unwrap();
        pc.arrive(&episode).unwrap();
        Self { dir, pc, clock, fence: 0 }
    }

    async fn order(&mut self, action: Action) -> OrderUpdate {
        self.fence += 1;
        let key = OrderKey::from_seed("test", [7; 32]);
        let (fleet, device) = (FleetId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)));
        let now = self.clock.now();
        let update = self.pc.state(|state| {
            state.offers.first().map(|it| it.update.clone()).or_else(|| state.installed.first().cloned()).unwrap()
        });
        let text = OrderText {
            fleet,
            device,
            order: OrderId(Uuid::now_v7()),
            incident: IncidentId(Uuid::from_u128(3)),
            fence: Fence(self.fence),
            not_before: now,
            not_after: now + TimeDelta::days(3),
            action,
            update_id: update.update_id,
            revision: update.revision,
            kb: update.kb,
        };
        let note = key.sign(&text);
        loop {
            let agent = self.pc.start_agent().unwrap();
            let mut down = agent.reboot_signal();
            let db = AgentDb::open(&self.dir.path().join("agent.db"), self.clock.now()).await.unwrap();
            let keys = vec![key.verifier()];
            let executor = Executor::new(agent, db, self.clock.clone(), LocalPolicy::default(), keys, fleet, device);
            let work = async {
                let ended = executor.resume(&Leave, &Deaf).await.unwrap();
                if let Some(update) = ended.into_iter().find(|it| it.order == text.order) {
                    return update;
                }
                match executor.accept(&note.0).await.unwrap() {
                    Admission::Accepted(_) => executor.execute(text.order, &Leave, &Deaf).await.unwrap(),
                    Admission::Duplicate(update) => update,
                    Admission::Refused { refusal, detail, .. } => panic!("refused ({refusal}): {detail}"),
                }
            };
            let planned = async {
                // The life of the PC: the restart that was asked for comes.
                let at = loop {
                    if let Some(at) = self.pc.state(|state| state.reboot_planned) {
                        break at;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                };
                let wait = (at - self.clock.now()).to_std().unwrap_or_default();
                tokio::time::sleep(self.clock.real(wait)).await;
                self.pc.restart(true).unwrap();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                update = work => return update,
                () = down.wait() => {}
                () = planned => {}
            }
        }
    }

    /// Past its trouble: installed, or installed once restarted.
    fn is_cured(&self) -> bool {
        self.pc.state(|state| state.offers.iter().all(|offer| offer.pending))
    }

    fn package(&self) -> Option<PackageHash> {
        let kb = self.pc.state(|state| state.offers.first().and_then(|it| it.update.kb))?;
        let name = format!("{kb}-{}.msu", self.pc.profile().architecture.word());
        let path = self.dir.path().join("packages").join(name);
        let bytes = std::fs::read(path).ok()?;
        Some(PackageHash(Sha256::digest(bytes).into()))
    }

    fn action(&self, tier: Tier) -> Option<Action> {
        match tier {
            Tier::Retry => Some(Action::Retry),
            Tier::Troubleshoot => Some(Action::Troubleshoot),
            Tier::RepairImage => Some(Action::RepairImage),
            Tier::ResetComponents => Some(Action::ResetComponents),
            Tier::InstallManually => self.package().map(|package| Action::InstallManually { package }),
            Tier::ResetPc => None,
        }
    }
}

fn is_clean(dir: &Path) {
    let violations = effects::audit(dir).unwrap();
    assert!(violations.is_empty(), "{}", violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tier_cures_its_causes_and_no_lighter_one_does() {
    for cause in Cause::ALL {
        let Cure::Tier(cure) = cause.row().cure else { continue };
        let mut patient = Patient::new(*cause);
        for tier in Tier::ALL.into_iter().filter(|tier| *tier <= cure) {
            assert!(!patient.is_cured(), "{cause} was cured before tier {cure}");
            let tries = if tier == Tier::Retry { 3 } else { 1 };
            for _ in 0..tries {
                if !patient.is_cured() {
                    let action = patient.action(tier).expect("an action of this tier");
                    let update = patient.order(action).await;
                    println!("{cause} tier {tier}: {} {}", update.phase, update.detail);
                }
            }
        }
        assert!(patient.is_cured(), "{cause} is not cured by tier {cure}");
        is_clean(patient.pc.dir());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_ordered_carried_out_and_cures_what_it_should() {
    for cause in [Cause::RebootPending, Cause::DriverInUse] {
        let mut patient = Patient::new(cause);
        let before = patient.pc.boot();
        let update = patient.order(Action::Reboot).await;
        assert_eq!(update.phase, OrderPhase::Succeeded, "{}", update.detail);
        assert!(patient.pc.boot() > before);
        assert!(patient.is_cured(), "{cause}");
        is_clean(patient.pc.dir());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_people_can_cure_survives_every_tier() {
    for cause in [Cause::BadUpdate, Cause::StoreBeyondRepair, Cause::DeadDisk] {
        let mut patient = Patient::new(cause);
        for tier in Tier::ALL {
            if let Some(action) = patient.action(tier) {
                patient.order(action).await;
            }
        }
        assert!(!patient.is_cured(), "{cause}");
        is_clean(patient.pc.dir());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benign_offer_can_be_hidden_by_order() {
    let mut patient = Patient::new(Cause::BenignDriver);
    let update = patient.order(Action::HideUpdate).await;
    assert_eq!(update.phase, OrderPhase::Succeeded, "{}", update.detail);
    assert!(patient.pc.state(|state| state.offers[0].hidden));
    is_clean(patient.pc.dir());
}
