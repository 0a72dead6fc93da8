//! Many simulated devices in one process: *full* ones run the real agent on a model of a PC; *light* ones speak the real
//! protocol over real TLS and have neither disk nor model, for load.

pub mod flush;
pub mod full;
pub mod light;

pub use full::{Fleet, FleetSettings, MAX_FULL};
