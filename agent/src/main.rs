//! The `fleetmend-agent` binary: reads its command line and hands over to one function a subcommand in `cli`.

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser, Subcommand};
use fleetmend_agent::cli::{self, Exit, check_config, detect, enroll, report, run};
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  fleetmend-agent check-config --example > agent.toml
  fleetmend-agent enroll --config agent.toml --token-file token
  fleetmend-agent detect --from C:\\collected\\PC-17 --output json
  fleetmend-agent report --config agent.toml --from C:\\collected\\PC-17
  fleetmend-agent run --config agent.toml --from C:\\collected\\PC-17";

/// Notices failed Windows updates, reports them and carries out remedies.
#[derive(Debug, Parser)]
#[command(name = "fleetmend-agent", version, propagate_version = true)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", cli::EXIT_CODES))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: report failed updates and carry out orders.
    Run(run::RunArgs),
    /// Make this PC a device of its fleet, with an enrolment token.
    Enroll(enroll::EnrollArgs),
    /// List the update outcomes in logs collected from a PC; works on any system.
    Detect(detect::DetectArgs),
    /// Send the update outcomes in logs collected from a PC, as an enrolled device.
    Report(report::ReportArgs),
    /// Check the config file, or print an example.
    CheckConfig(check_config::CheckConfigArgs),
    /// Install the agent as a service of this PC, or bring the installed one up to date.
    #[cfg(windows)]
    Install(cli::service::InstallArgs),
    /// Stop and remove the service; the data folder stays.
    #[cfg(windows)]
    Uninstall,
    /// Say how the service and this device are.
    #[cfg(windows)]
    Status(cli::service::StatusArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to tell when the terminal itself fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    if !is_service(&cli.command) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let is_terminal = std::io::stderr().is_terminal();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal).init();
    }
    match cli.command {
        Command::Run(args) => cli::finish(run::run(&args)),
        Command::Enroll(args) => cli::finish(enroll::run(&args)),
        Command::Detect(args) => detect::run(&args),
        Command::Report(args) => cli::finish(report::run(&args)),
        Command::CheckConfig(args) => cli::finish(check_config::run(&args)),
        #[cfg(windows)]
        Command::Install(args) => cli::finish(cli::service::install(&args)),
        #[cfg(windows)]
        Command::Uninstall => cli::finish(cli::service::uninstall()),
        #[cfg(windows)]
        Command::Status(args) => cli::finish(cli::service::status(&args)),
    }
}

/// A service has no terminal: it logs to its own file.
#[cfg(windows)]
fn is_service(command: &Command) -> bool {
    if let Command::Run(args) = command { args.service } else { false }
}

#[cfg(not(windows))]
const fn is_service(_command: &Command) -> bool {
    false
}
