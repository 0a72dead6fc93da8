//! `fleetmend remediate DEVICE`: a person asks for a remedy now. It goes through the same guard, journal and audit.

use clap::Args;
use fleetmend_proto::{DeviceId, Tier};

use super::{exit::Failure, output::Output, remote::Connection};
use crate::http::views::device::{Remediate as Body, Remediated};

#[derive(Debug, Args)]
pub struct Remediate {
    /// The device's id
    device: DeviceId,
    /// Go to this tier, 1 to 6 [default: what the ladder says is next]
    #[arg(long, value_name = "N")]
    tier: Option<Tier>,
    /// Skip cool-downs and maintenance windows (never the device's own limits)
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

pub const EXAMPLES: &str = "\
Examples:
  fleetmend remediate 8f14e45f-ceea-467f-a8d4-3f5e1f0c2b11
  fleetmend remediate 8f14e45f-ceea-467f-a8d4-3f5e1f0c2b11 --tier 3 --now";

impl Remediate {
    /// # Errors
    /// 66 for an unknown device, 65 when it has no incident to remedy.
    pub fn run(self) -> Result<(), Failure> {
        let body = Body { tier: self.tier, now: self.now };
        let path = format!("/devices/{}/remediate", self.device);
        let asked: Remediated = self.connection.open()?.post(&path, &body)?;
        self.output.print(&asked, |asked| {
            let ids: Vec<_> = asked.incidents.iter().map(|id| format!("  fleetmend incident show {id}")).collect();
            format!("asked for; follow it with\n{}", ids.join("\n"))
        })
    }
}
