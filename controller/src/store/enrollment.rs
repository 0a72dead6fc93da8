//! Spending an enrolment token on a new device: one transaction, one atomic count-down.

use chrono::{DateTime, Utc};
use fleetmend_proto::DeviceId;
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Actor, DeviceState, Store, StoreError,
    engine::{Tx, within},
    error::During as _,
    events::{self, Event},
};

/// What a machine says of itself when it enrols, and the identity it is to get.
#[derive(Clone, Debug)]
pub struct Enrolling {
    /// SHA-256 of the token's text.
    pub token_hash: [u8; 32],
    /// Random, made by the controller. A token never re-binds an id that exists.
    pub device: DeviceId,
    pub computer_name: String,
    pub serial: String,
    pub smbios_uuid: Option<Uuid>,
    /// Lower-case hex.
    pub ek_hash: Option<String>,
    pub agent_version: String,
    /// SHA-256 of the public key in the certificate.
    pub key_hash: [u8; 32],
    pub certificate_not_after: DateTime<Utc>,
    /// Domain time.
    pub now: DateTime<Utc>,
}

/// A new device, or one whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// As asked for, or the one that the same machine was given before: then its certificate is to bear that id.
    pub device: DeviceId,
    pub quarantined: bool,
    /// Of its first certificate.
    pub generation: i64,
}

/// Why a token enrols nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnrollRefused {
    /// Never made here, or revoked.
    Unknown,
    Expired,
    UsedUp,
}

const FIRST_GENERATION: i64 = 1;

impl Store {
    /// Counts the token down and makes the device, or neither. `now_wall` judges the token's expiry.
    ///
    /// A machine that asks again with the same token and key before it ever connected has missed the answer: it gets
    /// the device that was made for it, and no use is spent.
    ///
    /// # Errors
    /// When the database fails; the token was not spent then.
    pub async fn device_enroll(
        &self,
        enrolling: Enrolling,
        now_wall: DateTime<Utc>,
    ) -> Result<Result<Enrolled, EnrollRefused>, StoreError> {
        let mut tx = self.begin("enrolment").await?;
        // Holds the token's row, so that the same machine asking twice at once is one after the other.
        let spent = spend(&mut tx, &enrolling.token_hash, now_wall).await?;
        if let Some(known) = unanswered(&mut tx, &enrolling).await? {
            return Ok(Ok(known)); // dropping the transaction gives the use back
        }
        let Some((token, ring, preapproved)) = spent else {
            return why_refused(&mut tx, &enrolling.token_hash, now_wall).await.map(Err);
        };
        let twins = twins(&mut tx, &enrolling).await?;
        let reason = if twins.iter().any(|twin| twin.state == DeviceState::Banned.word()) {
            Some("a banned device has this serial number or SMBIOS UUID")
        } else if !twins.is_empty() {
            Some("another device has this serial number or SMBIOS UUID")
        } else if expect(&mut tx, &enrolling.serial).await? || preapproved {
            None
        } else {
            Some("waits for approval")
        };
        let quarantined = reason.is_some();
        let state = if quarantined { DeviceState::Quarantined } else { DeviceState::Active };
        insert(&mut tx, &enrolling, token, &ring, state, reason).await?;
        let actor = Actor::Device(enrolling.device);
        let mut log = vec![
            Event::new(&actor, "device_enrolled", enrolling.now)
                .device(enrolling.device)
                .data(&serde_json::json!({ "state": state, "ring": ring })),
        ];
        if !twins.is_empty() {
            let others: Vec<_> = twins.iter().map(|twin| twin.id).collect();
            let data = serde_json::json!({ "serial": enrolling.serial, "others": others });
            log.push(Event::new(&actor, "duplicate_hardware", enrolling.now).device(enrolling.device).data(&data));
        }
        events::append(&mut tx, &log).await?;
        tx.commit().await.during("enrolment")?;
        Ok(Ok(Enrolled { device: enrolling.device, quarantined, generation: FIRST_GENERATION }))
    }
}

/// The atomic count-down: gives the token's id and ring, and whether its devices are approved beforehand.
async fn spend(tx: &mut Tx, hash: &[u8; 32], now: DateTime<Utc>) -> Result<Option<(Uuid, String, bool)>, StoreError> {
    within!(tx, conn => sqlx::query_as(
        "UPDATE enroll_tokens SET uses_left = uses_left - 1 \
         WHERE hash = $1 AND uses_left > 0 AND expires_at > $2 AND revoked_at IS NULL RETURNING id, ring, preapproved",
    )
    .bind(&hash[..])
    .bind(now)
    .fetch_optional(conn)
    .await)
    .during("enrolment")
}

async fn why_refused(tx: &mut Tx, hash: &[u8; 32], now: DateTime<Utc>) -> Result<EnrollRefused, StoreError> {
    let row: Option<(DateTime<Utc>, Option<DateTime<Utc>>)> = within!(tx, conn =>
        sqlx::query_as("SELECT expires_at, revoked_at FROM enroll_tokens WHERE hash = $1")
            .bind(&hash[..])
            .fetch_optional(conn)
            .await)
    .during("enrolment")?;
    Ok(match row {
        None | Some((_, Some(_))) => EnrollRefused::Unknown,
        Some((expires_at, None)) if expires_at <= now => EnrollRefused::Expired,
        Some((_, None)) => EnrollRefused::UsedUp,
    })
}

/// The device that this very machine was given by the same token, as long as it has not been heard of.
async fn unanswered(tx: &mut Tx, enrolling: &Enrolling) -> Result<Option<Enrolled>, StoreError> {
    let found: Option<(Uuid, String)> = within!(tx, conn => sqlx::query_as(
        "SELECT d.id, d.state FROM devices d JOIN enroll_tokens t ON t.id = d.enroll_token \
         WHERE t.hash = $1 AND t.revoked_at IS NULL AND d.key_hash = $2 AND d.serial = $3 \
         AND d.smbios_uuid IS NOT DISTINCT FROM $4 AND d.generation = $5 AND d.last_seen_at IS NULL \
         AND d.state <> 'banned' LIMIT 1",
    )
    .bind(&enrolling.token_hash[..])
    .bind(&enrolling.key_hash[..])
    .bind(&enrolling.serial)
    .bind(enrolling.smbios_uuid)
    .bind(FIRST_GENERATION)
    .fetch_optional(conn)
    .await)
    .during("enrolment")?;
    Ok(found.map(|(id, state)| Enrolled {
        device: DeviceId(id),
        quarantined: state == DeviceState::Quarantined.word(),
        generation: FIRST_GENERATION,
    }))
}

#[derive(FromRow)]
struct Twin {
    id: Uuid,
    state: String,
}

/// Devices that claim the same hardware; banned ones first, for they count most.
async fn twins(tx: &mut Tx, enrolling: &Enrolling) -> Result<Vec<Twin>, StoreError> {
    let serial = (!enrolling.serial.is_empty()).then_some(&enrolling.serial);
    within!(tx, conn => sqlx::query_as(
        "SELECT id, state FROM (SELECT id, state FROM devices WHERE serial = $1 \
         UNION SELECT id, state FROM devices WHERE smbios_uuid = $2) AS twins \
         ORDER BY CASE WHEN state = 'banned' THEN 0 ELSE 1 END LIMIT 20",
    )
    .bind(serial)
    .bind(enrolling.smbios_uuid)
    .fetch_all(conn)
    .await)
    .during("enrolment")
}

/// Whether a device with this serial number was expected. It is now here: the next one with it waits for approval.
async fn expect(tx: &mut Tx, serial: &str) -> Result<bool, StoreError> {
    let deleted = within!(tx, conn =>
        sqlx::query("DELETE FROM expected_serials WHERE serial = $1")
            .bind(serial)
            .execute(conn)
            .await
            .map(|done| done.rows_affected()))
    .during("enrolment")?;
    Ok(deleted > 0)
}

async fn insert(
    tx: &mut Tx,
    enrolling: &Enrolling,
    token: Uuid,
    ring: &str,
    state: DeviceState,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    within!(tx, conn => sqlx::query(
        "INSERT INTO devices (id, name, serial, smbios_uuid, ek_hash, state, state_reason, ring, generation, key_hash, \
         cert_not_after, fence, excluded, agent_version, enrolled_at, product_type, role, authority, reboot_pending, \
         utc_offset_minutes, os_build, ubr, architecture, enroll_token) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, FALSE, $12, $13, 'client', 'workstation', \
         'windows_update', FALSE, 0, 0, 0, 'x64', $14)",
    )
    .bind(enrolling.device.0)
    .bind(&enrolling.computer_name)
    .bind(&enrolling.serial)
    .bind(enrolling.smbios_uuid)
    .bind(enrolling.ek_hash.as_deref())
    .bind(state.word())
    .bind(reason)
    .bind(ring)
    .bind(FIRST_GENERATION)
    .bind(&enrolling.key_hash[..])
    .bind(enrolling.certificate_not_after)
    .bind(&enrolling.agent_version)
    .bind(enrolling.now)
    .bind(token)
    .execute(conn)
    .await
    .map(|_| ()))
    .during("enrolment")
}
