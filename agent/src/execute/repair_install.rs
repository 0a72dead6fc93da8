//! `RepairInstall`: Windows over itself from media of the same build. Keeps programs and files; milder than a reset.

use std::time::Duration;

use async_trait::async_trait;
use fleetmend_proto::PackageHash;
use serde_json::Value;

use super::{
    install_manually::FindPackage,
    output,
    plan::Steps,
    repair_image::wait_for_servicing,
    retry_update,
    step::{Cx, Ended, Kind, Prepared, Step, Stop},
};
use crate::platform::Program;

const ARGS: [&str; 8] = ["/auto", "upgrade", "/quiet", "/noreboot", "/dynamicupdate", "disable", "/eula", "accept"];
/// Domain time after which it is no longer waited for; it is never killed.
const LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

pub(super) fn steps(media: PackageHash) -> Steps {
    let mut steps: Steps = vec![Box::new(FindPackage { package: media }), Box::new(RunSetup { media })];
    steps.extend(retry_update::steps(false));
    steps
}

struct RunSetup {
    media: PackageHash,
}

#[async_trait]
impl Step for RunSetup {
    fn name(&self) -> String {
        "run_setup".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::AtMostOnce
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        wait_for_servicing(cx).await?;
        Ok(Prepared::Go { undo: None, data: Value::Null })
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        // Asked again right before its use: the media may have been changed since the last step.
        cx.platform.package(self.media).await?;
        let exit = cx.platform.run(cx.run, Program::SetupMedia, &ARGS.map(str::to_owned), LIMIT).await?;
        match exit.code {
            0 | 3010 => Ok(Ended::done("setup prepared the repair; it goes on with the next restart")),
            code => Err(Stop::Failed(format!("setup failed with {}", output::exit_code(code)))),
        }
    }
}
