//! One fast test for each promise that `tests/sabotage` breaks on purpose (the third, a stale fence, is in `messages`
//! and `deliveries`): with the sabotage switched on, its test must fail.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use fleetmend_agent::config::Config;
use fleetmend_controller::store::{
    DecisionApplied, DecisionMade, DeviceReport, Enrolling, NewToken, OrderFilter, PageRequest, Store,
};
use fleetmend_domain::{
    ladder::{Decision, Next},
    policy::Policy,
};
use fleetmend_proto::{Action, DeviceId, FleetId, clock::wall_now};
use fleetmend_simulator::fleet::light::{LightDevice, LightSettings};
use fleetmend_tests::postgres::PrivatePostgres;
use uuid::Uuid;

use super::{
    in_process::failure,
    processes::{Fleet, Size},
    rows::Raw,
};

const ROUNDS: u32 = 6;
const REPORTS: u32 = 5;
const RIVALS: u32 = 20;

/// The controller dies right after it acknowledged, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_reports_survive_kill() {
    let size = Size { processes: 0, pcs_each: 0, speed: 1.0, seed: 1 };
    let mut fleet = Fleet::start(size, None).await.expect("a controller");
    let agent = Config::load(fleet.agent_config()).expect("the agents' configuration");
    let settings = Arc::new(LightSettings {
        enrollment: agent.enrollment,
        agents: agent.agent,
        server_root: agent.server_root,
        fleet: agent.fleet,
        order_keys: agent.order_keys,
        channel: agent.link.channel,
        seed: 1,
    });
    let token = fleet.token().expect("a token");
    let mut device = loop {
        match LightDevice::enroll(Arc::clone(&settings), 0, &token).await {
            Ok(device) => break device,
            Err(_) => again(&mut fleet).await,
        }
    };
    let mut acknowledged = 0;
    for round in 0..=ROUNDS {
        for report in 0..REPORTS {
            let outcome = failure(round * REPORTS + report);
            // The same outcome under the same number until there is an answer, as an outbox does it.
            while device.report(&outcome).await.is_err() {
                again(&mut fleet).await;
            }
            acknowledged += 1;
        }
        if round < ROUNDS {
            fleet.kill_controller().expect("it was alive");
        }
    }
    fleet.stop_controller().expect("a clean end");
    let stored = Raw::connect(fleet.url()).await.expect("open").outcomes().await.expect("read");
    let stored: i64 = stored.values().flat_map(|tally| tally.values()).sum();
    assert_eq!(stored, acknowledged, "acknowledged and stored");
}

async fn again(fleet: &mut Fleet) {
    fleet.check_alive().expect("the controller runs");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_active_order_a_device() {
    let dir = tempfile::tempdir().expect("a folder");
    race(&format!("sqlite://{}", dir.path().join("controller.db").display())).await.expect("the store works");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_active_order_a_device_postgres() {
    let cluster = PrivatePostgres::start().expect("PostgreSQL starts");
    race(&cluster.url()).await.expect("the store works");
}

/// Twenty incidents of one device want an order at the same moment: one gets it.
async fn race(url: &str) -> anyhow::Result<()> {
    let store = Store::connect(url).await?;
    store.migrate().await?;
    store.fleet_ensure(FleetId(Uuid::from_u128(1))).await?;
    let device = enrolled(&store).await?;
    let now = wall_now();
    let outcomes = (0..RIVALS).map(|number| (i64::from(number) + 1, failure(number))).collect();
    store.reports_record(&[DeviceReport { device, epoch: 1, outcomes, condition: None, received_at: now }]).await?;
    let due = store.incidents_due(now, 100).await?;
    assert_eq!(due.len(), RIVALS as usize);
    let made: Vec<_> = due
        .into_iter()
        .map(|incident| {
            let next = Next::Order { action: Action::Retry };
            let decision = Decision { next, rule: "R1.test".to_owned(), reason: "a race".to_owned() };
            DecisionMade { incident, decision }
        })
        .collect();
    // Half of them in one transaction, the others each in its own.
    let (together, alone) = made.split_at(made.len() / 2);
    let batches = std::iter::once(together.to_vec()).chain(alone.iter().map(|it| vec![it.clone()]));
    let mut racing = tokio::task::JoinSet::new();
    for batch in batches {
        let store = store.clone();
        racing.spawn(async move { store.decisions_apply(batch, &Policy::default(), now).await });
    }
    let mut answers = Vec::new();
    while let Some(answer) = racing.join_next().await {
        answers.extend(answer??);
    }
    let placed = answers.iter().filter(|it| matches!(it, DecisionApplied::Applied { order: Some(_) })).count();
    let busy = answers.iter().filter(|it| **it == DecisionApplied::Busy).count();
    let orders = store.order_list(&OrderFilter::default(), &PageRequest::default()).await?.items;
    let active = orders.iter().filter(|order| order.state.is_active()).count();
    store.close().await;
    assert_eq!((active, placed, busy), (1, 1, RIVALS as usize - 1), "{answers:?}");
    Ok(())
}

async fn enrolled(store: &Store) -> anyhow::Result<DeviceId> {
    let (now, device) = (wall_now(), DeviceId(Uuid::from_u128(7)));
    let token = NewToken {
        hash: [1; 32],
        uses: 1,
        expires_at: now + TimeDelta::days(1),
        ring: "default".to_owned(),
        preapproved: true,
        created_by: "tests".to_owned(),
        note: String::new(),
        now,
    };
    store.token_insert(token).await?;
    let enrolling = Enrolling {
        token_hash: [1; 32],
        device,
        computer_name: "PC".to_owned(),
        serial: "S1".to_owned(),
        smbios_uuid: None,
        ek_hash: None,
        agent_version: "0".to_owned(),
        key_hash: [2; 32],
        certificate_not_after: now + TimeDelta::days(90),
        now,
    };
    store.device_enroll(enrolling, now).await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    Ok(device)
}
