//! The agent's real actions on the model of a PC: each tier's action cures its own causes, and no lighter one does.
#![allow(clippy::unwrap_used)]

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::TimeDelta;
use fleetmend_agent::{
    execute::{Admission, Executor, Lease, ProgressSink},
    guard::LocalPolicy,
    journal::{Journal, OrderUpdate},
    link::{dead_letters::DeadLetters, orders::ProofFirst as _, report::Reporter},
    outbox::Outbox,
    runner::Records,
    state::AgentDb,
    verify::Proof,
};
use fleetmend_domain::catalogue::{Catalogue, EntryPoint};
use fleetmend_proto::{
    Action, Clock, DeviceId, Fence, FleetId, IncidentId, OrderId, Outcome, OutcomeResult, PackageHash, Source, Tier,
    UpdateRef,
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
        let update = self.pc.state(|state| {
            state.offers.first().map(|it| it.update.clone()).or_else(|| state.installed.first().cloned()).unwrap()
        });
        self.order_for(action, update).await
    }

    async fn order_for(&mut self, action: Action, update: UpdateRef) -> OrderUpdate {
        self.fence += 1;
        let key = OrderKey::from_seed("test", [7; 32]);
        let (fleet, device) = (FleetId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)));
        let now = self.clock.now();
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

/// What the agent would send after an order, without a controller.
async fn proof_after(patient: &Patient, order: OrderId) -> Vec<Outcome> {
    let agent = patient.pc.start_agent().unwrap();
    let db = AgentDb::open(&patient.dir.path().join("agent.db"), patient.clock.now()).await.unwrap();
    let (outbox, journal) = (Outbox::new(db.clone()), Journal::new(db));
    let reporter = Arc::new(Reporter::new(outbox.clone(), DeadLetters::new(patient.dir.path())));
    let records =
        Records::new(agent.clone(), patient.clock.clone(), outbox.clone(), reporter.clone(), None, Duration::MAX);
    let proof = Proof {
        platform: &*agent,
        clock: &*patient.clock,
        journal: &journal,
        keys: &[OrderKey::from_seed("test", [7; 32]).verifier()],
        records: &records,
        reporter: &reporter,
        limit: Duration::from_millis(1),
    };
    proof.proof_sent(order).await;
    proof.proof_sent(order).await;
    outbox.batch(100, usize::MAX).await.unwrap().1.into_iter().map(|(_, outcome)| outcome).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_windows_does_not_record_is_asked_after_an_order_and_told_once() {
    let mut patient = Patient::new(Cause::BadUpdate);
    let bad = patient.pc.state(|state| state.offers[0].update.clone());
    patient.pc.replace_bad_update().unwrap();
    // Where it waits for a restart, that comes first.
    patient.pc.restart(true).unwrap();
    assert!(patient.pc.state(|state| state.is_installed(&bad)));
    let update = patient.order_for(Action::Retry, bad.clone()).await;
    assert_eq!(update.phase, OrderPhase::Succeeded, "{}", update.detail);
    let told = proof_after(&patient, update.order).await;
    let asked: Vec<_> = told.iter().filter(|it| it.source == Source::InstalledState).collect();
    assert_eq!(asked.len(), 1, "{told:#?}");
    assert_eq!((asked[0].update.update_id, asked[0].result), (bad.update_id, OutcomeResult::Succeeded));
    // And the record of the replacement says what it replaces.
    let replacement = told.iter().rfind(|it| it.source != Source::InstalledState).unwrap();
    assert!(replacement.update.satisfies(&bad), "{replacement:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_windows_records_is_not_asked_too() {
    let mut patient = Patient::new(Cause::StoreCorruption);
    let update = patient.order(Action::RepairImage).await;
    let told = proof_after(&patient, update.order).await;
    assert!(told.len() >= 2 && told.iter().all(|it| it.source != Source::InstalledState), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_neither_there_nor_offered_ends_without_repairs() {
    let mut patient = Patient::new(Cause::BadUpdate);
    let withdrawn = UpdateRef { update_id: Some(Uuid::from_u128(99)), kb: None, ..patient.pc.profile().bad_update() };
    let update = patient.order_for(Action::Retry, withdrawn.clone()).await;
    let told = proof_after(&patient, update.order).await;
    let asked = told.iter().find(|it| it.source == Source::InstalledState).unwrap();
    assert_eq!((asked.update.update_id, asked.result), (withdrawn.update_id, OutcomeResult::Aborted));
    let entry = Catalogue::embedded().get(asked.code).unwrap();
    assert_eq!(entry.entry, EntryPoint::Benign, "this code would be repaired: {}", asked.code);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benign_offer_can_be_hidden_by_order() {
    let mut patient = Patient::new(Cause::BenignDriver);
    let update = patient.order(Action::HideUpdate).await;
    assert_eq!(update.phase, OrderPhase::Succeeded, "{}", update.detail);
    assert!(patient.pc.state(|state| state.offers[0].hidden));
    is_clean(patient.pc.dir());
}
