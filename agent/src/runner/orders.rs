//! One order at a time: leave from the controller, then the executor. Takes no input: it re-reads the journal whenever
//! something may have changed, so that a first run, a retry and a restart are the same path.

use std::sync::Arc;

use fleetmend_proto::{Fence, OrderId};
use tokio::{sync::Notify, time::Instant};

use super::Records;
use crate::{
    execute::{ExecuteError, Executor},
    link::{Backoff, LinkError, backoff::unit, failure::chain, orders, session::Link},
};

/// The order-running part of one agent.
#[derive(Debug)]
pub struct Orders {
    pub executor: Arc<Executor>,
    pub link: Arc<Link>,
    pub records: Arc<Records>,
    /// An order was accepted.
    pub accepted: Notify,
}

/// What the controller said to a begin.
enum Leave {
    Given(Fence),
    Denied(Fence, String),
    /// The order ended meanwhile: cancelled, or replaced.
    Gone,
}

impl Orders {
    /// Takes up what an earlier run left, then runs orders as they are accepted.
    ///
    /// # Errors
    /// When the journal failed: nothing more may be done then.
    pub async fn run(&self) -> Result<std::convert::Infallible, ExecuteError> {
        for ended in self.executor.resume(&*self.link.lease, &*self.link.teller).await? {
            tracing::info!(order_id = %ended.order, phase = %ended.phase, "order taken up again");
        }
        self.link.teller.nudge();
        loop {
            for (order, _) in self.executor.unbegun().await? {
                self.run_one(order).await?;
            }
            self.accepted.notified().await;
        }
    }

    async fn run_one(&self, order: OrderId) -> Result<(), ExecuteError> {
        match self.ask_leave(order).await? {
            Leave::Given(fence) => {
                tracing::info!(order_id = %order, %fence, "order begins");
                let ended = self.executor.execute(order, &*self.link.lease, &*self.link.teller).await?;
                tracing::info!(order_id = %order, phase = %ended.phase, "order ended");
            }
            Leave::Denied(fence, reason) => {
                // A redelivery under a higher fence may have come meanwhile: that one is asked for next.
                let newest = self.executor.journal().order(order).await?.map(|it| it.fence);
                if newest == Some(fence) {
                    self.executor.abandon(order, &reason).await?;
                }
            }
            Leave::Gone => {}
        }
        self.link.teller.nudge();
        Ok(())
    }

    /// Asks until the controller answers. INVARIANT: without a yes, nothing begins.
    async fn ask_leave(&self, order: OrderId) -> Result<Leave, ExecuteError> {
        let settings = self.link.settings;
        let mut backoff = Backoff::new(settings.backoff);
        loop {
            let channel = self.link.channel().await;
            // The fence of the newest delivery counts.
            let Some(record) = self.executor.journal().order(order).await? else { return Ok(Leave::Gone) };
            if record.phase.is_final() || record.begun {
                return Ok(Leave::Gone);
            }
            // What fails before the order begins must be reported before it, told in part or not: what comes after is
            // taken for what the order did.
            let newest = match self.records.look_at_all().await {
                Ok(newest) => newest,
                Err(error) => return Ok(Leave::Denied(record.fence, chain(&error))),
            };
            let asked_at = Instant::now();
            match orders::begin(&channel, settings.channel.call_timeout, order, record.fence, newest).await {
                Ok(seconds) => {
                    self.link.lease.granted(order, record.fence, asked_at, seconds);
                    return Ok(Leave::Given(record.fence));
                }
                Err(LinkError::Rejected { reason } | LinkError::Invalid { reason } | LinkError::Barred { reason }) => {
                    return Ok(Leave::Denied(record.fence, format!("the controller gave no leave: {reason}")));
                }
                Err(error) => {
                    tracing::debug!(order_id = %order, error = %chain(&error), "leave to begin not answered, asking again");
                    tokio::time::sleep(backoff.wait(error.patience(), unit())).await;
                }
            }
        }
    }
}
