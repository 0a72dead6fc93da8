//! Everything that runs on the endpoint.

pub mod platform;
