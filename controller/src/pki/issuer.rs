//! The online agent CA: makes device certificates from requests. SECURITY: takes the public key from a request and nothing
//! else; the name is the device id that the controller chose.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_proto::{DeviceId, FleetId};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY},
    prelude::{FromDer as _, X509CertificationRequest},
};

use super::{PkiError, certificate::device_uri, files};
use crate::config::Config;

/// How long a device certificate is valid.
pub const CERTIFICATE_LIFE: TimeDelta = TimeDelta::days(14);
/// Certificates begin this long before they are made, for devices whose clock is behind.
pub(super) const BACKDATED: TimeDelta = TimeDelta::hours(24);
/// An expired certificate may still renew itself for this long: laptops sleep for weeks.
pub const RENEWAL_GRACE: TimeDelta = TimeDelta::days(90);

const MAX_CSR: usize = 4 * 1024;

/// Issues device certificates. One a process.
pub struct Issuer {
    ca: rcgen::Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: DateTime<Utc>,
}

/// A new device certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// DER, the device's certificate first, then the agent CA's. The root is left out: who verifies has it.
    pub chain: Vec<Vec<u8>>,
    pub not_after: DateTime<Utc>,
    /// SHA-256 of the public key (SubjectPublicKeyInfo).
    pub key_hash: [u8; 32],
}

/// Why no certificate was issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    #[error("certificate request is malformed or larger than {MAX_CSR} bytes")]
    Malformed,
    #[error("certificate request is not signed by its own key")]
    BadSignature,
    #[error("certificate request must hold an ECDSA key on curve P-256")]
    KeyType,
    #[error("the agent CA has expired")]
    CaExpired,
    #[error("cannot sign the certificate: {0}")]
    Signing(String),
}

impl Issuer {
    /// Reads the agent CA.
    ///
    /// # Errors
    /// When certificate or key cannot be read or do not belong together.
    pub fn load(config: &Config) -> Result<Self, PkiError> {
        let path = &config.files.agent_ca;
        let malformed =
            || PkiError::Malformed { path: path.clone(), expected: "the certificate of the agent CA, then its root" };
        let certificate = files::read_chain(path)?.into_iter().next().ok_or_else(malformed)?;
        let key = files::read_key_pair(&config.files.agent_ca_key)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|_| malformed())?;
        if parsed.public_key().subject_public_key.data != rcgen::PublicKeyData::der_bytes(&key) {
            let source = "the key belongs to another certificate".into();
            return Err(PkiError::Unusable { path: path.clone(), source });
        }
        let not_after = DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0).ok_or_else(malformed)?;
        let ca = rcgen::Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| PkiError::Unusable { path: path.clone(), source: error.into() })?;
        Ok(Self { ca, certificate, not_after })
    }

    /// When the agent CA itself ends.
    #[must_use]
    pub fn not_after(&self) -> DateTime<Utc> {
        self.not_after
    }

    /// Makes the certificate of `device` for the key in a certificate request (PKCS #10, DER).
    ///
    /// # Errors
    /// [`IssueError`]; the text can be shown to the device.
    pub fn issue(
        &self,
        csr_der: &[u8],
        fleet: FleetId,
        device: DeviceId,
        now: DateTime<Utc>,
    ) -> Result<Issued, IssueError> {
        let key = requested_key(csr_der)?;
        let not_after = (now + CERTIFICATE_LIFE).min(self.not_after);
        if not_after <= now {
            return Err(IssueError::CaExpired);
        }
        let signing = |error: rcgen::Error| IssueError::Signing(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // For people who look at a certificate; nothing reads it.
        params.distinguished_name.push(DnType::CommonName, "Fleetmend device");
        params.subject_alt_names = vec![SanType::URI(device_uri(fleet, device).try_into().map_err(signing)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial());
        set_validity(&mut params, now - BACKDATED, not_after);
        let leaf = params.signed_by(&key.info, &self.ca).map_err(signing)?;
        Ok(Issued { chain: vec![leaf.der().to_vec(), self.certificate.to_vec()], not_after, key_hash: key.hash })
    }
}

struct RequestedKey {
    info: SubjectPublicKeyInfo,
    hash: [u8; 32],
}

fn requested_key(csr_der: &[u8]) -> Result<RequestedKey, IssueError> {
    if csr_der.len() > MAX_CSR {
        return Err(IssueError::Malformed);
    }
    let (rest, request) = X509CertificationRequest::from_der(csr_der).map_err(|_| IssueError::Malformed)?;
    if !rest.is_empty() {
        return Err(IssueError::Malformed);
    }
    let public = &request.certification_request_info.subject_pki;
    let curve = public.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if public.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(IssueError::KeyType);
    }
    request.verify_signature().map_err(|_| IssueError::BadSignature)?;
    let info = SubjectPublicKeyInfo::from_der(public.raw).map_err(|_| IssueError::KeyType)?;
    Ok(RequestedKey { info, hash: Sha256::digest(public.raw).into() })
}

/// 16 random bytes, positive: RFC 5280 4.1.2.2.
pub(super) fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

/// Times before 1970 count as 1970.
pub(super) fn set_validity(params: &mut CertificateParams, from: DateTime<Utc>, to: DateTime<Utc>) {
    let since_1970 = |at: DateTime<Utc>| Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or_default());
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970(from);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(to);
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}
