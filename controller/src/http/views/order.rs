//! Orders as the API shows them.

use chrono::{DateTime, Utc};
use fleetmend_domain::{ladder::Verdict, order::State};
use fleetmend_proto::{
    Action, DeviceId, IncidentId, OrderId, Tier,
    order::{Finding, Refusal, StepState},
};
use serde::{Deserialize, Serialize};

use crate::store::{OrderRow, StepRow};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub id: OrderId,
    pub device_id: DeviceId,
    pub device_name: String,
    pub incident_id: IncidentId,
    pub action: Action,
    /// What it is charged to; null = `reboot` and `hide_update`.
    pub tier: Option<Tier>,
    /// Asked for by a person.
    pub manual: bool,
    pub state: State,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub leased_at: Option<DateTime<Utc>>,
    pub begun_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// The agent's word on how it ended.
    pub detail: String,
    pub refusal: Option<Refusal>,
    /// What the verification after it found.
    pub verdict: Option<Verdict>,
}

/// One order with its steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderDetail {
    #[serde(flatten)]
    pub order: Order,
    pub steps: Vec<Step>,
}

/// A part of an action, newest state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Counts from 0 within the order.
    pub index: i64,
    pub name: String,
    pub state: StepState,
    pub detail: String,
    pub at: DateTime<Utc>,
    pub findings: Vec<Finding>,
}

impl From<OrderRow> for Order {
    fn from(row: OrderRow) -> Self {
        Self {
            id: row.id,
            device_id: row.device,
            device_name: row.device_name,
            incident_id: row.incident,
            action: row.action,
            tier: row.tier,
            manual: row.manual,
            state: row.state,
            created_at: row.created_at,
            expires_at: row.expires_at,
            leased_at: row.leased_at,
            begun_at: row.begun_at,
            ended_at: row.ended_at,
            detail: row.detail,
            refusal: row.refusal,
            verdict: row.verdict,
        }
    }
}

impl From<StepRow> for Step {
    fn from(row: StepRow) -> Self {
        Self {
            index: row.step,
            name: row.name,
            state: row.state,
            detail: row.detail,
            at: row.at,
            findings: row.findings,
        }
    }
}
