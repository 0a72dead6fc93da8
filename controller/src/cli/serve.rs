//! `fleetmend serve`: logs, signals, and then the controller itself.

use std::{io, sync::Arc};

use clap::{Args, ValueEnum};
use fleetmend_proto::clock::SystemClock;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{
    exit::{Code, Failure},
    local::{Local, store_failure},
};
use crate::{
    chain::chain,
    serve::{ServeError, serve},
};

pub const EXAMPLES: &str = "\
Examples:
  fleetmend serve --config fleet/fleetmend.toml
  RUST_LOG=fleetmend_controller=debug fleetmend serve --log json

Stops at SIGTERM or Ctrl-C: agents are sent away and open work is finished first. A second signal stops at once.";

#[derive(Debug, Args)]
pub struct Serve {
    /// How to write the log, to standard error; RUST_LOG says how much
    #[arg(long, value_enum, default_value_t = Log::Text, value_name = "FORMAT")]
    log: Log,
    #[command(flatten)]
    local: Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Log {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl Serve {
    /// Runs until a signal or an error ends it.
    ///
    /// # Errors
    /// 64 for configuration and keys, 69 for the database, 74 for a port.
    pub fn run(self) -> Result<(), Failure> {
        let config = self.local.load()?;
        start_log(self.log);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| Failure::new(Code::Internal, format_args!("cannot start the runtime: {error}")))?;
        let ended = runtime.block_on(async {
            let shutdown = CancellationToken::new();
            tokio::spawn(signals(shutdown.clone()));
            serve(config, Arc::new(SystemClock), shutdown).await
        });
        // A task that was given up must not hold the process.
        runtime.shutdown_background();
        ended.or_else(|error| failure(&error).map_or(Ok(()), Err))
    }
}

/// Sends the log to standard error.
fn start_log(format: Log) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        Log::Json => builder.json().flatten_event(true).init(),
        Log::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
    }
}

/// The first signal asks for an orderly end, the second does not wait for it.
async fn signals(shutdown: CancellationToken) {
    if let Err(error) = signal().await {
        tracing::warn!(%error, "cannot listen for signals: end this process by kill");
        return;
    }
    shutdown.cancel();
    if signal().await.is_ok() {
        tracing::warn!("stopping at once");
        std::process::exit(130);
    }
}

async fn signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            pressed = tokio::signal::ctrl_c() => pressed,
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// `None` for an end that a signal asked for.
fn failure(error: &ServeError) -> Option<Failure> {
    let text = || chain(error);
    match error {
        ServeError::Store(error) => Some(store_failure(error)),
        ServeError::Keys(_) => Some(Failure::new(Code::Usage, text())),
        ServeError::Listen(_) => Some(Failure::new(Code::Io, text())),
        ServeError::Policy(_) => Some(Failure::new(Code::Internal, text())),
        ServeError::Stopped => None,
    }
}
