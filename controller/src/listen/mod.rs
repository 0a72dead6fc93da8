//! The three listeners: who may connect, how fast, for how long, and which calls each connection may make. `serve` starts
//! them; `grpc` and `http` find the facts of a connection as an `Arc<Conn>` in each request's extensions.
//!
//! The accept loop is our own, because tonic's has no limit on connections, none on handshakes and no time-out for them, and
//! no way to cut one connection. Nothing here looks into the store or at a message.

mod accept;
mod admission;
mod conn;
mod link;
mod method_policy;
mod operators;
mod rate;
mod server;

pub use accept::{AcceptLimits, BindError, Incoming, Listener};
pub use admission::AdmissionLayer;
pub use conn::{Conn, ConnectionRegistry};
pub use link::Link;
pub use method_policy::{METHOD_POLICY, MethodPolicy, Policy, PolicyGap};
pub use operators::serve_operators;
pub use rate::{DeviceRate, EnrollmentRate};
pub use server::{GuardedRouter, GuardedServer, agents_server_builder, enrollment_server_builder, serve_grpc};

#[cfg(test)]
mod tests;
