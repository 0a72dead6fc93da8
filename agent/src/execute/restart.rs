//! Waiting for a restart that a step asked for. The process usually ends here, with the system, and comes back in the
//! runner's `recover`.

use std::time::Duration;

use chrono::TimeDelta;
use fleetmend_proto::order::OrderPhase;

use super::{
    ExecuteError,
    runner::{End, Runner},
    span::Span,
    step::{Cx, Ended, Stop},
};
use crate::journal::StepRecord;

/// An asked-for restart that did not come within this domain time did not happen.
const RESTART_WITHIN: Duration = Duration::from_secs(2 * 60 * 60);
/// Domain time between two looks at the boot id.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Real time between two looks at least, however fast domain time runs.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(20);

impl Runner<'_> {
    /// Waits for another boot id. `asked`: it is certain that the restart was asked for.
    pub(super) async fn await_restart(
        &self,
        cx: &Cx<'_>,
        record: &StepRecord,
        acted: bool,
        asked: bool,
    ) -> Result<Option<End>, ExecuteError> {
        let journal = &self.core.journal;
        let mut span = Span::new(left(record, cx));
        let mut waiting = false;
        loop {
            let boot_id = cx.platform.boot_id().await.unwrap_or_else(|_| record.boot_id.clone());
            if boot_id != record.boot_id {
                journal.phase(self.order, OrderPhase::Running, None, "", cx.now()).await?;
                return self.ended(cx, Ended::done("the PC was restarted")).await.map(|()| None);
            }
            if self.is_cancelled().await? {
                // Undoing calls it off.
                let why = "cancelled by the controller before the restart came".to_owned();
                return Ok(Some(End::Unwind(OrderPhase::Cancelled, None, why)));
            }
            if span.is_over() {
                journal.phase(self.order, OrderPhase::Running, None, "", cx.now()).await?;
                let why = format!("no restart came within {} minutes", RESTART_WITHIN.as_secs() / 60);
                let stop =
                    if asked { Stop::Failed(format!("{why}: somebody called it off")) } else { Stop::Unknown(why) };
                return self.stopped(cx, stop, acted).await.map(Some);
            }
            if !waiting {
                waiting = true;
                let minutes = left(record, cx).as_secs() / 60;
                let detail = format!("a restart is asked for; it must come within {minutes} minutes");
                journal.phase(self.order, OrderPhase::AwaitingReboot, None, &detail, cx.now()).await?;
                self.tell().await?;
            }
            span.wait(cx.clock, LOOK_EVERY, LOOK_AT_MOST_EVERY).await;
        }
    }
}

/// How long a restart asked for at the time of `record` may still take; a clock that was set back gives no more.
fn left(record: &StepRecord, cx: &Cx<'_>) -> Duration {
    let passed = (cx.now() - record.at).max(TimeDelta::zero()).to_std().unwrap_or_default();
    RESTART_WITHIN.saturating_sub(passed)
}
