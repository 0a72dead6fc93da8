//! TLS of the agent: version 1.3 only, HTTP/2 only, the controller's chain pinned to a private root.
//!
//! SECURITY: no system roots, no proxy CA from the environment, no switch that turns verification off.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::identity::Identity;

/// The root that signs the controller's certificate. Made once a process; clones are cheap and share everything.
#[derive(Clone)]
pub struct ServerRoot {
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
}

/// Why a server root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerRootError {
    #[error("server root {path} cannot be read: it comes with the installation, install it again")]
    Unreadable {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("server root holds no certificate: expected PEM, as `fleetmend init` wrote it")]
    Empty,
    #[error("server root is no valid certificate: expected PEM, as `fleetmend init` wrote it")]
    Invalid {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// TLS settings of one device, or of a PC that has no identity yet. Clones share.
#[derive(Clone)]
pub struct Tls(pub(super) Arc<ClientConfig>);

impl ServerRoot {
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn from_file(path: &Path) -> Result<Self, ServerRootError> {
        let unreadable = |source| ServerRootError::Unreadable { path: path.display().to_string(), source };
        Self::from_pem(&std::fs::read(path).map_err(unreadable)?)
    }

    /// # Errors
    /// When the text holds no certificate or a broken one.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ServerRootError> {
        let invalid = |source: Box<dyn std::error::Error + Send + Sync>| ServerRootError::Invalid { source };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|e| invalid(e.into()))?).map_err(|e| invalid(e.into()))?;
        }
        if roots.is_empty() {
            return Err(ServerRootError::Empty);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| invalid(e.into()))?;
        Ok(Self { provider, verifier })
    }

    /// For the enrolment listener: the server is verified, the client shows nothing.
    ///
    /// # Errors
    /// When this build of rustls lacks TLS 1.3.
    pub fn without_identity(&self) -> Result<Tls, rustls::Error> {
        Ok(finished(self.builder()?.with_no_client_auth()))
    }

    /// For the agents' listener: mutual TLS with the device's certificate.
    ///
    /// # Errors
    /// When the key cannot be used or does not fit the certificate.
    pub fn with_identity(&self, identity: &Identity) -> Result<Tls, rustls::Error> {
        let key = PrivateKeyDer::Pkcs8(identity.key_der().to_vec().into());
        Ok(finished(self.builder()?.with_client_auth_cert(identity.chain().to_vec(), key)?))
    }

    fn builder(&self) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        Ok(builder.with_protocol_versions(&[&rustls::version::TLS13])?.with_webpki_verifier(Arc::clone(&self.verifier)))
    }
}

fn finished(mut config: ClientConfig) -> Tls {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // SECURITY: a resumed session would skip the controller's check of the certificate; it also costs memory.
    config.resumption = Resumption::disabled();
    Tls(Arc::new(config))
}

impl std::fmt::Debug for ServerRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerRoot").field("schemes", &self.verifier.supported_verify_schemes().len()).finish()
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}
