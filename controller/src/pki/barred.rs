//! Devices whose certificates are refused in the TLS handshake. Kept by `grpc::Gate`, which learns of bans; asked by the
//! verifier. Memory only: what is missing here is refused at the first call instead.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
};

use fleetmend_proto::DeviceId;

/// A set of devices; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Barred(Arc<RwLock<HashSet<DeviceId>>>);

impl Barred {
    #[must_use]
    pub fn contains(&self, device: DeviceId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&device)
    }

    pub fn insert(&self, device: DeviceId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(device);
    }

    pub fn remove(&self, device: DeviceId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&device);
    }

    #[must_use]
    pub fn all(&self) -> Vec<DeviceId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}
