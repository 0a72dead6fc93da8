//! What Fleetmend knows and decides, and nothing else: no clock, no randomness, no I/O. Time and ids come in as
//! arguments, so that every decision can be made again from its stored inputs.

pub mod catalogue;
pub mod drawing;
pub mod incident;
pub mod ladder;
pub mod matching;
pub mod order;
pub mod policy;
pub mod rules;
pub mod window;
