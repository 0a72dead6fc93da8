//! Which devices may speak: looked up once a process and device, swept every few seconds for bans.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use fleetmend_proto::DeviceId;
use tonic::Status;

use super::status::from_store;
use crate::{
    listen::ConnectionRegistry,
    store::{DeviceState, Store, StoreError},
    streams::Streams,
};

/// Knows the devices admitted by this process; cheap to clone.
#[derive(Clone)]
pub struct Gate {
    store: Store,
    streams: Streams,
    connections: ConnectionRegistry,
    admitted: Arc<Mutex<HashSet<DeviceId>>>,
}

impl Gate {
    #[must_use]
    pub fn new(store: Store, streams: Streams, connections: ConnectionRegistry) -> Self {
        Self { store, streams, connections, admitted: Arc::default() }
    }

    /// Lets a device through that is enrolled and not banned.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for an unknown device, `PERMISSION_DENIED` for a banned one.
    pub async fn admit(&self, device: DeviceId) -> Result<(), Status> {
        if self.lock().contains(&device) {
            return Ok(());
        }
        match self.store.device_identity(device).await.map_err(|error| from_store("device look-up", &error))? {
            None => Err(Status::unauthenticated("this controller does not know the device: enrol it again")),
            Some(identity) if identity.state == DeviceState::Banned => {
                Err(Status::permission_denied("the device is banned: an administrator must enrol it anew"))
            }
            Some(_) => {
                self.lock().insert(device);
                Ok(())
            }
        }
    }

    /// Cuts the connections of devices that were banned since they were admitted.
    ///
    /// # Errors
    /// When the store can't be read; nothing is cut then.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        let admitted: Vec<_> = self.lock().iter().copied().collect();
        if admitted.is_empty() {
            return Ok(0);
        }
        let banned = self.store.devices_banned(&admitted).await?;
        for device in &banned {
            self.cut(*device);
            tracing::info!(device_id = %device, "banned device cut off");
        }
        Ok(banned.len())
    }

    /// Ends every connection and stream of a device; its next call is looked up again.
    pub fn cut(&self, device: DeviceId) {
        self.lock().remove(&device);
        self.streams.cut(device);
        self.connections.kill(device);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<DeviceId>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
