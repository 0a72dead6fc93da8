//! Orders as they travel: exact bytes plus signatures. `note` is the envelope (C2SP signed-note), `text` the body.
//!
//! SECURITY: a receiver verifies the exact bytes first and parses only what was verified; there is no canonical form.

pub mod note;
pub mod progress;
pub mod text;

pub use note::{NoteError, OrderKey, OrderVerifier, SignedOrder};
pub use progress::{Finding, FindingResult, OrderPhase, Refusal, StepReport, StepState};
pub use text::{OrderText, TextError};

/// Largest signed order accepted, in bytes.
pub const MAX_NOTE: usize = 16 * 1024;
