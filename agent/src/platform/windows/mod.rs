//! The real thing: primitives of Windows behind [`Platform`]. One file a family; this one only hands over.
//!
//! Blocking calls run on blocking threads, COM on threads of its own (`com`). Every fact that could not be tried on a real
//! Windows says so in its file, with the check an administrator can run.

#![allow(unsafe_code)] // Windows' interfaces are C; each block says why it is sound.

mod children;
mod com;
mod condition;
mod error;
mod events;
mod files;
pub mod folder;
mod handles;
mod history;
mod logs;
mod machine;
mod pending;
mod power;
mod registry;
mod services;
mod transfers;
mod updates;

use std::{
    fs::File,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use fleetmend_proto::{Condition, PackageHash, ResetPc, UpdateRef, condition::UnavailableSource};
use uuid::Uuid;

use super::{
    Exit, Folder, InstallAnswer, Machine, Offer, Platform, PlatformError, Program, RecordFile, Result, Run, Service,
    StartType,
};
use crate::link::failure::chain;

/// This PC.
#[derive(Debug)]
pub struct WindowsPc {
    /// Where events of the event log are kept as files, below the agent's data folder.
    records: PathBuf,
    packages: Option<PathBuf>,
    /// SECURITY: the package that was hashed last, held so that nobody can change it before it is installed.
    held: Mutex<Option<File>>,
    /// Sources of records that could not be read at the last look.
    unavailable: Mutex<Vec<UnavailableSource>>,
}

impl WindowsPc {
    /// `data_dir` must be protected already (`folder::prepare`).
    #[must_use]
    pub fn new(data_dir: &std::path::Path, packages: Option<PathBuf>) -> Self {
        Self { records: data_dir.join("records"), packages, held: Mutex::default(), unavailable: Mutex::default() }
    }
}

/// Copies what this PC has recorded into a new folder, and names the sources that are not there.
///
/// # Errors
/// When the folder cannot be made or written.
pub async fn collect(folder: &std::path::Path) -> Result<Vec<UnavailableSource>> {
    let io = |source| PlatformError::Io { what: format!("folder {}", folder.display()), source };
    std::fs::create_dir(folder).map_err(io)?;
    let (files, unavailable) = look_for_records(folder, history::read().await)?;
    for file in files.iter().filter(|file| !file.path.starts_with(folder)) {
        let name = file.path.file_name().unwrap_or_default();
        std::fs::copy(&file.path, folder.join(name)).map_err(io)?;
    }
    Ok(unavailable)
}

/// Runs `work` off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let cut = |error: tokio::task::JoinError| PlatformError::Io {
        what: "a call to Windows".to_owned(),
        source: std::io::Error::other(error),
    };
    tokio::task::spawn_blocking(work).await.map_err(cut)?
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Record files that are there, and the sources that are not.
fn look_for_records(
    folder: &std::path::Path,
    history: Result<Vec<String>>,
) -> Result<(Vec<RecordFile>, Vec<UnavailableSource>)> {
    let io = |source| PlatformError::Io { what: format!("folder {}", folder.display()), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let (mut files, mut unavailable) = (Vec::new(), Vec::new());
    for (channel, name, provider) in events::CHANNELS {
        match events::export(folder, channel, name, provider) {
            Ok(path) if path.is_file() => files.push(RecordFile { path }),
            Ok(_) => {}
            Err(error) => {
                let source = format!("event log {channel}");
                unavailable.push(UnavailableSource { source, reason: chain(&error) });
            }
        }
    }
    match history.and_then(|entries| history::export(folder, &entries)) {
        Ok(path) if path.is_file() => files.push(RecordFile { path }),
        Ok(_) => {}
        Err(error) => {
            unavailable.push(UnavailableSource { source: "update history".to_owned(), reason: chain(&error) });
        }
    }
    let path = logs::reporting_events();
    if path.is_file() {
        files.push(RecordFile { path });
    } else {
        let reason = "there is none: Windows Update has not run yet, or was reset".to_owned();
        unavailable.push(UnavailableSource { source: "ReportingEvents.log".to_owned(), reason });
    }
    Ok((files, unavailable))
}

#[async_trait]
impl Platform for WindowsPc {
    async fn machine(&self) -> Result<Machine> {
        blocking(machine::machine).await
    }

    async fn condition(&self) -> Result<Condition> {
        let mut unavailable = locked(&self.unavailable).clone();
        let pending = self.pending_reboot().await.unwrap_or_else(|error| {
            unavailable.push(UnavailableSource { source: "pending restart".to_owned(), reason: chain(&error) });
            Vec::new()
        });
        blocking(move || condition::condition(unavailable, pending)).await
    }

    async fn boot_id(&self) -> Result<String> {
        blocking(machine::boot_id).await
    }

    async fn record_files(&self) -> Result<Vec<RecordFile>> {
        let folder = self.records.clone();
        let history = history::read().await;
        let (files, unavailable) = blocking(move || look_for_records(&folder, history)).await?;
        *locked(&self.unavailable) = unavailable;
        Ok(files)
    }

    async fn pending_reboot(&self) -> Result<Vec<String>> {
        let mut reasons = blocking(|| Ok(pending::reasons())).await?;
        // The flags in the registry decide; the client's own answer adds to them where it can be had.
        if reasons.is_empty() && updates::is_reboot_required().await.is_ok_and(|it| it) {
            reasons.push("Windows Update: a restart is required".to_owned());
        }
        Ok(reasons)
    }

    async fn is_servicing_busy(&self) -> Result<bool> {
        blocking(|| Ok(pending::is_installer_busy())).await
    }

    async fn servicing_log_end(&self) -> Result<u64> {
        blocking(logs::servicing_end).await
    }

    async fn servicing_log(&self, from: u64) -> Result<Vec<u8>> {
        blocking(move || logs::servicing(from)).await
    }

    async fn service(&self, name: &str) -> Result<Option<Service>> {
        let name = name.to_owned();
        blocking(move || services::service(&name)).await
    }

    async fn set_start_type(&self, _run: Run, name: &str, start: StartType) -> Result<()> {
        let name = name.to_owned();
        blocking(move || services::set_start_type(&name, start)).await
    }

    async fn start_service(&self, _run: Run, name: &str) -> Result<()> {
        let name = name.to_owned();
        blocking(move || services::start_service(&name)).await
    }

    async fn stop_service(&self, _run: Run, name: &str, limit: Duration) -> Result<()> {
        let name = name.to_owned();
        blocking(move || services::stop_service(&name, limit)).await
    }

    async fn folder_exists(&self, folder: &Folder) -> Result<bool> {
        let folder = folder.clone();
        blocking(move || files::folder_exists(&folder)).await
    }

    async fn aside_exists(&self, folder: &Folder, suffix: &str) -> Result<bool> {
        let (folder, suffix) = (folder.clone(), suffix.to_owned());
        blocking(move || files::aside_exists(&folder, &suffix)).await
    }

    async fn set_aside(&self, _run: Run, folder: &Folder, suffix: &str) -> Result<()> {
        let (folder, suffix) = (folder.clone(), suffix.to_owned());
        blocking(move || files::set_aside(&folder, &suffix)).await
    }

    async fn put_back(&self, _run: Run, folder: &Folder, suffix: &str) -> Result<()> {
        let (folder, suffix) = (folder.clone(), suffix.to_owned());
        blocking(move || files::put_back(&folder, &suffix)).await
    }

    async fn free_bytes(&self) -> Result<u64> {
        blocking(files::free_bytes).await
    }

    async fn package(&self, hash: PackageHash) -> Result<PathBuf> {
        let packages = self.packages.clone();
        let (path, file) = blocking(move || files::package(packages.as_deref(), hash)).await?;
        *locked(&self.held) = Some(file);
        Ok(path)
    }

    async fn registry_string(&self, key: &str, value: &str) -> Result<Option<String>> {
        let (key, value) = (key.to_owned(), value.to_owned());
        blocking(move || registry::string(&key, &value)).await
    }

    async fn set_registry_string(&self, _run: Run, key: &str, value: &str, data: Option<&str>) -> Result<()> {
        let (key, value, data) = (key.to_owned(), value.to_owned(), data.map(str::to_owned));
        blocking(move || registry::set_string(&key, &value, data.as_deref())).await
    }

    async fn run(&self, _run: Run, program: Program, args: &[String], limit: Duration) -> Result<Exit> {
        let args = args.to_vec();
        blocking(move || children::run(program, &args, limit)).await
    }

    async fn is_update_client_busy(&self) -> Result<bool> {
        updates::is_busy().await
    }

    async fn offers(&self, run: Run) -> Result<Vec<Offer>> {
        updates::offers(run).await
    }

    async fn is_installed(&self, update: &UpdateRef) -> Result<bool> {
        updates::is_installed(update).await
    }

    async fn supersedes(&self, update: &UpdateRef) -> Result<Vec<Uuid>> {
        updates::supersedes(update).await
    }

    async fn install(&self, run: Run, update: &UpdateRef) -> Result<InstallAnswer> {
        updates::install(run, update).await
    }

    async fn set_hidden(&self, run: Run, update: &UpdateRef, hidden: bool) -> Result<()> {
        updates::set_hidden(run, update, hidden).await
    }

    async fn cancel_failed_transfers(&self, _run: Run) -> Result<u32> {
        transfers::cancel_failed().await
    }

    async fn reboot(&self, _run: Run, delay: Duration, reason: &str) -> Result<()> {
        let reason = reason.to_owned();
        blocking(move || power::reboot(delay, &reason)).await
    }

    async fn call_off_reboot(&self, _run: Run) -> Result<()> {
        blocking(power::call_off_reboot).await
    }

    async fn reset_pc(&self, _run: Run, _reset: &ResetPc) -> Result<()> {
        Err(error::unavailable("a reset", "this version of the agent has no reset feature"))
    }
}
