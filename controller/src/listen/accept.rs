//! The accept loop of a listener, and the handshakes it starts.
//!
//! Order of the limits: a free handshake, then a turn of the accept rate, then accept; so what is over the rate waits in the
//! kernel's queue. What is over the number of connections is accepted and closed, so that a client learns at once.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use rustls::pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{Conn, ConnectionRegistry, Link, rate::Rate};
use crate::{
    config::{Limits, OperatorLimits},
    pki::{DeviceCertificate, ServerTls},
};

const BACKLOG: u32 = 4096;
/// Connections that finished their handshake and wait to be served.
const READY: usize = 64;
/// Pause after the system could not accept (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The limits that hold before the first request.
#[derive(Clone, Copy, Debug)]
pub struct AcceptLimits {
    pub max_connections: usize,
    pub max_handshakes: usize,
    pub accepts_per_second: u32,
    /// Unfinished handshakes of one address; 0 = no limit.
    pub per_address: usize,
    /// Connections of one device; 0 = no limit.
    pub per_device: usize,
    pub handshake_timeout: Duration,
    pub first_request_timeout: Duration,
}

impl From<&Limits> for AcceptLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            max_connections: limits.max_connections,
            max_handshakes: limits.max_handshakes,
            accepts_per_second: limits.accepts_per_second,
            per_address: limits.per_address,
            per_device: limits.per_device,
            handshake_timeout: limits.handshake_timeout.0,
            first_request_timeout: limits.first_request_timeout.0,
        }
    }
}

impl From<&OperatorLimits> for AcceptLimits {
    fn from(limits: &OperatorLimits) -> Self {
        Self {
            max_connections: limits.max_connections,
            max_handshakes: limits.max_handshakes,
            accepts_per_second: limits.accepts_per_second,
            per_address: limits.per_address,
            per_device: 0,
            handshake_timeout: limits.handshake_timeout.0,
            first_request_timeout: limits.first_request_timeout.0,
        }
    }
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "cannot listen for {name} on {addr}: another process has that port; stop it, or change addr in [listen.{name}]"
    )]
    Taken { name: &'static str, addr: SocketAddr },
    #[error("cannot listen for {name} on {addr}: see addr in [listen.{name}]")]
    Refused { name: &'static str, addr: SocketAddr, source: io::Error },
}

/// A bound port that nobody is accepted from yet.
#[derive(Debug)]
pub struct Listener {
    name: &'static str,
    socket: TcpListener,
    addr: SocketAddr,
}

/// Connections that are ready to be served. Ends when the listener is told to shut down.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<Link>,
    pub(super) registry: ConnectionRegistry,
}

impl Listener {
    /// Binds the port. `name`: the listener's table in the configuration. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`], which names the configuration key.
    pub fn bind(name: &'static str, addr: SocketAddr) -> Result<Self, BindError> {
        let bound = || {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restarted controller must not wait for its predecessor's connections to time out.
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            let socket = socket.listen(BACKLOG)?;
            let addr = socket.local_addr()?;
            Ok(Self { name, socket, addr })
        };
        bound().map_err(|source: io::Error| {
            if source.kind() == io::ErrorKind::AddrInUse {
                BindError::Taken { name, addr }
            } else {
                BindError::Refused { name, addr, source }
            }
        })
    }

    /// The address really bound: of interest when port 0 was asked for.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts accepting until `shutdown`.
    #[must_use]
    pub fn start(
        self,
        limits: AcceptLimits,
        tls: ServerTls,
        registry: ConnectionRegistry,
        shutdown: CancellationToken,
    ) -> Incoming {
        let (ready, incoming) = mpsc::channel(READY);
        let (silent, sweeping) = mpsc::unbounded_channel();
        tokio::spawn(sweep(sweeping));
        let door = Arc::new(Entrance { name: self.name, limits, tls, registry: registry.clone(), ready, silent });
        tokio::spawn(async move {
            let name = self.name;
            tokio::select! {
                () = accept(self.socket, Arc::clone(&door)) => {}
                () = shutdown.cancelled() => tracing::debug!(listener = name, "no longer accepting"),
                () = door.ready.closed() => {}
            }
        });
        Incoming { ready: incoming, registry }
    }
}

impl Incoming {
    /// The next connection; `None` after shutdown.
    pub async fn next(&mut self) -> Option<Link> {
        self.ready.recv().await
    }
}

impl Stream for Incoming {
    type Item = io::Result<Link>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|link| link.map(Ok))
    }
}

/// What every handshake of a listener shares.
struct Entrance {
    name: &'static str,
    limits: AcceptLimits,
    tls: ServerTls,
    registry: ConnectionRegistry,
    ready: mpsc::Sender<Link>,
    // Holds no more than the accepts of one first_request_timeout.
    silent: mpsc::UnboundedSender<(Instant, Weak<Conn>)>,
}

async fn accept(socket: TcpListener, entrance: Arc<Entrance>) {
    let limits = entrance.limits;
    let rate = Rate::new(limits.accepts_per_second, Duration::from_secs(1), limits.accepts_per_second);
    let mut mark = Instant::now();
    let connections = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let handshakes = Arc::new(Semaphore::new(limits.max_handshakes.min(Semaphore::MAX_PERMITS)));
    let addresses = Addresses::default();
    let acceptor = TlsAcceptor::from(Arc::clone(&entrance.tls.config));
    loop {
        // The semaphores are never closed.
        let Ok(turn) = Arc::clone(&handshakes).acquire_owned().await else { return };
        while let Err(wait) = rate.take(&mut mark, Instant::now()) {
            sleep(wait).await;
        }
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(listener = entrance.name, %error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!(listener = entrance.name, %peer, "connection refused: max_connections are open");
            continue;
        };
        let Some(address) = addresses.enter(peer.ip(), limits.per_address) else {
            tracing::warn!(listener = entrance.name, %peer, "connection refused: per_address handshakes are open");
            continue;
        };
        let (entrance, acceptor) = (Arc::clone(&entrance), acceptor.clone());
        tokio::spawn(async move {
            let _held = (turn, address);
            let handshake = timeout(limits.handshake_timeout, greet(&acceptor, stream)).await;
            match handshake {
                Ok(Ok(stream)) => entrance.admit(stream, peer, place).await,
                Ok(Err(error)) => tracing::debug!(listener = entrance.name, %peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(listener = entrance.name, %peer, "TLS handshake took too long"),
            }
        });
    }
}

async fn greet(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}

impl Entrance {
    async fn admit(&self, stream: TlsStream<TcpStream>, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let (_, session) = stream.get_ref();
        // rustls refuses protocols we do not speak, but not a client that names none.
        if session.alpn_protocol().is_none() && !self.tls.config.alpn_protocols.iter().any(|known| known == b"http/1.1")
        {
            tracing::debug!(listener = self.name, %peer, "client did not ask for HTTP/2");
            return;
        }
        let device = match self.tls.devices_of {
            None => None,
            Some(fleet) => {
                let leaf = session.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
                // The verifier has read it once already.
                match leaf.map(|leaf| DeviceCertificate::read(leaf, fleet)) {
                    Some(Ok(read)) => Some(read),
                    Some(Err(_)) | None => return,
                }
            }
        };
        let conn = Arc::new(Conn::new(peer, device));
        let entry = self.registry.insert(Arc::clone(&conn), self.limits.per_device);
        let _ = self.silent.send((Instant::now() + self.limits.first_request_timeout, Arc::downgrade(&conn)));
        // An error means that the listener is closing: the connection closes with it.
        let _ = self.ready.send(Link::new(stream, conn, entry, place)).await;
    }
}

/// Cuts connections that made no request in time. They come in order of their deadlines.
async fn sweep(mut silent: mpsc::UnboundedReceiver<(Instant, Weak<Conn>)>) {
    while let Some((deadline, conn)) = silent.recv().await {
        sleep_until(deadline).await;
        if let Some(conn) = conn.upgrade().filter(|conn| !conn.requested()) {
            tracing::debug!(peer = %conn.peer(), "connection cut: no request in time");
            conn.kill();
        }
    }
}

/// Unfinished handshakes by address.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

struct Address(Addresses, IpAddr);

impl Addresses {
    fn enter(&self, address: IpAddr, limit: usize) -> Option<Address> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if limit > 0 && *count >= limit {
            return None;
        }
        *count += 1;
        Some(Address(self.clone(), address))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}
