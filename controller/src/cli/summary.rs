//! `fleetmend summary`: counts over the whole fleet.

use clap::Args;

use super::{
    exit::Failure,
    output::{Output, fields, table},
    remote::Connection,
};
use crate::http::views::summary::Summary as Counts;

#[derive(Debug, Args)]
pub struct Summary {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Summary {
    /// # Errors
    /// By what the controller answers.
    pub fn run(self) -> Result<(), Failure> {
        let counts: Counts = self.connection.open()?.get("/summary", &[])?;
        self.output.print(&counts, |counts| {
            let by_state = |map: &std::collections::BTreeMap<String, i64>| {
                let parts: Vec<_> = map.iter().map(|(state, count)| format!("{count} {state}")).collect();
                if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
            };
            let text = fields([
                ("Devices", by_state(&counts.devices)),
                ("Connected", counts.connected.to_string()),
                ("Reporting", counts.reporting.to_string()),
                ("Outcomes", counts.outcomes.to_string()),
                ("Incidents", by_state(&counts.incidents)),
                ("Escalations", counts.escalations.to_string()),
            ]);
            let tiers = ["1", "2", "3", "4", "5", "6", "none"];
            let rows = tiers
                .iter()
                .filter(|tier| counts.orders.contains_key(**tier) || counts.fixed_by_tier.contains_key(**tier));
            let rows = rows.map(|tier| {
                let fixed = counts.fixed_by_tier.get(*tier).copied().unwrap_or_default();
                [(*tier).to_owned(), fixed.to_string(), counts.orders.get(*tier).map(by_state).unwrap_or_default()]
            });
            format!("{text}\n\n{}", table(&["TIER", "RESOLVED BY IT", "ORDERS"], rows))
        })
    }
}
