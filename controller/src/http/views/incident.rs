//! Incidents as the API shows them: where each stands, and everything that happened, in order.

use chrono::{DateTime, Utc};
use fleetmend_domain::{catalogue::Category, incident::StateName};
use fleetmend_proto::{DeviceId, HResult, IncidentId, OrderId, Tier, UpdateRef};
use serde::{Deserialize, Serialize};

use super::timeline::Moment;
use crate::store::IncidentRow;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub id: IncidentId,
    pub device_id: DeviceId,
    pub device_name: String,
    pub update: UpdateRef,
    pub state: StateName,
    /// The tier in hand, while remediating or verifying.
    pub tier: Option<Tier>,
    /// Why it is held, or who dismissed it.
    pub reason: Option<String>,
    /// Newest effective code.
    pub code: HResult,
    /// As Windows recorded it, before unwrapping.
    pub raw_code: HResult,
    pub failures: i64,
    pub opened_at: DateTime<Utc>,
    pub last_failed_at: DateTime<Utc>,
    /// When it is looked at again by itself.
    pub due_at: Option<DateTime<Utc>>,
    /// The order in hand.
    pub order_id: Option<OrderId>,
    /// The tier whose order a verification credited; null with `resolved` = it went away without one.
    pub fixed_by_tier: Option<Tier>,
    pub closed_at: Option<DateTime<Utc>>,
}

impl From<IncidentRow> for Incident {
    fn from(row: IncidentRow) -> Self {
        Self {
            id: row.id,
            device_id: row.device,
            device_name: row.device_name,
            update: row.update,
            state: row.state,
            tier: row.tier,
            reason: row.reason,
            code: row.code,
            raw_code: row.raw_code,
            failures: row.failures,
            opened_at: row.opened_at,
            last_failed_at: row.last_failed_at,
            due_at: row.due_at,
            order_id: row.order,
            fixed_by_tier: row.fixed_by,
            closed_at: row.closed_at,
        }
    }
}

/// One incident, what its code means, and its whole story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentDetail {
    #[serde(flatten)]
    pub incident: Incident,
    /// The code's name in Windows' headers; may be empty.
    pub symbol: String,
    pub category: Category,
    /// What the catalogue advises.
    pub advice: String,
    /// In order of time.
    pub timeline: Vec<Moment>,
    /// Older moments were left out of the timeline: it holds the newest 500 of each kind.
    #[serde(default)]
    pub truncated: bool,
}
