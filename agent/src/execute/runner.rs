//! Walks the steps of one order: fresh, after a crash, after a restart of the PC, and backwards when it must be undone.
//! The crash table of the journal lives in `recover`.

use std::time::Duration;

use fleetmend_proto::{
    OrderId,
    order::{OrderPhase, OrderText, Refusal, SignedOrder, StepState},
};
use serde_json::Value;

use super::{
    ExecuteError, Executor, Lease, ProgressSink, plan,
    step::{Cx, Ended, Kind, Prepared, Seen, Step, Stop},
    undo,
};
use crate::{
    journal::{OrderUpdate, StepEnd, StepIntent, StepRecord},
    platform::Run,
};

/// An asked-for restart that did not come within this domain time did not happen.
const RESTART_WITHIN: chrono::Duration = chrono::Duration::hours(2);
/// Domain time between two looks at the boot id.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Real time between two looks at least, however fast domain time runs.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(20);

/// Takes an accepted order up where its journal says it is, and gives its end.
pub(super) async fn drive(
    executor: &Executor,
    order: OrderId,
    lease: &dyn Lease,
    progress: &dyn ProgressSink,
) -> Result<OrderUpdate, ExecuteError> {
    let record = executor.journal.order(order).await?.ok_or(ExecuteError::NotAccepted(order))?;
    let boot_id = executor.platform.boot_id().await.map_err(|source| ExecuteError::BootId { order, source })?;
    let runner = Runner { executor, lease, progress, order, boot_id };
    if record.phase.is_final() {
        return Ok(executor.journal.update_of(&record).await?);
    }
    if !record.begun {
        executor.journal.begun(order).await?;
    }
    if record.unwind.is_none() {
        let end = match SignedOrder(record.note.clone()).open(&executor.keys) {
            Ok(text) => runner.forward(&text).await?,
            // The key was changed meanwhile: no authority is left to go on.
            Err(error) => End::Unwind(OrderPhase::Cancelled, format!("cannot go on: {error}")),
        };
        match end {
            End::Finished(phase, refusal, detail) => return runner.finish(phase, refusal, &detail).await,
            End::Unwind(phase, why) => executor.journal.unwind(order, phase, &why).await?,
            End::Unwinding => {}
        }
    }
    runner.backward().await
}

/// How the way forward ended.
enum End {
    Finished(OrderPhase, Option<Refusal>, String),
    Unwind(OrderPhase, String),
    /// The journal says already that the order is undone.
    Unwinding,
}

struct Runner<'a> {
    executor: &'a Executor,
    lease: &'a dyn Lease,
    progress: &'a dyn ProgressSink,
    order: OrderId,
    boot_id: String,
}

impl Runner<'_> {
    async fn forward(&self, text: &OrderText) -> Result<End, ExecuteError> {
        let journal = &self.executor.journal;
        if self.executor.local.halt {
            return Ok(End::Unwind(OrderPhase::Cancelled, "the local policy says halt".to_owned()));
        }
        let steps = plan::steps(&text.action, &self.executor.local);
        for (index, step) in (1..).zip(&steps) {
            let records = journal.steps(self.order).await?;
            let cx = self.cx(text, index, &records);
            let acted = has_acted(&steps, &records, index);
            let end = match records.iter().find(|it| it.index == index) {
                Some(known) if known.name != step.name() => {
                    let why = "the journal was written by another version of the agent".to_owned();
                    Some(End::Unwind(OrderPhase::Failed, why))
                }
                Some(known) if known.state == StepState::Started => self.recover(&**step, &cx, known, acted).await?,
                Some(_) => None,
                None => self.fresh(&**step, &cx, acted).await?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
        let records = journal.steps(self.order).await?;
        Ok(match records.iter().find(|it| it.state == StepState::Failed) {
            Some(failed) => End::Finished(OrderPhase::Failed, None, format!("{}: {}", failed.name, failed.detail)),
            None => {
                let last = records.last().map_or_else(String::new, |it| format!("{}: {}", it.name, it.detail));
                End::Finished(OrderPhase::Succeeded, None, last)
            }
        })
    }

    /// A step that the journal does not know yet.
    async fn fresh(&self, step: &dyn Step, cx: &Cx<'_>, acted: bool) -> Result<Option<End>, ExecuteError> {
        let journal = &self.executor.journal;
        if journal.order(self.order).await?.is_some_and(|it| it.cancel) {
            return Ok(Some(End::Unwind(OrderPhase::Cancelled, "cancelled by the controller".to_owned())));
        }
        if !acted && cx.now() > cx.order.not_after {
            let why = format!("not after {}: its time ended before its first effect", cx.order.not_after);
            return Ok(Some(End::Finished(OrderPhase::Refused, Some(Refusal::Expired), why)));
        }
        let (undo, data) = match step.prepare(cx).await {
            Ok(Prepared::Go { undo, data }) => (undo, data),
            Ok(Prepared::Skip(why)) => return self.skip(step, cx, &why).await.map(|()| None),
            Err(stop) => return self.stopped_before(step, cx, stop, acted).await.map(Some),
        };
        let needs_lease = step.kind() == Kind::AtMostOnce || (step.changes() && !acted);
        if needs_lease && !self.lease.is_live(self.order, cx.order.fence).await {
            let why = "the controller's lease is not live";
            if acted && step.is_optional() {
                return self.skip(step, cx, why).await.map(|()| None);
            }
            let refused = End::Finished(OrderPhase::Refused, Some(Refusal::NoLease), why.to_owned());
            return Ok(Some(if acted { End::Unwind(OrderPhase::Failed, why.to_owned()) } else { refused }));
        }
        let undo = undo.map(|it| serde_json::to_string(&it)).transpose().map_err(crate::state::content("undo"))?;
        self.intent(step, cx, undo, data.clone(), step.restarts()).await?;
        self.run(step, cx, &data, acted).await
    }

    /// A step whose intent is durable and whose end is not: the crash table.
    async fn recover(
        &self,
        step: &dyn Step,
        cx: &Cx<'_>,
        record: &StepRecord,
        acted: bool,
    ) -> Result<Option<End>, ExecuteError> {
        if step.restarts() {
            return self.await_restart(cx, record, acted, false).await;
        }
        if step.kind() == Kind::Idempotent {
            return self.run(step, cx, &record.data, acted).await;
        }
        match (step.probe(cx, record).await, step.kind()) {
            (Ok(Seen::Done(ended)), _) => self.ended(cx, ended).await.map(|()| None),
            (Ok(Seen::NotDone), Kind::Probe | Kind::Idempotent) => self.run(step, cx, &record.data, acted).await,
            (Ok(Seen::NotDone), Kind::AtMostOnce) => {
                let why = "the agent stopped while this was under way; it is not begun again, and what became of it is unknown";
                if step.is_optional() {
                    return self.ended(cx, Ended::unknown(why)).await.map(|()| None);
                }
                self.stopped(cx, Stop::Unknown(why.to_owned()), acted).await.map(Some)
            }
            (Err(stop), _) => self.stopped(cx, stop, acted).await.map(Some),
        }
    }

    async fn run(&self, step: &dyn Step, cx: &Cx<'_>, data: &Value, acted: bool) -> Result<Option<End>, ExecuteError> {
        match step.run(cx, data).await {
            Ok(_) if step.restarts() => {
                let records = self.executor.journal.steps(self.order).await?;
                match records.iter().find(|it| it.index == cx.run.step) {
                    Some(record) => self.await_restart(cx, record, acted, true).await,
                    None => Ok(None),
                }
            }
            Ok(ended) => self.ended(cx, ended).await.map(|()| None),
            Err(stop) => self.stopped(cx, stop, acted).await.map(Some),
        }
    }

    /// Waits for another boot id: the process usually ends here, with the system, and comes back in `recover`.
    /// `asked`: it is certain that the restart was asked for.
    async fn await_restart(
        &self,
        cx: &Cx<'_>,
        record: &StepRecord,
        acted: bool,
        asked: bool,
    ) -> Result<Option<End>, ExecuteError> {
        let journal = &self.executor.journal;
        let deadline = record.at + RESTART_WITHIN;
        let mut waiting = false;
        loop {
            let boot_id = cx.platform.boot_id().await.unwrap_or_else(|_| record.boot_id.clone());
            if boot_id != record.boot_id {
                journal.phase(self.order, OrderPhase::Running, None, "", cx.now()).await?;
                return self.ended(cx, Ended::done("the PC was restarted")).await.map(|()| None);
            }
            if cx.now() > deadline {
                journal.phase(self.order, OrderPhase::Running, None, "", cx.now()).await?;
                let why = format!("no restart came within {} minutes", RESTART_WITHIN.num_minutes());
                let stop =
                    if asked { Stop::Failed(format!("{why}: somebody called it off")) } else { Stop::Unknown(why) };
                return self.stopped(cx, stop, acted).await.map(Some);
            }
            if !waiting {
                waiting = true;
                let detail = format!("a restart is asked for; it must come before {deadline}");
                journal.phase(self.order, OrderPhase::AwaitingReboot, None, &detail, cx.now()).await?;
                self.tell().await?;
            }
            tokio::time::sleep(cx.clock.real(LOOK_EVERY).max(LOOK_AT_MOST_EVERY)).await;
        }
    }

    /// Undoes, newest first, whatever may have been done; then the order ends as the journal says.
    async fn backward(&self) -> Result<OrderUpdate, ExecuteError> {
        let journal = &self.executor.journal;
        let mut owed = Vec::new();
        for record in journal.steps(self.order).await?.iter().rev() {
            if record.undo.is_none() || record.state == StepState::Undone {
                continue;
            }
            let end = undo::step(self.executor, self.order, record).await;
            if end.undo_owed {
                owed.push(record.name.clone());
            }
            journal.ended(self.order, &end, None).await?;
            self.tell().await?;
        }
        let record = journal.order(self.order).await?.ok_or(ExecuteError::NotAccepted(self.order))?;
        let phase = record.unwind.unwrap_or(OrderPhase::Failed);
        let mut detail = record.detail;
        if !owed.is_empty() {
            detail.push_str(&format!("; not undone: {}", owed.join(", ")));
        }
        self.finish(phase, None, &detail).await
    }

    async fn intent(
        &self,
        step: &dyn Step,
        cx: &Cx<'_>,
        undo: Option<String>,
        data: Value,
        reboot: bool,
    ) -> Result<(), ExecuteError> {
        let name = step.name();
        let intent = StepIntent { undo, data, ..self.bare(&name, cx) };
        self.executor.journal.intent(self.order, &intent, reboot).await?;
        self.tell().await
    }

    fn bare<'a>(&'a self, name: &'a str, cx: &Cx<'_>) -> StepIntent<'a> {
        StepIntent { index: cx.run.step, name, undo: None, data: Value::Null, boot_id: &self.boot_id, at: cx.now() }
    }

    async fn skip(&self, step: &dyn Step, cx: &Cx<'_>, why: &str) -> Result<(), ExecuteError> {
        let (name, end) = (step.name(), end_of(cx, Ended::skipped(why)));
        self.executor.journal.ended_at_once(self.order, &self.bare(&name, cx), &end, None).await?;
        self.tell().await
    }

    async fn ended(&self, cx: &Cx<'_>, ended: Ended) -> Result<(), ExecuteError> {
        let end = end_of(cx, ended);
        self.executor.journal.ended(self.order, &end, None).await?;
        self.tell().await
    }

    /// A step stopped the order while it worked.
    async fn stopped(&self, cx: &Cx<'_>, stop: Stop, acted: bool) -> Result<End, ExecuteError> {
        let (state, phase, why) = judge(stop, acted)?;
        let end = end_of(cx, Ended { state, ..Ended::done(why.clone()) });
        self.executor.journal.ended(self.order, &end, Some((phase, &why))).await?;
        self.tell().await?;
        Ok(End::Unwinding)
    }

    /// A step stopped the order before its own intent.
    async fn stopped_before(&self, step: &dyn Step, cx: &Cx<'_>, stop: Stop, acted: bool) -> Result<End, ExecuteError> {
        let (state, phase, why) = judge(stop, acted)?;
        let (name, end) = (step.name(), end_of(cx, Ended { state, ..Ended::done(why.clone()) }));
        let journal = &self.executor.journal;
        journal.ended_at_once(self.order, &self.bare(&name, cx), &end, Some((phase, &why))).await?;
        self.tell().await?;
        Ok(End::Unwinding)
    }

    async fn finish(
        &self,
        phase: OrderPhase,
        refusal: Option<Refusal>,
        detail: &str,
    ) -> Result<OrderUpdate, ExecuteError> {
        let journal = &self.executor.journal;
        journal.phase(self.order, phase, refusal, detail, self.executor.clock.now()).await?;
        tracing::info!(order_id = %self.order, %phase, "order ended: {}", detail.escape_debug());
        self.tell().await?;
        let record = journal.order(self.order).await?.ok_or(ExecuteError::NotAccepted(self.order))?;
        Ok(journal.update_of(&record).await?)
    }

    async fn tell(&self) -> Result<(), ExecuteError> {
        let journal = &self.executor.journal;
        if let Some(record) = journal.order(self.order).await? {
            self.progress.progress(&journal.update_of(&record).await?).await;
        }
        Ok(())
    }

    fn cx<'a>(&'a self, text: &'a OrderText, index: u32, steps: &'a [StepRecord]) -> Cx<'a> {
        Cx {
            platform: &*self.executor.platform,
            journal: &self.executor.journal,
            clock: &*self.executor.clock,
            local: &self.executor.local,
            order: text,
            run: Run { order: self.order, step: index },
            steps,
        }
    }
}

/// What a stop makes of its step and of the order. Unavailable only where nothing was done yet.
fn judge(stop: Stop, acted: bool) -> Result<(StepState, OrderPhase, String), ExecuteError> {
    match stop {
        Stop::State(error) => Err(error.into()),
        Stop::Failed(why) => Ok((StepState::Failed, OrderPhase::Failed, why)),
        Stop::Unknown(why) => Ok((StepState::Unknown, OrderPhase::Unknown, why)),
        Stop::Unavailable(why) if acted => Ok((StepState::Failed, OrderPhase::Failed, why)),
        Stop::Unavailable(why) => Ok((StepState::Skipped, OrderPhase::Unavailable, why)),
    }
}

fn end_of(cx: &Cx<'_>, ended: Ended) -> StepEnd {
    StepEnd {
        index: cx.run.step,
        state: ended.state,
        detail: ended.detail,
        data: ended.data,
        findings: ended.findings,
        at: cx.now(),
        undo_owed: false,
    }
}

/// Whether a step before `index` changed something, or may have.
fn has_acted(steps: &[Box<dyn Step>], records: &[StepRecord], index: u32) -> bool {
    (1..index).zip(steps).any(|(earlier, step)| {
        step.changes() && records.iter().any(|it| it.index == earlier && it.state != StepState::Skipped)
    })
}
