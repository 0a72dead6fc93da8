//! One file a subcommand of `fleetmend-agent`. Each reads its arguments, calls the library and chooses the exit code.

pub mod check_config;
pub mod detect;
pub mod enroll;
pub mod report;
pub mod run;
#[cfg(windows)]
pub mod service;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;

use crate::{
    config::{Config, ConfigError},
    enroll::EnrollError,
    link::{LinkError, failure::chain, session::LinkStopped},
    platform::{
        Platform,
        collected::{CollectedError, CollectedPc},
    },
    runner::RunError,
};

/// Exit codes, after sysexits.h; `--help` explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Wrong arguments or config.
    Usage = 64,
    /// Something to read is missing.
    NoInput = 66,
    /// The controller does not answer.
    Unavailable = 69,
    /// The agent's own file failed.
    Software = 70,
    /// Output or the data folder cannot be written.
    Io = 74,
    /// Another agent runs on this data folder.
    TryLater = 75,
    /// The identity or the token is not accepted, or missing.
    NoPermission = 77,
}

/// Shown at the end of `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   done
  64  wrong arguments or config (the key and line are named)
  66  something to read is missing
  69  the controller cannot be reached or does not answer
  70  the agent's own state file failed
  74  the data folder or the output cannot be written
  75  another fleetmend-agent runs on the same data folder
  77  the enrolment token or the identity is missing or not accepted";

/// Where the config is.
#[derive(Clone, Debug, Args)]
pub struct ConfigArg {
    /// Config file; `check-config --example` prints one.
    #[arg(long, value_name = "FILE", env = "FLEETMEND_AGENT_CONFIG", default_value = default_config())]
    pub config: PathBuf,
}

const fn default_config() -> &'static str {
    if cfg!(windows) { r"C:\ProgramData\Fleetmend\agent.toml" } else { "/etc/fleetmend/agent.toml" }
}

/// Why a subcommand did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(ConfigError),
    #[error(transparent)]
    Collected(CollectedError),
    #[error(transparent)]
    Run(RunError),
    #[error("{message}")]
    Failed { exit: Exit, message: String },
}

impl CliError {
    pub(crate) fn failed(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failed { exit, message: chain(error) }
    }

    /// The exit code that tells scripts what went wrong.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Collected(CollectedError::Facts { .. }) => Exit::Usage,
            Self::Collected(CollectedError::NotAFolder(_) | CollectedError::Unreadable { .. }) => Exit::NoInput,
            Self::Run(error) => match error {
                RunError::InUse(_) => Exit::TryLater,
                RunError::DataDir { .. } => Exit::Io,
                RunError::Identity(_)
                | RunError::OtherFleet { .. }
                | RunError::NoToken { .. }
                | RunError::Link(LinkStopped::CertificateGone { .. }) => Exit::NoPermission,
                RunError::Enroll(error) => of_enrolment(error),
                RunError::State(_)
                | RunError::Machine(_)
                | RunError::Execute(_)
                | RunError::Link(LinkStopped::State(_)) => Exit::Software,
            },
            Self::Failed { exit, .. } => *exit,
        }
    }
}

const fn of_enrolment(error: &EnrollError) -> Exit {
    match error {
        EnrollError::Link(error) => of_link(error),
        EnrollError::TokenRefused { .. } | EnrollError::Identity(_) | EnrollError::OtherFleet { .. } => {
            Exit::NoPermission
        }
    }
}

/// Whether the controller is away, or does not take this device.
pub(crate) const fn of_link(error: &LinkError) -> Exit {
    match error {
        LinkError::Barred { .. }
        | LinkError::DeviceCertificateRefused
        | LinkError::DeviceCertificateExpired
        | LinkError::Identity { .. } => Exit::NoPermission,
        LinkError::Unreachable { .. }
        | LinkError::Silent { .. }
        | LinkError::WrongServerRoot { .. }
        | LinkError::ServerCertificateTime { .. }
        | LinkError::ServerCertificateName { .. }
        | LinkError::Tls { .. }
        | LinkError::Http { .. }
        | LinkError::Busy { .. }
        | LinkError::NoAnswer { .. }
        | LinkError::Invalid { .. }
        | LinkError::Rejected { .. }
        | LinkError::Call { .. } => Exit::Unavailable,
    }
}

/// Prints what went wrong, if something did, and gives the exit code.
#[must_use]
pub fn finish(result: Result<(), CliError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleetmend-agent: {}", chain(&error));
            ExitCode::from(error.exit() as u8)
        }
    }
}

pub(crate) fn load(arg: &ConfigArg) -> Result<Config, CliError> {
    Config::load(&arg.config).map_err(CliError::Config)
}

/// Logs collected from a PC where a folder of them is given, else this PC.
pub(crate) fn platform(from: Option<&Path>, config: &Config) -> Result<Arc<dyn Platform>, CliError> {
    #[cfg(windows)]
    if from.is_none() {
        let pc = crate::platform::windows::WindowsPc::new(&config.data_dir, config.package_folder.clone());
        return Ok(Arc::new(pc));
    }
    #[cfg(not(windows))]
    let _ = config;
    Ok(Arc::new(CollectedPc::open(from).map_err(CliError::Collected)?))
}

/// Runs `work` on a runtime of this thread; the agent needs no more.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::failed(Exit::Software, &error))?.block_on(work)
}
