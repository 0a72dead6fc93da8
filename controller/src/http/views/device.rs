//! Devices as the API shows them, and what people ask of them.

use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Condition, DeviceId, IncidentId, Tier,
    condition::{Architecture, DeviceRole, ProductType, UpdateAuthority},
};
use serde::{Deserialize, Serialize};

use super::incident::Incident;
use crate::store::{self, DeviceRow, DeviceState};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub id: DeviceId,
    pub name: String,
    pub serial: String,
    pub state: DeviceState,
    /// Why it is quarantined or banned.
    pub state_reason: Option<String>,
    pub ring: String,
    /// Whether its stream is open now.
    pub connected: bool,
    pub last_seen_at: Option<DateTime<Utc>>,
    /// `26100.1742`: build and UBR.
    pub os_build: String,
    pub architecture: Architecture,
    pub product_type: ProductType,
    pub role: DeviceRole,
    pub update_authority: UpdateAuthority,
    pub reboot_pending: bool,
    /// On the exclusion list: never above tier 4.
    pub excluded: bool,
    pub agent_version: String,
    pub enrolled_at: DateTime<Utc>,
    pub certificate_expires_at: DateTime<Utc>,
}

/// One device with its newest condition and the incidents that have not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDetail {
    #[serde(flatten)]
    pub device: Device,
    pub condition: Option<Condition>,
    pub open_incidents: Vec<Incident>,
}

/// Body of `/devices/approve`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproveSerials {
    pub serials: Vec<String>,
}

/// What became of the serial numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// Quarantined devices that were let in.
    pub approved: Vec<DeviceId>,
    /// Serial numbers without a device: their devices need no approval when they enrol.
    pub expected: Vec<String>,
    /// Serial numbers of banned devices: nothing changed for them. Only a device's id ends its ban.
    #[serde(default)]
    pub banned: Vec<String>,
}

/// Body of `/devices/{id}/ban`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ban {
    pub reason: String,
}

/// Body of `/devices/{id}/remediate`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remediate {
    /// The tier to go to; none = what the ladder says is next.
    #[serde(default)]
    pub tier: Option<Tier>,
    /// Skip cool-downs and windows.
    #[serde(default)]
    pub now: bool,
}

/// The incidents that will be decided anew because of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remediated {
    pub incidents: Vec<IncidentId>,
}

impl Device {
    /// `connected` is what the session rows say.
    #[must_use]
    pub fn new(row: DeviceRow, connected: bool) -> Self {
        Self {
            id: row.id,
            name: row.name,
            serial: row.serial,
            state: row.state,
            state_reason: row.state_reason,
            ring: row.ring,
            connected,
            last_seen_at: row.last_seen_at,
            os_build: format!("{}.{}", row.os_build, row.ubr),
            architecture: row.architecture,
            product_type: row.product_type,
            role: row.role,
            update_authority: row.authority,
            reboot_pending: row.reboot_pending,
            excluded: row.excluded,
            agent_version: row.agent_version,
            enrolled_at: row.enrolled_at,
            certificate_expires_at: row.cert_not_after,
        }
    }
}

impl From<store::Approved> for Approved {
    fn from(done: store::Approved) -> Self {
        Self { approved: done.approved, expected: done.remembered, banned: done.banned }
    }
}
