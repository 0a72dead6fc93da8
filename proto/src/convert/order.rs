//! `v1::OrderPhase`, `v1::RefusalCode`, `v1::StepReport`, `v1::Finding`.

use super::{FieldError, checked_text, cleaned_text, time_from_us, wire_enum};
use crate::{
    order::{Finding, FindingResult, OrderPhase, Refusal, StepReport, StepState},
    v1,
};

const MAX_DETAIL: usize = 2048;
const MAX_STEP_NAME: usize = 64;
const MAX_FINDINGS: usize = 32;
const MAX_STEP_INDEX: u32 = 255;

wire_enum!(phase_from, phase_to, v1::OrderPhase, OrderPhase, {
    Running => Running,
    AwaitingReboot => AwaitingReboot,
    Succeeded => Succeeded,
    Failed => Failed,
    Unavailable => Unavailable,
    Refused => Refused,
    Unknown => Unknown,
    Cancelled => Cancelled,
});
wire_enum!(refusal_from, refusal_to, v1::RefusalCode, Refusal, {
    Malformed => Malformed,
    BadSignature => BadSignature,
    WrongFleet => WrongFleet,
    WrongDevice => WrongDevice,
    StaleFence => StaleFence,
    Expired => Expired,
    NotYetValid => NotYetValid,
    AboveMaxTier => AboveMaxTier,
    ResetNotSigned => ResetNotSigned,
    Halted => Halted,
    Busy => Busy,
    Precondition => Precondition,
    UnknownAction => UnknownAction,
    NoLease => NoLease,
    SafeMode => SafeMode,
});
wire_enum!(state_from, state_to, v1::StepState, StepState, {
    Started => Started, Done => Done, Undone => Undone, Failed => Failed, Skipped => Skipped, Unknown => Unknown,
});
wire_enum!(found_from, found_to, v1::FindingResult, FindingResult, {
    Fixed => Fixed, NotFixed => NotFixed, Reported => Reported,
});

/// # Errors
/// When the number names no phase.
pub fn phase_from_wire(number: i32) -> Result<OrderPhase, FieldError> {
    phase_from("phase", number)
}

#[must_use]
pub fn phase_to_wire(phase: OrderPhase) -> i32 {
    phase_to(phase)
}

/// 0 = not refused.
///
/// # Errors
/// When the number names no refusal.
pub fn refusal_from_wire(number: i32) -> Result<Option<Refusal>, FieldError> {
    if number == 0 { Ok(None) } else { refusal_from("refusal", number).map(Some) }
}

#[must_use]
pub fn refusal_to_wire(refusal: Option<Refusal>) -> i32 {
    refusal.map_or(0, refusal_to)
}

/// # Errors
/// The first field that breaks the contract.
pub fn step_from_wire(wire: v1::StepReport) -> Result<StepReport, FieldError> {
    if wire.index > MAX_STEP_INDEX {
        return Err(FieldError::new("steps.index", format!("{} is above {MAX_STEP_INDEX}", wire.index)));
    }
    if wire.findings.len() > MAX_FINDINGS {
        return Err(FieldError::new("steps.findings", format!("more than {MAX_FINDINGS} entries")));
    }
    let finding = |it: v1::Finding| {
        Ok(Finding {
            rule: checked_text("steps.findings.rule", &it.rule, 16)?,
            what: checked_text("steps.findings.what", &it.what, MAX_DETAIL)?,
            result: found_from("steps.findings.result", it.result)?,
            why: checked_text("steps.findings.why", &it.why, MAX_DETAIL)?,
        })
    };
    Ok(StepReport {
        index: wire.index,
        name: checked_text("steps.name", &wire.name, MAX_STEP_NAME)?,
        state: state_from("steps.state", wire.state)?,
        detail: checked_text("steps.detail", &wire.detail, MAX_DETAIL)?,
        at: time_from_us("steps.at_us", wire.at_us)?,
        findings: wire.findings.into_iter().map(finding).collect::<Result<_, _>>()?,
    })
}

#[must_use]
pub fn step_to_wire(step: &StepReport) -> v1::StepReport {
    let finding = |it: &Finding| v1::Finding {
        rule: cleaned_text(&it.rule, 16),
        what: cleaned_text(&it.what, MAX_DETAIL),
        result: found_to(it.result),
        why: cleaned_text(&it.why, MAX_DETAIL),
    };
    v1::StepReport {
        index: step.index,
        name: cleaned_text(&step.name, MAX_STEP_NAME),
        state: state_to(step.state),
        detail: cleaned_text(&step.detail, MAX_DETAIL),
        at_us: step.at.timestamp_micros(),
        findings: step.findings.iter().take(MAX_FINDINGS).map(finding).collect(),
    }
}
