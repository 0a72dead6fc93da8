//! Tier 4: stop what holds the caches, set the caches aside, start it again. Renamed, never deleted; `catroot` (without
//! the 2) holds the installed catalogues and is never touched.
//!
//! `catroot2` is set aside always, as in Microsoft's own sequence: the order carries no code, the code a PC shows need
//! not name its cause, the cryptographic service builds the folder anew, and the rename can be taken back.
//! Security descriptors are left alone: the ones commonly given online strip rights, and rewriting sound ones destroys
//! deliberate hardening.

use std::time::Duration;

use async_trait::async_trait;
use fleetmend_proto::OrderId;
use serde_json::{Value, json};

use super::{
    plan::Steps,
    retry_update, services,
    step::{Cx, Ended, Kind, Prepared, Seen, Step, Stop},
    undo::{FolderWord, Undo},
};
use crate::{
    guard::LocalPolicy,
    journal::StepRecord,
    platform::{PlatformError, Program, ServiceState, StartType},
};

/// Services that may still run while the folders of Windows Update are renamed.
const FOLDERS: [(FolderWord, &str); 3] = [
    (FolderWord::DataStore, "set_aside_datastore"),
    (FolderWord::Download, "set_aside_download"),
    (FolderWord::Catroot2, "set_aside_catroot2"),
];

/// Libraries of the update client that still exist on Windows 10 and 11.
const LIBRARIES: [&str; 17] = [
    "atl.dll",
    "urlmon.dll",
    "msxml3.dll",
    "msxml6.dll",
    "actxprxy.dll",
    "softpub.dll",
    "wintrust.dll",
    "dssenh.dll",
    "rsaenh.dll",
    "cryptdlg.dll",
    "oleaut32.dll",
    "ole32.dll",
    "wuapi.dll",
    "wups.dll",
    "wups2.dll",
    "qmgr.dll",
    "qmgrprxy.dll",
];

pub(super) fn steps(local: &LocalPolicy) -> Steps {
    let mut steps: Steps = vec![Box::new(Snapshot)];
    steps.extend(services::STOP_ORDER.map(|name| -> Box<dyn Step> { Box::new(Stopping { name }) }));
    steps.extend(FOLDERS.map(|(folder, name)| -> Box<dyn Step> { Box::new(SetAside { folder, name }) }));
    if local.register_libraries {
        steps.push(Box::new(Register));
    }
    steps.extend(services::START_ORDER.map(|name| -> Box<dyn Step> { Box::new(Starting { name }) }));
    steps.extend(retry_update::steps(false));
    steps
}

/// What a folder set aside by this order is called beyond its own name. The end of the id: its start is a time, alike
/// in orders made together.
fn suffix(order: OrderId) -> String {
    let id = order.0.simple().to_string();
    format!("fleetmend-{}", &id[20..])
}

fn stop_name(service: &str) -> String {
    format!("stop_{}", service.to_lowercase())
}

/// A service that hangs while it stops is no fault of this tier: all is undone, and a later order may find it well.
async fn stop(cx: &Cx<'_>, name: &str) -> Result<(), Stop> {
    match services::stop_if_running(cx.platform, cx.run, name).await {
        Err(error @ PlatformError::TimedOut { .. }) => Err(Stop::Deferred(format!(
            "{name} did not stop ({error}): tried again later, a restart of the PC frees it"
        ))),
        done => done.map_err(Stop::from),
    }
}

fn irretrievable(name: &str) -> Stop {
    Stop::Unavailable(format!(
        "{name} runs although it is disabled, and could not be started again: set its start type right first"
    ))
}

/// Writes down how the services are, for people who look later, and refuses before the first stop.
///
/// Microsoft's sequence also saves the update history and `ReportingEvents.log`, which its deletion of the folders would
/// lose. Here nothing is lost: the history stays in the `DataStore` that is set aside, the log lies beside the folders
/// that are renamed and keeps its place, and what the log says of attempts is in the agent's outbox before an order
/// begins.
struct Snapshot;

struct Stopping {
    name: &'static str,
}

struct SetAside {
    folder: FolderWord,
    name: &'static str,
}

struct Register;

struct Starting {
    name: &'static str,
}

#[async_trait]
impl Step for Snapshot {
    fn name(&self) -> String {
        "snapshot".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    fn changes(&self) -> bool {
        false
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let mut lines = Vec::new();
        for name in services::STOP_ORDER {
            lines.push(match cx.platform.service(name).await? {
                Some(service) if services::is_irretrievable(service) => return Err(irretrievable(name)),
                Some(service) => format!("{name} {:?} {:?}", service.start_type, service.state).to_lowercase(),
                None => format!("{name} missing").to_lowercase(),
            });
        }
        Ok(Ended::done(lines.join(", ")))
    }
}

#[async_trait]
impl Step for Stopping {
    fn name(&self) -> String {
        stop_name(self.name)
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        match cx.platform.service(self.name).await? {
            None => Ok(Prepared::Skip(format!("{} is not there", self.name))),
            Some(service) if service.state == ServiceState::Stopped => {
                Ok(Prepared::Skip(format!("{} does not run", self.name)))
            }
            Some(service) if services::is_irretrievable(service) => Err(irretrievable(self.name)),
            Some(_) => Ok(Prepared::Go {
                undo: Some(Undo::StartService { name: self.name.to_owned() }),
                data: json!({ "ran": true }),
            }),
        }
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        stop(cx, self.name).await?;
        Ok(Ended::done("stopped"))
    }
}

#[async_trait]
impl Step for SetAside {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Probe
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        if !cx.platform.folder_exists(&self.folder.folder()).await? {
            return Ok(Prepared::Skip("the folder is not there".to_owned()));
        }
        Ok(Prepared::with_undo(Undo::PutBack {
            folder: self.folder,
            suffix: suffix(cx.order.order),
            start: Vec::new(),
        }))
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        // Windows may have started one again since (a trigger): the folder must not be in use.
        for name in services::STOP_ORDER {
            stop(cx, name).await?;
        }
        let still = services::not_stopped(cx.platform, &services::STOP_ORDER).await?;
        if !still.is_empty() {
            return Err(Stop::Failed(format!("{} started again by itself", still.join(", "))));
        }
        let suffix = suffix(cx.order.order);
        cx.platform.set_aside(cx.run, &self.folder.folder(), &suffix).await?;
        Ok(Ended::done(format!("renamed with the suffix {suffix}")))
    }

    /// (original, copy): (yes, no) not done; (no, yes) renamed; (yes, yes) renamed and built anew already.
    async fn probe(&self, cx: &Cx<'_>, _record: &StepRecord) -> Result<Seen, Stop> {
        let suffix = suffix(cx.order.order);
        let aside = cx.platform.aside_exists(&self.folder.folder(), &suffix).await?;
        Ok(if aside { Seen::Done(Ended::done(format!("renamed with the suffix {suffix}"))) } else { Seen::NotDone })
    }
}

#[async_trait]
impl Step for Register {
    fn name(&self) -> String {
        "register_libraries".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let mut refused = Vec::new();
        for library in LIBRARIES {
            let args = ["/s".to_owned(), library.to_owned()];
            match cx.platform.run(cx.run, Program::RegSvr32, &args, Duration::from_secs(60)).await {
                Ok(exit) if exit.code == 0 => {}
                Ok(exit) => refused.push(format!("{library} ({})", exit.code)),
                Err(error) => return Ok(Ended::skipped(services::why(&error))),
            }
        }
        // Some export no registration: that is no fault.
        Ok(Ended::done(if refused.is_empty() {
            "all registered".to_owned()
        } else {
            format!("not registered: {}", refused.join(", "))
        }))
    }
}

#[async_trait]
impl Step for Starting {
    fn name(&self) -> String {
        format!("start_{}", self.name.to_lowercase())
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        let ran = cx.data(&stop_name(self.name)).and_then(|it| it.get("ran")).is_some();
        if !ran {
            return Ok(Prepared::Skip(format!("{} did not run before", self.name)));
        }
        match cx.platform.service(self.name).await? {
            Some(service) if service.start_type == StartType::Disabled => {
                Ok(Prepared::Skip(format!("{} is disabled and cannot be started", self.name)))
            }
            Some(_) => Ok(Prepared::with_undo(Undo::StopService { name: self.name.to_owned() })),
            None => Ok(Prepared::Skip(format!("{} is not there any more", self.name))),
        }
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        services::start(cx.platform, cx.clock, cx.run, self.name).await.map(Ended::done).map_err(Stop::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_made_together_have_different_suffixes() {
        let mut ids =
            [0, 1].map(|random| OrderId(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | random)));
        ids.sort();
        assert_ne!(suffix(ids[0]), suffix(ids[1]));
        assert_eq!(suffix(ids[1]), "fleetmend-000000000001");
    }
}
