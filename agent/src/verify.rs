//! Proof before result: what Windows says of an order's update reaches the controller before the agent says how the order
//! ended. Called by the link before it tells an end.
//!
//! The agent judges nothing here. Detection reads Windows' own records, and the controller compares; an exit code never
//! proves anything. Windows records attempts only: where it tried nothing, as the update is installed already, replaced
//! or no longer offered, there is no record, so the update client is asked and its answer goes as an outcome of its own
//! source. Without it, the controller would take the silence for a remedy that did not help.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Clock, HResult, Operation, OrderId, Outcome, OutcomeResult, Source, UpdateRef,
    order::{OrderVerifier, SignedOrder},
};

use crate::{
    execute::FIND_UPDATE,
    journal::{Journal, StepRecord},
    link::{failure::chain, orders::ProofFirst, report::Reporter},
    platform::Platform,
    runner::Records,
    state::StateError,
};

/// "There are no updates" (`WU_E_NO_UPDATE`): Windows neither has the update nor offers it.
const NO_UPDATE: HResult = HResult(0x8024_0024);

/// Reads the records once more, asks where they say nothing, and waits until all of it is acknowledged.
pub struct Proof<'a> {
    pub platform: &'a dyn Platform,
    pub clock: &'a dyn Clock,
    pub journal: &'a Journal,
    /// Of the orders in the journal.
    pub keys: &'a [OrderVerifier],
    pub records: &'a Records,
    pub reporter: &'a Reporter,
    /// How long the acknowledgement is waited for. Link time.
    pub limit: Duration,
}

#[async_trait]
impl ProofFirst for Proof<'_> {
    async fn proof_sent(&self, order: OrderId) {
        // Without proof the controller waits for its verification deadline; the order's end must be told all the same.
        if let Err(error) = self.records.look_until_settled().await {
            tracing::warn!(error = %chain(&error), "records cannot be read after an order; its end is told without them");
        }
        self.ask(order).await;
        match tokio::time::timeout(self.limit, self.reporter.flushed()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "outbox cannot be read after an order; its end is told all the same");
            }
            Err(_) => {
                let limit = self.limit;
                tracing::warn!(order_id = %order, ?limit, "proof not acknowledged in time; the order's end is told before it");
            }
        }
    }
}

impl Proof<'_> {
    async fn ask(&self, order: OrderId) {
        let asked = match self.judged(order).await {
            Ok(asked) => asked,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "journal cannot be read after an order; Windows is not asked");
                return;
            }
        };
        if let Some((since, outcome)) = asked
            && let Err(error) = self.records.found_by_asking(order, since, outcome).await
        {
            tracing::warn!(error = %chain(&error), "what was found after an order cannot be stored");
        }
    }

    /// What Windows says of the order's update now, and since when its records count; `None` where it says nothing.
    async fn judged(&self, order: OrderId) -> Result<Option<(DateTime<Utc>, Outcome)>, StateError> {
        let Some(record) = self.journal.order(order).await? else { return Ok(None) };
        // SECURITY: the journal's bytes are verified again, as everywhere.
        let Ok(text) = SignedOrder(record.note).open(self.keys) else { return Ok(None) };
        let steps = self.journal.steps(order).await?;
        let Some(since) = steps.first().map(|it| it.at) else { return Ok(None) };
        let update = text.update();
        let is_installed = match self.platform.is_installed(&update).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the installed updates cannot be read after an order");
                return Ok(None);
            }
        };
        Ok(answer(update, is_installed, &steps, self.clock.now()).map(|outcome| (since, outcome)))
    }
}

/// The outcome that an answer of the update client stands for.
fn answer(update: UpdateRef, is_installed: bool, steps: &[StepRecord], now: DateTime<Utc>) -> Option<Outcome> {
    let is_absent = || steps.iter().any(|it| it.name == FIND_UPDATE && it.data.get("absent").is_some());
    let (result, code) = if is_installed {
        (OutcomeResult::Succeeded, HResult::OK)
    } else if is_absent() {
        (OutcomeResult::Aborted, NO_UPDATE)
    } else {
        return None;
    };
    Some(Outcome {
        update,
        operation: Operation::Install,
        result,
        code,
        raw_code: code,
        occurred_at: now,
        source: Source::InstalledState,
    })
}
