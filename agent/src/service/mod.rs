//! The agent as a Windows service: the service control manager starts `fleetmend-agent run --service`, and what runs is the
//! same as in a console (`cli::run::until`). Only the way to be told to stop, and where the log goes, differ.

pub mod control;
mod log_file;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use windows_service::{
    define_windows_service,
    service::{ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType},
    service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle},
    service_dispatcher,
};

use crate::{
    cli::{self, CliError, Exit},
    config::Config,
    link::failure::chain,
    platform::windows::WindowsPc,
};

/// What the service is called in scripts.
pub const NAME: &str = "Fleetmend";
/// Where the manager waits for a state longer than it would by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// The service's entry gets no argument of ours: set before the manager calls it.
static CONFIG: OnceLock<PathBuf> = OnceLock::new();

define_windows_service!(entry, serve);

/// Hands this process over to the service control manager until the service ends.
///
/// # Errors
/// When the process was not started by the manager.
pub fn run(config: &Path) -> Result<(), CliError> {
    let _ = CONFIG.set(config.to_owned());
    service_dispatcher::start(NAME, entry).map_err(|error| CliError::Failed {
        exit: Exit::Usage,
        message: format!(
            "--service is for Windows' service control manager; leave it out to run here ({})",
            chain(&error)
        ),
    })
}

fn serve(_arguments: Vec<OsString>) {
    let Some(config) = CONFIG.get() else { return };
    log_file::install(config);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    #[allow(clippy::wildcard_enum_match_arm)] // whatever else a manager may ask for
    let handler = move |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => {
            stop.cancel();
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let status = match service_control_handler::register(NAME, handler) {
        Ok(status) => status,
        Err(error) => {
            tracing::error!(error = %chain(&error), "the service control manager does not take this service");
            return;
        }
    };
    tell(&status, ServiceState::StartPending, 0);
    let result = agent(config).and_then(|(config, pc)| {
        tell(&status, ServiceState::Running, 0);
        tracing::info!(version = crate::VERSION, "service started");
        cli::run::until(config, Arc::new(pc), async {
            shutdown.cancelled().await;
            tell(&status, ServiceState::StopPending, 0);
        })
    });
    let code = match result {
        Ok(()) => {
            tracing::info!("service stopped");
            0
        }
        Err(error) => {
            tracing::error!(error = %chain(&error), "service ended");
            error.exit() as u32
        }
    };
    tell(&status, ServiceState::Stopped, code);
}

fn agent(config: &Path) -> Result<(Config, WindowsPc), CliError> {
    let config = Config::load(config).map_err(CliError::Config)?;
    let pc = WindowsPc::new(&config.data_dir, config.package_folder.clone());
    Ok((config, pc))
}

/// A manager that cannot be told is logged; there is nobody else to tell.
fn tell(status: &ServiceStatusHandle, state: ServiceState, code: u32) {
    let accepted = if state == ServiceState::Running {
        ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN
    } else {
        ServiceControlAccept::empty()
    };
    let is_pending = matches!(state, ServiceState::StartPending | ServiceState::StopPending);
    let told = status.set_service_status(ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: accepted,
        exit_code: if code == 0 { ServiceExitCode::NO_ERROR } else { ServiceExitCode::ServiceSpecific(code) },
        checkpoint: 0,
        wait_hint: if is_pending { PATIENCE } else { Duration::ZERO },
        process_id: None,
    });
    if let Err(error) = told {
        tracing::warn!(error = %chain(&error), ?state, "the service control manager could not be told");
    }
}
