//! The gRPC servers of the agents' and the enrolment listener: every HTTP/2 setting stated, none left to tonic, whose
//! defaults lift hyper's own protection; and their end: a graceful drain with a limit.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tower::layer::util::{Identity, Stack};

use super::{AdmissionLayer, DeviceRate, Incoming, MethodPolicy, admission::Door};
use crate::config::Limits;

/// A tonic server whose requests pass the admission layer first.
pub type GuardedServer = Server<Stack<AdmissionLayer, Identity>>;
/// The same with its services.
pub type GuardedRouter = Router<Stack<AdmissionLayer, Identity>>;

/// What is left between cutting the last connections and giving up on them.
const AFTER_CUT: Duration = Duration::from_secs(2);

/// The server for devices. Callers set `max_decoding` and `max_encoding` of the limits on each service they add.
#[must_use]
pub fn agents_server_builder(limits: &Limits, methods: MethodPolicy) -> GuardedServer {
    builder(limits, AdmissionLayer::new(Door::Agents, methods, rate(limits)))
}

/// The server for devices that join: the same, but no certificates and one call a connection.
#[must_use]
pub fn enrollment_server_builder(limits: &Limits, methods: MethodPolicy) -> GuardedServer {
    builder(limits, AdmissionLayer::new(Door::Enrollment, methods, rate(limits)))
}

fn rate(limits: &Limits) -> DeviceRate {
    DeviceRate::new(limits.device_messages_per_minute, limits.device_burst)
}

fn builder(limits: &Limits, admission: AdmissionLayer) -> GuardedServer {
    Server::builder()
        .accept_http1(false)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .http2_max_pending_accept_reset_streams(Some(limits.max_pending_reset_streams))
        .http2_max_local_error_reset_streams(Some(limits.max_local_error_reset_streams))
        .http2_max_header_list_size(limits.max_header_list.0)
        .initial_stream_window_size(limits.stream_window.0)
        .initial_connection_window_size(limits.connection_window.0)
        .http2_adaptive_window(Some(false))
        .max_frame_size(limits.max_frame.0)
        .http2_keepalive_interval(limits.keepalive_interval.or_off())
        .http2_keepalive_timeout(Some(limits.keepalive_timeout.0))
        // Ends with the response headers (tonic's GrpcTimeout wraps the handler's future, not the body): a directive
        // stream is not cut by it.
        .timeout(limits.unary_timeout.0)
        .concurrency_limit_per_connection(limits.concurrency_per_connection)
        .load_shed(true)
        // Connections end by our own Drain directive: tonic's connection age has no jitter.
        .layer(admission)
}

/// Serves until `shutdown`, then lets open calls end for `grace`, then cuts what is left.
///
/// # Errors
/// When tonic cannot serve at all.
pub async fn serve_grpc(
    router: GuardedRouter,
    incoming: Incoming,
    shutdown: CancellationToken,
    grace: Duration,
) -> Result<(), tonic::transport::Error> {
    let registry = incoming.registry.clone();
    let serving = router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = serving => ended,
        () = async {
            shutdown.cancelled().await;
            sleep(grace).await;
            let cut = registry.kill_all();
            tracing::info!(connections = cut, "connections cut: they did not end within the grace of the drain");
            sleep(AFTER_CUT).await;
        } => Ok(()),
    }
}
