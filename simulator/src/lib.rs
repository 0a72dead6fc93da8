//! Simulated PCs that run the real agent code against the real controller: for the demo, the fault tests and load.

pub mod clock;
pub mod pc;

pub use clock::ScaledClock;
pub use pc::effects;
