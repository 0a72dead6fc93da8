//! Orders by page, newest first, and the steps of one.

use chrono::{DateTime, Utc};
use fleetmend_domain::order::State;
use fleetmend_proto::{DeviceId, IncidentId, OrderId, Tier, order::StepState};
use sqlx::FromRow;
use uuid::Uuid;

use super::{Page, PageRequest};
use crate::store::{
    OrderRow, StepRow, Store, StoreError, devices::word, engine::on, error::During as _, from_json, orders::RawRow,
};

/// Which orders of a list; what is `None` does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrderFilter {
    pub state: Option<State>,
    pub device: Option<DeviceId>,
    pub incident: Option<IncidentId>,
    /// What it is charged to.
    pub tier: Option<Tier>,
}

macro_rules! list {
    ($first:literal) => {
        concat!(
            "SELECT o.*, d.name AS device_name FROM orders o JOIN devices d ON d.id = o.device_id WHERE ",
            $first,
            " AND ($6 IS NULL OR o.tier = $6) AND o.id < $4 ORDER BY o.id DESC LIMIT $5"
        )
    };
}

/// One text an index: the narrowest filter given leads.
const fn list_sql(filter: &OrderFilter) -> &'static str {
    match filter {
        OrderFilter { incident: Some(_), .. } => {
            list!("o.incident_id = $2 AND ($1 IS NULL OR o.device_id = $1) AND ($3 IS NULL OR o.state = $3)")
        }
        OrderFilter { device: Some(_), .. } => {
            list!("o.device_id = $1 AND ($2 IS NULL OR o.incident_id = $2) AND ($3 IS NULL OR o.state = $3)")
        }
        OrderFilter { state: Some(_), .. } => {
            list!("o.state = $3 AND ($1 IS NULL OR o.device_id = $1) AND ($2 IS NULL OR o.incident_id = $2)")
        }
        OrderFilter { .. } => list!(
            "($1 IS NULL OR o.device_id = $1) AND ($2 IS NULL OR o.incident_id = $2) AND ($3 IS NULL OR o.state = $3)"
        ),
    }
}

impl Store {
    /// Orders, newest first, a page at a time.
    ///
    /// # Errors
    /// When the database fails or the cursor is none of ours.
    pub async fn order_list(&self, filter: &OrderFilter, page: &PageRequest) -> Result<Page<OrderRow>, StoreError> {
        let before: Uuid = page.after()?.unwrap_or(Uuid::max());
        let rows: Vec<RawRow> = on!(self.db, pool => sqlx::query_as(list_sql(filter))
            .bind(filter.device.map(|device| device.0))
            .bind(filter.incident.map(|incident| incident.0))
            .bind(filter.state.map(State::word))
            .bind(before)
            .bind(page.fetch())
            .bind(filter.tier.map(|tier| i64::from(tier.number())))
            .fetch_all(pool)
            .await)
        .during("order list")?;
        let rows = rows.into_iter().map(OrderRow::try_from).collect::<Result<Vec<_>, _>>()?;
        page.page(rows, |row| row.id)
    }

    /// One order.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn order_get(&self, order: OrderId) -> Result<Option<OrderRow>, StoreError> {
        let row: Option<RawRow> = on!(self.db, pool => sqlx::query_as(
            "SELECT o.*, d.name AS device_name FROM orders o JOIN devices d ON d.id = o.device_id WHERE o.id = $1",
        )
        .bind(order.0)
        .fetch_optional(pool)
        .await)
        .during("order get")?;
        row.map(OrderRow::try_from).transpose()
    }

    /// The steps of an order, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn order_steps(&self, order: OrderId) -> Result<Vec<StepRow>, StoreError> {
        let rows: Vec<RawStep> = on!(self.db, pool => sqlx::query_as(
            "SELECT order_id, step, name, state, detail, at, findings FROM order_steps WHERE order_id = $1 ORDER BY step",
        )
        .bind(order.0)
        .fetch_all(pool)
        .await)
        .during("order steps")?;
        rows.into_iter().map(StepRow::try_from).collect()
    }

    /// The exact bytes an order was last sent as; `None` = never leased.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn order_note(&self, order: OrderId) -> Result<Option<Vec<u8>>, StoreError> {
        let note: Option<Option<Vec<u8>>> = on!(self.db, pool =>
            sqlx::query_scalar("SELECT note FROM orders WHERE id = $1").bind(order.0).fetch_optional(pool).await)
        .during("order note")?;
        Ok(note.flatten())
    }
}

#[derive(FromRow)]
pub(super) struct RawStep {
    order_id: Uuid,
    step: i64,
    name: String,
    state: String,
    detail: String,
    at: DateTime<Utc>,
    findings: String,
}

impl TryFrom<RawStep> for StepRow {
    type Error = StoreError;

    fn try_from(raw: RawStep) -> Result<Self, StoreError> {
        Ok(Self {
            order: OrderId(raw.order_id),
            step: raw.step,
            name: raw.name,
            state: word("step state", &raw.state, StepState::from_word)?,
            detail: raw.detail,
            at: raw.at,
            findings: from_json("findings", &raw.findings)?,
        })
    }
}
