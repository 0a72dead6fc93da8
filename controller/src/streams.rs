//! The live directive streams of this process: which device listens here, and the queue to it.
//!
//! Filled by `grpc::subscribe`, used by the dispatch loop and by drain. Memory only: presence is the stream itself. A
//! queue holds boxed directives, so that an idle stream costs a few hundred bytes.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use fleetmend_proto::{DeviceId, v1};
use futures::Stream;
use rand::RngExt as _;
use tokio::{sync::mpsc, time::Instant};
use tonic::Status;

use crate::{config::DrainSettings, listen::ConnectionRegistry};

type Queue = mpsc::Sender<Box<v1::Directive>>;

/// All streams of this process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Streams {
    settings: Arc<DrainSettings>,
    /// Where the connection of a device that does not read is cut.
    connections: ConnectionRegistry,
    /// Set under the lock of `live`: no stream is added any more.
    draining: Arc<AtomicBool>,
    live: Arc<Mutex<HashMap<DeviceId, Live>>>,
}

#[derive(Debug)]
struct Live {
    stream_epoch: i64,
    queue: Queue,
    too_slow: Arc<AtomicBool>,
    /// When it is sent away, so that replicas stay balanced: drawn for each stream.
    send_away_at: Instant,
}

/// The directives to one device; ends when the stream is closed here, with an error when the device was too slow for it.
#[derive(Debug)]
pub struct Listening {
    queue: mpsc::Receiver<Box<v1::Directive>>,
    too_slow: Arc<AtomicBool>,
}

/// What became of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// No stream of that device here.
    Absent,
    /// The device did not read what waited for it: its stream ends with an error, and its connections are cut.
    TooSlow,
}

impl Streams {
    #[must_use]
    pub fn new(settings: DrainSettings) -> Self {
        Self::over(settings, ConnectionRegistry::default())
    }

    /// Streams that come by these connections: a device that does not read loses its own.
    #[must_use]
    pub fn over(settings: DrainSettings, connections: ConnectionRegistry) -> Self {
        Self { settings: Arc::new(settings), connections, draining: Arc::default(), live: Arc::default() }
    }

    /// Registers a stream. An older one of the same device ends, since its queue is dropped; one with a higher epoch wins.
    /// Once all were drained, it hears at once when to come back.
    #[must_use]
    pub fn open(&self, device: DeviceId, stream_epoch: i64) -> Listening {
        let (queue, receiver) = mpsc::channel(self.settings.directives_buffered.max(1));
        let too_slow = Arc::<AtomicBool>::default();
        let listening = Listening { queue: receiver, too_slow: Arc::clone(&too_slow) };
        let age = between(self.settings.age_min.0, self.settings.age_max.0);
        let send_away_at = Instant::now() + age;
        let mut live = self.lock();
        let live_one = Live { stream_epoch, queue, too_slow, send_away_at };
        if self.draining.load(Ordering::Acquire) {
            self.send_away(&live_one);
        } else if live.get(&device).is_none_or(|older| older.stream_epoch < stream_epoch) {
            live.insert(device, live_one);
        }
        listening
    }

    /// Ends the stream and any older one of the device, unless a newer one took their place.
    pub fn close(&self, device: DeviceId, stream_epoch: i64) {
        let mut live = self.lock();
        if live.get(&device).is_some_and(|it| it.stream_epoch <= stream_epoch) {
            live.remove(&device);
        }
    }

    /// Ends a device's stream at once (ban).
    pub fn cut(&self, device: DeviceId) {
        self.lock().remove(&device);
    }

    /// Tells devices to come back at a time of their own and ends their streams: those past their age, or all.
    pub fn drain(&self, all: bool) -> usize {
        let now = Instant::now();
        let mut live = self.lock();
        if all {
            self.draining.store(true, Ordering::Release);
        }
        let before = live.len();
        live.retain(|_, stream| {
            if !all && stream.send_away_at > now {
                return true;
            }
            self.send_away(stream);
            false
        });
        before - live.len()
    }

    /// Whether every stream was told to go, and new ones are.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    fn send_away(&self, stream: &Live) {
        let wait = between(Duration::ZERO, self.settings.reconnect_window.0);
        let reconnect_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let kind = Some(v1::directive::Kind::Drain(v1::Drain { reconnect_after_ms }));
        // A full queue: the device comes back by its own backoff.
        let _ = stream.queue.try_send(Box::new(v1::Directive { kind, ..Default::default() }));
    }

    pub fn push(&self, device: DeviceId, kind: v1::directive::Kind) -> Pushed {
        let mut live = self.lock();
        let Some(stream) = live.get(&device) else {
            return Pushed::Absent;
        };
        let directive = v1::Directive { kind: Some(kind), ..Default::default() };
        match stream.queue.try_send(Box::new(directive)) {
            Ok(()) => Pushed::Queued,
            Err(mpsc::error::TrySendError::Closed(_)) => {
                live.remove(&device);
                Pushed::Absent
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                stream.too_slow.store(true, Ordering::Release);
                live.remove(&device);
                // What never reads never sees the end of its stream either.
                self.connections.kill_soon(device);
                Pushed::TooSlow
            }
        }
    }

    #[must_use]
    pub fn contains(&self, device: DeviceId) -> bool {
        self.lock().contains_key(&device)
    }

    /// Whether this very stream is still here.
    #[must_use]
    pub fn holds(&self, device: DeviceId, stream_epoch: i64) -> bool {
        self.lock().get(&device).is_some_and(|it| it.stream_epoch == stream_epoch)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<DeviceId, Live>> {
        // Every critical section leaves the map whole, so a poisoned lock is still good.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream for Listening {
    type Item = Result<v1::Directive, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_recv(context).map(|next| match next {
            Some(directive) => Some(Ok(*directive)),
            // Set before the queue was closed; said once.
            None if self.too_slow.swap(false, Ordering::AcqRel) => Some(Err(Status::resource_exhausted(
                "directives were not read as fast as they came: connect again and read on",
            ))),
            None => None,
        })
    }
}

fn between(least: Duration, most: Duration) -> Duration {
    if least >= most { least } else { rand::rng().random_range(least..=most) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleetmend_proto::{
        clock::wall_now,
        v1::{Refresh, directive::Kind},
    };
    use futures::{FutureExt as _, StreamExt as _};
    use tonic::Code;
    use uuid::Uuid;

    use super::*;
    use crate::{listen::Conn, pki::DeviceCertificate};

    fn streams() -> Streams {
        Streams::new(DrainSettings::default())
    }

    /// What the device reads next without waiting.
    fn read(stream: &mut Listening) -> Option<Option<Result<v1::Directive, Status>>> {
        stream.next().now_or_never()
    }

    fn refresh() -> Kind {
        Kind::Refresh(Refresh {})
    }

    #[test]
    fn a_newer_stream_replaces_an_older_one_and_outlives_its_close() {
        let streams = streams();
        let device = DeviceId(Uuid::from_u128(1));
        let mut old = streams.open(device, 1);
        let mut new = streams.open(device, 2);
        assert!(matches!(read(&mut old), Some(None)));
        streams.close(device, 1);
        assert_eq!(streams.push(device, refresh()), Pushed::Queued);
        assert!(matches!(read(&mut new), Some(Some(Ok(_)))));
        let mut late = streams.open(device, 1);
        assert!(matches!(read(&mut late), Some(None)));
    }

    #[test]
    fn a_reader_that_never_reads_is_told_so_and_cut_off_at_the_bound() {
        let connections = ConnectionRegistry::default();
        let streams = Streams::over(DrainSettings::default(), connections.clone());
        let device = DeviceId(Uuid::from_u128(1));
        let certificate = DeviceCertificate { device, key_hash: [0; 32], not_after: wall_now() };
        let conn = Arc::new(Conn::new(([127, 0, 0, 1], 1).into(), Some(certificate)));
        let _entry = connections.insert(Arc::clone(&conn), 0);
        let mut unread = streams.open(device, 1);
        for _ in 0..DrainSettings::default().directives_buffered {
            assert_eq!(streams.push(device, refresh()), Pushed::Queued);
        }
        assert_eq!(streams.push(device, refresh()), Pushed::TooSlow);
        assert_eq!(streams.push(device, refresh()), Pushed::Absent);
        for _ in 0..DrainSettings::default().directives_buffered {
            assert!(matches!(read(&mut unread), Some(Some(Ok(_)))));
        }
        let Some(Some(Err(end))) = read(&mut unread) else { panic!("no error at the end") };
        assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
        assert!(matches!(read(&mut unread), Some(None)));
        assert!(conn.killed(), "the connection of a client that never reads stays");
    }

    #[test]
    fn a_stream_that_opens_after_the_drain_began_is_sent_away_at_once() {
        let streams = streams();
        assert_eq!(streams.drain(true), 0);
        let mut late = streams.open(DeviceId(Uuid::from_u128(1)), 1);
        assert!(streams.is_empty());
        let Some(Some(Ok(last))) = read(&mut late) else { panic!("no directive") };
        assert!(matches!(last.kind, Some(Kind::Drain(_))), "{last:?}");
        assert!(matches!(read(&mut late), Some(None)));
    }

    #[test]
    fn a_drained_stream_hears_when_to_come_back_and_ends() {
        let streams = streams();
        let device = DeviceId(Uuid::from_u128(1));
        let mut stream = streams.open(device, 1);
        assert_eq!(streams.drain(false), 0, "it is young");
        assert_eq!(streams.drain(true), 1);
        let Some(Some(Ok(last))) = read(&mut stream) else { panic!("no directive") };
        let last = last.kind;
        assert!(matches!(last, Some(Kind::Drain(drain)) if drain.reconnect_after_ms <= 60_000), "{last:?}");
        assert!(matches!(read(&mut stream), Some(None)));
    }
}
