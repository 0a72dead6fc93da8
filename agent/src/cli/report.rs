//! `fleetmend-agent report`: sends the outcomes found in collected logs as the enrolled device of the data folder.
//!
//! What was taken once is known by its content and never taken again; it waits in the same outbox as the agent's own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use fleetmend_proto::{Clock as _, Outcome, SystemClock};
use serde::Serialize;

use super::{CliError, ConfigArg, Exit, block_on, detect::Format, load, of_link};
use crate::{
    config::Config,
    detect::{self, Collected},
    identity::Identity,
    link::{
        self, Backoff, LinkError,
        backoff::unit,
        dead_letters::DeadLetters,
        failure::chain,
        report::{ReportError, Reporter, Sent},
    },
    outbox::Outbox,
    platform::{Platform as _, collected::CollectedPc},
    runner::{DataDir, ReadSoFar},
    state::AgentDb,
};

/// Attempts while the controller is busy or the connection breaks.
const ATTEMPTS: u32 = 5;

#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Folder with logs collected from a PC; read with all its subfolders.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// How to print what was sent.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// What was found and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Outcomes in the folder.
    pub found: u64,
    /// Of these, taken in an earlier run.
    pub known: u64,
    /// Sent now; with what an earlier run could not send.
    pub sent: u64,
    /// Durable at the controller.
    pub acked: u64,
    /// Refused by the controller for good, and kept in dead-letters.jsonl.
    pub rejected: u64,
    /// Lines and events that could not be understood.
    pub problems: u64,
}

/// # Errors
/// What stands in the way. What was found is stored by then and goes with the next run.
pub fn run(args: &ReportArgs) -> Result<(), CliError> {
    let config = load(&args.config)?;
    let pc = CollectedPc::open(Some(&args.from)).map_err(CliError::Collected)?;
    let collected = detect::outcomes_in(&args.from).map_err(|error| CliError::failed(Exit::NoInput, &error))?;
    for problem in &collected.problems {
        eprintln!("{problem}");
    }
    let summary = block_on(send(&config, &pc, &collected))?;
    match args.output {
        Format::Json => {
            let text =
                serde_json::to_string_pretty(&summary).map_err(|error| CliError::failed(Exit::Software, &error))?;
            println!("{text}");
        }
        Format::Table => {
            println!("found     {}", summary.found);
            println!("known     {}", summary.known);
            println!("sent      {}", summary.sent);
            println!("acked     {}", summary.acked);
            println!("rejected  {}", summary.rejected);
            println!("problems  {}", summary.problems);
        }
    }
    Ok(())
}

/// Stores what is new, then sends all that waits.
///
/// # Errors
/// What stands in the way.
pub async fn send(config: &Config, pc: &CollectedPc, collected: &Collected) -> Result<Summary, CliError> {
    let data = DataDir::lock(&config.data_dir).map_err(CliError::Run)?;
    let identity = Identity::load(&config.data_dir)
        .map_err(|error| CliError::failed(Exit::NoPermission, &error))?
        .ok_or_else(|| CliError::Failed {
            exit: Exit::NoPermission,
            message: format!("{} holds no identity: run `fleetmend-agent enroll` first", config.data_dir.display()),
        })?;
    let db = AgentDb::open(&data.database(), SystemClock.now()).await.map_err(own_file)?;
    let outbox = Outbox::new(db.clone());
    let known = store_new(&outbox, collected).await?;
    let reporter = Arc::new(Reporter::new(outbox, DeadLetters::new(&config.data_dir)));
    if let Ok(condition) = pc.condition().await {
        reporter.set_condition(condition);
    }
    let sent = deliver(config, &identity, &reporter).await;
    db.close().await;
    let sent = sent?;
    Ok(Summary {
        found: collected.outcomes.len() as u64,
        known,
        sent: sent.sent,
        acked: sent.acked,
        rejected: sent.rejected,
        problems: collected.problems.len() as u64,
    })
}

/// Gives how many were known before: those of which an earlier run took at least one record. Another collection may hold
/// more or fewer sources of the same attempt.
async fn store_new(outbox: &Outbox, collected: &Collected) -> Result<u64, CliError> {
    let stored = |error| CliError::failed(Exit::Software, &error);
    let mut so_far = ReadSoFar::load(outbox).await.map_err(stored)?;
    let is_known = |records: &[_]| records.iter().any(|it| so_far.collected.contains(it));
    let found = collected.outcomes.iter().zip(&collected.records);
    let new: Vec<Outcome> = found.filter(|(_, records)| !is_known(records)).map(|(it, _)| it.clone()).collect();
    let before = so_far.collected.len();
    so_far.collected.extend(collected.records.iter().flatten().cloned());
    if so_far.collected.len() > before {
        outbox.append(&new, Some(&so_far.to_text().map_err(stored)?)).await.map_err(own_file)?;
    }
    Ok((collected.outcomes.len() - new.len()) as u64)
}

async fn deliver(config: &Config, identity: &Identity, reporter: &Reporter) -> Result<Sent, CliError> {
    let failed = |error: &LinkError| CliError::Failed {
        exit: of_link(error),
        message: format!("{}; what was found is stored and goes with the next run", chain(error)),
    };
    let tls = config.server_root.with_identity(identity).map_err(|source| failed(&LinkError::Identity { source }))?;
    let mut backoff = Backoff::new(config.link.backoff);
    let mut total = Sent::default();
    let mut attempt = 1;
    loop {
        let error = match link::connect(&config.agent, &tls, &config.link.channel).await {
            Ok(channel) => match reporter.drain(&channel, config.link.channel.call_timeout, &mut total).await {
                Ok(()) => return Ok(total),
                Err(ReportError::Link(error)) => error,
                Err(ReportError::State(error)) => return Err(own_file(error)),
            },
            Err(error) => error,
        };
        if attempt == ATTEMPTS || !error.is_transient() || matches!(error, LinkError::Unreachable { .. }) {
            return Err(failed(&error));
        }
        attempt += 1;
        let wait = backoff.wait(error.patience(), unit()).min(Duration::from_secs(30));
        tracing::info!(error = %chain(&error), ?wait, "not sent yet, trying again");
        tokio::time::sleep(wait).await;
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn own_file(error: crate::state::StateError) -> CliError {
    CliError::failed(Exit::Software, &error)
}
