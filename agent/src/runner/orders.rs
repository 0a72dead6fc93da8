//! One order at a time: leave from the controller, then the executor. Takes no input: it re-reads the journal whenever
//! something may have changed, so that a first run, a retry and a restart are the same path.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fleetmend_proto::{Fence, OrderId, order::Refusal};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::Records;
use crate::{
    execute::{ExecuteError, Executor, Lease},
    link::{Backoff, LinkError, backoff::unit, failure::chain, orders, session::Link},
};

/// Between two questions for a lease that waited in vain. Link time.
const LEASE_LOOK: Duration = Duration::from_millis(100);

/// The order-running part of one agent.
#[derive(Debug)]
pub struct Orders {
    pub executor: Arc<Executor>,
    pub link: Arc<Link>,
    pub records: Arc<Records>,
    /// An order was accepted.
    pub accepted: Notify,
    /// The agent ends: no further order begins.
    pub closing: CancellationToken,
}

/// The lease as it is asked for by orders taken up again: right after a start there may be no connection yet.
struct AfterStart<'a> {
    lease: &'a dyn Lease,
    /// Link time.
    until: Instant,
}

#[async_trait]
impl Lease for AfterStart<'_> {
    async fn is_live(&self, order: OrderId, fence: Fence) -> bool {
        loop {
            if self.lease.is_live(order, fence).await {
                return true;
            }
            if Instant::now() >= self.until {
                return false;
            }
            tokio::time::sleep(LEASE_LOOK).await;
        }
    }
}

/// What the controller said to a begin.
enum Leave {
    Given(Fence),
    Denied(Fence, Refusal, String),
    /// The order ended meanwhile: cancelled, or replaced.
    Gone,
}

impl Orders {
    /// Takes up what an earlier run left, then runs orders as they are accepted, until `closing`: then the order under
    /// way is the last.
    ///
    /// # Errors
    /// When the journal failed: nothing more may be done then.
    pub async fn run(&self) -> Result<(), ExecuteError> {
        let settings = self.link.settings;
        let connected_by = settings.first_connect_within + settings.channel.call_timeout;
        let lease = AfterStart { lease: &*self.link.lease, until: Instant::now() + connected_by };
        for ended in self.executor.resume(&lease, &*self.link.teller).await? {
            tracing::info!(order_id = %ended.order, phase = %ended.phase, "order taken up again");
        }
        self.link.teller.nudge();
        while !self.closing.is_cancelled() {
            for (order, _) in self.executor.unbegun().await? {
                self.run_one(order).await?;
            }
            let owes = self.executor.is_owing().await?;
            tokio::select! {
                () = self.accepted.notified() => {}
                () = self.closing.cancelled() => {}
                settled = self.executor.settle_later(), if owes => {
                    settled?;
                    self.link.teller.nudge();
                }
            }
        }
        Ok(())
    }

    async fn run_one(&self, order: OrderId) -> Result<(), ExecuteError> {
        let leave = tokio::select! {
            leave = self.ask_leave(order) => leave?,
            () = self.closing.cancelled() => return Ok(()),
        };
        match leave {
            Leave::Given(fence) => {
                tracing::info!(order_id = %order, %fence, "order begins");
                let ended = self.executor.execute(order, &*self.link.lease, &*self.link.teller).await?;
                tracing::info!(order_id = %order, phase = %ended.phase, "order ended");
            }
            Leave::Denied(fence, refusal, reason) => {
                // A redelivery under a higher fence may have come meanwhile: that one is asked for next.
                let newest = self.executor.journal().order(order).await?.map(|it| it.fence);
                if newest == Some(fence) {
                    self.executor.abandon(order, refusal, &reason).await?;
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
            if let Some(until) = self.executor.safe_until().await? {
                let Some(record) = self.executor.journal().order(order).await? else { return Ok(Leave::Gone) };
                let why = format!("safe mode until {until}: the agent started too often in a short time");
                return Ok(Leave::Denied(record.fence, Refusal::SafeMode, why));
            }
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
                Err(error) => return Ok(Leave::Denied(record.fence, Refusal::NoLease, chain(&error))),
            };
            let asked_at = Instant::now();
            match orders::begin(&channel, settings.channel.call_timeout, order, record.fence, newest).await {
                Ok(seconds) => {
                    self.link.lease.granted(order, record.fence, asked_at, seconds);
                    return Ok(Leave::Given(record.fence));
                }
                Err(LinkError::Rejected { reason } | LinkError::Invalid { reason } | LinkError::Barred { reason }) => {
                    let reason = format!("the controller gave no leave: {reason}");
                    return Ok(Leave::Denied(record.fence, Refusal::NoLease, reason));
                }
                Err(error) => {
                    tracing::debug!(order_id = %order, error = %chain(&error), "leave to begin not answered, asking again");
                    tokio::time::sleep(backoff.wait(error.patience(), unit())).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    /// Says yes from the given question on.
    struct After(AtomicU32);

    #[async_trait]
    impl Lease for After {
        async fn is_live(&self, _order: OrderId, _fence: Fence) -> bool {
            self.0.fetch_sub(1, SeqCst) <= 1
        }
    }

    async fn asked(questions: u32, until: Duration) -> bool {
        let lease = After(questions.into());
        let order = OrderId(uuid::Uuid::from_u128(1));
        AfterStart { lease: &lease, until: Instant::now() + until }.is_live(order, Fence(1)).await
    }

    #[tokio::test]
    async fn an_order_taken_up_again_waits_for_the_first_connection_and_not_for_ever() {
        assert!(asked(3, Duration::from_secs(3600)).await, "the first no was the end");
        assert!(!asked(1000, Duration::from_millis(1)).await);
    }
}
