//! Everything that runs on the endpoint.

pub mod cli;
pub mod detect;
pub mod enroll;
pub mod identity;
pub mod link;
pub mod platform;

/// Shown to the controller and in logs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
