//! A whole agent: looks at the PC, keeps the link, runs orders. Used by the binary and, a thousand times in a process, by
//! the simulator. One task an agent and one a connection; whatever it must remember is in its data folder.

mod orders;
mod records;
mod start;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fleetmend_proto::{Clock, Fence, OrderId, convert::uuid_to_wire, v1};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use records::{LookError, ReadSoFar, Records};
pub use start::{DataDir, RunError, become_device, enroll_once};

use crate::{
    config::Config,
    execute::{self, Admission, ExecuteError, Executor},
    identity::Identity,
    journal::Journal,
    link::{
        dead_letters::DeadLetters, failure::chain, lease::HeldLease, orders::ProofFirst, orders::Teller,
        report::Reporter, session::Directed, session::Link,
    },
    outbox::Outbox,
    platform::Platform,
    state::{AgentDb, StateError},
    verify::Proof,
};
use orders::Orders;

/// What an agent is made of.
#[derive(Clone)]
pub struct AgentParts {
    pub config: Config,
    pub platform: Arc<dyn Platform>,
    pub clock: Arc<dyn Clock>,
}

/// Runs an agent until `shutdown`; enrols first where there is no identity yet.
///
/// Dropping the future is as safe as a power loss: the next start goes on from the journal.
///
/// # Errors
/// When the agent cannot run at all; a controller that is away is no error.
pub async fn run(agent: AgentParts, shutdown: CancellationToken) -> Result<(), RunError> {
    let data = DataDir::lock(&agent.config.data_dir)?;
    let db = AgentDb::open(&data.database(), agent.clock.now()).await.map_err(RunError::State)?;
    let result = tokio::select! {
        result = run_with(&agent, &db) => result.map(|never| match never {}),
        () = shutdown.cancelled() => Ok(()),
    };
    db.close().await;
    result
}

async fn run_with(parts: &AgentParts, db: &AgentDb) -> Result<std::convert::Infallible, RunError> {
    let AgentParts { config, platform, clock } = parts;
    let outbox = Outbox::new(db.clone());
    let journal = Journal::new(db.clone());
    if let Some(until) = journal.start_recorded(clock.now()).await.map_err(RunError::State)? {
        tracing::warn!(%until, "started too often in a short time: safe mode, orders are refused");
    }
    restore_first(parts, db).await?;
    let identity = become_device(config, &**platform).await?;
    let reporter = Arc::new(Reporter::new(outbox.clone(), DeadLetters::new(&config.data_dir)));
    let records = Arc::new(Records::new(
        Arc::clone(platform),
        Arc::clone(clock),
        outbox.clone(),
        Arc::clone(&reporter),
        db.loss().map(str::to_owned),
        config.condition_interval,
    ));
    let executor = Arc::new(Executor::new(
        Arc::clone(platform),
        db.clone(),
        Arc::clone(clock),
        config.policy.clone(),
        config.order_keys.clone(),
        config.fleet,
        identity.device(),
    ));
    let link = Arc::new(Link {
        endpoint: config.agent.clone(),
        server_root: config.server_root.clone(),
        settings: config.link,
        data_dir: config.data_dir.clone(),
        reporter,
        teller: Arc::new(Teller::new(journal)),
        lease: Arc::new(HeldLease::default()),
        current: tokio::sync::watch::Sender::new(None),
    });
    let orders = Orders {
        executor,
        link: Arc::clone(&link),
        records,
        accepted: tokio::sync::Notify::new(),
        closing: CancellationToken::new(),
    };
    let agent = Agent { parts, outbox, orders, instance: Uuid::new_v4() };
    let first_wait = start::first_wait(config, &**platform).await;
    let mut running = std::pin::pin!(agent.orders.run());
    let stopped = tokio::select! {
        never = watch(&agent.orders.records, &**clock, config.detect_interval) => match never {},
        stopped = &mut running => return Err(RunError::Execute(stopped.err().unwrap_or(ExecuteError::Closed))),
        stopped = link.run(identity, first_wait, &agent) => stopped.map_err(RunError::Link),
    };
    // An order under way ends as one whose network was cut: nothing stays half done because of the link.
    agent.orders.closing.cancel();
    running.await.map_err(RunError::Execute)?;
    stopped
}

/// Before whatever can fail: takes back what an earlier run left half done. Without this device's identity nothing of
/// it may go on.
async fn restore_first(agent: &AgentParts, db: &AgentDb) -> Result<(), RunError> {
    let AgentParts { config, platform, clock } = agent;
    let no_authority = match Identity::load(&config.data_dir) {
        Ok(Some(identity)) if identity.fleet() == config.fleet => None,
        Ok(Some(_)) => Some("this device is of another fleet than its orders, so the order was undone".to_owned()),
        Ok(None) => Some("this device has no identity any more, so the order was undone".to_owned()),
        Err(error) => {
            Some(format!("this device's identity cannot be used, so the order was undone: {}", chain(&error)))
        }
    };
    let (platform, clock) = (Arc::clone(platform), Arc::clone(clock));
    execute::restore(platform, db.clone(), clock, config.policy.clone(), no_authority.as_deref())
        .await
        .map_err(RunError::Execute)
}

/// Domain time to the next look while an attempt waits for more of its records.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(60);

/// Looks at the PC every `interval` of domain time.
async fn watch(records: &Records, clock: &dyn Clock, interval: std::time::Duration) -> std::convert::Infallible {
    let mut last = String::new();
    loop {
        let mut wait = interval;
        match records.look().await {
            Ok(held) => {
                last.clear();
                if held > 0 {
                    wait = wait.min(SETTLING);
                }
            }
            Err(error) => {
                let text = chain(&error);
                if text != last {
                    tracing::error!(error = %text, "this PC's update records cannot be read");
                }
                last = text;
            }
        }
        tokio::time::sleep(clock.real(wait)).await;
    }
}

/// What the link talks to.
struct Agent<'a> {
    parts: &'a AgentParts,
    outbox: Outbox,
    orders: Orders,
    /// New with each start.
    instance: Uuid,
}

#[async_trait]
impl Directed for Agent<'_> {
    async fn hello(&self) -> Result<v1::Hello, StateError> {
        let journal = self.orders.executor.journal();
        let acked = self.outbox.acked_position().await?;
        let running = journal.unfinished().await?.into_iter().next();
        Ok(v1::Hello {
            agent_version: crate::VERSION.to_owned(),
            max_fence: journal.max_fence().await?.0,
            epoch: acked.epoch,
            acked_seq: acked.seq,
            running_order: uuid_to_wire(running.as_ref().map(|it| it.order.0)),
            running_fence: running.map_or(0, |it| it.fence.0),
            capabilities: Vec::new(),
            audit_checkpoint: Bytes::new(),
            instance: uuid_to_wire(Some(self.instance)),
        })
    }

    async fn order(&self, note: Bytes) {
        let teller = &self.orders.link.teller;
        match self.orders.executor.accept(&note).await {
            Ok(Admission::Accepted(_)) => self.orders.accepted.notify_one(),
            Ok(Admission::Duplicate(_)) => teller.nudge(),
            Ok(Admission::Refused { order: Some((order, fence)), refusal, detail }) => {
                let is_recorded = self
                    .orders
                    .executor
                    .journal()
                    .order(order)
                    .await
                    .is_ok_and(|it| it.is_some_and(|it| it.fence == fence));
                if is_recorded {
                    teller.nudge();
                } else {
                    teller.refuse(order, fence, refusal, detail);
                }
            }
            // Whose order it is was never proven: there is nobody to answer.
            Ok(Admission::Refused { order: None, .. }) => {}
            Err(error) => tracing::error!(error = %chain(&error), "order cannot be recorded, so it is not run"),
        }
    }

    async fn cancel(&self, order: OrderId, fence: Fence) {
        match self.orders.executor.cancel(order, fence).await {
            Ok(was_under_way) => tracing::info!(order_id = %order, was_under_way, "order cancelled by the controller"),
            Err(error) => tracing::error!(error = %chain(&error), "cancellation cannot be recorded"),
        }
        self.orders.link.teller.nudge();
    }

    async fn refresh(&self) {
        if let Err(error) = self.orders.records.refresh().await {
            tracing::warn!(error = %chain(&error), "records cannot be read at the controller's request");
        }
        self.orders.link.reporter.nudge();
    }
}

#[async_trait]
impl ProofFirst for Agent<'_> {
    async fn proof_sent(&self, order: OrderId) {
        let proof = Proof {
            platform: &*self.parts.platform,
            clock: &*self.parts.clock,
            journal: self.orders.executor.journal(),
            keys: &self.parts.config.order_keys,
            records: &self.orders.records,
            reporter: &self.orders.link.reporter,
            limit: self.parts.config.link.proof_timeout,
        };
        proof.proof_sent(order).await;
    }
}

#[cfg(test)]
mod tests;
