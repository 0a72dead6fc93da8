//! Counts over the whole fleet, for the end of a demo and the front of a dashboard.

use std::collections::BTreeMap;

use fleetmend_domain::{incident::StateName, order::State};
use fleetmend_proto::Tier;
use serde::Serialize;

use super::{DeviceState, Store, StoreError, devices::word, engine::on, error::During as _, incidents};

/// Orders of one tier that are in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OrderCount {
    /// `None` = `Reboot` and `HideUpdate`.
    pub tier: Option<Tier>,
    pub state: State,
    pub count: i64,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub devices: BTreeMap<DeviceState, i64>,
    /// Devices that reported at least one outcome.
    pub reporting_devices: i64,
    /// Outcome rows.
    pub outcomes: i64,
    /// Of these, what agents asked Windows themselves: no record of Windows stands behind them.
    pub asked: i64,
    pub incidents: BTreeMap<StateName, i64>,
    /// Resolved incidents by the tier that was credited; `None` = without a tier.
    pub fixed_by: BTreeMap<Option<Tier>, i64>,
    pub orders: Vec<OrderCount>,
    /// Orders charged to a heavier tier than the one before them in their incident.
    pub escalations: i64,
}

impl Store {
    /// Counts everything; reads whole tables, so not for every page.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn summary(&self) -> Result<Summary, StoreError> {
        let operation = "summary";
        let devices: Vec<(String, i64)> = on!(self.db, pool =>
            sqlx::query_as("SELECT state, COUNT(*) FROM devices GROUP BY state").fetch_all(pool).await)
        .during(operation)?;
        let (outcomes, reporting_devices, asked): (i64, i64, i64) = on!(self.db, pool => sqlx::query_as(
            "SELECT COUNT(*), COUNT(DISTINCT device_id), COUNT(*) FILTER (WHERE source = 'installed_state') FROM outcomes",
        )
        .fetch_one(pool)
        .await)
        .during(operation)?;
        let incidents: Vec<(String, i64)> = on!(self.db, pool =>
            sqlx::query_as("SELECT state, COUNT(*) FROM incidents GROUP BY state").fetch_all(pool).await)
        .during(operation)?;
        let fixed_by: Vec<(Option<i64>, i64)> = on!(self.db, pool => sqlx::query_as(
            "SELECT fixed_by, COUNT(*) FROM incidents WHERE state = 'resolved' GROUP BY fixed_by",
        )
        .fetch_all(pool)
        .await)
        .during(operation)?;
        let orders: Vec<(Option<i64>, String, i64)> = on!(self.db, pool =>
            sqlx::query_as("SELECT tier, state, COUNT(*) FROM orders GROUP BY tier, state").fetch_all(pool).await)
        .during(operation)?;
        let escalations: i64 = on!(self.db, pool => sqlx::query_scalar(
            "SELECT COUNT(*) FROM (SELECT tier, LAG(tier) OVER (PARTITION BY incident_id ORDER BY id) AS former \
             FROM orders WHERE tier IS NOT NULL) AS climbs WHERE tier > former",
        )
        .fetch_one(pool)
        .await)
        .during(operation)?;
        Ok(Summary {
            devices: counts(devices, |it| word("device state", &it, DeviceState::from_word))?,
            reporting_devices,
            outcomes,
            asked,
            incidents: counts(incidents, |it| word("incident state", &it, StateName::from_word))?,
            fixed_by: counts(fixed_by, incidents::tier)?,
            orders: orders
                .into_iter()
                .map(|(tier, state, count)| {
                    let state = word("order state", &state, State::from_word)?;
                    Ok(OrderCount { tier: incidents::tier(tier)?, state, count })
                })
                .collect::<Result<_, StoreError>>()?,
            escalations,
        })
    }
}

fn counts<R, K: Ord>(
    rows: Vec<(R, i64)>,
    key: impl Fn(R) -> Result<K, StoreError>,
) -> Result<BTreeMap<K, i64>, StoreError> {
    rows.into_iter().map(|(raw, count)| Ok((key(raw)?, count))).collect()
}
