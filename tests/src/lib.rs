//! What the tests share: real processes, private databases, in-process fleets. Fakes live here and in `simulator/` only.

pub mod fixtures;
pub mod fleet;
pub mod postgres;
pub mod process;
pub mod tls;
