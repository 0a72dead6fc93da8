use chrono::{DateTime, Utc};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{HResult, Kb, Operation, Outcome, OutcomeResult, Source, UpdateKind, UpdateRef, v1};

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let id = prop_oneof![Just(None), (1..u128::MAX).prop_map(|n| Some(Uuid::from_u128(n)))];
    let kind = prop::sample::select(UpdateKind::ALL);
    let parts = (id, 100_000..99_999_999_u32, "[a-zA-Zäöü ()]{0,80}", kind, any::<i32>());
    let times = 946_684_800_000_000..253_370_764_800_000_000_i64;
    let rest = (
        prop::sample::select(Operation::ALL),
        prop::sample::select(OutcomeResult::ALL),
        prop::sample::select(Source::ALL),
        any::<u32>(),
        times,
    );
    (parts, rest).prop_map(|((update_id, kb, title, kind, revision), (operation, result, source, code, us))| Outcome {
        update: UpdateRef { update_id, revision, kb: Some(Kb(kb)), title, kind, supersedes: vec![Uuid::from_u128(7)] },
        operation,
        result,
        code: HResult(code),
        raw_code: HResult(!code),
        occurred_at: DateTime::<Utc>::from_timestamp_micros(us).expect("in range"),
        source,
    })
}

proptest! {
    #[test]
    fn an_outcome_survives_the_wire(outcome in any_outcome(), seq in 1..i64::MAX) {
        prop_assert_eq!(outcome_from_wire(outcome_to_wire(seq, &outcome)), Ok((seq, outcome)));
    }

    #[test]
    fn cleaned_text_is_always_accepted(text in any::<String>(), max in 0..600_usize) {
        let cleaned = cleaned_text(&text, max);
        prop_assert_eq!(checked_text("x", &cleaned, max), Ok(cleaned));
    }
}

fn good() -> v1::Outcome {
    v1::Outcome {
        seq: 1,
        update: Some(v1::UpdateRef { kb: 5_124_010, ..Default::default() }),
        operation: 1,
        result: 3,
        occurred_at_us: 1_700_000_000_000_000,
        source: 1,
        ..Default::default()
    }
}

#[test]
fn each_bad_field_is_named() {
    let update = |change: fn(&mut v1::UpdateRef)| {
        let mut wire = good();
        change(wire.update.as_mut().expect("has an update"));
        wire
    };
    let cases = [
        ("seq", v1::Outcome { seq: 0, ..good() }),
        ("seq", v1::Outcome { seq: -1, ..good() }),
        ("update", v1::Outcome { update: None, ..good() }),
        ("update", update(|it| it.kb = 0)),
        ("update.kb", update(|it| it.kb = 7)),
        ("update.update_id", update(|it| it.update_id = vec![1; 3].into())),
        ("update.title", update(|it| it.title = "x".repeat(513))),
        ("update.title", update(|it| it.title = "a\u{1b}[31m".into())),
        ("update.title", update(|it| it.title = "a\u{202e}b".into())),
        ("update.kind", update(|it| it.kind = 99)),
        ("update.supersedes", update(|it| it.supersedes = vec![vec![0; 16].into(); 65])),
        ("operation", v1::Outcome { operation: 0, ..good() }),
        ("result", v1::Outcome { result: 77, ..good() }),
        ("source", v1::Outcome { source: -1, ..good() }),
        ("occurred_at_us", v1::Outcome { occurred_at_us: 0, ..good() }),
        ("occurred_at_us", v1::Outcome { occurred_at_us: i64::MAX, ..good() }),
    ];
    assert!(outcome_from_wire(good()).is_ok());
    for (field, wire) in cases {
        assert_eq!(outcome_from_wire(wire).expect_err(field).field, field);
    }
}

#[test]
fn a_field_error_becomes_invalid_argument_with_the_field() {
    let status = tonic::Status::from(FieldError::new("update.kb", "is wrong"));
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let violations = status.get_details_bad_request().expect("bad request details").field_violations;
    assert_eq!(violations[0].field, "update.kb");
}
