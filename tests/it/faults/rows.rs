//! What the fault tests read past the store's own methods: the whole history of events, and outcomes by device. Reads
//! only; both engines.

use std::collections::BTreeMap;

use anyhow::Context as _;
use fleetmend_proto::{DeviceId, HResult, OrderId, OutcomeResult};
use sqlx::{FromRow, PgPool, SqlitePool};
use uuid::Uuid;

/// One row of the history of a device's orders, in the order in which the transactions held the device.
#[derive(Clone, Debug, FromRow)]
pub struct EventRow {
    pub id: i64,
    pub kind: String,
    pub device_id: Option<Uuid>,
    pub order_id: Option<Uuid>,
    pub data: String,
}

/// Either engine, past the store.
pub enum Raw {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

macro_rules! either {
    ($raw:expr, $pool:ident => $body:expr) => {
        match $raw {
            Raw::Sqlite($pool) => $body,
            Raw::Postgres($pool) => $body,
        }
    };
}

impl Raw {
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        if url.starts_with("sqlite:") {
            Ok(Self::Sqlite(SqlitePool::connect(url).await.context("opening the controller's database")?))
        } else {
            Ok(Self::Postgres(PgPool::connect(url).await.context("opening the controller's database")?))
        }
    }

    /// The history of all orders.
    pub async fn order_events(&self) -> anyhow::Result<Vec<EventRow>> {
        Ok(either!(self, pool => sqlx::query_as(
            "SELECT id, kind, device_id, order_id, data FROM events WHERE order_id IS NOT NULL ORDER BY id",
        )
        .fetch_all(pool)
        .await)?)
    }

    /// How often each result and code was stored, by device; without what agents asked Windows themselves.
    pub async fn outcomes(&self) -> anyhow::Result<BTreeMap<DeviceId, Tally>> {
        let rows: Vec<(Uuid, String, String, i64)> = either!(self, pool => sqlx::query_as(
            "SELECT device_id, result, code, COUNT(*) FROM outcomes \
             WHERE source <> 'installed_state' GROUP BY device_id, result, code",
        )
        .fetch_all(pool)
        .await)?;
        let mut tallies: BTreeMap<DeviceId, Tally> = BTreeMap::new();
        for (device, result, code, count) in rows {
            let result = OutcomeResult::from_word(&result).with_context(|| format!("{result:?} is no result"))?;
            let code: HResult = code.parse().with_context(|| format!("{code:?} is no code"))?;
            tallies.entry(DeviceId(device)).or_default().insert((result.word().to_owned(), code.to_string()), count);
        }
        Ok(tallies)
    }

    /// What was kept of an order that somebody no longer held.
    pub async fn evidence_of(&self, order: OrderId) -> anyhow::Result<i64> {
        Ok(either!(self, pool => sqlx::query_scalar("SELECT COUNT(*) FROM order_evidence WHERE order_id = $1")
            .bind(order.0)
            .fetch_one(pool)
            .await)?)
    }
}

/// How often each (result, code) occurs.
pub type Tally = BTreeMap<(String, String), i64>;
