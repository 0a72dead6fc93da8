//! What a demo came to: a table for people, an object for programs. Every figure is read from the database or from the
//! PCs' own disks after the end; none was counted along the way, but for duplicates, which leave no row.

use std::{collections::BTreeMap, fmt};

use comfy_table::{Table, presets};
use fleetmend_controller::store::Summary as Stored;
use fleetmend_domain::{incident::StateName, order::State};
use fleetmend_proto::Tier;
use serde::Serialize;

use super::{DemoSettings, progress};
use crate::fleet::flush::Flushed;

/// The object of `--output json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub devices: i64,
    pub seed: u64,
    pub reports: Reports,
    pub incidents: Incidents,
    /// Resolved incidents by the tier that is credited; `none` = no order of a tier was needed.
    pub fixed_by_tier: BTreeMap<String, i64>,
    pub orders: BTreeMap<String, Orders>,
    /// Orders charged to a heavier tier than the one before them in their incident.
    pub escalations: i64,
}

/// Counted in outcomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reports {
    pub sent: u64,
    pub acknowledged: u64,
    /// Arrived once more than needed, and were told apart.
    pub duplicates: u64,
    /// On the PCs' disks and not in the store: zero, or something is broken.
    pub lost: i64,
}

/// Every incident is in exactly one of these but the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Incidents {
    pub opened: i64,
    pub benign: i64,
    pub resolved: i64,
    pub exhausted: i64,
    pub handed_over: i64,
    pub held: i64,
    pub awaiting_approval: i64,
    pub dismissed: i64,
    pub open: i64,
}

/// Orders that have ended, by how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Orders {
    pub succeeded: i64,
    pub failed: i64,
    pub unavailable: i64,
    pub refused: i64,
    pub unknown: i64,
    pub expired: i64,
    pub cancelled: i64,
}

impl Summary {
    pub(super) fn new(settings: &DemoSettings, stored: &Stored, flushed: Flushed, noted: u64, duplicates: u64) -> Self {
        let of = |name| stored.incidents.get(&name).copied().unwrap_or(0);
        let incidents = Incidents {
            opened: stored.incidents.values().sum(),
            benign: of(StateName::Benign),
            resolved: of(StateName::Resolved),
            exhausted: of(StateName::Exhausted),
            handed_over: of(StateName::HandedOver),
            held: of(StateName::Held),
            awaiting_approval: of(StateName::AwaitingApproval),
            dismissed: of(StateName::Dismissed),
            open: progress::open(stored),
        };
        let reports = Reports {
            sent: flushed.recorded,
            acknowledged: flushed.recorded - flushed.pending,
            duplicates,
            lost: i64::try_from(noted).unwrap_or(i64::MAX) - (stored.outcomes - stored.asked),
        };
        let fixed = |tier| stored.fixed_by.get(&tier).copied().unwrap_or(0);
        Self {
            devices: stored.devices.values().sum(),
            seed: settings.seed,
            reports,
            incidents,
            fixed_by_tier: keys().map(|(key, tier)| (key, fixed(tier))).collect(),
            orders: keys().map(|(key, tier)| (key, Orders::of(stored, tier))).collect(),
            escalations: stored.escalations,
        }
    }
}

/// `none` and `1` to `6`.
fn keys() -> impl Iterator<Item = (String, Option<Tier>)> {
    let tiers = Tier::ALL.into_iter().map(|tier| (tier.number().to_string(), Some(tier)));
    std::iter::once(("none".to_owned(), None)).chain(tiers)
}

impl Orders {
    fn of(stored: &Stored, tier: Option<Tier>) -> Self {
        let mut orders = Self::default();
        for row in stored.orders.iter().filter(|row| row.tier == tier) {
            let field = match row.state {
                State::Succeeded => &mut orders.succeeded,
                State::Failed => &mut orders.failed,
                State::Unavailable => &mut orders.unavailable,
                State::Refused => &mut orders.refused,
                State::Unknown => &mut orders.unknown,
                State::Expired => &mut orders.expired,
                State::Cancelled => &mut orders.cancelled,
                State::Queued | State::Leased | State::Running | State::AwaitingReboot | State::AwaitingReturn => {
                    continue;
                }
            };
            *field += row.count;
        }
        orders
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reports { sent, acknowledged, duplicates, lost } = &self.reports;
        let it = &self.incidents;
        writeln!(f, "devices {}   seed {}   escalations {}", self.devices, self.seed, self.escalations)?;
        writeln!(f, "reports: sent {sent}, acknowledged {acknowledged}, duplicates {duplicates}, lost {lost}")?;
        let mut incidents = Table::new();
        incidents.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "incidents opened",
            "benign",
            "resolved",
            "exhausted",
            "handed over",
            "held",
            "awaiting approval",
            "dismissed",
            "open",
        ]);
        incidents.add_row([
            it.opened,
            it.benign,
            it.resolved,
            it.exhausted,
            it.handed_over,
            it.held,
            it.awaiting_approval,
            it.dismissed,
            it.open,
        ]);
        writeln!(f, "{incidents}")?;
        let mut tiers = Table::new();
        tiers.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "tier",
            "fixed",
            "orders: succeeded",
            "failed",
            "unavailable",
            "refused",
            "unknown",
            "expired",
            "cancelled",
        ]);
        for (key, tier) in keys() {
            let fixed = self.fixed_by_tier.get(&key).copied().unwrap_or(0);
            let orders = self.orders.get(&key).cloned().unwrap_or_default();
            let name = tier.map_or_else(|| "none".to_owned(), |tier| tier.to_string());
            let counts = [
                fixed,
                orders.succeeded,
                orders.failed,
                orders.unavailable,
                orders.refused,
                orders.unknown,
                orders.expired,
                orders.cancelled,
            ];
            tiers.add_row(std::iter::once(name).chain(counts.map(|count| count.to_string())));
        }
        write!(f, "{tiers}")
    }
}
