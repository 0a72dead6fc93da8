//! Wire messages to checked types and back; one file a family. The only place that reads generated enums.
//!
//! SECURITY: everything from the wire passes here before anybody uses it: lengths, ranges, enum values, characters.

mod condition;
mod order;
mod outcome;

use chrono::{DateTime, Utc};
use tonic_types::{ErrorDetails, StatusExt as _};
use uuid::Uuid;

pub use order::{phase_from_wire, phase_to_wire, refusal_from_wire, refusal_to_wire, step_from_wire, step_to_wire};
pub use outcome::{outcome_from_wire, outcome_to_wire};

/// A field of a message that breaks the contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {reason}")]
pub struct FieldError {
    pub field: &'static str,
    pub reason: String,
}

impl FieldError {
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

impl From<FieldError> for tonic::Status {
    fn from(error: FieldError) -> Self {
        let details = ErrorDetails::with_bad_request_violation(error.field, error.reason.clone());
        Self::with_error_details(tonic::Code::InvalidArgument, error.to_string(), details)
    }
}

/// Text of at most `max` bytes without control characters (a tab becomes a space).
///
/// # Errors
/// Names the field when the text is too long or holds a control or bidirectional-override character.
pub fn checked_text(field: &'static str, text: &str, max: usize) -> Result<String, FieldError> {
    if text.len() > max {
        return Err(FieldError::new(field, format!("{} bytes long, at most {max} are allowed", text.len())));
    }
    let text = text.replace('\t', " ");
    match text.chars().find(|c| c.is_control() || is_bidi_override(*c)) {
        Some(c) => Err(FieldError::new(field, format!("holds the control character U+{:04X}", u32::from(c)))),
        None => Ok(text),
    }
}

/// Cuts and cleans text that a peer must accept: control characters become spaces, `max` bytes are kept at most.
#[must_use]
pub fn cleaned_text(text: &str, max: usize) -> String {
    let mut cleaned = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let c = if c.is_control() || is_bidi_override(c) { ' ' } else { c };
        if cleaned.len() + c.len_utf8() > max {
            break;
        }
        cleaned.push(c);
    }
    cleaned
}

const fn is_bidi_override(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}' | '\u{061C}')
}

/// Microseconds since the Unix epoch as a time.
///
/// # Errors
/// Names the field when the value is before 2000 or after 9999.
pub fn time_from_us(field: &'static str, us: i64) -> Result<DateTime<Utc>, FieldError> {
    const YEAR_2000: i64 = 946_684_800_000_000;
    const YEAR_9999: i64 = 253_370_764_800_000_000;
    (YEAR_2000..=YEAR_9999)
        .contains(&us)
        .then(|| DateTime::from_timestamp_micros(us))
        .flatten()
        .ok_or_else(|| FieldError::new(field, format!("{us} microseconds is no time between the years 2000 and 9999")))
}

/// 16 bytes as a UUID.
///
/// # Errors
/// Names the field when the length is another.
pub fn uuid_from_wire(field: &'static str, bytes: &[u8]) -> Result<Uuid, FieldError> {
    Uuid::from_slice(bytes).map_err(|_| FieldError::new(field, format!("{} bytes long, a UUID has 16", bytes.len())))
}

/// Like [`uuid_from_wire`]; empty = none.
///
/// # Errors
/// Names the field when the length is neither 0 nor 16.
pub fn optional_uuid(field: &'static str, bytes: &[u8]) -> Result<Option<Uuid>, FieldError> {
    if bytes.is_empty() { Ok(None) } else { uuid_from_wire(field, bytes).map(Some) }
}

/// A UUID, or none, as wire bytes.
#[must_use]
pub fn uuid_to_wire(id: Option<Uuid>) -> prost::bytes::Bytes {
    id.map_or_else(prost::bytes::Bytes::new, |id| prost::bytes::Bytes::copy_from_slice(id.as_bytes()))
}

/// Maps a generated enum and ours both ways; value 0 and unknown numbers are errors that name the field.
macro_rules! wire_enum {
    ($from:ident, $to:ident, $wire:ty, $ours:ty, { $($w:ident => $o:ident),+ $(,)? }) => {
        pub(crate) fn $from(field: &'static str, number: i32) -> Result<$ours, crate::convert::FieldError> {
            match <$wire>::try_from(number) {
                $(Ok(<$wire>::$w) => Ok(<$ours>::$o),)+
                Ok(<$wire>::Unspecified) => Err(crate::convert::FieldError::new(field, "is not set")),
                Err(_) => Err(crate::convert::FieldError::new(field, format!("{number} is not a known value"))),
            }
        }

        pub(crate) fn $to(ours: $ours) -> i32 {
            match ours { $(<$ours>::$o => <$wire>::$w as i32),+ }
        }
    };
}
pub(crate) use wire_enum;

#[cfg(test)]
mod tests;
