//! The wire contract and the vocabulary that agent and controller share.
//!
//! `v1` is generated from `fleetmend/v1/*.proto`; everything else of the project works with the checked types beside
//! it, which are made from wire messages only by `convert`. This crate decides nothing and does no I/O.

pub mod action;
pub mod clock;
pub mod codec;
pub mod condition;
pub mod convert;
pub mod hresult;
pub mod ids;
pub mod order;
pub mod outcome;
pub mod tier;
mod words;

/// Generated messages and services of `fleetmend.v1`.
#[allow(clippy::all, clippy::pedantic, clippy::wildcard_enum_match_arm, missing_docs)]
pub mod v1 {
    tonic::include_proto!("fleetmend.v1");
}

/// The contract as an encoded `FileDescriptorSet`: served by reflection, read by the method-policy check.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fleetmend.bin"));

pub use action::{Action, PackageHash, ResetMethod, ResetPc, ResetSource};
pub use clock::{Clock, SystemClock};
pub use condition::Condition;
pub use hresult::HResult;
pub use ids::{DeviceId, Fence, FleetId, IncidentId, OrderId, Position};
pub use outcome::{Kb, Operation, Outcome, OutcomeResult, Source, UpdateKind, UpdateRef};
pub use tier::Tier;
