//! The command line of `fleetmend`: one file a noun. Commands that look at a running controller speak its API; `init`,
//! `serve`, `migrate`, `check-config` and `token` work on this machine's configuration and database.

pub mod catalog;
pub mod check_config;
pub mod device;
pub mod exit;
pub mod incident;
pub mod init;
pub mod listing;
pub mod local;
pub mod migrate;
pub mod order;
pub mod output;
pub mod printable;
pub mod remediate;
pub mod remote;
pub mod serve;
pub mod summary;
pub mod token;

use clap::{Parser, Subcommand};

pub use exit::{Code, Failure};

/// Repairs failed Windows updates across a fleet, tier by tier, and proves them fixed.
#[derive(Debug, Parser)]
#[command(name = "fleetmend", version, after_help = AFTER_HELP, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Examples, and what the exit codes mean.
const AFTER_HELP: &str = "\
Examples:
  fleetmend init --data-dir fleet
  fleetmend serve --config fleet/fleetmend.toml
  fleetmend catalog show 0x80070103
  fleetmend incident list --open --config fleet/fleetmend.toml

Exit codes:
   0  done
  64  the command line or the configuration is wrong
  65  what was given is not acceptable (a file's content, a request the controller refused)
  66  there is nothing by that id, name or code
  69  the controller or its database cannot be reached
  70  internal error: please report it
  74  a file or port cannot be used
  77  not permitted: no token, a wrong or expired one, or a role that does not allow it";

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new fleet: data folder, keys, configuration, database, first operator token
    #[command(after_help = init::EXAMPLES)]
    Init(init::Init),
    /// Run the controller
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::Serve),
    /// Read the configuration as `serve` would, and say what is wrong
    CheckConfig(check_config::CheckConfig),
    /// Bring the database to the schema this version needs
    Migrate(migrate::Migrate),
    /// Enrolment tokens for devices, API tokens for people and programs
    #[command(subcommand)]
    Token(token::Token),
    /// The PCs of the fleet
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Updates that fail, and everything that happened to them
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// What devices were told to do
    #[command(subcommand)]
    Order(order::OrderCommand),
    /// Ask for a remedy for a device by hand
    #[command(after_help = remediate::EXAMPLES)]
    Remediate(remediate::Remediate),
    /// Counts over the whole fleet
    Summary(summary::Summary),
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
            Command::Init(init) => init.run(),
            Command::Serve(serve) => serve.run(),
            Command::CheckConfig(check) => check.run(),
            Command::Migrate(migrate) => migrate.run(),
            Command::Token(token) => token.run(),
            Command::Device(device) => device.run(),
            Command::Incident(incident) => incident.run(),
            Command::Order(order) => order.run(),
            Command::Remediate(remediate) => remediate.run(),
            Command::Summary(summary) => summary.run(),
            Command::Catalog(catalog) => catalog.run(),
        }
    }
}
