//! Installing and removing the service, and how it is. Called by the command line; needs an administrator.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use windows_service::{
    Error,
    service::{
        Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl, ServiceFailureActions,
        ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState, ServiceType,
    },
    service_manager::{ServiceManager, ServiceManagerAccess},
};

use super::NAME;

const TITLE: &str = "Fleetmend Agent";
const DESCRIPTION: &str = "Notices failed Windows updates, reports them and carries out remedies.";
/// Waits before the service is started again after it ended by itself.
const RESTARTS: [Duration; 3] = [Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(900)];
const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const NO_SUCH_SERVICE: i32 = 1060;
const NOT_ACTIVE: i32 = 1062;

/// Why the service could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{doing} the service {NAME} failed: run this as an administrator")]
    Manager {
        doing: &'static str,
        #[source]
        source: Error,
    },
    #[error("the service {NAME} did not stop within {} s: end it with Task Manager or restart the PC", STOP_WITHIN.as_secs())]
    DoesNotStop,
    #[error("this program's own path cannot be read")]
    OwnPath(#[source] std::io::Error),
}

/// How the service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    pub state: ServiceState,
    pub program: PathBuf,
}

/// Installs the service, or brings an installed one up to date. Gives what Windows did not take, if anything.
///
/// # Errors
/// When the manager refuses.
pub fn install(config: &Path) -> Result<Vec<String>, ControlError> {
    let failed = |source| ControlError::Manager { doing: "installing", source };
    let info = ServiceInfo {
        name: OsString::from(NAME),
        display_name: OsString::from(TITLE),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: std::env::current_exe().map_err(ControlError::OwnPath)?,
        launch_arguments: vec!["run".into(), "--service".into(), "--config".into(), config.as_os_str().to_owned()],
        dependencies: Vec::new(),
        // LocalSystem.
        account_name: None,
        account_password: None,
    };
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&str>, access).map_err(failed)?;
    let rights = ServiceAccess::QUERY_CONFIG | ServiceAccess::CHANGE_CONFIG | ServiceAccess::START;
    let service = match manager.open_service(NAME, rights) {
        Ok(service) => {
            service.change_config(&info).map_err(failed)?;
            service
        }
        Err(error) if is(&error, NO_SUCH_SERVICE) => manager.create_service(&info, rights).map_err(failed)?,
        Err(error) => return Err(failed(error)),
    };
    Ok(settle(&service))
}

/// What makes the service better, and is no reason to have none.
fn settle(service: &Service) -> Vec<String> {
    let restarts = RESTARTS.map(|delay| ServiceAction { action_type: ServiceActionType::Restart, delay });
    let recovery = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(FORGET_AFTER),
        reboot_msg: None,
        command: None,
        actions: Some(restarts.to_vec()),
    };
    let settings = [
        ("its description", service.set_description(DESCRIPTION)),
        ("its delayed start", service.set_delayed_auto_start(true)),
        ("its restart after a failure", service.update_failure_actions(recovery)),
        ("its restart after an error of its own", service.set_failure_actions_on_non_crash_failures(true)),
    ];
    let refused = settings.into_iter().filter_map(|(what, set)| Some((what, set.err()?)));
    refused.map(|(what, error)| format!("{what}: {}", crate::link::failure::chain(&error))).collect()
}

/// Starts the installed service.
///
/// # Errors
/// When the manager refuses.
pub fn start() -> Result<(), ControlError> {
    let failed = |source| ControlError::Manager { doing: "starting", source };
    let service = open(ServiceAccess::START).map_err(failed)?;
    service.start::<&str>(&[]).map_err(failed)
}

/// Stops and removes the service; `false` when there was none. The data folder stays.
///
/// # Errors
/// When the manager refuses or the service does not stop.
pub fn uninstall() -> Result<bool, ControlError> {
    let failed = |source| ControlError::Manager { doing: "removing", source };
    let service = match open(ServiceAccess::STOP | ServiceAccess::QUERY_STATUS | ServiceAccess::DELETE) {
        Ok(service) => service,
        Err(error) if is(&error, NO_SUCH_SERVICE) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    match service.stop() {
        Err(error) if !is(&error, NOT_ACTIVE) => return Err(failed(error)),
        Ok(_) | Err(_) => {}
    }
    let begun = Instant::now();
    while service.query_status().map_err(failed)?.current_state != ServiceState::Stopped {
        if begun.elapsed() >= STOP_WITHIN {
            return Err(ControlError::DoesNotStop);
        }
        thread::sleep(Duration::from_millis(200));
    }
    service.delete().map_err(failed)?;
    Ok(true)
}

/// `Ok(None)`: not installed.
///
/// # Errors
/// When the manager does not answer.
pub fn status() -> Result<Option<Installed>, ControlError> {
    let failed = |source| ControlError::Manager { doing: "asking about", source };
    let service = match open(ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG) {
        Ok(service) => service,
        Err(error) if is(&error, NO_SUCH_SERVICE) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let state = service.query_status().map_err(failed)?.current_state;
    let program = service.query_config().map_err(failed)?.executable_path;
    Ok(Some(Installed { state, program }))
}

fn open(access: ServiceAccess) -> Result<Service, Error> {
    ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)?.open_service(NAME, access)
}

fn is(error: &Error, code: i32) -> bool {
    if let Error::Winapi(error) = error { error.raw_os_error() == Some(code) } else { false }
}
