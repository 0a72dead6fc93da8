//! Simulated PCs that run the real agent code against the real controller: for the demo, the fault tests and load.
//!
//! `pc` models one PC, `fleet` runs many, `demo` puts a controller beside them, `cli` is the binary's command line.

pub mod cli;
pub mod clock;
pub mod demo;
pub mod fleet;
pub mod pc;

pub use clock::ScaledClock;
pub use pc::effects;
