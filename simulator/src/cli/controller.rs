//! `fleetmend-sim controller`: the real controller as a process of its own whose domain time runs faster. For the fault
//! tests; the product's own binary has no switch for speed.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Args;
use fleetmend_controller::{config::Config, serve::serve};
use tokio_util::sync::CancellationToken;

use super::{ClockArgs, failed};

#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// The controller's configuration, as `fleetmend init` wrote it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    clock: ClockArgs,
}

pub async fn run(args: ControllerArgs, stop: CancellationToken) -> ExitCode {
    match run_controller(args, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run_controller(args: ControllerArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let clock = args.clock.clock()?;
    let config = Config::load(&args.config).context("the controller's configuration")?;
    Ok(serve(config, Arc::new(clock), stop).await?)
}
