//! Tier 3: the component store first (SFC copies from it), then the system files, by Windows' own tools.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    output::{self, Dism, Sfc, Store},
    plan::Steps,
    retry_update,
    span::Span,
    step::{Cx, Ended, Kind, Prepared, Step, Stop},
};
use crate::platform::{PlatformError, Program};

const SCAN: &str = "dism_scan_health";
const MINUTE: u64 = 60;
/// Domain time to wait for other servicing work, our own of before a crash included: a child outlives the agent.
const BUSY_LIMIT: Duration = Duration::from_secs(60 * MINUTE);
const BUSY_LOOK: Duration = Duration::from_secs(60);
pub(super) const BUSY: &str = "other servicing work went on for an hour";

pub(super) fn steps() -> Steps {
    let mut steps: Steps =
        vec![Box::new(DismStep::Check), Box::new(DismStep::Scan), Box::new(DismStep::Restore), Box::new(SystemFiles)];
    steps.extend(retry_update::steps(false));
    steps
}

#[derive(Clone, Copy)]
enum DismStep {
    /// Reads a flag that earlier failures set.
    Check,
    Scan,
    /// Scans and repairs, from where policy or Windows Update says.
    Restore,
}

struct SystemFiles;

impl DismStep {
    const fn option(self) -> &'static str {
        match self {
            Self::Check => "/CheckHealth",
            Self::Scan => "/ScanHealth",
            Self::Restore => "/RestoreHealth",
        }
    }

    const fn log(self) -> &'static str {
        match self {
            Self::Check => "dism-check.log",
            Self::Scan => "dism-scan.log",
            Self::Restore => "dism-restore.log",
        }
    }

    /// Domain time after which it is no longer waited for; it is never killed.
    const fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Check => 10 * MINUTE,
            Self::Scan => 120 * MINUTE,
            Self::Restore => 240 * MINUTE,
        })
    }

    fn args(self, log_dir: Option<&str>) -> Vec<String> {
        let mut args = vec!["/Online", "/English", "/Cleanup-Image", self.option()];
        if matches!(self, Self::Restore) {
            args.push("/NoRestart");
        }
        with_log(args, log_dir, self.log())
    }
}

/// Arguments of a DISM call, with its log where the local policy wants it.
pub(super) fn with_log(args: Vec<&str>, log_dir: Option<&str>, file: &str) -> Vec<String> {
    let log = log_dir.map(|dir| format!(r"/LogPath:{}\{file}", dir.trim_end_matches('\\')));
    args.into_iter().map(str::to_owned).chain(log).collect()
}

/// Waits until no other servicing works; `false` when it went on for an hour.
pub(super) async fn servicing_is_free(cx: &Cx<'_>) -> bool {
    let mut span = Span::new(BUSY_LIMIT);
    while matches!(cx.platform.is_servicing_busy().await, Ok(true)) {
        if span.is_over() {
            return false;
        }
        span.wait(cx.clock, BUSY_LOOK, Duration::ZERO).await;
    }
    true
}

/// For steps before which nothing was done: what is busy now may be free later.
pub(super) async fn wait_for_servicing(cx: &Cx<'_>) -> Result<(), Stop> {
    if servicing_is_free(cx).await { Ok(()) } else { Err(Stop::Deferred(BUSY.to_owned())) }
}

#[async_trait]
impl Step for DismStep {
    fn name(&self) -> String {
        match self {
            Self::Check => "dism_check_health",
            Self::Scan => SCAN,
            Self::Restore => "dism_restore_health",
        }
        .to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    fn changes(&self) -> bool {
        matches!(self, Self::Restore)
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        let healthy = cx.data(SCAN).and_then(|it| it.get("healthy")).and_then(Value::as_bool) == Some(true);
        if matches!(self, Self::Restore) && healthy {
            return Ok(Prepared::Skip("the scan found nothing to repair".to_owned()));
        }
        Ok(Prepared::Go { undo: None, data: Value::Null })
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        wait_for_servicing(cx).await?;
        let args = self.args(cx.local.log_dir.as_deref());
        let exit = cx.platform.run(cx.run, Program::Dism, &args, self.limit()).await?;
        match (output::dism(exit.code, &exit.stdout), self) {
            (Dism::Failed { code, why }, _) => {
                Err(Stop::Failed(format!("{} failed with {code}: {why}", self.option())))
            }
            // The flag may be old: the scan decides.
            (Dism::Ended { store: Store::NotRepairable, .. }, Self::Check) => {
                Ok(Ended::done("marked as not repairable by an earlier failure"))
            }
            (Dism::Ended { store: Store::NotRepairable, .. }, Self::Scan | Self::Restore) => Err(Stop::Failed(
                "the component store cannot be repaired in place: reinstall Windows over itself from media".to_owned(),
            )),
            (Dism::Ended { store, restart }, _) => {
                let healthy = store == Store::Healthy;
                let detail = match store {
                    Store::Healthy => "no corruption in the component store",
                    Store::Repairable => "the component store is damaged and repairable",
                    Store::Completed | Store::NotRepairable => "completed",
                };
                let restart = if restart { "; a restart is needed to finish" } else { "" };
                Ok(Ended::done(format!("{detail}{restart}")).with_data(json!({ "healthy": healthy })))
            }
        }
    }
}

#[async_trait]
impl Step for SystemFiles {
    fn name(&self) -> String {
        "sfc_scannow".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        // What SFC writes from here on is of this run, or of one before a crash that this one repeats.
        let from = cx.platform.servicing_log_end().await.ok();
        Ok(Prepared::Go { undo: None, data: json!({ "log_from": from }) })
    }

    async fn run(&self, cx: &Cx<'_>, data: &Value) -> Result<Ended, Stop> {
        if !servicing_is_free(cx).await {
            return Ok(Ended::faulted(format!("{BUSY}: SFC was not run")));
        }
        let limit = Duration::from_secs(180 * MINUTE);
        let exit = match cx.platform.run(cx.run, Program::Sfc, &["/scannow".to_owned()], limit).await {
            Ok(exit) => exit,
            Err(error @ PlatformError::Unavailable { .. }) => return Ok(Ended::skipped(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let mut said = output::sfc(&exit.stdout);
        if said == Sfc::NotRecognised {
            said = judge_by_log(cx, data).await;
        }
        Ok(match said {
            Sfc::Clean => Ended::done("no damaged system files"),
            Sfc::Repaired => {
                Ended::done("damaged system files were repaired; those in use are replaced at the next restart")
            }
            Sfc::NotAllRepaired => {
                Ended::faulted("some damaged system files could not be repaired: see CBS.log, lines with [SR]")
            }
            Sfc::CouldNotRun => Ended::faulted("SFC could not perform its work: see CBS.log"),
            Sfc::RestartFirst => Ended::faulted("a repair waits for a restart before SFC can work"),
            Sfc::NotRecognised if exit.code == 0 => {
                Ended::unknown("SFC ended, and neither its sentence nor CBS.log tells what it found")
            }
            Sfc::NotRecognised => Ended::faulted(format!(
                "SFC ended with exit code {}, and neither its sentence nor CBS.log tells what it found",
                exit.code
            )),
        })
    }
}

/// SFC's sentence is in the language of the system; what it writes into CBS.log is not.
async fn judge_by_log(cx: &Cx<'_>, data: &Value) -> Sfc {
    let Some(from) = data.get("log_from").and_then(Value::as_u64) else { return Sfc::NotRecognised };
    match cx.platform.servicing_log(from).await {
        Ok(log) => output::sfc_log(&log),
        Err(error) => {
            tracing::warn!(%error, "SFC cannot be judged by CBS.log");
            Sfc::NotRecognised
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_exactly_these() {
        let of = |step: DismStep, dir| step.args(dir).join(" ");
        assert_eq!(of(DismStep::Check, None), "/Online /English /Cleanup-Image /CheckHealth");
        assert_eq!(
            of(DismStep::Scan, Some(r"C:\ProgramData\Fleetmend\logs")),
            r"/Online /English /Cleanup-Image /ScanHealth /LogPath:C:\ProgramData\Fleetmend\logs\dism-scan.log"
        );
        assert_eq!(
            of(DismStep::Restore, Some(r"C:\logs\")),
            r"/Online /English /Cleanup-Image /RestoreHealth /NoRestart /LogPath:C:\logs\dism-restore.log"
        );
    }
}
