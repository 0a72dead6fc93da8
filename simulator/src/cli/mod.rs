//! The command line of `fleetmend-sim`: one file a command. Only here are errors turned into words on standard error.

mod controller;
mod demo;
mod fleet;
mod pcs;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{ScaledClock, clock::BadSpeed};

/// Simulated Windows PCs that run the real Fleetmend agent.
#[derive(Debug, Parser)]
#[command(name = "fleetmend-sim", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to log on standard error, as in RUST_LOG: error, warn, info, fleetmend_agent=debug, ...
    #[arg(long, global = true, value_name = "FILTER", env = "FLEETMEND_SIM_LOG", default_value = "error")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  fleetmend-sim demo                                 200 PCs until Ctrl-C, then a summary
  fleetmend-sim demo --for 60s --output json         a minute; standard output holds only the object
  fleetmend-sim demo --devices 50 --seed 7 --keep /tmp/fleet
  fleetmend-sim demo --database-url postgres://fleetmend@localhost/demo";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole product at work: a controller, simulated PCs that fail, and how they are remedied.
    Demo(demo::DemoArgs),
    /// Put load on a running controller with light devices: real protocol and TLS, no disk.
    Fleet(fleet::FleetArgs),
    /// For tests: a controller whose domain time runs faster.
    Controller(controller::ControllerArgs),
    /// For tests: a process of simulated PCs whose folders outlive it.
    Pcs(pcs::PcsArgs),
}

/// Domain time that several processes share.
#[derive(Debug, Args)]
struct ClockArgs {
    /// When domain time and wall-clock time were the same, RFC 3339; equal in all processes of a simulation.
    #[arg(long, value_name = "TIME")]
    clock_origin: DateTime<Utc>,
    /// Domain seconds a real second.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speed: f64,
}

impl ClockArgs {
    fn clock(&self) -> Result<ScaledClock, BadSpeed> {
        ScaledClock::with_origin(self.clock_origin, self.clock_origin, self.speed)
    }
}

impl Cli {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let filter = match EnvFilter::try_new(&self.log) {
            Ok(filter) => filter,
            Err(error) => return usage(&format!("--log {:?} is no filter: {error}", self.log)),
        };
        let ansi = io::stderr().is_terminal();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).init();
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&anyhow::Error::new(error).context("the runtime cannot be started")),
        };
        let stop = CancellationToken::new();
        runtime.block_on(async {
            if let Err(error) = stop_at_signal(&stop) {
                return failed(&anyhow::Error::new(error).context("signals cannot be watched"));
            }
            match self.command {
                Command::Demo(args) => demo::run(args, stop).await,
                Command::Fleet(args) => fleet::run(args, stop).await,
                Command::Controller(args) => controller::run(args, stop).await,
                Command::Pcs(args) => pcs::run(args, stop).await,
            }
        })
    }
}

/// Ctrl-C and SIGTERM ask for an end; the second one gets it at once.
fn stop_at_signal(stop: &CancellationToken) -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        for asked in 1.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if asked > 1 {
                std::process::exit(130);
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// Help and version were asked for, or the command line is wrong.
#[must_use]
pub fn after_parse(error: &clap::Error) -> ExitCode {
    // A closed pipe is the reader's wish.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// `EX_USAGE` of `sysexits.h`, as the product's other programs use it.
const USAGE: u8 = 64;

/// The command line is wrong.
fn usage(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(USAGE)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
