//! Counts over the whole fleet as the API shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::store;

/// What there is. Every map has the words of the thing's states as its keys; states that nothing is in are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub devices: BTreeMap<String, i64>,
    /// Devices whose stream is open now, on whichever controller.
    pub connected: i64,
    /// Devices that reported at least one outcome.
    pub reporting: i64,
    pub outcomes: i64,
    pub incidents: BTreeMap<String, i64>,
    /// Resolved incidents by the tier that was credited: `none`, `1` to `6`.
    pub fixed_by_tier: BTreeMap<String, i64>,
    /// By the tier charged (`none`, `1` to `6`), then by state.
    pub orders: BTreeMap<String, BTreeMap<String, i64>>,
    /// Orders charged to a heavier tier than the one before them in their incident.
    pub escalations: i64,
}

impl Summary {
    #[must_use]
    pub fn new(counts: store::Summary, connected: i64) -> Self {
        let tier = |tier: Option<fleetmend_proto::Tier>| tier.map_or("none".to_owned(), |it| it.number().to_string());
        let mut orders: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for row in counts.orders {
            orders.entry(tier(row.tier)).or_default().insert(row.state.to_string(), row.count);
        }
        Self {
            devices: counts.devices.into_iter().map(|(state, count)| (state.to_string(), count)).collect(),
            connected,
            reporting: counts.reporting_devices,
            outcomes: counts.outcomes,
            incidents: counts.incidents.into_iter().map(|(state, count)| (state.to_string(), count)).collect(),
            fixed_by_tier: counts.fixed_by.into_iter().map(|(by, count)| (tier(by), count)).collect(),
            orders,
            escalations: counts.escalations,
        }
    }
}
