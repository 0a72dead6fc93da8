//! What is said about orders: `Begin` before one runs, `UpdateOrder` for all that the journal has not told. Both are
//! asked again until the controller answers.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleetmend_proto::{
    Fence, OrderId, Position,
    convert::{cleaned_text, phase_to_wire, refusal_to_wire, step_to_wire, uuid_to_wire},
    order::{OrderPhase, Refusal},
    v1,
};
use tokio::sync::Notify;

use super::{Backoff, BackoffSettings, Channel, LinkError, backoff::unit, within};
use crate::{
    execute::ProgressSink,
    journal::{Journal, OrderUpdate},
    state::StateError,
};

/// Most steps in one update.
const MAX_STEPS: usize = 64;
/// Longest detail, in bytes.
const MAX_DETAIL: usize = 1024;
/// Most answers kept that no journal holds.
const MAX_ASIDES: usize = 8;

/// Why telling stopped.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    #[error("order update to the controller failed")]
    Link(#[source] LinkError),
    #[error("order update cannot be made")]
    State(#[source] StateError),
}

/// Tells the controller about orders. Lives as long as the agent.
#[derive(Debug)]
pub struct Teller {
    journal: Journal,
    news: Notify,
    /// Answers that the journal does not hold: refusals of stale orders.
    asides: Mutex<VecDeque<OrderUpdate>>,
}

/// What must be sent before an order's end is told.
#[async_trait::async_trait]
pub trait ProofFirst: Sync {
    /// Returns when the outcomes that prove (or disprove) the order's effect are durable at the controller, or when that
    /// took too long.
    async fn proof_sent(&self, order: OrderId);
}

impl Teller {
    #[must_use]
    pub fn new(journal: Journal) -> Self {
        Self { journal, news: Notify::new(), asides: Mutex::default() }
    }

    /// The journal got something.
    pub fn nudge(&self) {
        self.news.notify_one();
    }

    /// Tells a refusal that is not in the journal, once.
    pub fn refuse(&self, order: OrderId, fence: Fence, refusal: Refusal, detail: String) {
        let update = OrderUpdate {
            order,
            fence,
            phase: OrderPhase::Refused,
            refusal: Some(refusal),
            detail,
            steps: Vec::new(),
            mark: 0,
        };
        let mut asides = self.asides();
        if asides.len() < MAX_ASIDES {
            asides.push_back(update);
        }
        drop(asides);
        self.nudge();
    }

    /// Tells over `channel` all that there is and will be.
    ///
    /// # Errors
    /// Why it stopped; it never ends by itself.
    pub async fn run(
        &self,
        channel: &Channel,
        call_timeout: Duration,
        waits: BackoffSettings,
        proof: &dyn ProofFirst,
    ) -> Result<std::convert::Infallible, TellError> {
        let mut backoff = Backoff::new(waits);
        loop {
            match self.tell_all(channel, call_timeout, proof).await {
                Ok(()) => {
                    backoff.answered();
                    self.news.notified().await;
                }
                Err(TellError::Link(error)) if error.is_transient() && !channel.is_closed() => {
                    let wait = backoff.wait(error.patience(), unit());
                    tracing::debug!(%error, ?wait, "order update not taken, trying again");
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn tell_all(&self, channel: &Channel, limit: Duration, proof: &dyn ProofFirst) -> Result<(), TellError> {
        self.tell_news(channel, limit).await?;
        for ended in self.untold().await?.into_iter().filter(needs_proof) {
            // The steps are told already.
            let ended = OrderUpdate { steps: Vec::new(), ..ended };
            // Both are polled all the time: they share the agent's one database connection.
            tokio::select! {
                () = proof.proof_sent(ended.order) => {}
                Err(error) = self.tell_news_for_ever(channel, limit) => return Err(error),
            }
            // What was being told may have been cut short.
            self.nudge();
            self.tell(channel, limit, &ended).await?;
            self.journal.told(&ended).await.map_err(TellError::State)?;
        }
        Ok(())
    }

    async fn tell_news_for_ever(
        &self,
        channel: &Channel,
        limit: Duration,
    ) -> Result<std::convert::Infallible, TellError> {
        loop {
            self.news.notified().await;
            self.tell_news(channel, limit).await?;
        }
    }

    /// Tells all that waits for nothing: answers without a journal, orders under way, the steps of ended ones.
    async fn tell_news(&self, channel: &Channel, limit: Duration) -> Result<(), TellError> {
        // Each stays until it was told: this may be cut short at any point, and is then begun again.
        while let Some(aside) = self.first_aside() {
            self.tell(channel, limit, &aside).await?;
            self.asides().pop_front();
        }
        for update in self.untold().await? {
            let news = if needs_proof(&update) {
                if update.steps.is_empty() {
                    continue;
                }
                // The end is the newest change of all: it stays untold.
                OrderUpdate { phase: OrderPhase::Running, refusal: None, mark: update.mark - 1, ..update }
            } else {
                update
            };
            self.tell(channel, limit, &news).await?;
            self.journal.told(&news).await.map_err(TellError::State)?;
        }
        Ok(())
    }

    fn first_aside(&self) -> Option<OrderUpdate> {
        self.asides().front().cloned()
    }

    fn asides(&self) -> MutexGuard<'_, VecDeque<OrderUpdate>> {
        self.asides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn untold(&self) -> Result<Vec<OrderUpdate>, TellError> {
        self.journal.untold().await.map_err(TellError::State)
    }

    async fn tell(&self, channel: &Channel, limit: Duration, update: &OrderUpdate) -> Result<(), TellError> {
        let mut parts = update.steps.chunks(MAX_STEPS).peekable();
        loop {
            let steps = parts.next().unwrap_or_default();
            let is_last = parts.peek().is_none();
            let phase = if is_last { update.phase } else { OrderPhase::Running };
            let request = v1::UpdateOrderRequest {
                order_id: uuid_to_wire(Some(update.order.0)),
                fence: update.fence.0,
                phase: phase_to_wire(phase),
                detail: cleaned_text(&update.detail, MAX_DETAIL),
                steps: steps.iter().map(step_to_wire).collect(),
                refusal: refusal_to_wire(update.refusal.filter(|_| is_last)),
            };
            match within(limit, channel, channel.agent().update_order(request)).await {
                Ok(answer) if !answer.current => {
                    tracing::info!(order_id = %update.order, fence = %update.fence, "controller has moved on from this order");
                    return Ok(());
                }
                Ok(_) => {}
                // It will not be taken next time either; waiting would block what comes behind.
                Err(LinkError::Invalid { reason } | LinkError::Rejected { reason }) => {
                    tracing::error!(order_id = %update.order, %reason, "controller does not take an order update");
                    return Ok(());
                }
                Err(error) => return Err(TellError::Link(error)),
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

/// Whether the update tells an end that may have changed something. Refused and cancelled orders changed nothing on this
/// PC: there is nothing to prove.
const fn needs_proof(update: &OrderUpdate) -> bool {
    match update.phase {
        OrderPhase::Succeeded | OrderPhase::Failed | OrderPhase::Unavailable | OrderPhase::Unknown => true,
        OrderPhase::Running | OrderPhase::AwaitingReboot | OrderPhase::Refused | OrderPhase::Cancelled => false,
    }
}

#[async_trait::async_trait]
impl ProgressSink for Teller {
    async fn progress(&self, _update: &OrderUpdate) {
        self.nudge();
    }
}

/// Asks for leave to begin; gives the lease's seconds.
///
/// # Errors
/// Why there is no answer, or [`LinkError::Rejected`] when the answer is no.
pub async fn begin(
    channel: &Channel,
    limit: Duration,
    order: OrderId,
    fence: Fence,
    newest: Position,
) -> Result<u32, LinkError> {
    let request = v1::BeginRequest {
        order_id: uuid_to_wire(Some(order.0)),
        fence: fence.0,
        epoch: newest.epoch,
        seq: newest.seq,
    };
    within(limit, channel, channel.agent().begin(request)).await.map(|answer| answer.lease_seconds)
}
