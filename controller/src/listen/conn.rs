//! One connection's facts, and the list of all that are open, by which any of them can be cut.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::Waker,
    time::Duration,
};

use fleetmend_proto::{DeviceId, clock::wall_now};
use futures::task::AtomicWaker;

use crate::pki::DeviceCertificate;

/// A client that is being sent away gets this long to read why.
pub(super) const LINGER: Duration = Duration::from_secs(1);

const REQUESTED: u8 = 1;
const KILLED: u8 = 2;

/// A connection whose TLS handshake is done. Small: thousands of them are idle.
#[derive(Debug)]
pub struct Conn {
    peer: SocketAddr,
    device: Option<DeviceCertificate>,
    flags: AtomicU8,
    waker: AtomicWaker,
}

impl Conn {
    /// `device`: from the verified certificate.
    #[must_use]
    pub fn new(peer: SocketAddr, device: Option<DeviceCertificate>) -> Self {
        Self { peer, device, flags: AtomicU8::new(0), waker: AtomicWaker::new() }
    }

    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The device of the client certificate; `None` on listeners that ask for none.
    #[must_use]
    pub fn device(&self) -> Option<DeviceId> {
        self.device.map(|certificate| certificate.device)
    }

    /// The client certificate's key; `None` on listeners that ask for none.
    #[must_use]
    pub fn key_hash(&self) -> Option<[u8; 32]> {
        self.device.map(|certificate| certificate.key_hash)
    }

    /// Whether the certificate has expired by now: then the connection may only renew it.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.device.is_some_and(|certificate| certificate.not_after < wall_now())
    }

    /// Cuts the connection: every read and write fails from now on, and its streams end.
    pub fn kill(&self) {
        self.flags.fetch_or(KILLED, Ordering::AcqRel);
        self.waker.wake();
    }

    #[must_use]
    pub fn killed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & KILLED != 0
    }

    /// Whether a request has arrived yet.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.flags.load(Ordering::Acquire) & REQUESTED != 0
    }

    /// Notes a request; `true` for the first.
    pub(super) fn note_request(&self) -> bool {
        self.flags.fetch_or(REQUESTED, Ordering::AcqRel) & REQUESTED == 0
    }

    /// Registers the task that `kill` has to wake.
    pub(super) fn watch(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// The open connections of a listener. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct ConnectionRegistry(Arc<Mutex<Open>>);

/// Ordered by device, so that one device's connections stand together.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<(Option<DeviceId>, u64), Arc<Conn>>,
}

impl ConnectionRegistry {
    /// Cuts all connections of a device and says how many there were.
    pub fn kill(&self, device: DeviceId) -> usize {
        let mine = self.of(device);
        mine.iter().for_each(|conn| conn.kill());
        mine.len()
    }

    /// Cuts the connections that a device has now, once it could read the answer it was given on them.
    pub fn kill_soon(&self, device: DeviceId) {
        kill_soon(self.of(device));
    }

    /// Cuts every connection and says how many there were.
    pub fn kill_all(&self) -> usize {
        let all: Vec<_> = self.open().connections.values().cloned().collect();
        all.iter().for_each(|conn| conn.kill());
        all.len()
    }

    /// The open connections of a device.
    #[must_use]
    pub fn of(&self, device: DeviceId) -> Vec<Arc<Conn>> {
        let range = (Some(device), 0)..=(Some(device), u64::MAX);
        self.open().connections.range(range).map(|(_, conn)| Arc::clone(conn)).collect()
    }

    /// Number of open connections.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open().connections.len()
    }

    /// Number of open connections that have made a request.
    #[must_use]
    pub fn requested(&self) -> usize {
        self.open().connections.values().filter(|conn| conn.requested()).count()
    }

    /// The devices that are connected, each once.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceId> {
        let mut devices: Vec<_> = self.open().connections.keys().filter_map(|(device, _)| *device).collect();
        devices.dedup();
        devices
    }

    /// Adds a connection. Of a device that then has more than `per_device` (0 = no limit) the oldest is cut: an agent that
    /// lost its network without a word comes back while its old connections still seem open.
    pub(crate) fn insert(&self, conn: Arc<Conn>, per_device: usize) -> Entry {
        let mut open = self.open();
        let key = (conn.device(), open.next);
        open.next += 1;
        open.connections.insert(key, conn);
        if let (Some(_), 1..) = (key.0, per_device) {
            let mine = open.connections.range((key.0, 0)..=(key.0, u64::MAX)).rev();
            for (_, older) in mine.skip(per_device) {
                tracing::debug!(peer = %older.peer(), device_id = ?key.0, "connection cut: the device has newer ones");
                older.kill();
            }
        }
        Entry { registry: self.clone(), key }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts connections after [`LINGER`].
pub(super) fn kill_soon(connections: Vec<Arc<Conn>>) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            runtime.spawn(async move {
                tokio::time::sleep(LINGER).await;
                connections.iter().for_each(|conn| conn.kill());
            });
        }
        Err(_) => connections.iter().for_each(|conn| conn.kill()),
    }
}

/// A connection's place in the list; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    registry: ConnectionRegistry,
    key: (Option<DeviceId>, u64),
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.open().connections.remove(&self.key);
    }
}
