//! What the end of a step, or what stopped it, means for the step and for its order. Pure.

use fleetmend_proto::order::{OrderPhase, Refusal, StepState};

use super::{
    ExecuteError,
    step::{Cx, Ended, Stop},
};
use crate::journal::{StepEnd, Unwind};

/// What a stop makes of its step and of the order.
pub(super) struct Judged {
    state: StepState,
    phase: OrderPhase,
    refusal: Option<Refusal>,
    why: String,
}

impl Judged {
    pub fn end(&self, cx: &Cx<'_>) -> StepEnd {
        end_of(cx, Ended { state: self.state, ..Ended::done(self.why.clone()) })
    }

    pub fn unwind(&self) -> Unwind<'_> {
        Unwind { phase: self.phase, refusal: self.refusal, why: &self.why }
    }
}

/// Unavailable only where nothing was done yet; deferred, as a precondition that failed would be.
pub(super) fn judge(stop: Stop, acted: bool) -> Result<Judged, ExecuteError> {
    let (state, phase, refusal, why) = match stop {
        Stop::State(error) => return Err(error.into()),
        Stop::Failed(why) => (StepState::Failed, OrderPhase::Failed, None, why),
        Stop::Unknown(why) => (StepState::Unknown, OrderPhase::Unknown, None, why),
        Stop::Deferred(why) => (StepState::Failed, OrderPhase::Refused, Some(Refusal::Precondition), why),
        Stop::Unavailable(why) if acted => (StepState::Failed, OrderPhase::Failed, None, why),
        Stop::Unavailable(why) => (StepState::Skipped, OrderPhase::Unavailable, None, why),
    };
    Ok(Judged { state, phase, refusal, why })
}

pub(super) fn end_of(cx: &Cx<'_>, ended: Ended) -> StepEnd {
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
