//! A controller in the test's own process, and light devices that speak to it message by message.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use fleetmend_agent::link::{ChannelSettings, ServerRoot};
use fleetmend_controller::{
    config::DatabaseUrl,
    pki::{self, InitOptions},
    secret::{self, Kind},
    serve::Controller,
    store::{NewToken, OrderRow, Store},
};
use fleetmend_domain::policy::Posture;
use fleetmend_proto::{
    Clock, Fence, HResult, Kb, Operation, OrderId, Outcome, OutcomeResult, Source, UpdateKind, UpdateRef,
    clock::wall_now,
    convert::{phase_to_wire, uuid_to_wire},
    order::{OrderPhase, OrderText, SignedOrder},
    v1,
};
use fleetmend_simulator::fleet::light::{LightDevice, LightSettings};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use super::{invariants, rows::Raw};

/// A controller on SQLite with a fleet of its own.
pub struct InProcess {
    _dir: TempDir,
    url: String,
    controller: Controller,
    shutdown: CancellationToken,
    settings: Arc<LightSettings>,
    token: String,
}

impl InProcess {
    pub async fn start(clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let url = format!("sqlite://{}", dir.path().join("controller.db").display());
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = InitOptions {
            enrollment: Some(any),
            agents: Some(any),
            operators: Some(any),
            database: Some(DatabaseUrl::new(url.clone())),
            ..InitOptions::new(dir.path().join("controller"), wall_now())
        };
        let made = pki::init(&options)?;
        let mut config = made.config;
        config.policy.posture = Posture::Recommended;
        // Rates only: a test says in a second what a device says in a day.
        config.limits.agents.device_messages_per_minute = 0;
        let fleet = config.fleet;
        let shutdown = CancellationToken::new();
        let now = clock.now();
        let controller = Controller::start(config, clock, shutdown.clone()).await?;
        let token = secret::new(Kind::Enrollment);
        let row = NewToken {
            hash: secret::hash(&token),
            uses: 1_000,
            expires_at: wall_now() + TimeDelta::days(1),
            ring: "default".to_owned(),
            preapproved: true,
            created_by: "tests".to_owned(),
            note: "faults".to_owned(),
            now,
        };
        controller.store().token_insert(row).await?;
        let addresses = controller.addresses();
        let settings = Arc::new(LightSettings {
            enrollment: format!("https://localhost:{}", addresses.enrollment.port()).parse()?,
            agents: format!("https://localhost:{}", addresses.agents.port()).parse()?,
            server_root: ServerRoot::from_file(&made.server_root)?,
            fleet,
            order_keys: vec![made.order_verifier.parse()?],
            channel: ChannelSettings::default(),
            seed: 1,
        });
        Ok(Self { _dir: dir, url, controller, shutdown, settings, token })
    }

    pub fn store(&self) -> &Store {
        self.controller.store()
    }

    /// Outcomes that arrived once more than needed.
    pub fn duplicates(&self) -> u64 {
        self.controller.duplicates()
    }

    pub async fn raw(&self) -> anyhow::Result<Raw> {
        Raw::connect(&self.url).await
    }

    /// Enrols a device.
    pub async fn device(&self, index: u32) -> anyhow::Result<Device> {
        let light = LightDevice::enroll(Arc::clone(&self.settings), index, &self.token).await?;
        Ok(Device { light })
    }

    pub async fn order(&self, order: OrderId) -> anyhow::Result<OrderRow> {
        self.store().order_get(order).await?.context("the order is not in the store")
    }

    /// Every order's history is legal, and no device ever had two active ones.
    pub async fn assert_histories(&self) -> anyhow::Result<()> {
        let orders = invariants::all_orders(self.store()).await?;
        invariants::assert_none(&invariants::illegal_histories(&self.raw().await?.order_events().await?, &orders));
        let incidents = invariants::all_incidents(self.store()).await?;
        invariants::assert_none(&invariants::illegal_states(&orders, &incidents));
        Ok(())
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.controller.finished().await;
    }
}

/// A device whose messages a test writes by hand.
pub struct Device {
    light: LightDevice,
}

impl Device {
    pub async fn subscribe(&mut self) -> anyhow::Result<Streaming<v1::Directive>> {
        Ok(self.light.subscribe().await?)
    }

    pub async fn report(&mut self, outcome: &Outcome) -> anyhow::Result<()> {
        self.light.report(outcome).await?;
        Ok(())
    }

    pub async fn send(&mut self, request: v1::ReportRequest) -> anyhow::Result<v1::ReportResponse> {
        let channel = self.light.connect().await?;
        Ok(channel.agent().report(request).await?.into_inner())
    }

    pub async fn begin(&mut self, order: OrderId, fence: Fence) -> anyhow::Result<Result<u32, Status>> {
        let channel = self.light.connect().await?;
        let request = v1::BeginRequest { order_id: uuid_to_wire(Some(order.0)), fence: fence.0, epoch: 1, seq: 1 };
        let answer = channel.agent().begin(request).await;
        Ok(answer.map(|answer| answer.into_inner().lease_seconds))
    }

    /// Says how an order stands; `true` = the controller goes by it.
    pub async fn update(&mut self, order: OrderId, fence: Fence, phase: OrderPhase) -> anyhow::Result<bool> {
        let channel = self.light.connect().await?;
        let request = v1::UpdateOrderRequest {
            order_id: uuid_to_wire(Some(order.0)),
            fence: fence.0,
            phase: phase_to_wire(phase),
            detail: "said by a test".to_owned(),
            ..v1::UpdateOrderRequest::default()
        };
        Ok(channel.agent().update_order(request).await?.into_inner().current)
    }
}

/// The next order on a stream, verified.
pub async fn next_order(
    stream: &mut Streaming<v1::Directive>,
    keys: &InProcess,
    limit: Duration,
) -> anyhow::Result<OrderText> {
    let arriving = async {
        loop {
            let directive = stream.message().await?.context("the controller closed the stream")?;
            if let Some(v1::directive::Kind::Order(order)) = directive.kind {
                return Ok(SignedOrder(order.note.to_vec()).open(&keys.settings.order_keys)?);
            }
        }
    };
    tokio::time::timeout(limit, arriving).await.with_context(|| format!("no order came within {limit:?}"))?
}

/// That an answer is the refusal which tells an agent not to go on.
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = answer.expect_err("it was allowed");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
}

/// Polls until `done`.
pub async fn wait_for(
    what: &str,
    limit: Duration,
    mut done: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    while !done().await? {
        ensure!(started.elapsed() < limit, "waited {limit:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A damaged component store: enters at tier 3, so that an order comes at once.
pub fn failure(number: u32) -> Outcome {
    let code: HResult = "0x80073712".parse().expect("a code");
    let kb = Kb(5_990_000 + number);
    Outcome {
        update: UpdateRef {
            update_id: Some(Uuid::from_u128(u128::from(number) + 1)),
            revision: 1,
            kb: Some(kb),
            title: format!("2026-01 Cumulative Update ({kb})"),
            kind: UpdateKind::Quality,
            supersedes: Vec::new(),
        },
        operation: Operation::Install,
        result: OutcomeResult::Failed,
        code,
        raw_code: code,
        occurred_at: wall_now(),
        source: Source::EventLog,
    }
}
