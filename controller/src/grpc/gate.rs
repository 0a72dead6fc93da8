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
    pki::Barred,
    store::{DeviceState, Store, StoreError},
    streams::Streams,
};

/// Knows the devices admitted by this process; cheap to clone.
#[derive(Clone)]
pub struct Gate {
    store: Store,
    streams: Streams,
    connections: ConnectionRegistry,
    /// Known to be banned: turned away in the TLS handshake.
    barred: Barred,
    admitted: Arc<Mutex<HashSet<DeviceId>>>,
}

impl Gate {
    #[must_use]
    pub fn new(store: Store, streams: Streams, connections: ConnectionRegistry, barred: Barred) -> Self {
        Self { store, streams, connections, barred, admitted: Arc::default() }
    }

    /// Lets a device through that is enrolled and not banned. Another one loses its connections.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for an unknown device, `PERMISSION_DENIED` for a banned one.
    pub async fn admit(&self, device: DeviceId) -> Result<(), Status> {
        if self.lock().contains(&device) {
            return Ok(());
        }
        match self.store.device_identity(device).await.map_err(|error| from_store("device look-up", &error))? {
            None => {
                self.connections.kill_soon(device);
                Err(Status::unauthenticated("this controller does not know the device: enrol it again"))
            }
            Some(identity) if identity.state == DeviceState::Banned => {
                self.barred.insert(device);
                self.connections.kill_soon(device);
                Err(Status::permission_denied(format!(
                    "the device is banned: an administrator lifts that with `fleetmend device approve {device}`"
                )))
            }
            Some(_) => {
                self.lock().insert(device);
                Ok(())
            }
        }
    }

    /// Cuts the connections of devices that were banned since they were admitted, and no longer turns those away whose ban
    /// was lifted.
    ///
    /// # Errors
    /// When the store can't be read; nothing is cut then.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        let admitted: Vec<_> = self.lock().iter().copied().collect();
        let barred = self.barred.all();
        let asked = [admitted, barred.clone()].concat();
        if asked.is_empty() {
            return Ok(0);
        }
        let banned: HashSet<_> = self.store.devices_banned(&asked).await?.into_iter().collect();
        for device in barred.iter().filter(|device| !banned.contains(device)) {
            self.barred.remove(*device);
            tracing::info!(device_id = %device, "ban lifted: the device may connect again");
        }
        let mut cut = 0;
        for device in banned.iter().filter(|device| !barred.contains(device)) {
            self.barred.insert(*device);
            self.cut(*device);
            cut += 1;
            tracing::info!(device_id = %device, "banned device cut off");
        }
        Ok(cut)
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
