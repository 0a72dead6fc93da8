//! A controller for tests, in this process: real mutual TLS and the real contract over memory.
//!
//! It does not model: a database, several devices, quarantine, expired certificates that may renew, lease expiry, budgets
//! or rates. It believes any device certificate its CA signed, and keeps whatever it is told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use fleetmend_proto::{
    DeviceId, FleetId, Outcome, Position,
    convert::{outcome_from_wire, phase_from_wire, refusal_from_wire},
    order::{OrderKey, OrderPhase, OrderText, Refusal},
    v1::{
        self,
        agent_service_server::{AgentService, AgentServiceServer},
        enrollment_server::{Enrollment, EnrollmentServer},
    },
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer, server::WebPkiClientVerifier};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, service::Routes};
use uuid::Uuid;

use crate::{
    identity::{Identity, PendingKey},
    link::ServerRoot,
};

/// Year, month, day.
pub type Day = (i32, u8, u8);

pub const TOKEN: &str = "let-me-in";

/// What the agent said, in the order in which it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Hello {
        acked: Position,
        max_fence: i64,
    },
    Report {
        epoch: i64,
        seqs: Vec<i64>,
        with_condition: bool,
    },
    Begin {
        newest: Position,
    },
    Update {
        phase: OrderPhase,
        refusal: Option<Refusal>,
        detail: String,
        steps: usize,
    },
    /// `key`: the public key in the request.
    Renew {
        generation: i64,
        key: Vec<u8>,
    },
    Enroll {
        key: Vec<u8>,
    },
}

/// How the controller misbehaves.
#[derive(Default)]
pub struct Mood {
    /// Store this many reports, then cut every connection instead of answering.
    pub cut_after_storing: u32,
    pub new_epoch_once: bool,
    pub banned: bool,
    /// So many certificates are signed whose answers do not arrive.
    pub lost_certificates: u32,
    pub deny_begin: bool,
    /// Answer no `Begin`.
    pub busy_at_begin: bool,
    /// Never answer a report that holds outcomes.
    pub silent_on_reports: bool,
    /// Refuse outcomes of this KB one by one.
    pub reject_kb: Option<u32>,
    /// Refuse every report that holds this KB, whole.
    pub choke_on_kb: Option<u32>,
    /// Run before `Begin` is answered.
    pub at_begin: Option<Box<dyn FnOnce() + Send>>,
}

/// One of the two kinds of certificates authorities.
struct Authority {
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a root");
        Self { params, key, certificate }
    }

    fn issuer(&self) -> rcgen::Issuer<'_, &rcgen::KeyPair> {
        rcgen::Issuer::from_params(&self.params, &self.key)
    }
}

struct State {
    fleet: FleetId,
    device_ca: Authority,
    mood: Mutex<Mood>,
    stored: Mutex<BTreeMap<(i64, i64), Outcome>>,
    duplicates: Mutex<u32>,
    calls: watch::Sender<Vec<Call>>,
    directives: Mutex<Option<mpsc::Sender<Result<v1::Directive, Status>>>>,
    connections: Mutex<Vec<AbortHandle>>,
    /// The newest device.
    device: Mutex<Option<DeviceId>>,
}

/// A running fake controller; ends with the runtime of its test.
pub struct FakeController {
    state: Arc<State>,
    pub address: SocketAddr,
    pub server_root: ServerRoot,
    pub order_key: OrderKey,
    pub fleet: FleetId,
}

impl FakeController {
    /// One listener serves both enrolment and agents: a client certificate is verified when there is one.
    pub async fn start() -> Self {
        let (server_ca, device_ca) = (Authority::new(), Authority::new());
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &server_ca.issuer()).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(device_ca.certificate.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("a certificate");
        tls.alpn_protocols = vec![b"h2".to_vec()];

        let fleet = FleetId(Uuid::new_v4());
        let state = Arc::new(State {
            fleet,
            device_ca,
            mood: Mutex::default(),
            stored: Mutex::default(),
            duplicates: Mutex::default(),
            calls: watch::Sender::new(Vec::new()),
            directives: Mutex::default(),
            connections: Mutex::default(),
            device: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&state)));
        let server_root = ServerRoot::from_pem(server_ca.certificate.pem().as_bytes()).expect("a root");
        Self { state, address, server_root, order_key: OrderKey::from_seed("orders", [9; 32]), fleet }
    }

    pub fn mood(&self) -> MutexGuard<'_, Mood> {
        self.state.mood.lock().expect("no test panicked")
    }

    pub fn calls(&self) -> Vec<Call> {
        self.state.calls.borrow().clone()
    }

    pub fn duplicates(&self) -> u32 {
        *self.state.duplicates.lock().expect("no test panicked")
    }

    /// What is durable here, by position.
    pub fn stored(&self) -> BTreeMap<(i64, i64), Outcome> {
        self.state.stored.lock().expect("no test panicked").clone()
    }

    /// Waits until what the agent said fulfils `wanted`.
    pub async fn until(&self, what: &str, mut wanted: impl FnMut(&[Call]) -> bool) {
        let mut calls = self.state.calls.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(120), calls.wait_for(|calls| wanted(calls))).await;
        if waited.is_err() {
            panic!("waited in vain for {what}; calls: {:#?}", self.calls());
        }
    }

    pub async fn until_stored(&self, count: usize) {
        self.until("stored outcomes", |_| self.stored().len() >= count).await;
    }

    /// Sends a directive on the newest stream.
    pub async fn direct(&self, kind: v1::directive::Kind) {
        let stream = self.state.directives.lock().expect("no test panicked").clone().expect("a stream is open");
        let directive = v1::Directive { kind: Some(kind), ..v1::Directive::default() };
        stream.send(Ok(directive)).await.expect("the stream is open");
    }

    /// Signs and sends an order.
    pub async fn order(&self, order: &OrderText) {
        let note = self.order_key.sign(order).0.into();
        self.direct(v1::directive::Kind::Order(v1::Order { note })).await;
    }

    /// An identity as enrolment would give it, valid between the two days.
    pub fn identity(&self, from: Day, to: Day) -> Identity {
        let key = PendingKey::new().expect("a key");
        let csr_der = key.signing_request().expect("a request");
        let chain = self.state.issue(&csr_der, DeviceId(Uuid::new_v4()), Some((from, to)));
        key.certified(vec![chain], 1).expect("an identity")
    }
}

impl State {
    fn log(&self, call: Call) {
        self.calls.send_modify(|calls| calls.push(call));
    }

    fn issue(&self, csr_der: &[u8], device: DeviceId, life: Option<(Day, Day)>) -> Vec<u8> {
        *self.device.lock().expect("no test panicked") = Some(device);
        let csr = rcgen::CertificateSigningRequestParams::from_der(&csr_der.to_vec().into()).expect("a request");
        let mut params = rcgen::CertificateParams::default();
        let name = format!("fleetmend://{}/device/{device}", self.fleet);
        params.subject_alt_names = vec![rcgen::SanType::URI(name.try_into().expect("ascii"))];
        if let Some((from, to)) = life {
            params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
            params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        }
        params.signed_by(&csr.public_key, &self.device_ca.issuer()).expect("a certificate").der().to_vec()
    }

    fn may_lose_the_answer(&self) -> Result<(), Status> {
        let mut mood = self.mood.lock().expect("no test panicked");
        if mood.lost_certificates == 0 {
            return Ok(());
        }
        mood.lost_certificates -= 1;
        Err(Status::unavailable("the answer is lost"))
    }

    fn admit(&self) -> Result<(), Status> {
        if self.mood.lock().expect("no test panicked").banned {
            return Err(Status::permission_denied("the device is banned"));
        }
        Ok(())
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    let routes = Routes::new(AgentServiceServer::new(Api(Arc::clone(&state))))
        .add_service(EnrollmentServer::new(Api(Arc::clone(&state))))
        .prepare();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, routes) = (acceptor.clone(), routes.clone());
        let connection = tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // How a connection ends is the agent's matter in these tests.
            let _ = server.serve_connection(TokioIo::new(tls), TowerToHyperService::new(routes)).await;
        });
        state.connections.lock().expect("no test panicked").push(connection.abort_handle());
    }
}

fn key_in(csr_der: &[u8]) -> Vec<u8> {
    let csr = rcgen::CertificateSigningRequestParams::from_der(&csr_der.to_vec().into()).expect("a request");
    rcgen::PublicKeyData::der_bytes(&csr.public_key).to_vec()
}

struct Api(Arc<State>);

#[tonic::async_trait]
impl Enrollment for Api {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let request = request.into_inner();
        if request.token != TOKEN {
            return Err(Status::permission_denied("the enrolment token is not known here"));
        }
        self.0.log(Call::Enroll { key: key_in(&request.csr_der) });
        self.0.may_lose_the_answer()?;
        let leaf = self.0.issue(&request.csr_der, DeviceId(Uuid::new_v4()), None);
        Ok(Response::new(v1::EnrollResponse { certificate_chain: vec![leaf.into()], generation: 1, quarantined: true }))
    }
}

#[tonic::async_trait]
impl AgentService for Api {
    type SubscribeStream = ReceiverStream<Result<v1::Directive, Status>>;

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let request = request.into_inner();
        self.0.log(Call::Renew { generation: request.generation, key: key_in(&request.csr_der) });
        self.0.may_lose_the_answer()?;
        let device = self.0.device.lock().expect("no test panicked").ok_or_else(|| Status::not_found("device"))?;
        let certificate_chain = vec![self.0.issue(&request.csr_der, device, None).into()];
        Ok(Response::new(v1::RenewResponse { certificate_chain, generation: request.generation + 1 }))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        self.0.admit()?;
        let request = request.into_inner();
        let has = |kb: Option<u32>, it: &v1::Outcome| kb.is_some() && it.update.as_ref().map(|it| it.kb) == kb;
        if !request.outcomes.is_empty() && self.0.mood.lock().expect("no test panicked").silent_on_reports {
            std::future::pending::<()>().await;
        }
        let (new_epoch, cut, rejections) = {
            let mut mood = self.0.mood.lock().expect("no test panicked");
            if request.outcomes.iter().any(|it| has(mood.choke_on_kb, it)) {
                return Err(Status::invalid_argument("field update.kb: cannot be swallowed"));
            }
            let new_epoch = !request.outcomes.is_empty() && std::mem::take(&mut mood.new_epoch_once);
            let cut = mood.cut_after_storing > 0 && !request.outcomes.is_empty();
            mood.cut_after_storing -= u32::from(cut);
            let bad = request.outcomes.iter().filter(|it| has(mood.reject_kb, it));
            let rejection = |it: &v1::Outcome| v1::Rejection {
                seq: it.seq,
                field: "update.kb".to_owned(),
                reason: "is not liked".to_owned(),
            };
            (new_epoch, cut, bad.map(rejection).collect::<Vec<_>>())
        };
        let seqs: Vec<i64> = request.outcomes.iter().map(|it| it.seq).collect();
        if !new_epoch {
            for wire in request.outcomes {
                let (seq, outcome) = outcome_from_wire(wire)?;
                if rejections.iter().any(|it| it.seq == seq) {
                    continue;
                }
                let known =
                    self.0.stored.lock().expect("no test panicked").insert((request.epoch, seq), outcome.clone());
                if let Some(known) = known {
                    assert_eq!(known, outcome, "another outcome under a known position");
                    *self.0.duplicates.lock().expect("no test panicked") += 1;
                }
            }
        }
        let acked_seq = if new_epoch { 0 } else { seqs.last().copied().unwrap_or(0) };
        self.0.log(Call::Report { epoch: request.epoch, seqs, with_condition: request.condition.is_some() });
        if cut {
            self.0.connections.lock().expect("no test panicked").drain(..).for_each(|it| it.abort());
            std::future::pending::<()>().await;
        }
        Ok(Response::new(v1::ReportResponse { acked_seq, rejections, new_epoch }))
    }

    async fn subscribe(&self, request: Request<v1::Hello>) -> Result<Response<Self::SubscribeStream>, Status> {
        let hello = request.into_inner();
        let acked = Position { epoch: hello.epoch, seq: hello.acked_seq };
        let answer = self.0.admit();
        let (sender, receiver) = mpsc::channel(8);
        *self.0.directives.lock().expect("no test panicked") = Some(sender);
        self.0.log(Call::Hello { acked, max_fence: hello.max_fence });
        answer?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn begin(&self, request: Request<v1::BeginRequest>) -> Result<Response<v1::BeginResponse>, Status> {
        let request = request.into_inner();
        let (first, denied) = {
            let mut mood = self.0.mood.lock().expect("no test panicked");
            if mood.busy_at_begin {
                self.0.log(Call::Begin { newest: Position { epoch: request.epoch, seq: request.seq } });
                return Err(Status::unavailable("the database is away"));
            }
            (mood.at_begin.take(), mood.deny_begin)
        };
        if let Some(first) = first {
            first();
        }
        self.0.log(Call::Begin { newest: Position { epoch: request.epoch, seq: request.seq } });
        if denied {
            return Err(Status::failed_precondition("the lease has ended"));
        }
        Ok(Response::new(v1::BeginResponse { lease_seconds: 60 }))
    }

    async fn update_order(
        &self,
        request: Request<v1::UpdateOrderRequest>,
    ) -> Result<Response<v1::UpdateOrderResponse>, Status> {
        let request = request.into_inner();
        let phase = phase_from_wire(request.phase)?;
        let refusal = refusal_from_wire(request.refusal)?;
        self.0.log(Call::Update { phase, refusal, detail: request.detail, steps: request.steps.len() });
        Ok(Response::new(v1::UpdateOrderResponse { current: true }))
    }
}
