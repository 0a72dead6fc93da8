//! What the controller does with devices and reports that it must refuse, over real mutual TLS; and with what an earlier
//! process left behind.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use fleetmend_agent::link::LinkError;
use fleetmend_controller::store::{DeviceState, Hello, IncidentFilter, PageRequest, Selector};
use fleetmend_domain::{order::State, policy::Posture};
use fleetmend_proto::{
    Fence, HResult, Kb, Operation, Outcome, OutcomeResult, Source, UpdateKind, UpdateRef,
    clock::wall_now,
    convert::{outcome_to_wire, uuid_to_wire},
    order::SignedOrder,
    v1::{self, directive::Kind},
};
use fleetmend_simulator::fleet::light::{LightDevice, LightError};
use fleetmend_tests::fleet::{On, TestFleet, eventually};
use sqlx::{Connection as _, SqliteConnection};
use tonic::Code;

const SOON: Duration = Duration::from_secs(20);

fn failure(kb: u32) -> Outcome {
    Outcome {
        update: UpdateRef {
            update_id: None,
            revision: 1,
            kb: Some(Kb(kb)),
            title: format!("Cumulative Update (KB{kb})"),
            kind: UpdateKind::Quality,
            supersedes: Vec::new(),
        },
        operation: Operation::Install,
        result: OutcomeResult::Failed,
        code: HResult(0x8007_3712),
        raw_code: HResult(0x8007_3712),
        occurred_at: wall_now(),
        source: Source::EventLog,
    }
}

async fn refused_at_the_door(device: &mut LightDevice) -> bool {
    matches!(device.report(&failure(5_000_001)).await, Err(LightError::Link(LinkError::DeviceCertificateRefused)))
}

#[tokio::test]
async fn a_banned_device_is_told_once_then_turned_away_in_the_handshake_until_the_ban_is_lifted() -> anyhow::Result<()>
{
    let fleet = TestFleet::start(On::Sqlite, |_| {}).await?;
    let (mut banned, mut other) = (fleet.device(1).await?, fleet.device(2).await?);
    let id = banned.identity().device();
    fleet.store().device_ban(id, "stolen", "ada", wall_now()).await?;
    // Never admitted, so that the sweep does not know it: the first call tells why, and what lifts it.
    let told = match banned.report(&failure(5_000_001)).await {
        Err(LightError::Link(error @ LinkError::Barred { .. })) => error.to_string(),
        answer => anyhow::bail!("a banned device got {answer:?}"),
    };
    ensure!(told.contains("fleetmend device approve"), "{told}");
    let channel = banned.connect().await?;
    eventually("its connection is cut", SOON, || async { Ok(channel.is_closed()) }).await?;
    ensure!(refused_at_the_door(&mut banned).await, "a banned device got as far as HTTP/2");
    other.report(&failure(5_000_001)).await?;

    fleet.store().devices_approve(Selector::Id(id), "ada", wall_now()).await?;
    tokio::time::timeout(SOON, async {
        while refused_at_the_door(&mut banned).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .context("the ban was lifted, and the device is still turned away")?;
    let row = fleet.store().device_get(id).await?.context("the device is there")?;
    ensure!(row.state == DeviceState::Active, "{row:?}");
    fleet.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_outcome_that_the_database_never_takes_is_handed_back_and_the_others_go_on() -> anyhow::Result<()> {
    let fleet = TestFleet::start(On::Sqlite, |_| {}).await?;
    let mut device = fleet.device(1).await?;
    let mut database = SqliteConnection::connect(fleet.made().config.database.expose()).await?;
    sqlx::query(
        "CREATE TRIGGER poison BEFORE INSERT ON outcomes WHEN NEW.update_ref LIKE '%KB5000002%' \
         BEGIN SELECT RAISE(ABORT, 'poison'); END",
    )
    .execute(&mut database)
    .await?;
    let outcomes = [1, 2, 3].map(|n: u32| outcome_to_wire(i64::from(n), &failure(5_000_000 + n))).to_vec();
    let request = v1::ReportRequest { epoch: 1, outcomes, condition: None };
    let mut refusals = 0;
    let answer = loop {
        match device.connect().await?.agent().report(request.clone()).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => {
                ensure!(status.code() == Code::Internal, "{status}");
                ensure!(status.message() == "report failed; the controller's log says why", "{status}");
                refusals += 1;
                ensure!(refusals < 10, "the device is stuck for ever");
            }
        }
    };
    ensure!(refusals == 4, "taken apart after {refusals} refusals");
    ensure!(answer.acked_seq == 3 && !answer.new_epoch, "{answer:?}");
    let rejected: Vec<_> = answer.rejections.iter().map(|it| it.seq).collect();
    ensure!(rejected == [2], "{answer:?}");
    let filter = IncidentFilter { device: Some(device.identity().device()), ..IncidentFilter::default() };
    let incidents = fleet.store().incident_list(&filter, &PageRequest::default()).await?;
    let kbs: BTreeSet<_> = incidents.items.iter().filter_map(|it| it.update.kb).collect();
    ensure!(kbs == BTreeSet::from([Kb(5_000_001), Kb(5_000_003)]), "{kbs:?}");
    database.close().await?;
    fleet.stop().await;
    Ok(())
}

#[tokio::test]
async fn sessions_of_a_killed_controller_are_closed_by_the_next_one_on_its_data() -> anyhow::Result<()> {
    let fleet = TestFleet::start(On::Sqlite, |_| {}).await?;
    let mut device = fleet.device(1).await?;
    let id = device.identity().device();
    let _stream = device.subscribe().await?;
    let kept = std::fs::read_to_string(fleet.made().config.data_dir.join("replica"))?;
    let replica = format!("{}-{}", std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim(), kept.trim());
    ensure!(fleet.store().sessions_open(&replica).await? == [(id, 1)]);
    // As if the process had been killed: the row stays, and whoever starts under the name in that file closes it.
    let hello = Hello { device: id, replica: &replica, max_fence: Fence(0), instance: None, now: wall_now() };
    fleet.store().session_open(hello).await?;
    ensure!(fleet.store().sessions_clear(&replica).await? == 1);
    fleet.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_device_that_works_on_a_cancelled_order_is_told_until_it_has_stopped() -> anyhow::Result<()> {
    let fleet = TestFleet::start(On::Sqlite, |config| config.policy.posture = Posture::Recommended).await?;
    let mut device = fleet.device(1).await?;
    let mut stream = device.subscribe().await?;
    device.report(&failure(5_000_001)).await?;
    let order = loop {
        let next = tokio::time::timeout(SOON, stream.message()).await.context("no order came")??;
        if let Some(Kind::Order(order)) = next.context("the stream ended")?.kind {
            break SignedOrder(order.note.to_vec()).open(&fleet.light.order_keys)?;
        }
    };
    let begin =
        v1::BeginRequest { order_id: uuid_to_wire(Some(order.order.0)), fence: order.fence.0, epoch: 1, seq: 1 };
    device.connect().await?.agent().begin(begin).await?;

    let url = format!("https://localhost:{}", fleet.controller().addresses().operators.port());
    let token = fleet.folder().join("token");
    std::fs::write(&token, fleet.api_token("operator").await?)?;
    let mut command = tokio::process::Command::new(fleetmend_tests::process::binary("fleetmend")?);
    command.args(["order", "cancel", &order.order.to_string(), "--reason", "exam week", "--url", &url]);
    command.arg("--token-file").arg(&token).arg("--ca").arg(&fleet.made().server_root);
    let said = command.output().await?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    ensure!(String::from_utf8_lossy(&said.stdout).contains("is told to stop"), "{said:?}");
    let told = loop {
        let next = tokio::time::timeout(SOON, stream.message()).await.context("nobody told the device")??;
        if let Some(Kind::Cancel(cancel)) = next.context("the stream ended")?.kind {
            break cancel;
        }
    };
    ensure!(told.order_id == uuid_to_wire(Some(order.order.0)) && told.fence == order.fence.0, "{told:?}");

    let update = v1::UpdateOrderRequest {
        order_id: told.order_id,
        fence: told.fence,
        phase: fleetmend_proto::convert::phase_to_wire(fleetmend_proto::order::OrderPhase::Cancelled),
        ..Default::default()
    };
    ensure!(device.connect().await?.agent().update_order(update).await?.into_inner().current);
    let row = fleet.store().order_get(order.order).await?.context("the order")?;
    ensure!(row.state == State::Cancelled, "{row:?}");
    ensure!(fleet.store().orders_cancel_asked().await?.is_empty());
    fleet.stop().await;
    Ok(())
}
