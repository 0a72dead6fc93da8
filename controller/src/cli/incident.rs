//! `fleetmend incident list|show|dismiss`: one update failing on one device, and everything that happened to it.

use clap::{Args, Subcommand};
use fleetmend_domain::{incident::StateName, ladder::Next};
use fleetmend_proto::{DeviceId, HResult, IncidentId, Tier, UpdateRef};

use super::{
    exit::Failure,
    listing::{Listing, one_of},
    order::verdict,
    output::{Output, fields, or_dash, table, time},
    remote::Connection,
};
use crate::http::views::{
    Reason,
    incident::{Incident, IncidentDetail},
    timeline::{Moment, What},
};

#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// Incidents, newest first
    #[command(after_help = LIST_EXAMPLES)]
    List(List),
    /// One incident: every outcome, decision, order, step and verification
    Show(Show),
    /// End an incident by hand; its orders are cancelled
    Dismiss(Dismiss),
}

const LIST_EXAMPLES: &str = "\
Examples:
  fleetmend incident list --open
  fleetmend incident list --code 0x80073712 --state exhausted
  fleetmend incident list --device 8f14e45f-ceea-467f-a8d4-3f5e1f0c2b11 --output json";

#[derive(Debug, Args)]
pub struct List {
    /// Only incidents in this state: open, held, scheduled, remediating, verifying, exhausted, resolved, ...
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<StateName>,
    /// Only incidents of this device
    #[arg(long, value_name = "ID")]
    device: Option<DeviceId>,
    /// Only incidents with this code
    #[arg(long, value_name = "CODE", allow_negative_numbers = true)]
    code: Option<HResult>,
    /// Only incidents that are at this tier, 1 to 6
    #[arg(long, value_name = "N")]
    tier: Option<Tier>,
    /// Only incidents that have not ended
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The incident's id
    incident: IncidentId,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct Dismiss {
    /// The incident's id
    incident: IncidentId,
    /// Why, for those who find it dismissed later
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl IncidentCommand {
    /// # Errors
    /// By what the controller answers.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Dismiss(dismiss) => dismiss.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let filters = [
            ("state", self.state.map(|it| it.to_string())),
            ("device", self.device.map(|it| it.to_string())),
            ("code", self.code.map(|it| it.to_string())),
            ("tier", self.tier.map(|it| it.number().to_string())),
            ("open", self.open.then(|| "true".to_owned())),
        ];
        self.listing.run("/incidents", &filters, rows)
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let incident: IncidentDetail = self.connection.open()?.get(&format!("/incidents/{}", self.incident), &[])?;
        self.output.print(&incident, details)
    }
}

impl Dismiss {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/incidents/{}/dismiss", self.incident);
        let incident: Incident = self.connection.open()?.post(&path, &Reason { reason: self.reason })?;
        self.output.print(&incident, |incident| format!("{} is {}", incident.id, incident.state))
    }
}

/// Incidents as a table, for every command that lists some.
#[must_use]
pub fn rows(incidents: &[Incident]) -> String {
    table(
        &["ID", "DEVICE", "UPDATE", "CODE", "STATE", "TIER", "FAILURES", "LAST FAILED"],
        incidents.iter().map(|incident| {
            [
                incident.id.to_string(),
                incident.device_name.clone(),
                update(&incident.update),
                incident.code.to_string(),
                incident.state.to_string(),
                or_dash(incident.tier.or(incident.fixed_by_tier).map(Tier::number)),
                incident.failures.to_string(),
                time(incident.last_failed_at),
            ]
        }),
    )
}

fn details(incident: &IncidentDetail) -> String {
    let it = &incident.incident;
    let code = if it.code == it.raw_code {
        format!("{} {}", it.code, incident.symbol)
    } else {
        format!("{} {} (recorded as {})", it.code, incident.symbol, it.raw_code)
    };
    let text = fields([
        ("Incident", it.id.to_string()),
        ("Device", format!("{} ({})", it.device_name, it.device_id)),
        ("Update", update(&it.update)),
        ("Title", it.update.title.clone()),
        ("Code", code),
        ("Category", incident.category.to_string()),
        ("State", it.state.to_string()),
        ("Tier in hand", or_dash(it.tier)),
        ("Because", or_dash(it.reason.clone())),
        ("Fixed by", or_dash(it.fixed_by_tier)),
        ("Failures", it.failures.to_string()),
        ("Opened", time(it.opened_at)),
        ("Last failed", time(it.last_failed_at)),
        ("Looked at again", or_dash(it.due_at.map(time))),
        ("Ended", or_dash(it.closed_at.map(time))),
        ("Advice", incident.advice.clone()),
    ]);
    let story = table(
        &["AT", "WHAT", "DETAIL"],
        incident.timeline.iter().map(|moment| {
            let (what, detail) = in_words(moment);
            [time(moment.at), what.to_owned(), detail]
        }),
    );
    let cut = if incident.truncated { "(older moments are left out)\n" } else { "" };
    format!("{text}\n\n{cut}{story}")
}

fn in_words(moment: &Moment) -> (&'static str, String) {
    match &moment.what {
        What::Outcome { outcome, .. } => {
            ("outcome", format!("{} {} {}", outcome.operation, outcome.result, outcome.code))
        }
        What::Decision { rule, reason, next, .. } => {
            ("decision", format!("{} ({rule}): {reason}", next_in_words(next)))
        }
        What::Order { order } => ("order", format!("{} {}: now {}", order.id, order.action.name(), order.state)),
        What::Step { step, .. } => ("step", format!("{} {} {}", step.name, step.state, step.detail)),
        What::Verification { verdict: found, .. } => ("verification", verdict(*found)),
        What::RemedyRequested { tier, now, by } => {
            let tier = tier.map_or("the next tier".to_owned(), |tier| format!("tier {tier}"));
            ("request", format!("{by} asked for {tier}{}", if *now { " now" } else { "" }))
        }
        What::Event { name, actor_kind, actor, data, .. } => {
            let why = data.get("reason").and_then(serde_json::Value::as_str).filter(|why| !why.is_empty());
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            ("event", format!("{name} by {actor_kind} {actor}{why}"))
        }
    }
}

fn next_in_words(next: &Next) -> String {
    match next {
        Next::Order { action } => format!("order {}", action.name()),
        Next::Wait { until } => format!("wait until {}", time(*until)),
        Next::Hold { reason, until } => format!("hold ({reason}) until {}", time(*until)),
        Next::Decline => "decline the request".to_owned(),
        Next::EndBenign => "end as benign".to_owned(),
        Next::Exhaust => "exhausted".to_owned(),
        Next::HandOver => "hand over to people".to_owned(),
        Next::AwaitApproval => "await approval".to_owned(),
    }
}

/// The name people know it by.
fn update(update: &UpdateRef) -> String {
    match (update.kb, update.update_id) {
        (Some(kb), _) => kb.to_string(),
        (None, Some(id)) => id.to_string(),
        (None, None) => update.title.clone(),
    }
}

fn state(text: &str) -> Result<StateName, String> {
    one_of(text, StateName::ALL, StateName::from_word, StateName::word)
}
