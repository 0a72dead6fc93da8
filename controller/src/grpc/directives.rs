//! The server's half of `Subscribe`: directives out, and the session's end when the stream ends, however it ends.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use fleetmend_proto::{DeviceId, v1};
use futures::Stream;
use tonic::Status;

use crate::{
    store::Store,
    streams::{Listening, Streams},
};

/// Directives to one device. Dropping it ends the session.
pub struct Directives {
    listening: Listening,
    /// Held for what its end does.
    _session: SessionEnd,
}

struct SessionEnd {
    device: DeviceId,
    stream_epoch: i64,
    streams: Streams,
    store: Store,
}

impl Directives {
    /// Registers the device's stream under its session.
    #[must_use]
    pub fn open(device: DeviceId, stream_epoch: i64, streams: Streams, store: Store) -> Self {
        let listening = streams.open(device, stream_epoch);
        Self { listening, _session: SessionEnd { device, stream_epoch, streams, store } }
    }
}

impl Stream for Directives {
    type Item = Result<v1::Directive, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.listening).poll_next(context)
    }
}

impl Drop for SessionEnd {
    fn drop(&mut self) {
        self.streams.close(self.device, self.stream_epoch);
        let (store, device, stream_epoch) = (self.store.clone(), self.device, self.stream_epoch);
        // No runtime any more = the process ends: `sessions_clear` at the next start does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = store.session_close(device, stream_epoch).await {
                    tracing::debug!(device_id = %device, %error, "session row not closed, a later session replaces it");
                }
            });
        }
    }
}
