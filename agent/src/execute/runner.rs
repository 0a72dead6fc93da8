//! Walks the steps of one order: fresh, after a crash, after a restart of the PC, and backwards when it must be undone.
//! The crash table of the journal lives in `recover`; waiting for a restart in `restart`.

use fleetmend_proto::{
    OrderId,
    order::{OrderPhase, OrderText, Refusal, SignedOrder, StepState},
};
use serde_json::Value;

use super::{
    Core, ExecuteError, Lease, ProgressSink,
    judged::{end_of, judge},
    plan,
    restore::hindrance,
    step::{Cx, Ended, Kind, Prepared, Seen, Step, Stop},
    undo,
};
use crate::{
    journal::{OrderUpdate, StepEnd, StepIntent, StepRecord, Unwind},
    platform::Run,
};

/// Takes an accepted order up where its journal says it is, and gives its end.
pub(super) async fn drive(
    core: &Core,
    order: OrderId,
    lease: &dyn Lease,
    progress: &dyn ProgressSink,
) -> Result<OrderUpdate, ExecuteError> {
    let record = core.journal.order(order).await?.ok_or(ExecuteError::NotAccepted(order))?;
    if record.phase.is_final() {
        return Ok(core.journal.update_of(&record).await?);
    }
    // Undoing needs none.
    let boot_id = core.platform.boot_id().await.map_err(|error| error.to_string());
    let runner = Runner { core, lease, progress, order, boot_id };
    if !record.begun {
        core.journal.begun(order).await?;
    }
    if record.unwind.is_none() {
        let end = match hindrance(core, &record).await? {
            Some(end) => end,
            None => match SignedOrder(record.note.clone()).open(&core.keys) {
                Ok(text) => runner.forward(&text).await?,
                // The key was changed meanwhile: no authority is left to go on.
                Err(error) => End::Unwind(OrderPhase::Cancelled, None, format!("cannot go on: {error}")),
            },
        };
        match end {
            End::Finished(phase, refusal, detail) => return runner.finish(phase, refusal, &detail).await,
            End::Unwind(phase, refusal, why) => {
                core.journal.unwind(order, Unwind { phase, refusal, why: &why }).await?;
            }
            End::Unwinding => {}
        }
    }
    runner.backward().await
}

/// How the way forward ended.
pub(super) enum End {
    Finished(OrderPhase, Option<Refusal>, String),
    Unwind(OrderPhase, Option<Refusal>, String),
    /// The journal says already that the order is undone.
    Unwinding,
}

pub(super) struct Runner<'a> {
    pub(super) core: &'a Core,
    lease: &'a dyn Lease,
    progress: &'a dyn ProgressSink,
    pub(super) order: OrderId,
    /// Which start of the system this is, or why it cannot be told.
    boot_id: Result<String, String>,
}

impl Runner<'_> {
    async fn forward(&self, text: &OrderText) -> Result<End, ExecuteError> {
        let journal = &self.core.journal;
        if let Err(error) = &self.boot_id {
            let why = format!("this PC cannot say which start of the system it is in: {error}");
            return Ok(End::Unwind(OrderPhase::Failed, None, why));
        }
        let steps = plan::steps(&text.action, &self.core.local);
        for (index, step) in (1..).zip(&steps) {
            let records = journal.steps(self.order).await?;
            let cx = self.cx(text, index, &records);
            let acted = has_acted(&steps, &records, index);
            let end = match records.iter().find(|it| it.index == index) {
                Some(known) if known.name != step.name() => {
                    let why = "the journal was written by another version of the agent".to_owned();
                    Some(End::Unwind(OrderPhase::Failed, None, why))
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
        if self.is_cancelled().await? {
            return Ok(Some(cancelled()));
        }
        if !acted && let Some(why) = too_late(cx) {
            return Ok(Some(End::Finished(OrderPhase::Refused, Some(Refusal::Expired), why)));
        }
        let (undo, data) = match step.prepare(cx).await {
            Ok(Prepared::Go { undo, data }) => (undo, data),
            Ok(Prepared::Skip(why)) => return self.skip(step, cx, &why).await.map(|()| None),
            Err(stop) => return self.stopped_before(step, cx, stop, acted).await.map(Some),
        };
        let needs_lease = step.kind() == Kind::AtMostOnce || (step.changes() && !acted);
        if needs_lease && !self.lease.is_live(self.order, cx.order.fence).await {
            let why = NO_LEASE;
            if acted && step.is_optional() {
                return self.skip(step, cx, why).await.map(|()| None);
            }
            let refused = End::Finished(OrderPhase::Refused, Some(Refusal::NoLease), why.to_owned());
            return Ok(Some(if acted { End::Unwind(OrderPhase::Failed, None, why.to_owned()) } else { refused }));
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
        let seen = match step.kind() {
            Kind::Idempotent => Seen::NotDone,
            Kind::Probe | Kind::AtMostOnce => match step.probe(cx, record).await {
                Ok(seen) => seen,
                Err(stop) => return self.stopped(cx, stop, acted).await.map(Some),
            },
        };
        match (seen, step.kind()) {
            (Seen::Done(ended), _) => self.ended(cx, ended).await.map(|()| None),
            (Seen::NotDone, Kind::Probe | Kind::Idempotent) => match self.bar(step, cx, acted).await? {
                None => self.run(step, cx, &record.data, acted).await,
                Some(end) => {
                    let why = "the agent stopped while this was under way; it is not done again";
                    let ended = if step.changes() { Ended::unknown(why) } else { Ended::skipped(why) };
                    self.ended(cx, ended).await.map(|()| Some(end))
                }
            },
            (Seen::NotDone, Kind::AtMostOnce) => {
                let why = "the agent stopped while this was under way; it is not begun again, and what became of it is unknown";
                if step.is_optional() {
                    return self.ended(cx, Ended::unknown(why)).await.map(|()| None);
                }
                self.stopped(cx, Stop::Unknown(why.to_owned()), acted).await.map(Some)
            }
        }
    }

    /// Why a step that a crash interrupted is not done again: before the first sure effect of an order, all that is
    /// asked of a fresh one is asked of it again.
    async fn bar(&self, step: &dyn Step, cx: &Cx<'_>, acted: bool) -> Result<Option<End>, ExecuteError> {
        if self.is_cancelled().await? {
            return Ok(Some(cancelled()));
        }
        if acted {
            return Ok(None);
        }
        if let Some(why) = too_late(cx) {
            return Ok(Some(End::Unwind(OrderPhase::Refused, Some(Refusal::Expired), why)));
        }
        if step.changes() && !self.lease.is_live(self.order, cx.order.fence).await {
            return Ok(Some(End::Unwind(OrderPhase::Refused, Some(Refusal::NoLease), NO_LEASE.to_owned())));
        }
        Ok(None)
    }

    pub(super) async fn is_cancelled(&self) -> Result<bool, ExecuteError> {
        Ok(self.core.journal.order(self.order).await?.is_some_and(|it| it.cancel))
    }

    async fn run(&self, step: &dyn Step, cx: &Cx<'_>, data: &Value, acted: bool) -> Result<Option<End>, ExecuteError> {
        match step.run(cx, data).await {
            Ok(_) if step.restarts() => {
                let records = self.core.journal.steps(self.order).await?;
                match records.iter().find(|it| it.index == cx.run.step) {
                    Some(record) => self.await_restart(cx, record, acted, true).await,
                    None => Ok(None),
                }
            }
            Ok(ended) => self.ended(cx, ended).await.map(|()| None),
            Err(stop) => self.stopped(cx, stop, acted).await.map(Some),
        }
    }

    /// Undoes, newest first, whatever may have been done; then the order ends as the journal says.
    async fn backward(&self) -> Result<OrderUpdate, ExecuteError> {
        let journal = &self.core.journal;
        let mut owed = Vec::new();
        for record in journal.steps(self.order).await?.iter().rev() {
            let is_over = match undo::is_call_off(record) {
                // A restart that came, or did not in its time, is past calling off.
                true => record.state != StepState::Started,
                false => record.undo.is_none() || record.state == StepState::Undone,
            };
            if is_over {
                if record.state == StepState::Started {
                    self.close(record).await?;
                }
                continue;
            }
            let end = undo::step(self.core, self.order, record).await?;
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
        self.finish(phase, record.refusal, &detail).await
    }

    /// A crash cut it off, it is not done again, and there is nothing to take back.
    async fn close(&self, record: &StepRecord) -> Result<(), ExecuteError> {
        let end = StepEnd {
            index: record.index,
            state: StepState::Unknown,
            detail: "the agent stopped while this was under way; it is not done again".to_owned(),
            data: None,
            findings: Vec::new(),
            at: self.core.clock.now(),
            undo_owed: false,
        };
        self.core.journal.ended(self.order, &end, None).await?;
        Ok(())
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
        self.core.journal.intent(self.order, &intent, reboot).await?;
        self.tell().await
    }

    fn bare<'a>(&'a self, name: &'a str, cx: &Cx<'_>) -> StepIntent<'a> {
        let boot_id = self.boot_id.as_deref().unwrap_or_default();
        StepIntent { index: cx.run.step, name, undo: None, data: Value::Null, boot_id, at: cx.now() }
    }

    async fn skip(&self, step: &dyn Step, cx: &Cx<'_>, why: &str) -> Result<(), ExecuteError> {
        let (name, end) = (step.name(), end_of(cx, Ended::skipped(why)));
        self.core.journal.ended_at_once(self.order, &self.bare(&name, cx), &end, None).await?;
        self.tell().await
    }

    pub(super) async fn ended(&self, cx: &Cx<'_>, ended: Ended) -> Result<(), ExecuteError> {
        let end = end_of(cx, ended);
        self.core.journal.ended(self.order, &end, None).await?;
        self.tell().await
    }

    /// A step stopped the order while it worked.
    pub(super) async fn stopped(&self, cx: &Cx<'_>, stop: Stop, acted: bool) -> Result<End, ExecuteError> {
        let judged = judge(stop, acted)?;
        self.core.journal.ended(self.order, &judged.end(cx), Some(judged.unwind())).await?;
        self.tell().await?;
        Ok(End::Unwinding)
    }

    /// A step stopped the order before its own intent.
    async fn stopped_before(&self, step: &dyn Step, cx: &Cx<'_>, stop: Stop, acted: bool) -> Result<End, ExecuteError> {
        let judged = judge(stop, acted)?;
        let (name, end) = (step.name(), judged.end(cx));
        let journal = &self.core.journal;
        journal.ended_at_once(self.order, &self.bare(&name, cx), &end, Some(judged.unwind())).await?;
        self.tell().await?;
        Ok(End::Unwinding)
    }

    async fn finish(
        &self,
        phase: OrderPhase,
        refusal: Option<Refusal>,
        detail: &str,
    ) -> Result<OrderUpdate, ExecuteError> {
        let journal = &self.core.journal;
        journal.phase(self.order, phase, refusal, detail, self.core.clock.now()).await?;
        tracing::info!(order_id = %self.order, %phase, "order ended: {}", detail.escape_debug());
        self.tell().await?;
        let record = journal.order(self.order).await?.ok_or(ExecuteError::NotAccepted(self.order))?;
        Ok(journal.update_of(&record).await?)
    }

    pub(super) async fn tell(&self) -> Result<(), ExecuteError> {
        let journal = &self.core.journal;
        if let Some(record) = journal.order(self.order).await? {
            self.progress.progress(&journal.update_of(&record).await?).await;
        }
        Ok(())
    }

    fn cx<'a>(&'a self, text: &'a OrderText, index: u32, steps: &'a [StepRecord]) -> Cx<'a> {
        Cx {
            platform: &*self.core.platform,
            journal: &self.core.journal,
            clock: &*self.core.clock,
            local: &self.core.local,
            order: text,
            run: Run { order: self.order, step: index },
            steps,
        }
    }
}

const NO_LEASE: &str = "the controller's lease is not live";

fn cancelled() -> End {
    End::Unwind(OrderPhase::Cancelled, None, "cancelled by the controller".to_owned())
}

/// Whether an order's time is over, in words.
fn too_late(cx: &Cx<'_>) -> Option<String> {
    let not_after = cx.order.not_after;
    (cx.now() > not_after).then(|| format!("not after {not_after}: its time ended before its first effect"))
}

/// Whether a step before `index` changed something, or may have.
fn has_acted(steps: &[Box<dyn Step>], records: &[StepRecord], index: u32) -> bool {
    (1..index).zip(steps).any(|(earlier, step)| {
        step.changes() && records.iter().any(|it| it.index == earlier && it.state != StepState::Skipped)
    })
}
