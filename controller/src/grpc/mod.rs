//! Agent-facing services: from a checked request to one store call and back. No decisions here.
//!
//! SECURITY: the device comes from the connection's certificate ([`caller`]), never from a message.

mod agent;
mod directives;
mod enrollment;
mod gate;
mod ingest;
mod report;
mod status;

use std::sync::Arc;

use fleetmend_proto::DeviceId;
use tonic::{Request, Status};

pub use agent::AgentApi;
pub use enrollment::EnrollmentApi;
pub use gate::Gate;
pub use ingest::{Ingest, IngestClosed};

use crate::listen::Conn;

/// Seconds a lease lives (link time).
pub const LEASE_SECONDS: u32 = 60;

/// The device whose certificate opened the connection.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate, or when it has expired (such a connection may only renew).
fn caller<T>(request: &Request<T>) -> Result<DeviceId, Status> {
    let conn = connection(request)?;
    if conn.expired() {
        return Err(Status::unauthenticated("the device certificate has expired: renew it first"));
    }
    device(&conn)
}

/// Like [`caller`], for the one call that an expired certificate may make.
fn caller_even_expired<T>(request: &Request<T>) -> Result<DeviceId, Status> {
    device(&connection(request)?)
}

fn connection<T>(request: &Request<T>) -> Result<Arc<Conn>, Status> {
    let conn = request.extensions().get::<Arc<Conn>>().cloned();
    conn.ok_or_else(|| Status::internal("connection facts are missing"))
}

fn device(conn: &Conn) -> Result<DeviceId, Status> {
    conn.device().ok_or_else(|| Status::unauthenticated("a device certificate is needed on this port"))
}
