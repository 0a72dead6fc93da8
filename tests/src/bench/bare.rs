//! The bare limit: tonic with its own defaults over mutual TLS, the product's messages and certificates, and nothing behind
//! them. It answers a report at once and keeps a stream open without ever sending on it.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::Context as _;
use fleetmend_proto::v1;
use futures::stream::{Pending, pending};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
    transport::{Server, server::Connected},
};
use tonic_prost::ProstCodec;
use tower::Service;

#[derive(clap::Args)]
pub struct ServerArgs {
    /// A data folder of `fleetmend init`, for its certificates.
    #[arg(long)]
    data_dir: PathBuf,
}

#[derive(Clone)]
struct Bare;

/// A TLS connection in the form that tonic's server takes.
struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Any method but `Subscribe`: a report, answered at once.
struct Report;

impl UnaryService<v1::ReportRequest> for Report {
    type Response = v1::ReportResponse;
    type Future = Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<v1::ReportRequest>) -> Self::Future {
        let acked_seq = request.get_ref().outcomes.last().map_or(0, |outcome| outcome.seq);
        ready(Ok(Response::new(v1::ReportResponse { acked_seq, ..Default::default() })))
    }
}

/// A stream that stays open and silent.
struct Subscribe;

impl ServerStreamingService<v1::Hello> for Subscribe {
    type Response = v1::Directive;
    type ResponseStream = Pending<Result<v1::Directive, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<v1::Hello>) -> Self::Future {
        ready(Ok(Response::new(pending())))
    }
}

/// By hand, since generated code has the product's codec: tonic's own is part of the limit.
impl Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path().ends_with("/Subscribe") {
                let mut grpc = Grpc::new(ProstCodec::<v1::Directive, v1::Hello>::default());
                Ok(grpc.server_streaming(Subscribe, request).await)
            } else {
                let mut grpc = Grpc::new(ProstCodec::<v1::ReportResponse, v1::ReportRequest>::default());
                Ok(grpc.unary(Report, request).await)
            }
        })
    }
}

impl NamedService for Bare {
    const NAME: &'static str = "fleetmend.v1.AgentService";
}

/// Prints its port as JSON and serves until it is killed.
pub async fn serve(args: ServerArgs) -> anyhow::Result<()> {
    let pki = args.data_dir.join("pki");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(pki.join("agent_ca.pem"))? {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let chain = CertificateDer::pem_file_iter(pki.join("server.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(pki.join("server.key")).context("reading the server key")?;
    let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", serde_json::json!({"port": listener.local_addr()?.port()}));
    let (accepted, incoming) = tokio::sync::mpsc::channel::<std::io::Result<_>>(256);
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let _ = socket.set_nodelay(true);
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(socket).await {
                    let _ = accepted.send(Ok(Connection(stream))).await;
                }
            });
        }
    });
    Server::builder().add_service(Bare).serve_with_incoming(ReceiverStream::new(incoming)).await?;
    Ok(())
}
