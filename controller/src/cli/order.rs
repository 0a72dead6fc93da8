//! `fleetmend order list|show|cancel`: what devices were told to do, and what came of it.

use clap::{Args, Subcommand};
use fleetmend_domain::{ladder::Verdict, order::State};
use fleetmend_proto::{DeviceId, IncidentId, OrderId, Tier};

use super::{
    exit::Failure,
    listing::{Listing, one_of},
    output::{Output, fields, or_dash, table, time, yes_no},
    remote::Connection,
};
use crate::http::views::{
    Reason,
    order::{Order, OrderDetail},
};

#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// Orders, newest first
    #[command(
        after_help = "Examples:\n  fleetmend order list --state running\n  fleetmend order list --tier 4 --output json"
    )]
    List(List),
    /// One order with its steps
    Show(Show),
    /// Take an order back; a device that has begun it is told to stop
    Cancel(Cancel),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only orders in this state: queued, leased, running, succeeded, failed, ...
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<State>,
    /// Only orders for this device
    #[arg(long, value_name = "ID")]
    device: Option<DeviceId>,
    /// Only orders of this incident
    #[arg(long, value_name = "ID")]
    incident: Option<IncidentId>,
    /// Only orders charged to this tier, 1 to 6
    #[arg(long, value_name = "N")]
    tier: Option<Tier>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The order's id
    order: OrderId,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// The order's id
    order: OrderId,
    /// Why, for those who find it cancelled later
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl OrderCommand {
    /// # Errors
    /// By what the controller answers.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Cancel(cancel) => cancel.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let filters = [
            ("state", self.state.map(|it| it.to_string())),
            ("device", self.device.map(|it| it.to_string())),
            ("incident", self.incident.map(|it| it.to_string())),
            ("tier", self.tier.map(|it| it.number().to_string())),
        ];
        self.listing.run("/orders", &filters, |orders: &[Order]| {
            table(
                &["ID", "DEVICE", "ACTION", "TIER", "STATE", "CREATED", "ENDED", "VERDICT"],
                orders.iter().map(|order| {
                    [
                        order.id.to_string(),
                        order.device_id.to_string(),
                        order.action.name().to_owned(),
                        or_dash(order.tier.map(Tier::number)),
                        order.state.to_string(),
                        time(order.created_at),
                        or_dash(order.ended_at.map(time)),
                        or_dash(order.verdict.map(verdict)),
                    ]
                }),
            )
        })
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let order: OrderDetail = self.connection.open()?.get(&format!("/orders/{}", self.order), &[])?;
        self.output.print(&order, details)
    }
}

impl Cancel {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/orders/{}/cancel", self.order);
        let order: Order = self.connection.open()?.post(&path, &Reason { reason: self.reason })?;
        self.output.print(&order, |order| {
            if order.state == State::Cancelled {
                format!("{} is cancelled", order.id)
            } else {
                format!("{} is {}: its device is told to stop, and says when it has", order.id, order.state)
            }
        })
    }
}

fn details(order: &OrderDetail) -> String {
    let it = &order.order;
    let text = fields([
        ("Order", it.id.to_string()),
        ("Device", it.device_id.to_string()),
        ("Incident", it.incident_id.to_string()),
        ("Action", it.action.name().to_owned()),
        ("Charged to", it.tier.map_or_else(|| "no tier".to_owned(), |tier| format!("tier {tier}"))),
        ("By hand", yes_no(it.manual).to_owned()),
        ("State", it.state.to_string()),
        ("Created", time(it.created_at)),
        ("Expires", time(it.expires_at)),
        ("Begun", or_dash(it.begun_at.map(time))),
        ("Ended", or_dash(it.ended_at.map(time))),
        ("Refused because", or_dash(it.refusal)),
        ("Said by the agent", it.detail.clone()),
        ("Verified", or_dash(it.verdict.map(verdict))),
    ]);
    if order.steps.is_empty() {
        return format!("{text}\n\nno steps reported");
    }
    let steps = table(
        &["STEP", "NAME", "STATE", "AT", "DETAIL"],
        order.steps.iter().map(|step| {
            [step.index.to_string(), step.name.clone(), step.state.to_string(), time(step.at), step.detail.clone()]
        }),
    );
    let findings: Vec<_> = order
        .steps
        .iter()
        .flat_map(|step| &step.findings)
        .map(|it| [it.rule.clone(), it.result.to_string(), it.what.clone(), it.why.clone()])
        .collect();
    if findings.is_empty() {
        return format!("{text}\n\n{steps}");
    }
    format!("{text}\n\n{steps}\n\n{}", table(&["RULE", "RESULT", "FOUND", "WHY"], findings))
}

/// In words.
#[must_use]
pub fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Installed => "installed".to_owned(),
        Verdict::StillFailing { code } => format!("still failing with {code}"),
        Verdict::RebootOwed => "restart owed".to_owned(),
        Verdict::DeadlinePassed => "nothing heard before the deadline".to_owned(),
    }
}

fn state(text: &str) -> Result<State, String> {
    one_of(text, State::ALL, State::from_word, State::word)
}
