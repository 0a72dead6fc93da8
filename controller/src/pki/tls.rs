//! TLS settings of the three listeners: version 1.3 only, ring, no resumption, no early data.
//!
//! SECURITY: a resumed session would skip the check of the device's certificate, so none can be resumed. An expired
//! certificate is let in for [`RENEWAL_GRACE`], and its connection may do nothing but renew (`listen::admission`).

use std::sync::Arc;

use chrono::DateTime;
use fleetmend_proto::FleetId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{Barred, DeviceCertificate, NotADevice, PkiError, RENEWAL_GRACE, files};
use crate::config::Config;

/// Application protocols a listener speaks.
const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// What a listener needs for TLS.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub config: Arc<ServerConfig>,
    /// The fleet whose devices must show a certificate; `None` where nobody shows one.
    pub devices_of: Option<FleetId>,
}

/// The three listeners' TLS, read from the files that the configuration names.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    pub enrollment: ServerTls,
    pub agents: ServerTls,
    pub operators: ServerTls,
    /// Devices that the agents' listener turns away.
    pub barred: Barred,
}

impl TlsSettings {
    /// # Errors
    /// When a file cannot be read, is open to everybody, or key and certificate do not fit.
    pub fn load(config: &Config) -> Result<Self, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let open = |alpn: &[&[u8]]| {
            let config = server_config(config, &provider, None, alpn)?;
            Ok(ServerTls { config, devices_of: None })
        };
        let barred = Barred::default();
        let verifier = device_verifier(config, &provider, barred.clone())?;
        Ok(Self {
            barred,
            enrollment: open(&[H2])?,
            operators: open(&[H2, HTTP1])?,
            agents: ServerTls {
                config: server_config(config, &provider, Some(verifier), &[H2])?,
                devices_of: Some(config.fleet),
            },
        })
    }
}

fn server_config(
    config: &Config,
    provider: &Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, PkiError> {
    let path = &config.files.server;
    let unusable = |error: Error| PkiError::Unusable { path: path.clone(), source: error.into() };
    let chain = files::read_chain(path)?;
    let key = files::read_key_pair(&config.files.server_key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut tls = builder.with_single_cert(chain, key).map_err(unusable)?;
    tls.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    Ok(Arc::new(tls))
}

fn device_verifier(
    config: &Config,
    provider: &Arc<CryptoProvider>,
    barred: Barred,
) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    let path = &config.files.agent_ca;
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| PkiError::Unusable { path: path.clone(), source };
    let root = files::read_chain(path)?.pop();
    let root = root.ok_or(PkiError::Malformed { path: path.clone(), expected: "certificates in PEM" })?;
    let mut roots = RootCertStore::empty();
    roots.add(root).map_err(|error| unusable(error.into()))?;
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| unusable(error.into()))?;
    Ok(Arc::new(DeviceVerifier { inner, fleet: config.fleet, barred }))
}

/// A chain to the agent root, a device of this fleet, and a validity that may have ended a while ago.
#[derive(Debug)]
struct DeviceVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    fleet: FleetId,
    barred: Barred,
}

impl ClientCertVerifier for DeviceVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let certificate = DeviceCertificate::read(end_entity, self.fleet).map_err(|error| match error {
            NotADevice::Malformed => Error::InvalidCertificate(CertificateError::BadEncoding),
            NotADevice::Names | NotADevice::OtherFleet => {
                Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
            }
        })?;
        let verified = self.inner.verify_client_cert(end_entity, intermediates, verified_at(&certificate, now))?;
        // SECURITY: last, so that only the holder of a certificate of ours learns that it is barred.
        if self.barred.contains(certificate.device) {
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The instant at which the chain is judged: now, or, within the grace, the last one at which the device was valid.
fn verified_at(certificate: &DeviceCertificate, now: UnixTime) -> UnixTime {
    let wall = i64::try_from(now.as_secs()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let end = u64::try_from(certificate.not_after.timestamp()).unwrap_or_default();
    match wall {
        Some(wall) if certificate.not_after < wall && wall <= certificate.not_after + RENEWAL_GRACE => {
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(end))
        }
        _ => now,
    }
}
