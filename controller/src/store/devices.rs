//! Devices: who they are, whether they may speak, and what the ladder needs to know of them.

use chrono::{DateTime, Utc};
use fleetmend_proto::{
    DeviceId, Fence,
    condition::{Architecture, DeviceRole, ProductType, UpdateAuthority},
    words,
};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Actor, IdRow, Page, PageRequest, Store, StoreError, device_ids,
    engine::{Db, Tx, bulk, bulk_fetch, bulk_sql, on, within},
    error::During as _,
    events::{self, Event},
    json_text, orders,
    sessions::forget_instances,
};

words!(
    /// Whether a device may speak, and get orders.
    DeviceState {
        /// Reports, gets no orders above what the ladder allows, has no vote.
        Quarantined = "quarantined",
        Active = "active",
        Banned = "banned",
    }
);

/// A device as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceRow {
    pub id: DeviceId,
    pub name: String,
    pub serial: String,
    pub smbios_uuid: Option<Uuid>,
    pub ek_hash: Option<String>,
    pub state: DeviceState,
    pub state_reason: Option<String>,
    pub ring: String,
    /// Of its certificate.
    pub generation: i64,
    pub cert_not_after: DateTime<Utc>,
    pub fence: Fence,
    pub excluded: bool,
    pub agent_version: String,
    pub enrolled_at: DateTime<Utc>,
    /// Coarse: the last stream opened or condition received.
    pub last_seen_at: Option<DateTime<Utc>>,
    pub product_type: ProductType,
    pub role: DeviceRole,
    pub authority: UpdateAuthority,
    pub reboot_pending: bool,
    pub utc_offset_minutes: i64,
    pub os_build: i64,
    pub ubr: i64,
    pub architecture: Architecture,
}

/// What a handshake asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub state: DeviceState,
    pub generation: i64,
}

/// Which devices of a list.
#[derive(Clone, Debug, Default)]
pub struct DeviceFilter {
    pub state: Option<DeviceState>,
    pub name_prefix: Option<String>,
}

/// Whom to approve.
#[derive(Clone, Debug)]
pub enum Selector {
    Id(DeviceId),
    /// Devices that have one of these; the others are approved when they enrol.
    Serials(Vec<String>),
}

/// What an approval did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approved {
    pub approved: Vec<DeviceId>,
    /// Serial numbers without a device: remembered for its enrolment.
    pub remembered: Vec<String>,
    /// Serial numbers that only banned devices have: only their ids end a ban.
    pub banned: Vec<String>,
}

const BANNED: [&str; 2] =
    bulk_sql!("SELECT d.id FROM " [id: uuid] " JOIN devices d ON d.id = r.id WHERE d.state = 'banned'");
// $2: whether a ban ends too.
const APPROVE: [&str; 2] = bulk_sql!(
    "UPDATE devices SET state = 'active', state_reason = NULL FROM " [device_id: uuid]
    " WHERE devices.id = r.device_id AND (devices.state = 'quarantined' OR (devices.state = 'banned' AND $2)) RETURNING id"
);
const WAKE: [&str; 2] = bulk_sql!(
    "UPDATE incidents SET due_at = $2, generation = generation + 1 FROM " [id: uuid]
    " WHERE incidents.device_id = r.id AND incidents.closed_at IS NULL AND incidents.state IN ('open', 'held', 'scheduled')"
);
const BY_SERIAL: [&str; 2] = bulk_sql!(
    "SELECT d.id, d.serial, d.state FROM " [serial: text] " JOIN devices d ON d.serial = r.serial"
);
const REMEMBER: [&str; 2] = bulk_sql!(
    "INSERT INTO expected_serials (serial, added_by, added_at) SELECT DISTINCT r.serial, $2, $3 FROM " [serial: text]
    " WHERE true ON CONFLICT DO NOTHING"
);

#[derive(Serialize)]
struct DeviceRef {
    device_id: Uuid,
}

#[derive(Serialize)]
struct SerialRow<'a> {
    serial: &'a str,
}

impl Store {
    /// One device.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn device_get(&self, device: DeviceId) -> Result<Option<DeviceRow>, StoreError> {
        let row: Option<Raw> = on!(self.db, pool =>
            sqlx::query_as("SELECT * FROM devices WHERE id = $1").bind(device.0).fetch_optional(pool).await)
        .during("device get")?;
        row.map(DeviceRow::try_from).transpose()
    }

    /// Devices by name, a page at a time.
    ///
    /// # Errors
    /// When the database fails or the cursor is none of ours.
    pub async fn device_list(&self, filter: &DeviceFilter, page: &PageRequest) -> Result<Page<DeviceRow>, StoreError> {
        let (after_name, after_id): (String, Uuid) = page.after()?.unwrap_or_default();
        let prefix = filter.name_prefix.as_deref().unwrap_or_default();
        let below = prefix_end(prefix);
        let rows: Vec<Raw> = on!(self.db, pool => sqlx::query_as(
            "SELECT * FROM devices WHERE (name, id) > ($1, $2) AND name >= $3 AND ($4 IS NULL OR name < $4) \
             AND ($5 IS NULL OR state = $5) ORDER BY name, id LIMIT $6",
        )
        .bind(after_name)
        .bind(after_id)
        .bind(prefix)
        .bind(below)
        .bind(filter.state.map(DeviceState::word))
        .bind(page.fetch())
        .fetch_all(pool)
        .await)
        .during("device list")?;
        let rows = rows.into_iter().map(DeviceRow::try_from).collect::<Result<Vec<_>, _>>()?;
        page.page(rows, |device| (device.name.clone(), device.id))
    }

    /// State and certificate generation, for a handshake or a first call.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn device_identity(&self, device: DeviceId) -> Result<Option<Identity>, StoreError> {
        let row: Option<(String, i64)> = on!(self.db, pool =>
            sqlx::query_as("SELECT state, generation FROM devices WHERE id = $1")
                .bind(device.0)
                .fetch_optional(pool)
                .await)
        .during("device look-up")?;
        row.map(|(state, generation)| {
            Ok(Identity { state: word("device state", &state, DeviceState::from_word)?, generation })
        })
        .transpose()
    }

    /// Those of `devices` that are banned: asked every few seconds about live streams.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices_banned(&self, devices: &[DeviceId]) -> Result<Vec<DeviceId>, StoreError> {
        let rows = json_text(&device_ids(devices.iter().copied()))?;
        let [sqlite, postgres] = BANNED;
        let ids: Vec<Uuid> = match &self.db {
            Db::Sqlite { read, .. } => sqlx::query_scalar(sqlite).bind(rows).fetch_all(read).await,
            Db::Postgres(pool) => sqlx::query_scalar(postgres).bind(rows).fetch_all(pool).await,
        }
        .during("ban sweep")?;
        Ok(ids.into_iter().map(DeviceId).collect())
    }

    /// Ends quarantine (and a ban, by id only). Held incidents are looked at again at once.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for an id without a device.
    pub async fn devices_approve(
        &self,
        selector: Selector,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Approved, StoreError> {
        let operation = "device approval";
        let actor = Actor::Person(by.to_owned());
        let mut tx = self.begin(operation).await?;
        let (mut approved, lifts_ban) = match &selector {
            Selector::Id(device) => (Approved { approved: vec![*device], ..Approved::default() }, true),
            Selector::Serials(serials) => (approve_serials(&mut tx, serials, &actor, now).await?, false),
        };
        let ids = device_ids(approved.approved.iter().copied());
        lock(&mut tx, &ids).await?;
        // Looked at again under the lock: a ban may have come first.
        let rows: Vec<_> = ids.iter().map(|row| DeviceRef { device_id: row.id }).collect();
        let changed: Vec<(Uuid,)> = bulk_fetch!(&mut tx, APPROVE, &rows, operation, lifts_ban)?;
        approved.approved = changed.into_iter().map(|(id,)| DeviceId(id)).collect();
        approved.approved.sort_unstable();
        let ids = device_ids(approved.approved.iter().copied());
        forget_instances(&mut tx, &ids).await?;
        bulk!(&mut tx, WAKE, &ids, operation, now)?;
        let mut log: Vec<_> =
            approved.approved.iter().map(|device| Event::new(&actor, "device_approved", now).device(*device)).collect();
        if !approved.remembered.is_empty() {
            let data = serde_json::json!({ "serials": approved.remembered });
            log.push(Event::new(&actor, "serials_expected", now).data(&data));
        }
        events::append(&mut tx, &log).await?;
        tx.commit().await.during(operation)?;
        Ok(approved)
    }

    /// Bans a device: it may not speak any more, its orders that have not begun are cancelled, its incidents dismissed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such device.
    pub async fn device_ban(
        &self,
        device: DeviceId,
        reason: &str,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin("device ban").await?;
        let changed = within!(&mut tx, conn => sqlx::query(
            "UPDATE devices SET state = 'banned', state_reason = $2 WHERE id = $1",
        )
        .bind(device.0)
        .bind(reason)
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
        .during("device ban")?;
        if changed == 0 {
            return Err(StoreError::not_found("device", device));
        }
        let actor = Actor::Person(by.to_owned());
        orders::cancel_waiting(&mut tx, device, &actor, now).await?;
        super::people::dismiss_all(&mut tx, device, by, "the device was banned", now).await?;
        let data = serde_json::json!({ "reason": reason });
        events::append(&mut tx, &[Event::new(&actor, "device_banned", now).device(device).data(&data)]).await?;
        tx.commit().await.during("device ban")
    }
}

/// Which devices serial numbers name; those of no device at all are kept for its enrolment.
async fn approve_serials(
    tx: &mut Tx,
    serials: &[String],
    actor: &Actor,
    now: DateTime<Utc>,
) -> Result<Approved, StoreError> {
    let operation = "device approval";
    let rows: Vec<_> = serials.iter().map(|serial| SerialRow { serial }).collect();
    let found: Vec<(Uuid, String, String)> = bulk_fetch!(tx, BY_SERIAL, &rows, operation)?;
    let mut approved = Approved::default();
    for serial in serials {
        let mut states = found.iter().filter(|(_, known, _)| known == serial).map(|(_, _, state)| state).peekable();
        if states.peek().is_none() {
            approved.remembered.push(serial.clone());
        } else if states.all(|state| state == DeviceState::Banned.word()) {
            approved.banned.push(serial.clone());
        }
    }
    for list in [&mut approved.remembered, &mut approved.banned] {
        list.sort_unstable();
        list.dedup();
    }
    let remembered: Vec<_> = approved.remembered.iter().map(|serial| SerialRow { serial }).collect();
    bulk!(tx, REMEMBER, &remembered, operation, actor.name(), now)?;
    let quarantined = found.iter().filter(|(_, _, state)| state == DeviceState::Quarantined.word());
    approved.approved = quarantined.map(|(id, _, _)| DeviceId(*id)).collect();
    Ok(approved)
}

const COUNT: [&str; 2] = bulk_sql!("SELECT COUNT(*) FROM " [id: uuid] " JOIN devices d ON d.id = r.id");
const LOCK: [&str; 2] = bulk_sql!(
    "SELECT COUNT(*) FROM (SELECT d.id FROM " [id: uuid] " JOIN devices d ON d.id = r.id ORDER BY d.id FOR UPDATE OF d) AS locked"
);
const KNOWN: [&str; 2] = bulk_sql!("SELECT d.id FROM " [id: uuid] " JOIN devices d ON d.id = r.id");

/// Locks the rows of these devices (each named once) until the transaction ends.
/// SQLite has one writer and nothing to lock: there it only looks whether the devices exist.
///
/// [`StoreError::NotFound`] names one that does not.
pub(super) async fn lock(tx: &mut Tx, devices: &[IdRow]) -> Result<(), StoreError> {
    let (counted,): (i64,) = bulk_fetch_one(tx, devices).await?;
    if usize::try_from(counted).ok() == Some(devices.len()) {
        return Ok(());
    }
    let known: Vec<(Uuid,)> = bulk_fetch!(tx, KNOWN, devices, "device lock")?;
    let unknown = devices.iter().find(|row| !known.contains(&(row.id,)));
    Err(StoreError::not_found("device", unknown.map_or(Uuid::nil(), |row| row.id)))
}

async fn bulk_fetch_one(tx: &mut Tx, devices: &[IdRow]) -> Result<(i64,), StoreError> {
    let rows: Vec<(i64,)> = bulk_fetch!(tx, [COUNT[0], LOCK[1]], devices, "device lock")?;
    rows.first().copied().ok_or_else(|| StoreError::corrupt("count", "no row"))
}

/// The device that something belongs to; `sql` says where that stands.
pub(super) async fn owner(tx: &mut Tx, sql: &'static str, id: Uuid) -> Result<Option<DeviceId>, StoreError> {
    let found: Option<Uuid> =
        within!(tx, conn => sqlx::query_scalar(sql).bind(id).fetch_optional(conn).await).during("device look-up")?;
    Ok(found.map(DeviceId))
}

/// Reads a word of a closed vocabulary.
pub(super) fn word<T>(what: &'static str, text: &str, from: fn(&str) -> Option<T>) -> Result<T, StoreError> {
    from(text).ok_or_else(|| StoreError::corrupt(what, text))
}

/// The first text after everything that begins with `prefix`; `None` = there is none.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[derive(FromRow)]
struct Raw {
    id: Uuid,
    name: String,
    serial: String,
    smbios_uuid: Option<Uuid>,
    ek_hash: Option<String>,
    state: String,
    state_reason: Option<String>,
    ring: String,
    generation: i64,
    cert_not_after: DateTime<Utc>,
    fence: i64,
    excluded: bool,
    agent_version: String,
    enrolled_at: DateTime<Utc>,
    last_seen_at: Option<DateTime<Utc>>,
    product_type: String,
    role: String,
    authority: String,
    reboot_pending: bool,
    utc_offset_minutes: i64,
    os_build: i64,
    ubr: i64,
    architecture: String,
}

impl TryFrom<Raw> for DeviceRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: DeviceId(raw.id),
            name: raw.name,
            serial: raw.serial,
            smbios_uuid: raw.smbios_uuid,
            ek_hash: raw.ek_hash,
            state: word("device state", &raw.state, DeviceState::from_word)?,
            state_reason: raw.state_reason,
            ring: raw.ring,
            generation: raw.generation,
            cert_not_after: raw.cert_not_after,
            fence: Fence(raw.fence),
            excluded: raw.excluded,
            agent_version: raw.agent_version,
            enrolled_at: raw.enrolled_at,
            last_seen_at: raw.last_seen_at,
            product_type: word("product type", &raw.product_type, ProductType::from_word)?,
            role: word("device role", &raw.role, DeviceRole::from_word)?,
            authority: word("update authority", &raw.authority, UpdateAuthority::from_word)?,
            reboot_pending: raw.reboot_pending,
            utc_offset_minutes: raw.utc_offset_minutes,
            os_build: raw.os_build,
            ubr: raw.ubr,
            architecture: word("architecture", &raw.architecture, Architecture::from_word)?,
        })
    }
}
