//! Tier 5: installs the package that the order names by its hash, out of the configured folder.
//!
//! SECURITY: the platform hashes the file on an open handle each time it is asked, so the path used is of the file that
//! was pinned; nothing of the order but the hash takes part in finding it.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use fleetmend_proto::PackageHash;
use serde_json::Value;

use super::{
    output::{self, Package},
    plan::Steps,
    repair_image::{servicing_is_free, wait_for_servicing, with_log},
    retry_update,
    step::{Cx, Ended, Kind, Prepared, Seen, Step, Stop},
};
use crate::{journal::StepRecord, platform::Program};

/// Domain time after which it is no longer waited for; it is never killed.
const LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

pub(super) fn steps(package: PackageHash) -> Steps {
    let mut steps: Steps = vec![Box::new(FindPackage { package }), Box::new(InstallPackage { package })];
    steps.extend(retry_update::steps(false));
    steps
}

pub(super) struct FindPackage {
    pub package: PackageHash,
}

struct InstallPackage {
    package: PackageHash,
}

/// Drivers come without a KB, and in cabinets that DISM does not take: unpacked, their `.inf` files go to PnPUtil.
fn is_driver(cx: &Cx<'_>, path: &Path) -> bool {
    cx.order.kb.is_none() && path.extension().is_some_and(|it| it.eq_ignore_ascii_case("cab"))
}

/// PnPUtil's arguments for a folder with drivers.
fn driver_args(folder: &Path) -> Option<Vec<String>> {
    let files = format!("{}\\*.inf", folder.to_str()?);
    Some(["/add-driver", &files, "/subdirs", "/install"].map(str::to_owned).to_vec())
}

/// Program and arguments for a package file by its extension.
fn command(path: &Path, log_dir: Option<&str>) -> Option<(Program, Vec<String>)> {
    let text = path.to_str()?.to_owned();
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "msu" => Some((Program::Wusa, vec![text, "/quiet".to_owned(), "/norestart".to_owned()])),
        "cab" => {
            let package = format!("/PackagePath:{text}");
            let args = vec!["/Online", "/English", "/Add-Package", &package, "/NoRestart"];
            Some((Program::Dism, with_log(args, log_dir, "dism-add-package.log")))
        }
        _ => None,
    }
}

#[async_trait]
impl Step for FindPackage {
    fn name(&self) -> String {
        "find_package".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    fn changes(&self) -> bool {
        false
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let path = cx.platform.package(self.package).await?;
        let name = path.file_name().map_or_else(String::new, |it| it.to_string_lossy().into_owned());
        Ok(Ended::done(format!("{name} has the hash that the order names")))
    }
}

#[async_trait]
impl Step for InstallPackage {
    fn name(&self) -> String {
        "install_package".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::AtMostOnce
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        if cx.platform.is_installed(&cx.order.update()).await? {
            return Ok(Prepared::Skip("already installed, or replaced by what is installed".to_owned()));
        }
        wait_for_servicing(cx).await?;
        Ok(Prepared::Go { undo: None, data: Value::Null })
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        // Asked again right before its use: the file may have been changed since the last step.
        let path = cx.platform.package(self.package).await?;
        let is_driver = is_driver(cx, &path);
        let chosen = if is_driver {
            let folder = cx.platform.unpacked(cx.run, self.package).await?;
            driver_args(&folder).map(|args| (Program::PnpUtil, args))
        } else {
            command(&path, cx.local.log_dir.as_deref())
        };
        let (program, args) =
            chosen.ok_or_else(|| Stop::Failed("the package is neither an .msu nor a .cab file".to_owned()))?;
        let exit = cx.platform.run(cx.run, program, &args, LIMIT).await?;
        match if is_driver { output::driver(exit.code) } else { output::package(exit.code) } {
            Package::AlreadyInstalled if is_driver => {
                Ok(Ended::done("this PC has the driver already, or a better one (259): there is nothing to install"))
            }
            Package::Installed => Ok(Ended::done("the package was installed")),
            Package::InstalledRestart => Ok(Ended::done("the package was installed; a restart is needed to finish")),
            Package::AlreadyInstalled => Ok(Ended::done("the package was installed already")),
            Package::NotApplicable if cx.platform.is_installed(&cx.order.update()).await? => {
                Ok(Ended::done("not applicable, as the update or one that replaces it is installed"))
            }
            Package::NotApplicable => Err(Stop::Failed(
                "the package does not fit this PC (0x80240017): check version and architecture".to_owned(),
            )),
            // It said no before it began.
            Package::Busy => Err(Stop::Deferred("another installation is under way: tried again later".to_owned())),
            Package::Failed(code) => Err(Stop::Failed(format!("the installer of the package failed with {code}"))),
        }
    }

    async fn probe(&self, cx: &Cx<'_>, _record: &StepRecord) -> Result<Seen, Stop> {
        // What goes on may be this installation, begun before the crash.
        if !servicing_is_free(cx).await {
            return Ok(Seen::NotDone);
        }
        match cx.platform.is_installed(&cx.order.update()).await {
            Ok(true) => Ok(Seen::Done(Ended::done("installed: seen after the agent was started again"))),
            Ok(false) | Err(_) => Ok(Seen::NotDone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_extension_chooses_the_installer() {
        let wusa = command(Path::new("/packages/a.MSU"), None).expect("an .msu");
        assert_eq!((wusa.0, wusa.1.join(" ").as_str()), (Program::Wusa, "/packages/a.MSU /quiet /norestart"));
        let dism = command(Path::new("/packages/a.cab"), Some(r"C:\logs")).expect("a .cab");
        assert_eq!(dism.0, Program::Dism);
        assert_eq!(
            dism.1.join(" "),
            r"/Online /English /Add-Package /PackagePath:/packages/a.cab /NoRestart /LogPath:C:\logs\dism-add-package.log"
        );
        assert_eq!(command(Path::new("/packages/a.exe"), None), None);
    }
}
