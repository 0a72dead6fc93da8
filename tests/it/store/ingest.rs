//! Group commit over a real store: whose fault an error is decides who hears of it, and how often it is tried.

use std::time::{Duration, Instant};

use fleetmend_controller::{
    grpc::{Ingest, IngestClosed},
    nudge::Nudges,
    store::{DeviceReport, StoreError},
};
use fleetmend_proto::DeviceId;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::world::{World, failure};

fn report(world: &World, device: DeviceId) -> DeviceReport {
    let outcomes = vec![(1, failure(1, world.now))];
    DeviceReport { device, epoch: 1, outcomes, condition: None, received_at: world.now }
}

async fn one_bad_report_fails_alone(world: World) {
    let (ingest, _task) = Ingest::start(world.store.clone(), Nudges::default());
    let mut devices = vec![DeviceId(Uuid::new_v4())];
    for _ in 0..20 {
        devices.push(world.device().await);
    }
    let mut sent = JoinSet::new();
    for device in devices.clone() {
        let (ingest, report) = (ingest.clone(), report(&world, device));
        sent.spawn(async move { (device, ingest.submit(report).await) });
    }
    for (device, answer) in sent.join_all().await {
        if device == devices[0] {
            assert!(matches!(answer, Err(IngestClosed::Store(StoreError::NotFound { .. }))), "{answer:?}");
        } else {
            assert_eq!(answer.expect("recorded").recorded.accepted, 1);
        }
    }
}

async fn a_busy_database_is_not_asked_once_a_report(world: World) {
    let (ingest, _task) = Ingest::start(world.store.clone(), Nudges::default());
    let mut devices = Vec::new();
    for _ in 0..7 {
        devices.push(world.device().await);
    }
    // What the database itself says after waiting: 5 s for SQLite's one writer, 2 s for a lock of PostgreSQL.
    let patience = Duration::from_secs(if world.url.starts_with("sqlite") { 5 } else { 2 });
    let held = world.hold("UPDATE devices SET excluded = excluded WHERE fence >= 0 OR id = $1", Uuid::nil()).await;
    let began = Instant::now();
    let mut sent = JoinSet::new();
    for device in devices {
        let (ingest, report) = (ingest.clone(), report(&world, device));
        sent.spawn(async move { ingest.submit(report).await });
    }
    let answers = sent.join_all().await;
    let took = began.elapsed();
    drop(held);
    for answer in answers {
        assert!(matches!(&answer, Err(IngestClosed::Store(error)) if error.is_transient()), "{answer:?}");
    }
    // The first came alone or with others, the rest together: not one wait each.
    assert!(took < patience * 4, "{took:?}");
}

on_both!(one_bad_report_fails_alone, a_busy_database_is_not_asked_once_a_report);
