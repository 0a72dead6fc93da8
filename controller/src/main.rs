//! The binary `fleetmend`: read the command line, run the command, say how it went by the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use fleetmend_controller::cli::{Cli, exit};

fn main() -> ExitCode {
    // One provider for every TLS end of this process, in both directions.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::after_parse(&error),
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
