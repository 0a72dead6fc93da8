//! Agent-facing services: from a checked request to one store call and back. No decisions here.
//!
//! SECURITY: the device comes from the connection's certificate ([`caller`]), never from a message.

mod agent;
mod directives;
mod enrollment;
mod gate;
mod ingest;
mod poison;
mod report;
mod status;

use std::sync::Arc;

use fleetmend_proto::{
    DESCRIPTORS, DeviceId,
    v1::{agent_service_server::AgentServiceServer, enrollment_server::EnrollmentServer},
};
use tonic::{Request, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

pub use agent::AgentApi;
pub use enrollment::EnrollmentApi;
pub use gate::Gate;
pub use ingest::{Ingest, IngestClosed, Taken};

use crate::{config::Limits, listen::Conn};

/// Seconds a lease lives (link time).
pub const LEASE_SECONDS: u32 = 60;

impl AgentApi {
    /// The service with its message limits.
    #[must_use]
    pub fn into_service(self, limits: &Limits) -> AgentServiceServer<Self> {
        AgentServiceServer::new(self)
            .max_decoding_message_size(limits.max_decoding.bytes())
            .max_encoding_message_size(limits.max_encoding.bytes())
    }
}

impl EnrollmentApi {
    /// The service with its message limits.
    #[must_use]
    pub fn into_service(self, limits: &Limits) -> EnrollmentServer<Self> {
        EnrollmentServer::new(self)
            .max_decoding_message_size(limits.max_decoding.bytes())
            .max_encoding_message_size(limits.max_encoding.bytes())
    }
}

/// The standard health service; the agents' service is serving as long as the process is.
#[must_use]
pub fn health() -> HealthServer<impl Health> {
    let reporter = tonic_health::server::HealthReporter::new();
    HealthServer::new(tonic_health::server::HealthService::from_health_reporter(reporter))
}

/// The standard reflection service.
#[must_use]
pub fn reflection() -> ServerReflectionServer<impl ServerReflection> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
        .expect("the built-in contract was checked at start")
}

/// The device whose certificate opened the connection.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate, or when it has expired (such a connection may only renew).
fn caller<T>(request: &Request<T>) -> Result<DeviceId, Status> {
    let conn = connection(request)?;
    if conn.expired() {
        return Err(Status::unauthenticated("the device certificate has expired: renew it first"));
    }
    device_of(conn.as_ref())
}

/// Like [`caller`], for the one call that an expired certificate may make.
/// With the hash of the certificate's key: a renewal must come from the machine that was given it.
fn caller_even_expired<T>(request: &Request<T>) -> Result<(DeviceId, [u8; 32]), Status> {
    let conn = connection(request)?;
    conn.device().zip(conn.key_hash()).ok_or_else(no_certificate)
}

fn connection<T>(request: &Request<T>) -> Result<Arc<Conn>, Status> {
    let conn = request.extensions().get::<Arc<Conn>>().cloned();
    conn.ok_or_else(|| Status::internal("connection facts are missing"))
}

fn device_of(conn: &Conn) -> Result<DeviceId, Status> {
    conn.device().ok_or_else(no_certificate)
}

fn no_certificate() -> Status {
    Status::unauthenticated("a device certificate is needed on this port")
}
