//! The demo as people run it, small and short: everything adds up, and the PCs' own logs show nothing done twice.
#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use fleetmend_controller::store::Store;
use fleetmend_domain::incident::StateName;
use fleetmend_simulator::{
    demo::{self, DemoSettings, Summary},
    effects,
    fleet::flush,
};
use tokio_util::sync::CancellationToken;

const DEVICES: u32 = 24;

async fn run(keep: &Path) -> Summary {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = DemoSettings {
        devices: DEVICES,
        seed: 7,
        speed: demo::DEFAULT_SPEED,
        length: Some(Duration::from_secs(12)),
        drain: Duration::from_secs(4),
        keep: Some(keep.to_owned()),
        database_url: None,
        fsync: true,
        announce: |_| {},
    };
    demo::run(settings, CancellationToken::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_a_short_demo_loses_nothing_does_nothing_twice_and_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let summary = run(dir.path()).await;
    assert_eq!(summary.devices, i64::from(DEVICES));

    let reports = &summary.reports;
    assert_eq!(reports.lost, 0, "{reports:?}");
    assert!(reports.sent > 0 && reports.acknowledged == reports.sent, "{reports:?}");

    let it = &summary.incidents;
    let parts = it.benign + it.resolved + it.exhausted + it.handed_over + it.held + it.awaiting_approval + it.dismissed;
    assert_eq!(it.opened, parts + it.open, "{it:?}");
    assert!(it.opened > 0 && it.resolved > 0, "{it:?}");
    assert_eq!(summary.fixed_by_tier.values().sum::<i64>(), it.resolved, "{:?}", summary.fixed_by_tier);
    let keys: Vec<_> = summary.orders.keys().map(String::as_str).collect();
    assert_eq!(keys, ["1", "2", "3", "4", "5", "6", "none"]);

    let store = Store::connect(&format!("sqlite://{}", dir.path().join("controller.db").display())).await.unwrap();
    let stored = store.summary().await.unwrap();
    store.close().await;
    assert_eq!(stored.reporting_devices, i64::from(DEVICES), "every PC reports");
    assert_eq!(stored.incidents.get(&StateName::Resolved).copied().unwrap_or(0), it.resolved);
    assert_eq!(stored.incidents.values().sum::<i64>(), it.opened);

    let mut on_disk = 0;
    let mut effects_seen = 0;
    for index in 0..DEVICES {
        let pc = dir.path().join("pcs").join(format!("{index:05}"));
        on_disk += flush::outcomes_on_disk(&pc).unwrap();
        effects_seen += effects::list(&pc).unwrap().len();
        let violations = effects::audit(&pc).unwrap();
        assert!(violations.is_empty(), "PC {index}: {}", violations[0]);
    }
    assert_eq!(i64::try_from(on_disk).unwrap(), stored.outcomes - stored.asked);
    assert!(effects_seen > 50, "only {effects_seen} effects: the agents did next to nothing");
}

#[tokio::test]
async fn the_object_has_exactly_the_promised_keys() {
    let dir = tempfile::tempdir().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = DemoSettings {
        devices: 1,
        seed: 1,
        speed: demo::DEFAULT_SPEED,
        length: Some(Duration::from_secs(1)),
        drain: Duration::ZERO,
        keep: Some(dir.path().to_owned()),
        database_url: None,
        fsync: false,
        announce: |_| {},
    };
    let summary = demo::run(settings, CancellationToken::new()).await.unwrap();
    let object = serde_json::to_value(&summary).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&object), "devices escalations fixed_by_tier incidents orders reports seed");
    assert_eq!(keys(&object["reports"]), "acknowledged duplicates lost sent");
    let states = "awaiting_approval benign dismissed exhausted handed_over held open opened resolved";
    assert_eq!(keys(&object["incidents"]), states);
    assert_eq!(keys(&object["fixed_by_tier"]), "1 2 3 4 5 6 none");
    assert_eq!(keys(&object["orders"]["3"]), "cancelled expired failed refused succeeded unavailable unknown");
}
