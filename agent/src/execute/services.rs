//! The services that updates need: their defaults, the order in which they stop, and stopping one.
//!
//! Defaults after Windows 10 and 11 as shipped; builds differ between Manual and Automatic, so only "disabled" and
//! "missing" are ever called faults. WaaSMedicSvc is protected and TrustedInstaller's start type is servicing's own:
//! neither is in the list.

use std::time::Duration;

use crate::platform::{Platform, PlatformError, Result, Run, ServiceState, StartType};

/// Domain time one service may take to stop.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(60);

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

/// Stops a service that runs or is about to; nothing to do for one that is stopped or missing.
pub(super) async fn stop_if_running(platform: &dyn Platform, run: Run, name: &str) -> Result<()> {
    match platform.service(name).await? {
        None => Ok(()),
        Some(service) if service.state == ServiceState::Stopped => Ok(()),
        Some(_) => platform.stop_service(run, name, STOP_WITHIN).await,
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
