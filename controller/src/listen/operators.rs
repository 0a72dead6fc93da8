//! Serves the operators' HTTPS: HTTP/1.1 and 2 over the same accept loop, with its own limits and the same drain.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use hyper::{body::Incoming as HyperBody, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{Conn, Incoming, Link};
use crate::config::OperatorLimits;

/// Serves `router` until `shutdown`, then lets open calls end for `grace`, then cuts what is left. Handlers find the
/// connection as an `Arc<Conn>` among the request's extensions. `max_body` is the router's own: it tells people in its words.
pub async fn serve_operators(
    router: Router,
    limits: &OperatorLimits,
    mut incoming: Incoming,
    shutdown: CancellationToken,
    grace: Duration,
) {
    let registry = incoming.registry.clone();
    let builder = Arc::new(builder(limits));
    let open = TaskTracker::new();
    loop {
        let link = tokio::select! {
            link = incoming.next() => link,
            () = shutdown.cancelled() => None,
        };
        let Some(link) = link else { break };
        let serving = serve_one(link, router.clone(), Arc::clone(&builder), limits.request_timeout.0, shutdown.clone());
        open.spawn(serving);
    }
    drop(incoming);
    open.close();
    tokio::select! {
        () = open.wait() => {}
        () = sleep(grace) => {
            let cut = registry.kill_all();
            tracing::info!(connections = cut, "operator connections cut: they did not end within the grace of the drain");
        }
    }
}

fn builder(limits: &OperatorLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let headers = limits.max_header_list.bytes();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.first_request_timeout.0)
        // hyper wants at least 8 KiB here.
        .max_buf_size(headers.max(8 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_list.0)
        .max_pending_accept_reset_streams(limits.max_pending_reset_streams)
        .max_local_error_reset_streams(limits.max_local_error_reset_streams)
        .keep_alive_interval(limits.keepalive_interval.or_off())
        .keep_alive_timeout(limits.keepalive_timeout.0);
    builder
}

async fn serve_one(
    link: Link,
    router: Router,
    builder: Arc<Builder<TokioExecutor>>,
    request_timeout: Duration,
    shutdown: CancellationToken,
) {
    let conn = Arc::clone(link.conn());
    let service = service_fn({
        let conn = Arc::clone(&conn);
        move |request: hyper::Request<HyperBody>| {
            answer(router.clone(), Arc::clone(&conn), request.map(Body::new), request_timeout)
        }
    });
    let serving = builder.serve_connection(TokioIo::new(link), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %conn.peer(), error, "operator connection failed");
    }
}

async fn answer(
    router: Router,
    conn: Arc<Conn>,
    mut request: Request,
    request_timeout: Duration,
) -> Result<Response, Infallible> {
    conn.note_request();
    request.extensions_mut().insert(conn);
    match timeout(request_timeout, router.oneshot(request)).await {
        Ok(answer) => answer,
        Err(_) => Ok((StatusCode::SERVICE_UNAVAILABLE, "the request took too long; try again later").into_response()),
    }
}
