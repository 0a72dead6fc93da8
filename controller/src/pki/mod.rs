//! Keys and certificates: what `fleetmend init` makes, what devices are given, and what the three listeners show and demand.
//! Called by `cli::init`, `grpc` (issuing) and `serve` (TLS settings). Knows nothing of the store: who may have a
//! certificate is decided elsewhere.
//!
//! Two trees on separate roots, so that the online agent CA cannot forge the controller:
//! server root (offline) -> server certificate; agent root (offline) -> agent CA (online) -> device certificates.

mod barred;
mod certificate;
mod files;
mod init;
mod issuer;
mod tls;

pub use barred::Barred;
pub use certificate::{DeviceCertificate, NotADevice};
pub use init::{InitError, InitOptions, Initialised, init, write_secret};
pub use issuer::{CERTIFICATE_LIFE, IssueError, Issued, Issuer, RENEWAL_GRACE};
pub use tls::{ServerTls, TlsSettings};

use std::{io, path::PathBuf};

use fleetmend_proto::{FleetId, order::OrderKey};

use crate::config::Config;

/// Why key material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read {path}: `fleetmend init` makes it, and the controller's user must be able to read it")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "{path} can be read by everybody on this machine: take that right away (chmod o= {path}) and replace the key"
    )]
    Exposed { path: PathBuf },
    #[error("{path} does not hold {expected}")]
    Malformed { path: PathBuf, expected: &'static str },
    #[error("key and certificate in {path} do not work together")]
    Unusable { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// The key that signs orders, read from its file.
///
/// # Errors
/// When the file cannot be read, is open to everybody, or holds no seed.
pub fn order_key(config: &Config) -> Result<OrderKey, PkiError> {
    let path = &config.files.order_key;
    let text = files::read_secret(path)?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed)
        .map_err(|_| PkiError::Malformed { path: path.clone(), expected: "a seed of 32 bytes in hex" })?;
    Ok(OrderKey::from_seed(order_key_name(config.fleet), seed))
}

/// The name under which devices of a fleet know its order key.
fn order_key_name(fleet: FleetId) -> String {
    format!("fleetmend-orders-{fleet}")
}

#[cfg(test)]
mod tests;
