//! TLS clients of every kind for tests: good ones, and those a listener must turn away.

use std::{io, net::SocketAddr, sync::Arc};

use chrono::{DateTime, Utc};
use fleetmend_controller::pki::Issuer;
use fleetmend_proto::{DeviceId, FleetId};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// A device's key and certificate chain.
#[derive(Debug)]
pub struct Identity {
    pub device: DeviceId,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { device: self.device, chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// A new key with a certificate by `issuer`, as of `now`.
    ///
    /// # Errors
    /// When the issuer refuses.
    pub fn issued(issuer: &Issuer, fleet: FleetId, device: DeviceId, now: DateTime<Utc>) -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issued = issuer.issue(&request(&key)?, fleet, device, now)?;
        let chain = issued.chain.into_iter().map(CertificateDer::from).collect();
        Ok(Self { device, chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) })
    }
}

/// A certificate request (DER) for a key.
///
/// # Errors
/// When the key cannot sign.
pub fn request(key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    Ok(CertificateParams::default().serialize_request(key)?.der().to_vec())
}

/// A client's TLS settings.
#[derive(Clone, Debug)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// TLS 1.3 and HTTP/2, as agents do it; without `identity` as a device that joins.
    ///
    /// # Errors
    /// When the root or the identity is unusable.
    pub fn new(server_root_pem: &[u8], identity: Option<&Identity>) -> anyhow::Result<Self> {
        Self::speaking(server_root_pem, identity, &TLS13)
    }

    /// Another version of TLS.
    ///
    /// # Errors
    /// As [`TlsClient::new`].
    pub fn speaking(
        server_root_pem: &[u8],
        identity: Option<&Identity>,
        version: &'static SupportedProtocolVersion,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(server_root_pem) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])?
            .with_root_certificates(roots);
        let mut config = match identity {
            Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// The same for HTTP/1.1.
    #[must_use]
    pub fn http1(&self) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    /// Connects and shakes hands. With TLS 1.3 a server that refuses the client's certificate is seen by the first read only.
    ///
    /// # Errors
    /// When the server cannot be reached or the handshake fails.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await
    }

    /// A gRPC channel with one connection, open now.
    ///
    /// # Errors
    /// When the connection cannot be made.
    pub async fn channel(&self, addr: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let tls = self.clone();
        let connect = tower::service_fn(move |_| {
            let tls = tls.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(tls.connect(addr).await?)) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connect).await
    }
}
