//! The services that updates need: their defaults, the order in which they stop, and stopping one.
//!
//! Defaults after Windows 10 and 11 as shipped; builds differ between Manual and Automatic, so only "disabled" and
//! "missing" are ever called faults. WaaSMedicSvc is protected and TrustedInstaller's start type is servicing's own:
//! neither is in the list.

use std::time::Duration;

use fleetmend_proto::{Clock, HResult};

use super::span::Span;
use crate::platform::{Platform, PlatformError, Result, Run, Service, ServiceState, StartType};

/// Domain time one service may take to stop; past it the work is put off.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(180);
/// Domain time between two looks at a service that is stopping.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Real time between two looks at least.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(5);

const SERVICE_DISABLED: HResult = HResult(0x8007_0422);

/// `UsoSvc` first, as it starts `wuauserv` again; `appidsvc` before `cryptsvc`, on which it depends.
pub(super) const STOP_ORDER: [&str; 6] = ["UsoSvc", "wuauserv", "DoSvc", "bits", "appidsvc", "cryptsvc"];

pub(super) const START_ORDER: [&str; 6] = ["cryptsvc", "appidsvc", "bits", "DoSvc", "wuauserv", "UsoSvc"];

/// Without these an update can neither be searched nor installed.
pub(super) const NEEDED: [&str; 5] = ["wuauserv", "bits", "cryptsvc", "UsoSvc", "DoSvc"];

/// Name, default, and what a disabled one causes.
pub(super) const DEFAULTS: [(&str, StartType, &str); 9] = [
    ("wuauserv", StartType::Manual, "0x80070422 on every search"),
    ("bits", StartType::Manual, "downloads that never begin"),
    ("cryptsvc", StartType::Automatic, "signatures that cannot be checked"),
    ("UsoSvc", StartType::AutomaticDelayed, "no scans by Windows itself"),
    ("DoSvc", StartType::AutomaticDelayed, "downloads that never begin"),
    ("wlidsvc", StartType::Manual, "0x80070426 on scans for feature updates"),
    ("EventSystem", StartType::Automatic, "services that cannot tell each other"),
    ("RpcSs", StartType::Automatic, "nothing works without it"),
    ("mpssvc", StartType::Automatic, "0x800706D9"),
];

/// Stops a service that runs or is about to; nothing to do for one that is stopped or missing. One that could not be
/// started again is not stopped.
pub(super) async fn stop_if_running(platform: &dyn Platform, run: Run, name: &str) -> Result<()> {
    match platform.service(name).await? {
        None => Ok(()),
        Some(service) if service.state == ServiceState::Stopped => Ok(()),
        Some(service) if is_irretrievable(service) => {
            let why = "it runs although it is disabled, and could not be started again".to_owned();
            Err(PlatformError::Failed { what: format!("stopping {name}"), code: SERVICE_DISABLED, why })
        }
        Some(_) => platform.stop_service(run, name, STOP_WITHIN).await,
    }
}

/// Whether it runs and, once stopped, could not be started again: disabled since it was started.
pub(super) fn is_irretrievable(service: Service) -> bool {
    service.start_type == StartType::Disabled
        && matches!(service.state, ServiceState::Running | ServiceState::StartPending)
}

/// Starts a service that does not run. Windows refuses to start one that is still stopping: that is waited for.
pub(super) async fn start(platform: &dyn Platform, clock: &dyn Clock, run: Run, name: &str) -> Result<String> {
    let mut span = Span::new(STOP_WITHIN);
    loop {
        match platform.service(name).await? {
            None => return Ok(format!("{name} is not there")),
            Some(service) if service.state == ServiceState::Running => return Ok(format!("{name} runs")),
            Some(service) if service.state == ServiceState::StopPending => {
                if span.is_over() {
                    return Err(PlatformError::TimedOut { what: format!("stopping {name}"), limit: STOP_WITHIN });
                }
                span.wait(clock, LOOK_EVERY, LOOK_AT_MOST_EVERY).await;
            }
            Some(_) => {
                platform.start_service(run, name).await?;
                return Ok(format!("{name} started"));
            }
        }
    }
}

/// The services among `names` that are there and not stopped.
pub(super) async fn not_stopped(platform: &dyn Platform, names: &[&'static str]) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for name in names {
        if platform.service(name).await?.is_some_and(|it| it.state != ServiceState::Stopped) {
            found.push(*name);
        }
    }
    Ok(found)
}

/// Words for an error of one service that must not end the whole action.
pub(super) fn why(error: &PlatformError) -> String {
    match error {
        PlatformError::Io { source, .. } => format!("{error}: {source}"),
        PlatformError::Unavailable { .. } | PlatformError::Failed { .. } | PlatformError::TimedOut { .. } => {
            error.to_string()
        }
    }
}
