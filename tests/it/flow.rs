//! One failure, hop by hop, over real mutual TLS on both engines: enrol, report, decide, order, verify, settle.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fleetmend_controller::store::{IncidentFilter, IncidentRow, PageRequest, Selector};
use fleetmend_domain::{incident::StateName, policy::Posture};
use fleetmend_proto::{
    Action, DeviceId, HResult, Kb, Operation, Outcome, OutcomeResult, Source, Tier, UpdateKind, UpdateRef,
    clock::wall_now,
    convert::{phase_to_wire, uuid_to_wire},
    order::{OrderPhase, OrderText, SignedOrder},
    v1,
};
use fleetmend_simulator::fleet::light::LightDevice;
use fleetmend_tests::fleet::{On, TestFleet, eventually};
use tonic::Streaming;

const SOON: Duration = Duration::from_secs(15);

fn update() -> UpdateRef {
    UpdateRef {
        update_id: Some(uuid::Uuid::from_u128(0x0599_9991)),
        revision: 200,
        kb: Some(Kb(5_999_991)),
        title: "2026-01 Cumulative Update (KB5999991)".to_owned(),
        kind: UpdateKind::Quality,
        supersedes: Vec::new(),
    }
}

fn outcome(result: OutcomeResult, code: u32) -> Outcome {
    Outcome {
        update: update(),
        operation: Operation::Install,
        result,
        code: HResult(code),
        raw_code: HResult(code),
        occurred_at: wall_now(),
        source: Source::EventLog,
    }
}

async fn only_incident(fleet: &TestFleet, device: DeviceId) -> anyhow::Result<IncidentRow> {
    let filter = IncidentFilter { device: Some(device), ..IncidentFilter::default() };
    let mut page = fleet.store().incident_list(&filter, &PageRequest::default()).await?;
    ensure!(page.items.len() == 1, "{} incidents instead of one", page.items.len());
    Ok(page.items.remove(0))
}

async fn reaches(fleet: &TestFleet, device: DeviceId, state: StateName) -> anyhow::Result<()> {
    eventually(&format!("incident is {state}"), SOON, || async {
        Ok(only_incident(fleet, device).await?.state == state)
    })
    .await
}

/// The next order on the stream, its signature checked.
async fn next_order(fleet: &TestFleet, stream: &mut Streaming<v1::Directive>) -> anyhow::Result<OrderText> {
    loop {
        let next = tokio::time::timeout(SOON, stream.message()).await.context("no order came")?;
        let directive = next?.context("the stream ended")?;
        if let Some(v1::directive::Kind::Order(order)) = directive.kind {
            return Ok(SignedOrder(order.note.to_vec()).open(&fleet.light.order_keys)?);
        }
    }
}

async fn begin(device: &mut LightDevice, order: &OrderText, seq: i64) -> anyhow::Result<()> {
    let request = v1::BeginRequest { order_id: uuid_to_wire(Some(order.order.0)), fence: order.fence.0, epoch: 1, seq };
    device.connect().await?.agent().begin(request).await?;
    Ok(())
}

async fn end(device: &mut LightDevice, order: &OrderText, phase: OrderPhase) -> anyhow::Result<bool> {
    let request = v1::UpdateOrderRequest {
        order_id: uuid_to_wire(Some(order.order.0)),
        fence: order.fence.0,
        phase: phase_to_wire(phase),
        ..Default::default()
    };
    Ok(device.connect().await?.agent().update_order(request).await?.into_inner().current)
}

/// 0x80073712 enters at tier 3; still failing leads to tier 4; a success after it proves that tier 4 fixed it.
async fn climbs_and_is_proven_fixed(on: On) -> anyhow::Result<()> {
    let fleet = TestFleet::start(on, |config| {
        config.policy.posture = Posture::Recommended;
        config.policy.cooldown_heavy = chrono::Duration::zero();
    })
    .await?;
    let mut device = fleet.device(1).await?;
    let id = device.identity().device();
    let mut stream = device.subscribe().await?;
    device.report(&outcome(OutcomeResult::Failed, 0x8007_3712)).await?;
    let third = next_order(&fleet, &mut stream).await?;
    assert_eq!(third.action, Action::RepairImage);
    begin(&mut device, &third, 1).await?;
    device.report(&outcome(OutcomeResult::Failed, 0x8007_3712)).await?;
    assert!(end(&mut device, &third, OrderPhase::Succeeded).await?);
    let fourth = next_order(&fleet, &mut stream).await?;
    assert_eq!(fourth.action, Action::ResetComponents);
    assert!(fourth.fence > third.fence, "the fence grows with each lease");
    assert!(!end(&mut device, &third, OrderPhase::Failed).await?, "a stale fence changes nothing");
    begin(&mut device, &fourth, 2).await?;
    device.report(&outcome(OutcomeResult::Succeeded, 0)).await?;
    end(&mut device, &fourth, OrderPhase::Succeeded).await?;
    reaches(&fleet, id, StateName::Resolved).await?;
    assert_eq!(only_incident(&fleet, id).await?.fixed_by, Some(Tier::ResetComponents));
    fleet.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn climbs_and_is_proven_fixed_sqlite() -> anyhow::Result<()> {
    climbs_and_is_proven_fixed(On::Sqlite).await
}

#[tokio::test(flavor = "multi_thread")]
async fn climbs_and_is_proven_fixed_postgres() -> anyhow::Result<()> {
    climbs_and_is_proven_fixed(On::Postgres).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_posture_orders_nothing_and_says_what_it_would_do() -> anyhow::Result<()> {
    let fleet = TestFleet::start(On::Sqlite, |_| {}).await?;
    let mut device = fleet.device(1).await?;
    let id = device.identity().device();
    device.report(&outcome(OutcomeResult::Failed, 0x8007_3712)).await?;
    reaches(&fleet, id, StateName::Held).await?;
    let summary = fleet.store().summary().await?;
    assert!(summary.orders.is_empty(), "{:?}", summary.orders);
    fleet.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_device_gets_its_heavy_order_after_approval() -> anyhow::Result<()> {
    let fleet = TestFleet::start(On::Sqlite, |config| config.policy.posture = Posture::Recommended).await?;
    let token = fleet.token(1, false).await?;
    let mut device = LightDevice::enroll(fleet.light.clone(), 1, &token).await?;
    let id = device.identity().device();
    let mut stream = device.subscribe().await?;
    device.report(&outcome(OutcomeResult::Failed, 0x8007_3712)).await?;
    reaches(&fleet, id, StateName::Held).await?;
    fleet.store().devices_approve(Selector::Id(id), "test", wall_now()).await?;
    assert_eq!(next_order(&fleet, &mut stream).await?.action, Action::RepairImage);
    fleet.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_cuts_a_live_stream_within_five_seconds() -> anyhow::Result<()> {
    let fleet = TestFleet::start(On::Sqlite, |_| {}).await?;
    let mut device = fleet.device(1).await?;
    let mut stream = device.subscribe().await?;
    let banned = Instant::now();
    fleet.store().device_ban(device.identity().device(), "stolen", "test", wall_now()).await?;
    let ended = tokio::time::timeout(SOON, stream.message()).await.context("the stream lives on")?;
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    assert!(banned.elapsed() < Duration::from_secs(5), "cut after {:?}", banned.elapsed());
    assert!(device.report(&outcome(OutcomeResult::Failed, 1)).await.is_err(), "a banned device is heard no more");
    fleet.stop().await;
    Ok(())
}

/// Over the wire, handshakes and all.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_uses_of_a_one_use_token_give_one_certificate() -> anyhow::Result<()> {
    let fleet = TestFleet::start(On::Sqlite, |config| config.limits.enrollment.max_connections = 2_000).await?;
    let token = fleet.token(1, false).await?;
    let tries = (0..1_000).map(|index| {
        let (light, token) = (fleet.light.clone(), token.clone());
        tokio::spawn(async move {
            LightDevice::enroll(light, index, &token).await.err().map(|it| format!("{:#}", anyhow::Error::new(it)))
        })
    });
    let (mut certificates, mut used_up, mut unheard) = (0, 0, Vec::new());
    for tried in futures::future::join_all(tries).await {
        match tried? {
            None => certificates += 1,
            Some(why) if why.contains("used up") => used_up += 1,
            Some(why) => unheard.push(why),
        }
    }
    assert_eq!(certificates, 1);
    // Some may be turned away before the token is looked at; had most been, this would prove nothing of the token.
    assert!(used_up >= 500, "only {used_up} were refused for the token; the others: {:?}", unheard.first());
    fleet.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_from_anywhere_closes_and_a_repeated_failure_opens_one() -> anyhow::Result<()> {
    let fleet = TestFleet::start(On::Sqlite, |_| {}).await?;
    let mut device = fleet.device(1).await?;
    let id = device.identity().device();
    for _ in 0..3 {
        device.report(&outcome(OutcomeResult::Failed, 0x8024_2006)).await?;
    }
    assert_eq!(only_incident(&fleet, id).await?.failures, 3);
    device.report(&outcome(OutcomeResult::Succeeded, 0)).await?;
    let row = only_incident(&fleet, id).await?;
    assert_eq!((row.state, row.fixed_by), (StateName::Resolved, None));
    fleet.stop().await;
    Ok(())
}
