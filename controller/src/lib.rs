//! The controller: records what devices report, decides, orders, verifies, and shows people all of it.

mod chain;
pub mod cli;
pub mod config;
pub mod grpc;
pub mod http;
pub mod listen;
pub mod nudge;
pub mod packages;
pub mod pki;
pub mod reconcile;
mod replica;
mod sabotage;
pub mod secret;
pub mod serve;
pub mod store;
pub mod streams;

pub use serve::{Controller, serve};
