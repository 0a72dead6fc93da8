//! `Report`: every field checked, each bad outcome rejected by itself, the rest recorded and acknowledged after commit.

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_proto::{
    Condition, DeviceId, Outcome,
    convert::{FieldError, outcome_from_wire},
    v1,
};

use crate::store::DeviceReport;

/// Most outcomes in one report.
pub const MAX_OUTCOMES: usize = 500;
/// A record this far ahead of the controller comes from a wrong clock.
const MAX_AHEAD: TimeDelta = TimeDelta::hours(24);

/// A report as far as it can be used, and what was wrong with the rest.
pub struct Checked {
    pub report: DeviceReport,
    pub rejections: Vec<v1::Rejection>,
    /// Highest sequence number in the message, good or rejected: all of it needs no second sending.
    pub last_seq: i64,
}

/// Checks a whole report.
///
/// # Errors
/// When the message as such is unusable (epoch, size, condition); single bad outcomes are rejections, not errors.
pub fn check(device: DeviceId, request: v1::ReportRequest, now: DateTime<Utc>) -> Result<Checked, FieldError> {
    if request.epoch < 1 {
        return Err(FieldError::new("epoch", "must be 1 or more"));
    }
    if request.outcomes.len() > MAX_OUTCOMES {
        let reason = format!("{} outcomes, at most {MAX_OUTCOMES} fit a report", request.outcomes.len());
        return Err(FieldError::new("outcomes", reason));
    }
    let condition = request.condition.map(Condition::try_from).transpose()?;
    let mut rejections = Vec::new();
    let mut last_seq = 0;
    let mut outcomes = Vec::with_capacity(request.outcomes.len());
    for wire in request.outcomes {
        let seq = wire.seq;
        if seq < 1 {
            return Err(FieldError::new("outcomes.seq", "must be 1 or more"));
        }
        last_seq = last_seq.max(seq);
        match outcome_from_wire(wire).and_then(|(seq, outcome)| plausible(seq, outcome, now)) {
            Ok(checked) => outcomes.push(checked),
            Err(error) => {
                rejections.push(v1::Rejection { seq, field: error.field.to_owned(), reason: error.reason });
            }
        }
    }
    let report = DeviceReport { device, epoch: request.epoch, outcomes, condition, received_at: now };
    Ok(Checked { report, rejections, last_seq })
}

fn plausible(seq: i64, outcome: Outcome, now: DateTime<Utc>) -> Result<(i64, Outcome), FieldError> {
    let ahead = outcome.occurred_at - now;
    if ahead > MAX_AHEAD {
        let reason = format!("{} hours ahead of the controller: set the device's clock", ahead.num_hours());
        return Err(FieldError::new("occurred_at_us", reason));
    }
    Ok((seq, outcome))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;
    use uuid::Uuid;

    use super::*;

    fn now() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 1, 14, 3, 0, 0).single().expect("a valid time")
    }

    fn outcome(seq: i64) -> v1::Outcome {
        v1::Outcome {
            seq,
            update: Some(v1::UpdateRef { kb: 5_124_010, ..Default::default() }),
            operation: 1,
            result: 3,
            code: 0x8007_3712,
            raw_code: 0x8007_3712,
            occurred_at_us: now().timestamp_micros(),
            source: 1,
        }
    }

    fn check_all(outcomes: Vec<v1::Outcome>) -> Result<Checked, FieldError> {
        check(DeviceId(Uuid::from_u128(1)), v1::ReportRequest { epoch: 1, outcomes, condition: None }, now())
    }

    #[test]
    fn one_bad_outcome_loses_nothing_of_the_others() {
        let bad = v1::Outcome { result: 99, ..outcome(2) };
        let checked = check_all(vec![outcome(1), bad, outcome(3)]).expect("usable");
        let kept: Vec<_> = checked.report.outcomes.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(kept, [1, 3]);
        assert_eq!((checked.rejections[0].seq, checked.rejections[0].field.as_str()), (2, "result"));
        assert_eq!(checked.last_seq, 3);
    }

    #[test]
    fn a_clock_far_in_the_future_is_told_so() {
        let ahead = now() + TimeDelta::days(3650);
        let checked =
            check_all(vec![v1::Outcome { occurred_at_us: ahead.timestamp_micros(), ..outcome(1) }]).expect("usable");
        assert!(checked.report.outcomes.is_empty());
        assert!(checked.rejections[0].reason.contains("set the device's clock"), "{:?}", checked.rejections);
    }

    #[test]
    fn an_unusable_message_names_its_field() {
        let too_many = check_all((1..=501).map(outcome).collect());
        assert_eq!(too_many.err().map(|error| error.field), Some("outcomes"));
        assert_eq!(check_all(vec![outcome(-4)]).err().map(|error| error.field), Some("outcomes.seq"));
        let epoch = check(DeviceId(Uuid::nil()), v1::ReportRequest::default(), now());
        assert_eq!(epoch.err().map(|error| error.field), Some("epoch"));
    }
}
