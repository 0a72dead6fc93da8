//! `fleetmend-sim pcs`: a process of simulated PCs whose folders outlive it. For the fault tests: killing it kills all its
//! agents at once, and starting it again finds the PCs as they were, in the same boot.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use fleetmend_agent::config::Config;
use tokio_util::sync::CancellationToken;

use super::{ClockArgs, failed};
use crate::{
    fleet::{Fleet, FleetSettings},
    pc::Habits,
};

#[derive(Debug, Args)]
pub struct PcsArgs {
    /// Folder of the PCs and their agents.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Number of the first PC.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u32,
    /// How many PCs, at most 1000.
    #[arg(long, value_name = "N")]
    count: u32,
    /// The agents' configuration, as `fleetmend init` wrote it; its data folder is replaced by each PC's own.
    #[arg(long, value_name = "FILE")]
    agent_config: PathBuf,
    /// File with an enrolment token good for all PCs that are not enrolled yet.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Fixes devices, hidden causes and what each step comes to.
    #[arg(long, value_name = "NUMBER", default_value_t = 42)]
    seed: u64,
    #[command(flatten)]
    clock: ClockArgs,
    /// Power failures of each PC in a day of domain time.
    #[arg(long, value_name = "RATE", default_value_t = Habits::default().power_losses_per_day)]
    power_losses: f64,
    /// No further updates arrive; what is open goes on.
    #[arg(long)]
    no_new_failures: bool,
    /// Agents look at their PCs this often in real time, where their configuration would have them look more often.
    #[arg(long, value_name = "TIME", value_parser = super::demo::duration, default_value = "1s")]
    look_at_most_every: Duration,
    /// Stop, send what the outboxes hold, and end; with an exit code other than 0 if that failed for some PC.
    #[arg(long)]
    flush: bool,
}

pub async fn run(args: PcsArgs, stop: CancellationToken) -> ExitCode {
    match simulate(args, stop).await {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

async fn simulate(args: PcsArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let clock = args.clock.clock()?;
    let mut agent = Config::load(&args.agent_config).context("the agents' configuration")?;
    agent.detect_interval = agent.detect_interval.max(args.look_at_most_every.mul_f64(args.clock.speed));
    let read = |file: &PathBuf| {
        std::fs::read_to_string(file).with_context(|| format!("reading the token in {}", file.display()))
    };
    let token = args.token_file.as_ref().map(read).transpose()?;
    let habits = Habits { power_losses_per_day: args.power_losses, ..Habits::default() };
    if args.no_new_failures {
        habits.no_more_failures.cancel();
    }
    let settings = FleetSettings {
        dir: args.dir,
        first: args.from,
        count: args.count,
        seed: args.seed,
        clock: Arc::new(clock),
        agent,
        token,
        habits,
        fsync: true,
    };
    let mut fleet = Fleet::start(settings)?;
    println!("{} PCs are up", fleet.pcs().len());
    if !args.flush {
        stop.cancelled().await;
        fleet.stop().await;
        return Ok(ExitCode::SUCCESS);
    }
    let flushed = fleet.stop_and_flush().await;
    println!("{} outcomes recorded, {} not acknowledged", flushed.recorded, flushed.pending);
    Ok(if flushed.failed == 0 && flushed.pending == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
