//! A PC that is not here: a folder with logs collected from it, and what `machine.toml` in that folder says of it. Serves
//! `run`, `enroll` and `report` on systems that are no Windows; every effect is `Unavailable`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use fleetmend_proto::{
    Condition, PackageHash, ResetPc, UpdateRef,
    clock::wall_now,
    condition::{Architecture, DeviceRole, ProductType, UnavailableSource, UpdateAuthority},
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Exit, Folder, InstallAnswer, Machine, Offer, Platform, PlatformError, Program, RecordFile, Result, Run, Service,
    StartType,
};

const FACTS: &str = "machine.toml";

/// Logs collected from a PC, or with no folder just a name to enrol under.
#[derive(Clone, Debug)]
pub struct CollectedPc {
    folder: Option<PathBuf>,
    facts: Facts,
}

/// `machine.toml`: everything may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Facts {
    computer_name: Option<String>,
    serial: String,
    smbios_uuid: Option<Uuid>,
    os_build: u32,
    ubr: u32,
    display_version: String,
    edition: String,
    manufacturer: String,
    model: String,
    architecture: Option<Architecture>,
    product_type: Option<ProductType>,
    time_zone: Option<String>,
    utc_offset_minutes: i32,
    update_authority: Option<UpdateAuthority>,
    role: Option<DeviceRole>,
}

/// Why a folder cannot stand for a PC.
#[derive(Debug, thiserror::Error)]
pub enum CollectedError {
    #[error("{0} is not a folder: give the folder that holds the collected logs")]
    NotAFolder(PathBuf),
    #[error("{path} cannot be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no description of a machine")]
    Facts {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
}

impl CollectedPc {
    /// # Errors
    /// When the folder is none or its `machine.toml` is wrong.
    pub fn open(folder: Option<&Path>) -> std::result::Result<Self, CollectedError> {
        let Some(folder) = folder else { return Ok(Self { folder: None, facts: Facts::default() }) };
        if !folder.is_dir() {
            return Err(CollectedError::NotAFolder(folder.to_owned()));
        }
        let path = folder.join(FACTS);
        let facts = match fs::read_to_string(&path) {
            Ok(text) => {
                toml::from_str(&text).map_err(|source| CollectedError::Facts { path, source: Box::new(source) })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Facts::default(),
            Err(source) => return Err(CollectedError::Unreadable { path, source }),
        };
        Ok(Self { folder: Some(folder.to_owned()), facts })
    }

    fn computer_name(&self) -> String {
        self.facts.computer_name.clone().unwrap_or_else(host_name)
    }
}

fn host_name() -> String {
    let from_env = std::env::var("COMPUTERNAME").or_else(|_| std::env::var("HOSTNAME"));
    from_env
        .or_else(|_| fs::read_to_string("/proc/sys/kernel/hostname"))
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "unnamed".to_owned())
}

fn files_under(folder: &Path) -> io::Result<Vec<RecordFile>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            // The entry's own type: links are not followed.
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name() != FACTS {
                files.push(RecordFile { path: entry.path() });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn unavailable<T>(what: &str) -> Result<T> {
    let why = "only logs collected from a PC are here, not the PC".to_owned();
    Err(PlatformError::Unavailable { what: what.to_owned(), why })
}

#[async_trait]
impl Platform for CollectedPc {
    async fn machine(&self) -> Result<Machine> {
        Ok(Machine {
            computer_name: self.computer_name(),
            serial: self.facts.serial.clone(),
            smbios_uuid: self.facts.smbios_uuid,
            ek_hash: None,
        })
    }

    async fn condition(&self) -> Result<Condition> {
        let facts = self.facts.clone();
        let live = |source: &str| UnavailableSource {
            source: source.to_owned(),
            reason: "read from collected logs".to_owned(),
        };
        Ok(Condition {
            collected_at: wall_now(),
            computer_name: self.computer_name(),
            serial: facts.serial,
            smbios_uuid: facts.smbios_uuid,
            ek_hash: None,
            os_build: facts.os_build,
            ubr: facts.ubr,
            display_version: facts.display_version,
            edition: facts.edition,
            manufacturer: facts.manufacturer,
            model: facts.model,
            architecture: facts.architecture.unwrap_or(Architecture::X64),
            product_type: facts.product_type.unwrap_or(ProductType::Client),
            time_zone: facts.time_zone.unwrap_or_else(|| "Etc/UTC".to_owned()),
            utc_offset_minutes: facts.utc_offset_minutes,
            // Nobody can remedy a PC that is not here: the ladder only reports such devices.
            update_authority: facts.update_authority.unwrap_or(UpdateAuthority::ThirdParty),
            role: facts.role.unwrap_or(DeviceRole::Workstation),
            reboot_pending: Vec::new(),
            system_free_bytes: 0,
            on_ac_power: true,
            battery_percent: None,
            agent_version: crate::VERSION.to_owned(),
            unavailable_sources: vec![live("services"), live("update client"), live("free space")],
            reset_feature: false,
        })
    }

    async fn boot_id(&self) -> Result<String> {
        match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            Ok(id) => Ok(id.trim().to_owned()),
            Err(_) => unavailable("the id of this start of the system"),
        }
    }

    async fn record_files(&self) -> Result<Vec<RecordFile>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        files_under(folder)
            .map_err(|source| PlatformError::Io { what: format!("listing {}", folder.display()), source })
    }

    async fn pending_reboot(&self) -> Result<Vec<String>> {
        unavailable("the state of a pending restart")
    }

    async fn is_servicing_busy(&self) -> Result<bool> {
        unavailable("the state of other installers")
    }

    async fn service(&self, name: &str) -> Result<Option<Service>> {
        unavailable(&format!("service {name}"))
    }

    async fn set_start_type(&self, _run: Run, name: &str, _start: StartType) -> Result<()> {
        unavailable(&format!("service {name}"))
    }

    async fn start_service(&self, _run: Run, name: &str) -> Result<()> {
        unavailable(&format!("service {name}"))
    }

    async fn stop_service(&self, _run: Run, name: &str, _limit: Duration) -> Result<()> {
        unavailable(&format!("service {name}"))
    }

    async fn folder_exists(&self, folder: &Folder) -> Result<bool> {
        unavailable(&format!("folder {folder:?}"))
    }

    async fn aside_exists(&self, folder: &Folder, _suffix: &str) -> Result<bool> {
        unavailable(&format!("folder {folder:?}"))
    }

    async fn set_aside(&self, _run: Run, folder: &Folder, _suffix: &str) -> Result<()> {
        unavailable(&format!("folder {folder:?}"))
    }

    async fn put_back(&self, _run: Run, folder: &Folder, _suffix: &str) -> Result<()> {
        unavailable(&format!("folder {folder:?}"))
    }

    async fn free_bytes(&self) -> Result<u64> {
        unavailable("free space")
    }

    async fn package(&self, _hash: PackageHash) -> Result<PathBuf> {
        unavailable("the package folder")
    }

    async fn registry_string(&self, _key: &str, _value: &str) -> Result<Option<String>> {
        unavailable("the registry")
    }

    async fn set_registry_string(&self, _run: Run, _key: &str, _value: &str, _data: Option<&str>) -> Result<()> {
        unavailable("the registry")
    }

    async fn run(&self, _run: Run, program: Program, _args: &[String], _limit: Duration) -> Result<Exit> {
        unavailable(&format!("{program:?}"))
    }

    async fn is_update_client_busy(&self) -> Result<bool> {
        unavailable("the update client")
    }

    async fn offers(&self, _run: Run) -> Result<Vec<Offer>> {
        unavailable("the update client")
    }

    async fn is_installed(&self, _update: &UpdateRef) -> Result<bool> {
        unavailable("the update client")
    }

    async fn supersedes(&self, _update: &UpdateRef) -> Result<Vec<Uuid>> {
        unavailable("the update client")
    }

    async fn install(&self, _run: Run, _update: &UpdateRef) -> Result<InstallAnswer> {
        unavailable("the update client")
    }

    async fn set_hidden(&self, _run: Run, _update: &UpdateRef, _hidden: bool) -> Result<()> {
        unavailable("the update client")
    }

    async fn cancel_failed_transfers(&self, _run: Run) -> Result<u32> {
        unavailable("the transfer service")
    }

    async fn reboot(&self, _run: Run, _delay: Duration, _reason: &str) -> Result<()> {
        unavailable("a restart")
    }

    async fn reset_pc(&self, _run: Run, _reset: &ResetPc) -> Result<()> {
        unavailable("a reset")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_stands_for_its_machine() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FACTS), "computer_name = \"LAB-7\"\nos_build = 26100\nserial = \"5CG1\"\n")
            .expect("write");
        fs::create_dir(folder.path().join("logs")).expect("a folder");
        fs::write(folder.path().join("logs/ReportingEvents.log"), "").expect("write");
        let pc = CollectedPc::open(Some(folder.path())).expect("open");
        assert_eq!(pc.machine().await.expect("facts").computer_name, "LAB-7");
        assert_eq!(pc.condition().await.expect("facts").os_build, 26100);
        let files = pc.record_files().await.expect("files");
        assert_eq!(files, [RecordFile { path: folder.path().join("logs/ReportingEvents.log") }]);
        assert!(matches!(pc.free_bytes().await, Err(PlatformError::Unavailable { .. })));
    }

    #[test]
    fn a_wrong_description_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FACTS), "colour = 3").expect("write");
        assert!(matches!(CollectedPc::open(Some(folder.path())), Err(CollectedError::Facts { .. })));
        assert!(matches!(CollectedPc::open(Some(&folder.path().join("absent"))), Err(CollectedError::NotAFolder(_))));
    }
}
