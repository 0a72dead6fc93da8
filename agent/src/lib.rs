//! Everything that runs on the endpoint.

pub mod cli;
pub mod platform;
