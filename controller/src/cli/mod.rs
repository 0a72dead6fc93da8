//! The command line of `fleetmend`: one file a noun. Commands that look at a running controller speak its API; `init`,
//! `serve`, `migrate`, `check-config` and `token` work on this machine's configuration and database.

pub mod catalog;
pub mod exit;
pub mod output;
pub mod printable;

use clap::{Parser, Subcommand};

pub use exit::{Code, Failure};

/// Repairs failed Windows updates across a fleet, tier by tier, and proves them fixed.
#[derive(Debug, Parser)]
#[command(name = "fleetmend", version, after_help = exit::EXIT_CODES, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What Fleetmend knows of error codes (works offline)
    #[command(subcommand)]
    Catalog(catalog::Catalog),
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// A [`Failure`] with the exit code and what to tell the person.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Catalog(catalog) => catalog.run(),
        }
    }
}
