//! The `fleetmend-agent` binary: reads its command line and hands over to one function a subcommand in `cli`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fleetmend_agent::cli::detect;

/// Notices failed Windows updates, reports them and carries out remedies.
#[derive(Debug, Parser)]
#[command(name = "fleetmend-agent", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the update outcomes in logs collected from a PC; works on any system.
    Detect(detect::DetectArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Detect(args) => detect::run(&args),
    }
}
