//! One HTTP/2 connection to the controller. It never reconnects by itself: when to try again is `Backoff`'s alone.
//!
//! One task and one socket a connection; clones of a [`Channel`] share it, and it ends with the last of them.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use fleetmend_proto::v1::{agent_service_client::AgentServiceClient, enrollment_client::EnrollmentClient};
use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::{
    Endpoint, LinkError, Tls,
    alert::{SeenAlert, Watched},
    failure,
};

/// Largest message either side may send, in bytes: the controller's limit too.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// Time-outs and keepalive of a connection. Link time: always real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelSettings {
    /// For TCP, TLS and HTTP/2 set-up together.
    pub connect_timeout: Duration,
    /// For one unary call.
    pub call_timeout: Duration,
    /// Between pings; the controller's presence check counts on them.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            call_timeout: Duration::from_secs(20),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// A live connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Channel {
    requests: http2::SendRequest<Body>,
    origin: Uri,
    alert: SeenAlert,
}

/// Connects and completes TLS and HTTP/2 set-up.
///
/// # Errors
/// A [`LinkError`] that says what stands in the way and what to do.
pub async fn connect(endpoint: &Endpoint, tls: &Tls, settings: &ChannelSettings) -> Result<Channel, LinkError> {
    match tokio::time::timeout(settings.connect_timeout, dial(endpoint, tls, settings)).await {
        Ok(result) => result,
        Err(_) => Err(LinkError::Silent { endpoint: endpoint.to_string(), limit: settings.connect_timeout }),
    }
}

async fn dial(endpoint: &Endpoint, tls: &Tls, settings: &ChannelSettings) -> Result<Channel, LinkError> {
    let unreachable = |source| LinkError::Unreachable { endpoint: endpoint.to_string(), source };
    let tcp = TcpStream::connect((endpoint.host(), endpoint.port())).await.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let connector = TlsConnector::from(tls.0.clone());
    let stream = connector
        .connect(endpoint.server_name(), tcp)
        .await
        .map_err(|error| failure::from_handshake(endpoint, error))?;
    let alert = SeenAlert::default();
    let stream = Watched::new(stream, alert.clone());
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(64 * 1024)
        .max_frame_size(16 * 1024)
        .max_header_list_size(8 * 1024)
        .max_send_buf_size(64 * 1024)
        .initial_max_send_streams(4)
        .max_concurrent_reset_streams(4)
        .keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| match alert.get().and_then(failure::from_alert) {
            Some(error) => error,
            None => LinkError::Http { endpoint: endpoint.to_string(), source },
        })?;
    let name = endpoint.to_string();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(controller = %name, error = %failure::chain(&error), "connection ended");
        }
    });
    Ok(Channel { requests, origin: endpoint.origin(), alert })
}

impl Channel {
    /// The agents' service over this connection.
    #[must_use]
    pub fn agent(&self) -> AgentServiceClient<Self> {
        AgentServiceClient::with_origin(self.clone(), self.origin.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The enrolment service over this connection.
    #[must_use]
    pub fn enrollment(&self) -> EnrollmentClient<Self> {
        EnrollmentClient::with_origin(self.clone(), self.origin.clone()).max_decoding_message_size(32 * 1024)
    }

    /// What a failed call means: HTTP/2 hides why the connection below it broke.
    #[must_use]
    pub fn failure(&self, status: tonic::Status) -> LinkError {
        match self.alert.get() {
            Some(alert) => failure::from_alert(alert).unwrap_or_else(|| status.into()),
            None => status.into(),
        }
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

impl tower_service::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}
