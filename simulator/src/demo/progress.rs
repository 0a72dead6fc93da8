//! The demo's live line on standard error: where the fleet stands, read from the store. A terminal gets one line that
//! changes, anything else a line now and then.

use std::{convert::Infallible, io::IsTerminal as _, time::Duration};

use fleetmend_controller::store::{Store, Summary as Stored};
use fleetmend_domain::incident::StateName;
use fleetmend_proto::Tier;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks between two lines where there is no terminal.
const PLAIN_EVERY: u32 = 10;

pub struct Progress {
    store: Store,
    devices: u32,
    bar: ProgressBar,
    looks: u32,
}

impl Progress {
    pub fn new(store: Store, devices: u32) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}") {
            bar.set_style(style);
        }
        Self { store, devices, bar, looks: 0 }
    }

    /// Shows the fleet for ever.
    pub async fn run(&mut self, phase: &str) -> Infallible {
        loop {
            self.show(phase).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Shows the fleet until no incident is open any more.
    pub async fn settled(&mut self) {
        while self.show("draining").await.is_none_or(|stored| open(&stored) > 0) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    async fn show(&mut self, phase: &str) -> Option<Stored> {
        let stored = match self.store.summary().await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the store cannot be read");
                return None;
            }
        };
        let line = line(&stored, self.devices, phase);
        if std::io::stderr().is_terminal() {
            self.bar.set_message(line);
            self.bar.tick();
        } else if self.looks.is_multiple_of(PLAIN_EVERY) {
            eprintln!("{line}");
        }
        self.looks += 1;
        Some(stored)
    }
}

/// Incidents that are still worked on.
pub fn open(stored: &Stored) -> i64 {
    let is_open = |name: StateName| match name {
        StateName::Open | StateName::Scheduled | StateName::Remediating | StateName::Verifying => true,
        StateName::Held
        | StateName::Exhausted
        | StateName::HandedOver
        | StateName::AwaitingApproval
        | StateName::Resolved
        | StateName::Benign
        | StateName::Dismissed => false,
    };
    stored.incidents.iter().filter(|(name, _)| is_open(**name)).map(|(_, count)| count).sum()
}

fn line(stored: &Stored, devices: u32, phase: &str) -> String {
    let enrolled: i64 = stored.devices.values().sum();
    let of = |name| stored.incidents.get(&name).copied().unwrap_or(0);
    let per_tier: Vec<String> = Tier::ALL[..5]
        .iter()
        .map(|tier| {
            let orders = stored.orders.iter().filter(|it| it.tier == Some(*tier));
            format!("{}:{}", tier.number(), orders.map(|it| it.count).sum::<i64>())
        })
        .collect();
    format!(
        "{phase} | enrolled {enrolled}/{devices} | open {} | orders per tier {} | resolved {} | exhausted {} | awaiting approval {}",
        open(stored),
        per_tier.join(" "),
        of(StateName::Resolved),
        of(StateName::Exhausted) + of(StateName::HandedOver),
        of(StateName::AwaitingApproval),
    )
}
