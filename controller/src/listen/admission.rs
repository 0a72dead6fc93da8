//! The first thing a request meets: which method by whom, how often, and what happens when its handler panics. One tower
//! layer for both gRPC listeners; looks at headers only.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{Conn, DeviceRate, MethodPolicy, Policy, conn::kill_soon};

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// No certificates, and one call a connection.
    Enrollment,
    Agents,
}

/// Guards every request of a listener. Made by the server builders.
#[derive(Clone, Debug)]
pub struct AdmissionLayer(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    door: Door,
    methods: MethodPolicy,
    rate: DeviceRate,
    panics: AtomicU64,
}

impl AdmissionLayer {
    pub(super) fn new(door: Door, methods: MethodPolicy, rate: DeviceRate) -> Self {
        Self(Arc::new(Rules { door, methods, rate, panics: AtomicU64::new(0) }))
    }

    /// Handlers that panicked since the start.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.0.panics.load(Ordering::Relaxed)
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Admission { inner, rules: Arc::clone(&self.0) }
    }
}

/// A service behind the guard.
#[derive(Clone, Debug)]
pub struct Admission<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S> Service<Request<Body>> for Admission<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(conn) = request.extensions().get::<Arc<Conn>>().cloned() else {
            return refuse(Status::internal("connection facts are missing"));
        };
        let first = conn.note_request();
        let only_call = (self.rules.door == Door::Enrollment && first).then(|| OnlyCall(Arc::clone(&conn)));
        if let Err(status) = self.rules.admit(&conn, request.uri().path(), first) {
            return refuse(status);
        }
        let rules = Arc::clone(&self.rules);
        let handled = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let _only_call = only_call;
            handled.await.unwrap_or_else(|_| {
                rules.panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(peer = %conn.peer(), device_id = ?conn.device(), "a request handler panicked");
                Ok(Status::internal("the controller failed on this request and has recorded it").into_http())
            })
        })
    }
}

fn refuse(status: Status) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
    Box::pin(std::future::ready(Ok(status.into_http())))
}

/// The one call of a connection. Its end closes the connection, whatever that end is: an answer, a refusal, a request body
/// that never came, or a client that took its call back.
struct OnlyCall(Arc<Conn>);

impl Drop for OnlyCall {
    fn drop(&mut self) {
        kill_soon(vec![Arc::clone(&self.0)]);
    }
}

impl Rules {
    fn admit(&self, conn: &Conn, path: &str, first: bool) -> Result<(), Status> {
        if self.door == Door::Enrollment && !first {
            return Err(Status::resource_exhausted("one call a connection on this port: open a new one"));
        }
        let policy =
            self.methods.of(path).ok_or_else(|| Status::unimplemented("this controller has no such method"))?;
        match (policy, self.door) {
            (Policy::NoCert, Door::Enrollment) => return Ok(()),
            (Policy::NoCert, Door::Agents) => return Err(Status::permission_denied("enrol on the enrolment port")),
            (Policy::Device | Policy::DeviceOrExpired, Door::Enrollment) => {
                return Err(Status::permission_denied("only enrolment is possible on this port"));
            }
            (Policy::Device | Policy::DeviceOrExpired, Door::Agents) => {}
        }
        let device =
            conn.device().ok_or_else(|| Status::unauthenticated("a device certificate is needed on this port"))?;
        if policy == Policy::Device && conn.expired() {
            return Err(Status::unauthenticated("the device certificate has expired: renew it first"));
        }
        self.rate.take(device).map_err(|wait| {
            let mut status = Status::resource_exhausted("too many requests of this device");
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
            status.metadata_mut().insert("retry-after-ms", wait.into());
            status
        })
    }
}
