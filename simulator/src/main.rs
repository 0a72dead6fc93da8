//! The binary `fleetmend-sim`: read the command line, run the command, say how it went by the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use fleetmend_simulator::cli::{self, Cli};

fn main() -> ExitCode {
    // One provider for every TLS end of this process, in both directions.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(error) => cli::after_parse(&error),
    }
}
