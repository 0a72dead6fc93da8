//! Everything that runs on the endpoint.

pub mod cli;
pub mod config;
pub mod detect;
pub mod enroll;
pub mod execute;
pub mod guard;
pub mod identity;
pub mod journal;
pub mod link;
pub mod outbox;
pub mod platform;
pub mod runner;
mod sabotage;
#[cfg(windows)]
pub mod service;
pub mod state;
pub mod verify;

/// Shown to the controller and in logs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
