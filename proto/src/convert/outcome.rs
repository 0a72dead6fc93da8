//! `v1::Outcome` and `v1::UpdateRef`.

use super::{
    FieldError, checked_text, cleaned_text, optional_uuid, time_from_us, uuid_from_wire, uuid_to_wire, wire_enum,
};
use crate::{HResult, Kb, Operation, Outcome, OutcomeResult, Source, UpdateKind, UpdateRef, outcome::MAX_TITLE, v1};

const MAX_SUPERSEDES: usize = 64;

wire_enum!(operation_from, operation_to, v1::Operation, Operation, {
    Install => Install, Uninstall => Uninstall, Download => Download,
});
wire_enum!(result_from, result_to, v1::Result, OutcomeResult, {
    Succeeded => Succeeded,
    SucceededWithErrors => SucceededWithErrors,
    Failed => Failed,
    Aborted => Aborted,
    PendingReboot => PendingReboot,
});
wire_enum!(source_from, source_to, v1::Source, Source, {
    EventLog => EventLog, SetupLog => SetupLog, ReportingEvents => ReportingEvents, UpdateHistory => UpdateHistory,
    InstalledState => InstalledState,
});

fn kind_from(number: i32) -> Result<UpdateKind, FieldError> {
    match v1::UpdateKind::try_from(number) {
        Ok(v1::UpdateKind::Unspecified) => Ok(UpdateKind::Unknown),
        Ok(v1::UpdateKind::Quality) => Ok(UpdateKind::Quality),
        Ok(v1::UpdateKind::Feature) => Ok(UpdateKind::Feature),
        Ok(v1::UpdateKind::Driver) => Ok(UpdateKind::Driver),
        Ok(v1::UpdateKind::Definition) => Ok(UpdateKind::Definition),
        Ok(v1::UpdateKind::App) => Ok(UpdateKind::App),
        Err(_) => Err(FieldError::new("update.kind", format!("{number} is not a known value"))),
    }
}

const fn kind_to(kind: UpdateKind) -> v1::UpdateKind {
    match kind {
        UpdateKind::Unknown => v1::UpdateKind::Unspecified,
        UpdateKind::Quality => v1::UpdateKind::Quality,
        UpdateKind::Feature => v1::UpdateKind::Feature,
        UpdateKind::Driver => v1::UpdateKind::Driver,
        UpdateKind::Definition => v1::UpdateKind::Definition,
        UpdateKind::App => v1::UpdateKind::App,
    }
}

impl TryFrom<v1::UpdateRef> for UpdateRef {
    type Error = FieldError;

    fn try_from(wire: v1::UpdateRef) -> Result<Self, FieldError> {
        let update_id = optional_uuid("update.update_id", &wire.update_id)?.filter(|id| !id.is_nil());
        let kb = match wire.kb {
            0 => None,
            number @ 100_000..=99_999_999 => Some(Kb(number)),
            number => {
                return Err(FieldError::new("update.kb", format!("{number} is not a KB number of 6 to 8 digits")));
            }
        };
        if update_id.is_none() && kb.is_none() {
            return Err(FieldError::new("update", "names neither an update id nor a KB"));
        }
        if wire.supersedes.len() > MAX_SUPERSEDES {
            return Err(FieldError::new("update.supersedes", format!("more than {MAX_SUPERSEDES} entries")));
        }
        let supersedes =
            wire.supersedes.iter().map(|id| uuid_from_wire("update.supersedes", id)).collect::<Result<_, _>>()?;
        Ok(Self {
            update_id,
            revision: wire.revision,
            kb,
            title: checked_text("update.title", &wire.title, MAX_TITLE)?,
            kind: kind_from(wire.kind)?,
            supersedes,
        })
    }
}

impl From<&UpdateRef> for v1::UpdateRef {
    fn from(update: &UpdateRef) -> Self {
        Self {
            update_id: uuid_to_wire(update.update_id),
            revision: update.revision,
            kb: update.kb.map_or(0, |kb| kb.0),
            title: cleaned_text(&update.title, MAX_TITLE),
            kind: kind_to(update.kind).into(),
            supersedes: update.supersedes.iter().take(MAX_SUPERSEDES).map(|id| uuid_to_wire(Some(*id))).collect(),
        }
    }
}

/// Checks one outcome; gives its sequence number and content.
///
/// # Errors
/// The first field that breaks the contract.
pub fn outcome_from_wire(wire: v1::Outcome) -> Result<(i64, Outcome), FieldError> {
    if wire.seq < 1 {
        return Err(FieldError::new("seq", "must be 1 or more"));
    }
    let update = wire.update.ok_or_else(|| FieldError::new("update", "is missing"))?;
    let outcome = Outcome {
        update: update.try_into()?,
        operation: operation_from("operation", wire.operation)?,
        result: result_from("result", wire.result)?,
        code: HResult(wire.code),
        raw_code: HResult(wire.raw_code),
        occurred_at: time_from_us("occurred_at_us", wire.occurred_at_us)?,
        source: source_from("source", wire.source)?,
    };
    Ok((wire.seq, outcome))
}

/// The wire form of an outcome at `seq`.
#[must_use]
pub fn outcome_to_wire(seq: i64, outcome: &Outcome) -> v1::Outcome {
    v1::Outcome {
        seq,
        update: Some((&outcome.update).into()),
        operation: operation_to(outcome.operation),
        result: result_to(outcome.result),
        code: outcome.code.0,
        raw_code: outcome.raw_code.0,
        occurred_at_us: outcome.occurred_at.timestamp_micros(),
        source: source_to(outcome.source),
    }
}
