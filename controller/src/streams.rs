//! The live directive streams of this process: which device listens here, and the queue to it.
//!
//! Filled by `grpc::subscribe`, used by the dispatch loop and by drain. Memory only: presence is the stream itself. A
//! queue holds boxed directives, so that an idle stream costs a few hundred bytes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleetmend_proto::{DeviceId, v1};
use rand::RngExt as _;
use tokio::{sync::mpsc, time::Instant};

use crate::config::DrainSettings;

type Queue = mpsc::Sender<Box<v1::Directive>>;

/// All streams of this process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Streams {
    settings: Arc<DrainSettings>,
    live: Arc<Mutex<HashMap<DeviceId, Live>>>,
}

#[derive(Debug)]
struct Live {
    stream_epoch: i64,
    queue: Queue,
    /// When it is sent away, so that replicas stay balanced: drawn for each stream.
    send_away_at: Instant,
}

/// What became of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// No stream of that device here.
    Absent,
    /// The device did not read what waited for it: its stream was closed.
    TooSlow,
}

impl Streams {
    #[must_use]
    pub fn new(settings: DrainSettings) -> Self {
        Self { settings: Arc::new(settings), live: Arc::default() }
    }

    /// Registers a stream. An older one of the same device ends, since its queue is dropped; one with a higher epoch wins.
    #[must_use]
    pub fn open(&self, device: DeviceId, stream_epoch: i64) -> mpsc::Receiver<Box<v1::Directive>> {
        let (queue, receiver) = mpsc::channel(self.settings.directives_buffered.max(1));
        let age = between(self.settings.age_min.0, self.settings.age_max.0);
        let send_away_at = Instant::now() + age;
        let mut live = self.lock();
        if live.get(&device).is_none_or(|older| older.stream_epoch < stream_epoch) {
            live.insert(device, Live { stream_epoch, queue, send_away_at });
        }
        receiver
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
        let before = live.len();
        live.retain(|_, stream| {
            if !all && stream.send_away_at > now {
                return true;
            }
            let wait = between(Duration::ZERO, self.settings.reconnect_window.0);
            let reconnect_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
            let kind = Some(v1::directive::Kind::Drain(v1::Drain { reconnect_after_ms }));
            // A full queue: the device comes back by its own backoff.
            let _ = stream.queue.try_send(Box::new(v1::Directive { kind, ..Default::default() }));
            false
        });
        before - live.len()
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
                live.remove(&device);
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

fn between(least: Duration, most: Duration) -> Duration {
    if least >= most { least } else { rand::rng().random_range(least..=most) }
}

#[cfg(test)]
mod tests {
    use fleetmend_proto::v1::{Refresh, directive::Kind};
    use uuid::Uuid;

    use super::*;

    fn refresh() -> Kind {
        Kind::Refresh(Refresh {})
    }

    #[test]
    fn a_newer_stream_replaces_an_older_one_and_outlives_its_close() {
        let streams = Streams::new(DrainSettings::default());
        let device = DeviceId(Uuid::from_u128(1));
        let mut old = streams.open(device, 1);
        let mut new = streams.open(device, 2);
        assert!(matches!(old.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        streams.close(device, 1);
        assert_eq!(streams.push(device, refresh()), Pushed::Queued);
        assert!(new.try_recv().is_ok());
        let mut late = streams.open(device, 1);
        assert!(matches!(late.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }

    #[test]
    fn a_reader_that_never_reads_is_cut_off_at_the_bound() {
        let streams = Streams::new(DrainSettings::default());
        let device = DeviceId(Uuid::from_u128(1));
        let _unread = streams.open(device, 1);
        for _ in 0..DrainSettings::default().directives_buffered {
            assert_eq!(streams.push(device, refresh()), Pushed::Queued);
        }
        assert_eq!(streams.push(device, refresh()), Pushed::TooSlow);
        assert_eq!(streams.push(device, refresh()), Pushed::Absent);
    }

    #[test]
    fn a_drained_stream_hears_when_to_come_back_and_ends() {
        let streams = Streams::new(DrainSettings::default());
        let device = DeviceId(Uuid::from_u128(1));
        let mut stream = streams.open(device, 1);
        assert_eq!(streams.drain(false), 0, "it is young");
        assert_eq!(streams.drain(true), 1);
        let last = stream.try_recv().expect("a directive").kind;
        assert!(matches!(last, Some(Kind::Drain(drain)) if drain.reconnect_after_ms <= 60_000), "{last:?}");
        assert!(matches!(stream.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }
}
