//! The rules that set something right: services, time, disk, transfers. Each detects, fixes, looks again.

use std::time::Duration;

use async_trait::async_trait;
use fleetmend_proto::order::{
    Finding,
    FindingResult::{Fixed, NotFixed, Reported},
};
use serde_json::{Value, json};

use super::{finding, with};
use crate::{
    execute::{
        output,
        repair_image::{BUSY, servicing_is_free, with_log},
        services,
        step::{Cx, Ended, Kind, Prepared, Step, Stop},
        undo::{StartWord, Undo},
    },
    platform::{PlatformError, Program, ServiceState, StartType},
};

/// Below this the system volume counts as nearly full.
const LEAST_FREE: u64 = 5 << 30;
/// A clock off by more breaks certificates and tickets.
const CLOCK_OFF: f64 = 300.0;
/// A service found disabled again after this many fixes is set so by a policy.
const FIXES_BEFORE_POLICY: usize = 2;
const MINUTE: Duration = Duration::from_secs(60);

pub(super) struct Services;
pub(super) struct Time;
pub(super) struct Disk;
pub(super) struct Transfers;

#[async_trait]
impl Step for Services {
    fn name(&self) -> String {
        "services".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        let (mut disabled, mut stop) = (Vec::new(), Vec::new());
        for (name, default, _) in services::DEFAULTS {
            if let Ok(Some(service)) = cx.platform.service(name).await
                && service.start_type == StartType::Disabled
            {
                disabled.push((name.to_owned(), StartWord::Disabled));
                if runs_by_itself(default) && service.state == ServiceState::Stopped {
                    stop.push(name.to_owned());
                }
            }
        }
        let data = json!(disabled.iter().map(|(name, _)| name).collect::<Vec<_>>());
        let undo = (!disabled.is_empty()).then_some(Undo::StartTypes { services: disabled, stop });
        Ok(Prepared::Go { undo, data })
    }

    async fn run(&self, cx: &Cx<'_>, data: &Value) -> Result<Ended, Stop> {
        // From the journal, so that a second run after a crash still knows what the first one found.
        let disabled: Vec<String> = serde_json::from_value(data.clone()).unwrap_or_default();
        let mut findings = Vec::new();
        for (name, default, causes) in services::DEFAULTS {
            match cx.platform.service(name).await {
                Ok(None) if services::NEEDED.contains(&name) => {
                    findings.push(finding(
                        "T2-01",
                        format!("{name} is missing"),
                        NotFixed,
                        "Windows itself must be repaired",
                    ));
                }
                Ok(Some(_)) if disabled.iter().any(|it| it == name) => {
                    findings.push(enable(cx, name, default, causes).await?);
                }
                Ok(_) | Err(PlatformError::Unavailable { .. }) => {}
                Err(error) => {
                    findings.push(finding("T2-01", format!("{name} cannot be read"), Reported, services::why(&error)))
                }
            }
        }
        Ok(with(findings, "all services that updates need are there and enabled"))
    }
}

/// Whether Windows keeps it running, rather than starting it on demand.
const fn runs_by_itself(start: StartType) -> bool {
    matches!(start, StartType::Automatic | StartType::AutomaticDelayed)
}

async fn enable(cx: &Cx<'_>, name: &str, default: StartType, causes: &str) -> Result<Finding, Stop> {
    let what = format!("{name} was disabled ({causes})");
    let since = cx.now() - chrono::Duration::days(30);
    let earlier = cx.journal.earlier("services", cx.order.order, since).await?;
    let before = format!("{name} was disabled");
    let fixes =
        earlier.iter().flat_map(|it| &it.findings).filter(|it| it.result == Fixed && it.what.starts_with(&before));
    if fixes.count() >= FIXES_BEFORE_POLICY {
        return Ok(finding("T2-01", what, NotFixed, "a policy sets it: it came back after two fixes within 30 days"));
    }
    if let Err(error) = cx.platform.set_start_type(cx.run, name, default).await {
        return Ok(finding("T2-01", what, NotFixed, services::why(&error)));
    }
    // What Windows starts with the system only now would stay stopped until the next restart.
    let started = match runs_by_itself(default) {
        true => services::start(cx.platform, cx.clock, cx.run, name).await.map(drop),
        false => Ok(()),
    };
    Ok(match cx.platform.service(name).await {
        Ok(Some(service)) if service.start_type != StartType::Disabled => match started {
            Ok(()) if service.state == ServiceState::Running => {
                finding("T2-01", what, Fixed, format!("start type set to {default:?}, and it runs"))
            }
            Ok(()) if !runs_by_itself(default) => {
                finding("T2-01", what, Fixed, format!("start type set to {default:?}"))
            }
            Ok(()) => finding("T2-01", what, NotFixed, format!("start type set to {default:?}, but it does not run")),
            Err(error) => {
                let why = services::why(&error);
                finding("T2-01", what, NotFixed, format!("start type set to {default:?}, but it does not start: {why}"))
            }
        },
        Ok(_) => finding("T2-01", what, NotFixed, "it was disabled again at once: a policy sets it"),
        Err(error) => finding("T2-01", what, NotFixed, services::why(&error)),
    })
}

#[async_trait]
impl Step for Time {
    fn name(&self) -> String {
        "time".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let offset = match offset(cx, 1).await {
            Ok(Some(offset)) => offset,
            Ok(None) => return Ok(with(vec![unmeasured("no time server answered")], "")),
            Err(error) => return Ok(with(vec![unmeasured(&services::why(&error))], "")),
        };
        if offset.abs() <= CLOCK_OFF {
            return Ok(with(Vec::new(), &format!("the clock is right within {CLOCK_OFF} s")));
        }
        let what = format!("the clock is off by {offset:.0} s");
        let finding = match resync(cx).await {
            Err(error) => finding("T2-02", what, NotFixed, services::why(&error)),
            // The first sample after a correction may still be the old one.
            Ok(exit) => match self::offset(cx, 3).await {
                Ok(Some(now)) if now.abs() <= CLOCK_OFF => finding("T2-02", what, Fixed, "set by the time service"),
                Ok(_) | Err(_) => finding(
                    "T2-02",
                    what,
                    NotFixed,
                    format!("w32tm /resync ended with {exit}; the clock's battery may be empty"),
                ),
            },
        };
        Ok(with(vec![finding], ""))
    }
}

fn unmeasured(why: &str) -> Finding {
    finding("T2-02", "unavailable: the clock's offset was not measured", Reported, why)
}

/// The last of `samples` measurements, in seconds.
async fn offset(cx: &Cx<'_>, samples: u32) -> Result<Option<f64>, PlatformError> {
    let samples = format!("/samples:{samples}");
    let args = ["/stripchart", "/computer:time.windows.com", &samples, "/dataonly"].map(str::to_owned);
    let exit = cx.platform.run(cx.run, Program::W32tm, &args, MINUTE).await?;
    Ok(output::clock_offset(&exit.stdout))
}

async fn resync(cx: &Cx<'_>) -> Result<i32, PlatformError> {
    if let Some(service) = cx.platform.service("w32time").await?
        && service.state != ServiceState::Running
        && service.start_type != StartType::Disabled
    {
        cx.platform.start_service(cx.run, "w32time").await?;
    }
    Ok(cx.platform.run(cx.run, Program::W32tm, &["/resync".to_owned()], MINUTE).await?.code)
}

#[async_trait]
impl Step for Disk {
    fn name(&self) -> String {
        "disk".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let free = match cx.platform.free_bytes().await {
            Ok(free) if free >= LEAST_FREE => {
                return Ok(with(Vec::new(), &format!("{} MiB free on the system volume", free >> 20)));
            }
            Ok(free) => free,
            Err(error) => return Ok(with(vec![finding("T2-06", "free space", Reported, services::why(&error))], "")),
        };
        let what = format!("{} MiB free on the system volume", free >> 20);
        if !servicing_is_free(cx).await {
            return Ok(with(vec![finding("T2-06", what, Reported, format!("{BUSY}: not cleaned"))], ""));
        }
        // Never /ResetBase: it would make installed updates impossible to remove.
        let args = vec!["/Online", "/English", "/Cleanup-Image", "/StartComponentCleanup"];
        let args = with_log(args, cx.local.log_dir.as_deref(), "dism-cleanup.log");
        let ran = cx.platform.run(cx.run, Program::Dism, &args, 60 * MINUTE).await;
        let after = cx.platform.free_bytes().await.unwrap_or(free);
        let finding = match ran {
            Err(error) => finding("T2-06", what, NotFixed, services::why(&error)),
            Ok(_) if after >= LEAST_FREE => {
                finding("T2-06", what, Fixed, format!("{} MiB free after cleaning", after >> 20))
            }
            Ok(exit) => finding(
                "T2-06",
                what,
                NotFixed,
                format!(
                    "{} MiB free after cleaning the component store (exit {}): people must free space",
                    after >> 20,
                    exit.code
                ),
            ),
        };
        Ok(with(vec![finding], ""))
    }
}

#[async_trait]
impl Step for Transfers {
    fn name(&self) -> String {
        "transfers".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        Ok(match cx.platform.cancel_failed_transfers(cx.run).await {
            Ok(0) => with(Vec::new(), "no failed transfer in the queue"),
            Ok(count) => {
                let what = format!("{count} failed transfers of the update client");
                with(vec![finding("T2-09", what, Fixed, "cancelled; they begin anew")], "")
            }
            Err(error) => with(vec![finding("T2-09", "the transfer queue", NotFixed, services::why(&error))], ""),
        })
    }
}
