//! A fleet's keys, and its gRPC listeners over services that answer, wait or fail as a test needs.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use axum::Router;
use chrono::{DateTime, Utc};
use fleetmend_controller::{
    config::{Config, Limits, OperatorLimits},
    listen::{
        ConnectionRegistry, GuardedRouter, Listener, MethodPolicy, agents_server_builder, enrollment_server_builder,
        serve_grpc, serve_operators,
    },
    pki::{self, InitOptions, Issuer, ServerTls, TlsSettings},
};
use fleetmend_proto::{
    DeviceId,
    clock::wall_now,
    v1::{
        self,
        agent_service_client::AgentServiceClient,
        agent_service_server::{AgentService, AgentServiceServer},
        enrollment_server::{Enrollment, EnrollmentServer},
    },
};
use fleetmend_tests::tls::{Identity, TlsClient};
use futures::{Stream, StreamExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, transport::Channel};
use uuid::Uuid;

/// Longer than any wait of these tests: reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Answers `Report` and `Renew`, never answers `Begin`, panics in `UpdateOrder`; `Subscribe` sends a directive now and then.
struct Answers {
    tick: Duration,
}

/// Larger than any `max_encoding` a test sets.
pub const LARGE_GENERATION: i64 = 99;

#[tonic::async_trait]
impl AgentService for Answers {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::Directive, Status>> + Send>>;

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let generation = request.into_inner().generation;
        let certificate_chain = match generation {
            LARGE_GENERATION => vec![vec![0; 100_000].into()],
            _ => Vec::new(),
        };
        Ok(Response::new(v1::RenewResponse { certificate_chain, generation }))
    }

    async fn report(&self, _: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        Ok(Response::new(v1::ReportResponse::default()))
    }

    async fn subscribe(&self, _: Request<v1::Hello>) -> Result<Response<Self::SubscribeStream>, Status> {
        let ticks = futures::stream::unfold(tokio::time::interval(self.tick), |mut interval| async move {
            interval.tick().await;
            Some((Ok(v1::Directive::default()), interval))
        });
        Ok(Response::new(Box::pin(ticks)))
    }

    async fn update_order(
        &self,
        _: Request<v1::UpdateOrderRequest>,
    ) -> Result<Response<v1::UpdateOrderResponse>, Status> {
        panic!("a handler that panics, on purpose")
    }

    async fn begin(&self, _: Request<v1::BeginRequest>) -> Result<Response<v1::BeginResponse>, Status> {
        futures::future::pending().await
    }
}

#[tonic::async_trait]
impl Enrollment for Answers {
    async fn enroll(&self, _: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        Ok(Response::new(v1::EnrollResponse::default()))
    }
}

/// Keys and certificates of a fleet that exists for one test.
pub struct Fleet {
    pub config: Config,
    pub issuer: Issuer,
    pub server_root: Vec<u8>,
    tls: TlsSettings,
    _folder: tempfile::TempDir,
}

impl Fleet {
    pub fn new() -> Self {
        Self::made_at(wall_now())
    }

    /// A fleet that has existed for a while: its CA was valid when old certificates were.
    pub fn made_at(then: DateTime<Utc>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let made = pki::init(&InitOptions::new(folder.path(), then)).expect("a fleet");
        Self {
            issuer: Issuer::load(&made.config).expect("an agent CA"),
            server_root: std::fs::read(&made.server_root).expect("a root"),
            tls: TlsSettings::load(&made.config).expect("TLS"),
            config: made.config,
            _folder: folder,
        }
    }

    pub fn identity(&self, now: DateTime<Utc>) -> Identity {
        Identity::issued(&self.issuer, self.config.fleet, DeviceId(Uuid::new_v4()), now).expect("an identity")
    }

    /// TLS of a device that enrolled just now.
    pub fn device(&self) -> TlsClient {
        self.client(&self.identity(wall_now()))
    }

    pub fn client(&self, identity: &Identity) -> TlsClient {
        TlsClient::new(&self.server_root, Some(identity)).expect("a client")
    }

    pub fn nobody(&self) -> TlsClient {
        TlsClient::new(&self.server_root, None).expect("a client")
    }

    /// The agents' listener under `limits`.
    pub fn agents(&self, limits: &Limits) -> Running {
        self.agents_with_grace(limits, GRACE)
    }

    /// The same, with another time for open calls to end.
    pub fn agents_with_grace(&self, limits: &Limits, grace: Duration) -> Running {
        let service = AgentServiceServer::new(Answers { tick: Duration::from_millis(50) })
            .max_decoding_message_size(limits.max_decoding.bytes())
            .max_encoding_message_size(limits.max_encoding.bytes());
        let router = agents_server_builder(limits, MethodPolicy::checked().expect("complete")).add_service(service);
        Running::start("agents", limits, self.tls.agents.clone(), router, grace)
    }

    /// The enrolment listener under `limits`; has the agents' service as well, which a mistake might add.
    pub fn enrollment(&self, limits: &Limits) -> Running {
        let policy = MethodPolicy::checked().expect("complete");
        let router = enrollment_server_builder(limits, policy)
            .add_service(
                EnrollmentServer::new(Answers { tick: PATIENCE })
                    .max_decoding_message_size(limits.max_decoding.bytes()),
            )
            .add_service(AgentServiceServer::new(Answers { tick: PATIENCE }));
        Running::start("enrollment", limits, self.tls.enrollment.clone(), router, GRACE)
    }

    /// The operators' listener over `router`.
    pub fn operators(&self, limits: &OperatorLimits, router: Router) -> Operators {
        let listener = Listener::bind("operators", ([127, 0, 0, 1], 0).into()).expect("a free port");
        let (addr, connections, stop) = (listener.addr(), ConnectionRegistry::default(), CancellationToken::new());
        let incoming = listener.start(limits.into(), self.tls.operators.clone(), connections.clone(), stop.clone());
        let (limits, shutdown) = (limits.clone(), stop.clone());
        tokio::spawn(async move { serve_operators(router, &limits, incoming, shutdown, GRACE).await });
        Operators { addr, connections, _stop: stop.drop_guard() }
    }
}

/// A listener that is being served.
pub struct Running {
    pub addr: SocketAddr,
    pub connections: ConnectionRegistry,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<Result<(), tonic::transport::Error>>,
    _stop: DropGuard,
}

/// The operators' listener, served.
pub struct Operators {
    pub addr: SocketAddr,
    pub connections: ConnectionRegistry,
    _stop: DropGuard,
}

impl Operators {
    /// Waits until as many connections are open.
    pub async fn has_open(&self, count: usize) {
        eventually(&format!("{count} open connections"), || self.connections.count() == count).await;
    }
}

/// How long listeners let open calls end, where a test does not say.
const GRACE: Duration = Duration::from_millis(300);

impl Running {
    fn start(name: &'static str, limits: &Limits, tls: ServerTls, router: GuardedRouter, grace: Duration) -> Self {
        let listener = Listener::bind(name, ([127, 0, 0, 1], 0).into()).expect("a free port");
        let (addr, connections, shutdown) = (listener.addr(), ConnectionRegistry::default(), CancellationToken::new());
        let incoming = listener.start(limits.into(), tls, connections.clone(), shutdown.clone());
        let served = tokio::spawn(serve_grpc(router, incoming, shutdown.clone(), grace));
        Self { addr, connections, served, _stop: shutdown.clone().drop_guard(), shutdown }
    }

    pub async fn client(&self, tls: &TlsClient) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(tls.channel(self.addr).await.expect("connected"))
    }

    /// Waits until as many connections are open.
    pub async fn has_open(&self, count: usize) {
        eventually(&format!("{count} open connections"), || self.connections.count() == count).await;
    }
}

/// Waits for a condition that must come true.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never came true: {what}"));
}

/// What must happen, and soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// The next directive of a stream.
pub async fn next_directive(stream: &mut tonic::Streaming<v1::Directive>) -> Option<Result<v1::Directive, Status>> {
    soon("a directive or an end", stream.next()).await
}
