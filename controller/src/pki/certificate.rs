//! Reading the identity out of a device certificate: its one URI name, and nothing else in it.

use chrono::{DateTime, Utc};
use fleetmend_proto::{DeviceId, FleetId};
use sha2::{Digest as _, Sha256};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

/// What the controller takes from a certificate that its agent CA signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceCertificate {
    pub device: DeviceId,
    pub not_after: DateTime<Utc>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub key_hash: [u8; 32],
}

/// A certificate that names no device of this fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotADevice {
    #[error("certificate is malformed")]
    Malformed,
    #[error("certificate must bear exactly one name, the device's URI")]
    Names,
    #[error("certificate belongs to another fleet")]
    OtherFleet,
}

/// The URI that stands in a device's certificate.
pub(super) fn device_uri(fleet: FleetId, device: DeviceId) -> String {
    format!("fleetmend://{fleet}/device/{device}")
}

impl DeviceCertificate {
    /// Reads a certificate. Verifies no signature and no time: TLS did that, or the caller must.
    ///
    /// # Errors
    /// [`NotADevice`] when it does not name exactly one device of `fleet`.
    pub fn read(der: &[u8], fleet: FleetId) -> Result<Self, NotADevice> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| NotADevice::Malformed)?;
        if !rest.is_empty() {
            return Err(NotADevice::Malformed);
        }
        let device = device_of(&certificate, fleet)?;
        let not_after = certificate.validity().not_after.timestamp();
        let not_after = DateTime::from_timestamp(not_after, 0).ok_or(NotADevice::Malformed)?;
        Ok(Self { device, not_after, key_hash: Sha256::digest(certificate.public_key().raw).into() })
    }
}

fn device_of(certificate: &X509Certificate<'_>, fleet: FleetId) -> Result<DeviceId, NotADevice> {
    let names = certificate.subject_alternative_name().map_err(|_| NotADevice::Malformed)?.ok_or(NotADevice::Names)?;
    let [GeneralName::URI(uri)] = names.value.general_names[..] else {
        return Err(NotADevice::Names);
    };
    let (of_fleet, device) =
        uri.strip_prefix("fleetmend://").and_then(|rest| rest.split_once("/device/")).ok_or(NotADevice::Names)?;
    if of_fleet != fleet.to_string() {
        return Err(NotADevice::OtherFleet);
    }
    let device: DeviceId = device.parse().map_err(|_| NotADevice::Names)?;
    // One spelling only: what is compared as text elsewhere must not have two forms.
    (device_uri(fleet, device) == uri).then_some(device).ok_or(NotADevice::Names)
}
