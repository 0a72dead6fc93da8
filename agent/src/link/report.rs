//! Sends what waits in the outbox, one report outstanding, oldest first; removes only what the controller acknowledged.
//!
//! INVARIANT: an outcome leaves the outbox by an acknowledgement, or as a dead letter when the controller says that it
//! will never take it. A report that got no answer is sent again as it was: the controller tells duplicates by position.

use std::{sync::Mutex, time::Duration};

use fleetmend_proto::{
    Condition, Outcome, Position,
    convert::{cleaned_text, outcome_to_wire},
    v1,
};
use tokio::sync::watch;

use super::{Backoff, BackoffSettings, Channel, LinkError, backoff::unit, dead_letters::DeadLetters, within};
use crate::{
    outbox::{MAX_BATCH, Outbox},
    state::StateError,
};

/// Most bytes of outcomes in one report; the rest of the 192 KiB is the condition's.
const MAX_BYTES: usize = 160 * 1024;

/// Why reporting stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("report to the controller failed")]
    Link(#[source] LinkError),
    #[error("report cannot be made")]
    State(#[source] StateError),
}

/// What became of the outcomes of one report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub sent: u64,
    pub acked: u64,
    pub rejected: u64,
}

/// The sending half of the outbox. Lives as long as the agent, whatever connections come and go.
#[derive(Debug)]
pub struct Reporter {
    outbox: Outbox,
    dead_letters: DeadLetters,
    condition: Mutex<Waiting>,
    /// Counts what may have changed: outcomes appended, a condition set, something acknowledged.
    changed: watch::Sender<u64>,
}

/// The newest condition the controller has not acknowledged.
#[derive(Debug, Default)]
struct Waiting {
    condition: Option<Condition>,
    version: u64,
}

impl Reporter {
    #[must_use]
    pub fn new(outbox: Outbox, dead_letters: DeadLetters) -> Self {
        Self { outbox, dead_letters, condition: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// The outbox got something.
    pub fn nudge(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Sends this condition with the next report; it takes the place of one that still waits.
    pub fn set_condition(&self, condition: Condition) {
        let mut waiting = self.waiting();
        waiting.condition = Some(condition);
        waiting.version += 1;
        drop(waiting);
        self.nudge();
    }

    /// Returns when everything that is in the outbox now was acknowledged.
    ///
    /// # Errors
    /// When the agent's file cannot be read.
    pub async fn flushed(&self) -> Result<(), StateError> {
        let mut changed = self.changed.subscribe();
        let mut goal = self.outbox.position().await?;
        loop {
            let acked = self.outbox.acked_position().await?;
            if acked.epoch != goal.epoch {
                // Numbers begin anew in another epoch.
                goal = self.outbox.position().await?;
            }
            if acked.epoch == goal.epoch && acked.seq >= goal.seq {
                return Ok(());
            }
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Reports over `channel` until a report fails for good or the channel ends.
    ///
    /// # Errors
    /// Why it stopped; it never ends by itself.
    pub async fn run(
        &self,
        channel: &Channel,
        call_timeout: Duration,
        waits: BackoffSettings,
    ) -> Result<std::convert::Infallible, ReportError> {
        let mut changed = self.changed.subscribe();
        let mut backoff = Backoff::new(waits);
        let mut size = Size::default();
        loop {
            changed.mark_unchanged();
            match self.send_one(channel, call_timeout, &mut size).await {
                Ok(Some(_)) => backoff.answered(),
                Ok(None) => {
                    if changed.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                Err(ReportError::Link(error)) if error.is_transient() && !channel.is_closed() => {
                    let wait = backoff.wait(error.patience(), unit());
                    tracing::debug!(%error, ?wait, "report not taken, trying again");
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reports until nothing waits, adding to `total`; for the command line.
    ///
    /// # Errors
    /// Why it stopped before that; `total` counts what went before.
    pub async fn drain(&self, channel: &Channel, call_timeout: Duration, total: &mut Sent) -> Result<(), ReportError> {
        let mut size = Size::default();
        while let Some(sent) = self.send_one(channel, call_timeout, &mut size).await? {
            total.sent += sent.sent;
            total.acked += sent.acked;
            total.rejected += sent.rejected;
        }
        Ok(())
    }

    /// One report; `Ok(None)`: nothing waits.
    async fn send_one(
        &self,
        channel: &Channel,
        call_timeout: Duration,
        size: &mut Size,
    ) -> Result<Option<Sent>, ReportError> {
        let (epoch, batch) = self.outbox.batch(size.outcomes, MAX_BYTES).await.map_err(ReportError::State)?;
        let (condition, version) = self.next_condition(size.with_condition);
        if batch.is_empty() && condition.is_none() {
            return Ok(None);
        }
        let had_condition = condition.is_some();
        let request = v1::ReportRequest {
            epoch,
            outcomes: batch.iter().map(|(seq, outcome)| outcome_to_wire(*seq, outcome)).collect(),
            condition,
        };
        let mut client = channel.agent();
        match within(call_timeout, channel, client.report(request)).await {
            Ok(answer) => {
                *size = Size::default();
                self.condition_taken(had_condition.then_some(version));
                self.settle(epoch, &batch, answer).await.map(Some)
            }
            Err(LinkError::Invalid { reason }) => {
                self.narrow(epoch, &batch, had_condition, size, &reason).await.map(Some)
            }
            Err(error) => Err(ReportError::Link(error)),
        }
    }

    /// Applies an answer.
    async fn settle(
        &self,
        epoch: i64,
        batch: &[(i64, Outcome)],
        answer: v1::ReportResponse,
    ) -> Result<Sent, ReportError> {
        let last = batch.last().map_or(0, |(seq, _)| *seq);
        // The controller can acknowledge only what this report, or one before it, held.
        let acked_seq = answer.acked_seq.min(last);
        let mut sent = Sent { sent: batch.len() as u64, ..Sent::default() };
        for rejection in answer.rejections.iter().filter(|it| it.seq <= acked_seq) {
            let Some((seq, outcome)) = batch.iter().find(|(seq, _)| *seq == rejection.seq) else { continue };
            let (field, reason) = (cleaned_text(&rejection.field, 64), cleaned_text(&rejection.reason, 256));
            self.dead_letters.keep(Position { epoch, seq: *seq }, outcome, &field, &reason);
            sent.rejected += 1;
        }
        let settled = batch.iter().filter(|(seq, _)| *seq <= acked_seq).count() as u64;
        sent.acked = settled.saturating_sub(sent.rejected);
        if settled > 0 {
            self.outbox.acked(epoch, acked_seq).await.map_err(ReportError::State)?;
        }
        if answer.new_epoch {
            let fresh = self.outbox.new_epoch().await.map_err(ReportError::State)?;
            tracing::warn!(
                epoch,
                fresh,
                "controller knows other outcomes under these numbers: this PC's disk was rolled back"
            );
        } else if settled == 0 && !batch.is_empty() {
            let reason = "nothing of a report was acknowledged".to_owned();
            return Err(ReportError::Link(LinkError::Busy { reason, retry_after: None }));
        }
        self.nudge();
        Ok(sent)
    }

    /// The whole report was refused as wrong: find the part that is, without losing the rest.
    async fn narrow(
        &self,
        epoch: i64,
        batch: &[(i64, Outcome)],
        had_condition: bool,
        size: &mut Size,
        reason: &str,
    ) -> Result<Sent, ReportError> {
        if had_condition && !batch.is_empty() {
            size.with_condition = false;
            return Ok(Sent::default());
        }
        if had_condition {
            tracing::error!(%reason, "controller does not take this device's condition");
            self.condition_taken(Some(self.waiting().version));
            return Ok(Sent::default());
        }
        if let [(seq, outcome)] = batch {
            self.dead_letters.keep(Position { epoch, seq: *seq }, outcome, "report", reason);
            self.outbox.acked(epoch, *seq).await.map_err(ReportError::State)?;
            *size = Size::default();
            self.nudge();
            return Ok(Sent { sent: 1, rejected: 1, acked: 0 });
        }
        size.outcomes = (batch.len() / 2).max(1);
        Ok(Sent::default())
    }

    fn next_condition(&self, wanted: bool) -> (Option<v1::Condition>, u64) {
        let waiting = self.waiting();
        (waiting.condition.as_ref().filter(|_| wanted).map(Into::into), waiting.version)
    }

    /// Forgets the condition of that version; a newer one stays.
    fn condition_taken(&self, version: Option<u64>) {
        let mut waiting = self.waiting();
        if version == Some(waiting.version) {
            waiting.condition = None;
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.condition.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How much goes into the next report; smaller after a refusal.
#[derive(Clone, Copy, Debug)]
struct Size {
    outcomes: usize,
    with_condition: bool,
}

impl Default for Size {
    fn default() -> Self {
        Self { outcomes: MAX_BATCH, with_condition: true }
    }
}
