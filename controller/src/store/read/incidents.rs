//! Incidents by page, newest first.

use fleetmend_domain::incident::StateName;
use fleetmend_proto::{DeviceId, HResult, IncidentId, Tier};
use uuid::Uuid;

use super::{Page, PageRequest};
use crate::store::{IncidentRow, Store, StoreError, engine::on, error::During as _, incidents::RawRow};

/// Which incidents of a list; what is `None` does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct IncidentFilter {
    pub state: Option<StateName>,
    pub device: Option<DeviceId>,
    pub code: Option<HResult>,
    /// The tier in hand, or the one that fixed it.
    pub tier: Option<Tier>,
    /// Only those that have not ended.
    pub open: bool,
}

macro_rules! list {
    ($first:literal) => {
        concat!(
            "SELECT i.*, d.name AS device_name FROM incidents i JOIN devices d ON d.id = i.device_id WHERE ",
            $first,
            " AND ($6 IS NULL OR i.tier = $6 OR i.fixed_by = $6) AND (NOT $7 OR i.closed_at IS NULL) \
             AND i.id < $4 ORDER BY i.id DESC LIMIT $5"
        )
    };
}

/// One text an index: the narrowest filter given leads.
const fn list_sql(filter: &IncidentFilter) -> &'static str {
    match filter {
        IncidentFilter { device: Some(_), .. } => {
            list!("i.device_id = $1 AND ($2 IS NULL OR i.code = $2) AND ($3 IS NULL OR i.state = $3)")
        }
        IncidentFilter { code: Some(_), .. } => {
            list!("i.code = $2 AND ($3 IS NULL OR i.state = $3) AND ($1 IS NULL OR i.device_id = $1)")
        }
        IncidentFilter { state: Some(_), .. } => {
            list!("i.state = $3 AND ($1 IS NULL OR i.device_id = $1) AND ($2 IS NULL OR i.code = $2)")
        }
        IncidentFilter { .. } => {
            list!("($1 IS NULL OR i.device_id = $1) AND ($2 IS NULL OR i.code = $2) AND ($3 IS NULL OR i.state = $3)")
        }
    }
}

impl Store {
    /// Incidents, newest first, a page at a time.
    ///
    /// # Errors
    /// When the database fails or the cursor is none of ours.
    pub async fn incident_list(
        &self,
        filter: &IncidentFilter,
        page: &PageRequest,
    ) -> Result<Page<IncidentRow>, StoreError> {
        let before: Uuid = page.after()?.unwrap_or(Uuid::max());
        let rows: Vec<RawRow> = on!(self.db, pool => sqlx::query_as(list_sql(filter))
            .bind(filter.device.map(|device| device.0))
            .bind(filter.code.map(|code| code.to_string()))
            .bind(filter.state.map(StateName::word))
            .bind(before)
            .bind(page.fetch())
            .bind(filter.tier.map(|tier| i64::from(tier.number())))
            .bind(filter.open)
            .fetch_all(pool)
            .await)
        .during("incident list")?;
        let rows = rows.into_iter().map(IncidentRow::try_from).collect::<Result<Vec<_>, _>>()?;
        page.page(rows, |row| row.id)
    }

    /// One incident.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn incident_get(&self, incident: IncidentId) -> Result<Option<IncidentRow>, StoreError> {
        let row: Option<RawRow> = on!(self.db, pool => sqlx::query_as(
            "SELECT i.*, d.name AS device_name FROM incidents i JOIN devices d ON d.id = i.device_id WHERE i.id = $1",
        )
        .bind(incident.0)
        .fetch_optional(pool)
        .await)
        .during("incident get")?;
        row.map(IncidentRow::try_from).transpose()
    }
}
