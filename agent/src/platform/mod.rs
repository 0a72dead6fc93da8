//! The seam between the agent and an operating system: primitives only, none named after a tier.
//!
//! `windows/` implements it for real; the simulator implements it with a model of a PC. Everything above this trait is
//! the same code on both. A primitive does one thing, answers what it saw, and never decides.
//!
//! Every call that changes something takes a [`Run`]: which order and step asks. Real systems use it for names (a
//! renamed folder, a log path) and as the client id of the update session; it is never used to decide.

pub mod collected;
pub mod smbios;
#[cfg(windows)]
pub mod windows;

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use fleetmend_proto::{Condition, HResult, OrderId, PackageHash, ResetPc, UpdateRef};
use uuid::Uuid;

/// Which order and step asks for an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub order: OrderId,
    pub step: u32,
}

/// Why a primitive gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// This system does not have it (no such tool, service, interface). Never counts as tried and failed.
    #[error("{what} is not available on this system: {why}")]
    Unavailable { what: String, why: String },
    /// It was asked for and failed with a code.
    #[error("{what} failed with {code}: {why}")]
    Failed { what: String, code: HResult, why: String },
    /// It did not end in its time; what became of it is unknown.
    #[error("{what} did not end within {} s: its outcome is unknown", limit.as_secs())]
    TimedOut { what: String, limit: Duration },
    /// Local storage failed.
    #[error("{what} failed")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

pub type Result<T> = std::result::Result<T, PlatformError>;

/// Where Windows keeps its own records, as the detector reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFile {
    /// Shown in messages and used as the key of the read cursor.
    pub path: PathBuf,
}

/// What a PC says of itself at enrolment and what an order's host is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub computer_name: String,
    pub serial: String,
    pub smbios_uuid: Option<Uuid>,
    pub ek_hash: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartType {
    Automatic,
    AutomaticDelayed,
    Manual,
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceState {
    Running,
    Stopped,
    StopPending,
    StartPending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    pub start_type: StartType,
    pub state: ServiceState,
}

/// A program of Windows that the agent may run. The platform knows its absolute path; nothing from the wire does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Dism,
    Sfc,
    Wusa,
    PnpUtil,
    RegSvr32,
    Netsh,
    UsoClient,
    W32tm,
    TroubleshootingPack,
    /// `setup.exe` of in-place repair media.
    SetupMedia,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    /// Standard output as bytes: SFC writes UTF-16LE, others the OEM code page.
    pub stdout: Vec<u8>,
}

/// An update that Windows offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub update: UpdateRef,
    pub hidden: bool,
    pub mandatory: bool,
}

/// What the update client answered to an install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallAnswer {
    /// Per-update HRESULT; `HResult::OK` for success.
    pub code: HResult,
    pub reboot_required: bool,
}

/// A logical file location. The platform maps it to a path; the agent never builds paths of the system itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// `%SystemRoot%\SoftwareDistribution\DataStore`
    DataStore,
    /// `%SystemRoot%\SoftwareDistribution\Download`
    Download,
    /// `%SystemRoot%\System32\catroot2`
    Catroot2,
}

/// The primitives. All calls are cancel-safe in the sense that dropping one never undoes an effect already begun.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    // --- facts -----------------------------------------------------------------------------------------------------
    async fn machine(&self) -> Result<Machine>;
    async fn condition(&self) -> Result<Condition>;
    /// Changes with every start of the operating system.
    async fn boot_id(&self) -> Result<String>;
    /// Record files to read now, with the sources that could not be found as errors.
    async fn record_files(&self) -> Result<Vec<RecordFile>>;
    /// Reasons for a pending restart that binds (CBS, Windows Update), one each; empty = none.
    async fn pending_reboot(&self) -> Result<Vec<String>>;
    /// Whether another installer works right now.
    async fn is_servicing_busy(&self) -> Result<bool>;
    /// Where the servicing log (`%SystemRoot%\Logs\CBS\CBS.log`) ends now, in bytes.
    async fn servicing_log_end(&self) -> Result<u64> {
        Err(no_servicing_log())
    }
    /// The servicing log from `from` to its end; all of it where it is shorter than that, as it was begun anew.
    async fn servicing_log(&self, _from: u64) -> Result<Vec<u8>> {
        Err(no_servicing_log())
    }

    // --- services --------------------------------------------------------------------------------------------------
    /// `Ok(None)`: no such service.
    async fn service(&self, name: &str) -> Result<Option<Service>>;
    async fn set_start_type(&self, run: Run, name: &str, start: StartType) -> Result<()>;
    /// Returns when the service runs.
    async fn start_service(&self, run: Run, name: &str) -> Result<()>;
    /// Returns when the service is stopped; `TimedOut` while it is still stopping after `limit`.
    async fn stop_service(&self, run: Run, name: &str, limit: Duration) -> Result<()>;

    // --- files by handle; reparse points and foreign owners are refused ----------------------------------------------
    async fn folder_exists(&self, folder: &Folder) -> Result<bool>;
    /// Whether the copy set aside under `suffix` exists.
    async fn aside_exists(&self, folder: &Folder, suffix: &str) -> Result<bool>;
    /// Renames the folder to `<name>.<suffix>` beside it; never overwrites.
    async fn set_aside(&self, run: Run, folder: &Folder, suffix: &str) -> Result<()>;
    /// Renames `<name>.<suffix>` back; a folder that stands in the way is set aside as `<name>.<suffix>.new` first.
    async fn put_back(&self, run: Run, folder: &Folder, suffix: &str) -> Result<()>;
    async fn free_bytes(&self) -> Result<u64>;
    /// A package of the configured folder by its hash, hashed now on an open handle; `Unavailable` where none fits.
    async fn package(&self, hash: PackageHash) -> Result<PathBuf>;

    /// Unpacks a cabinet of the configured folder, found and hashed as by [`Platform::package`], into a folder that only
    /// the system can write, and gives that folder.
    async fn unpacked(&self, _run: Run, hash: PackageHash) -> Result<PathBuf> {
        let why = "nothing unpacks cabinets here".to_owned();
        Err(PlatformError::Unavailable { what: format!("package {hash}"), why })
    }

    // --- registry --------------------------------------------------------------------------------------------------
    /// A string value under HKEY_LOCAL_MACHINE; `Ok(None)`: no such value.
    async fn registry_string(&self, key: &str, value: &str) -> Result<Option<String>>;
    /// Writes (or with `None` deletes) a string value under HKEY_LOCAL_MACHINE.
    async fn set_registry_string(&self, run: Run, key: &str, value: &str, data: Option<&str>) -> Result<()>;

    // --- child processes -------------------------------------------------------------------------------------------
    /// Runs to its end, or gives `TimedOut` without killing it.
    async fn run(&self, run: Run, program: Program, args: &[String], limit: Duration) -> Result<Exit>;

    // --- update client ---------------------------------------------------------------------------------------------
    async fn is_update_client_busy(&self) -> Result<bool>;
    /// Online search for what is offered and not installed, hidden ones included.
    async fn offers(&self, run: Run) -> Result<Vec<Offer>>;
    /// Whether the update, or one that replaces it, is installed.
    async fn is_installed(&self, update: &UpdateRef) -> Result<bool>;
    /// Ids of the updates that this one replaces, as the update client's own store knows them; never goes online.
    async fn supersedes(&self, update: &UpdateRef) -> Result<Vec<Uuid>>;
    /// Downloads and installs one offered update. A failed install is an answer, not an error.
    async fn install(&self, run: Run, update: &UpdateRef) -> Result<InstallAnswer>;
    async fn set_hidden(&self, run: Run, update: &UpdateRef, hidden: bool) -> Result<()>;
    /// Cancels failed transfers of the update client only.
    async fn cancel_failed_transfers(&self, run: Run) -> Result<u32>;

    // --- power -----------------------------------------------------------------------------------------------------
    /// Asks for a restart and returns; the process ends with the operating system.
    async fn reboot(&self, run: Run, delay: Duration, reason: &str) -> Result<()>;
    /// Calls off a restart that was asked for and has not begun; an error where there is none to call off.
    async fn call_off_reboot(&self, _run: Run) -> Result<()> {
        let why = "this system has no way to do it".to_owned();
        Err(PlatformError::Unavailable { what: "calling off a restart".to_owned(), why })
    }
    /// Invokes a reset of the PC. Accepted is not finished.
    async fn reset_pc(&self, run: Run, reset: &ResetPc) -> Result<()>;
}

fn no_servicing_log() -> PlatformError {
    let why = "this system keeps none".to_owned();
    PlatformError::Unavailable { what: "the servicing log".to_owned(), why }
}
