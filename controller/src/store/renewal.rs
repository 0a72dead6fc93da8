//! Renewing a device's certificate, and finding that two machines use one.
//!
//! SECURITY: a generation is only said; the key of the certificate in use is proved by TLS. Both must be the newest.

use chrono::{DateTime, Utc};
use fleetmend_proto::DeviceId;
use sqlx::FromRow;

use super::{
    Actor, DeviceState, Store, StoreError, device_ids,
    devices::lock,
    engine::{Tx, within},
    error::During as _,
    events::{self, Event},
    orders,
};

/// A device asks for a new certificate.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    pub device: DeviceId,
    /// Of the certificate in use.
    pub presented_generation: i64,
    /// SHA-256 of the public key of the certificate in use, which TLS has proved.
    pub presented_key_hash: [u8; 32],
    /// SHA-256 of the new certificate's public key.
    pub key_hash: [u8; 32],
    pub not_after: DateTime<Utc>,
    pub now: DateTime<Utc>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    Renewed {
        generation: i64,
    },
    /// Somebody else has used this generation, or has another key: whoever speaks is quarantined now.
    CloneSuspected,
}

/// What a device's row says of its certificate.
#[derive(FromRow)]
struct Current {
    state: String,
    generation: i64,
    key_hash: Vec<u8>,
    former_key_hash: Option<Vec<u8>>,
}

impl Store {
    /// Gives a certificate its next generation, or finds that two machines use one identity: a generation or key that
    /// is not the newest. A repeated call for the same new key (the answer was lost) gets the same answer.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for an unknown device, [`StoreError::Conflict`] for a banned one.
    pub async fn device_renew(&self, renewal: Renewal) -> Result<Renewed, StoreError> {
        let operation = "certificate renewal";
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids([renewal.device])).await?;
        let row: Option<Current> = within!(&mut tx, conn =>
            sqlx::query_as("SELECT state, generation, key_hash, former_key_hash FROM devices WHERE id = $1")
                .bind(renewal.device.0)
                .fetch_optional(conn)
                .await)
        .during(operation)?;
        let Some(Current { state, generation, key_hash, former_key_hash }) = row else {
            return Err(StoreError::not_found("device", renewal.device));
        };
        if state == DeviceState::Banned.word() {
            return Err(StoreError::Conflict { operation, reason: "the device is banned".to_owned() });
        }
        let actor = Actor::Device(renewal.device);
        if renewal.presented_generation == generation && renewal.presented_key_hash == *key_hash {
            renew(&mut tx, &renewal).await?;
            let data = serde_json::json!({ "generation": generation + 1 });
            let event = Event::new(&actor, "certificate_renewed", renewal.now).device(renewal.device).data(&data);
            events::append(&mut tx, &[event]).await?;
            tx.commit().await.during(operation)?;
            return Ok(Renewed::Renewed { generation: generation + 1 });
        }
        let from_former = former_key_hash.is_some_and(|former| renewal.presented_key_hash == *former);
        if renewal.presented_generation == generation - 1 && from_former && renewal.key_hash == *key_hash {
            return Ok(Renewed::Renewed { generation });
        }
        let data = serde_json::json!({ "presented": renewal.presented_generation, "current": generation });
        suspect_clone(&mut tx, renewal.device, &data, renewal.now).await?;
        tx.commit().await.during(operation)?;
        Ok(Renewed::CloneSuspected)
    }
}

async fn renew(tx: &mut Tx, renewal: &Renewal) -> Result<(), StoreError> {
    within!(tx, conn => sqlx::query(
        "UPDATE devices SET generation = generation + 1, former_key_hash = key_hash, key_hash = $2, cert_not_after = $3 \
         WHERE id = $1",
    )
    .bind(renewal.device.0)
    .bind(&renewal.key_hash[..])
    .bind(renewal.not_after)
    .execute(conn)
    .await
    .map(|_| ()))
    .during("certificate renewal")
}

/// Quarantines a device because two machines use its certificate, and takes back what neither has begun. The caller
/// holds the lock on the device.
pub(super) async fn suspect_clone(
    tx: &mut Tx,
    device: DeviceId,
    seen: &serde_json::Value,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    within!(tx, conn => sqlx::query(
        "UPDATE devices SET state = 'quarantined', state_reason = 'two machines use its certificate' WHERE id = $1",
    )
    .bind(device.0)
    .execute(conn)
    .await
    .map(|_| ()))
    .during("device quarantine")?;
    let actor = Actor::Device(device);
    events::append(tx, &[Event::new(&actor, "clone_suspected", now).device(device).data(seen)]).await?;
    orders::cancel_waiting(tx, device, &actor, now).await
}
