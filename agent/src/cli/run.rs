//! `fleetmend-agent run`: the agent until it is told to stop.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use fleetmend_proto::SystemClock;
use tokio_util::sync::CancellationToken;

use super::{CliError, ConfigArg, block_on, load};
use crate::{
    config::Config,
    platform::Platform,
    runner::{self, AgentParts},
};

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Folder with logs collected from a PC: report from there, and answer every order with "unavailable".
    #[cfg_attr(not(windows), arg(required = true))]
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Started by Windows' service control manager.
    #[cfg(windows)]
    #[arg(long, hide = true, conflicts_with = "from")]
    pub service: bool,
}

/// # Errors
/// Why the agent cannot run at all; a controller that is away is no error.
pub fn run(args: &RunArgs) -> Result<(), CliError> {
    #[cfg(windows)]
    if args.service {
        return crate::service::run(&args.config.config);
    }
    let config = load(&args.config)?;
    let platform = super::platform(args.from.as_deref(), &config)?;
    until(config, platform, told_to_stop())
}

/// Runs the agent until `stop`: the one start of console and service.
///
/// # Errors
/// Why the agent cannot run at all.
pub(crate) fn until(
    config: Config,
    platform: Arc<dyn Platform>,
    stop: impl Future<Output = ()>,
) -> Result<(), CliError> {
    block_on(async {
        let shutdown = CancellationToken::new();
        let agent = AgentParts { config, platform, clock: Arc::new(SystemClock) };
        let running = runner::run(agent, shutdown.clone());
        tokio::pin!(running);
        tokio::select! {
            result = &mut running => result.map_err(CliError::Run),
            () = stop => {
                tracing::info!("stopping");
                shutdown.cancel();
                running.await.map_err(CliError::Run)
            }
        }
    })
}

/// Ctrl-C, or on Unix SIGTERM.
async fn told_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
