//! Why a restart is owed, and whether another installer works right now.
//!
//! Only what binds is a reason: renames of files that wait for a restart are set all the time by browsers and virus
//! scanners, and are no reason to restart a PC. Nothing here ever deletes a flag.

use std::{thread, time::Duration};

use windows::{
    Win32::{
        Foundation::FILETIME,
        System::{
            Diagnostics::ToolHelp::{
                CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
            },
            Threading::{
                GetProcessTimes, OpenMutexW, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION,
                SYNCHRONIZATION_SYNCHRONIZE,
            },
        },
    },
    core::w,
};

use super::{handles::Handle, registry};

const CBS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing";
const UPDATE: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired";
const NAMES: &str = r"SYSTEM\CurrentControlSet\Control\ComputerName";
/// How long the servicing worker is watched, and how much of it at work is busy, in units of 100 ns.
const WATCHED: Duration = Duration::from_secs(2);
const BUSY: u64 = 1_000_000;

/// Reasons that the registry holds, one each.
pub(super) fn reasons() -> Vec<String> {
    let mut reasons = Vec::new();
    for name in ["RebootPending", "RebootInProgress"] {
        if registry::key_exists(&format!("{CBS}\\{name}")) {
            reasons.push(format!("component servicing: {name}"));
        }
    }
    if registry::has_keys(&format!("{CBS}\\PackagesPending")) {
        reasons.push("component servicing: PackagesPending".to_owned());
    }
    if registry::key_exists(UPDATE) {
        reasons.push("Windows Update: RebootRequired".to_owned());
    }
    if registry::number(r"SOFTWARE\Microsoft\Updates", "UpdateExeVolatile").is_some_and(|it| it != 0) {
        reasons.push("an update's own installer: UpdateExeVolatile".to_owned());
    }
    let name = |key: &str| registry::text(&format!("{NAMES}\\{key}"), "ComputerName");
    if let (Some(active), Some(next)) = (name("ActiveComputerName"), name("ComputerName"))
        && !active.eq_ignore_ascii_case(&next)
    {
        reasons.push(format!("computer name: {next} from the next start on"));
    }
    reasons
}

/// Windows Installer at work, or the servicing worker using the processor. Takes two seconds where a worker runs.
pub(super) fn is_installer_busy() -> bool {
    is_msi_busy() || is_worker_busy()
}

/// Windows Installer holds this mutex while it installs.
fn is_msi_busy() -> bool {
    // SAFETY: the name ends with a zero; the handle is closed at once.
    unsafe { OpenMutexW(SYNCHRONIZATION_SYNCHRONIZE, false, w!("Global\\_MSIExecute")) }.map(Handle).is_ok()
}

/// TrustedInstaller stays for minutes after its work: only its worker's use of the processor tells.
fn is_worker_busy() -> bool {
    let workers: Vec<Handle> = worker_ids().into_iter().filter_map(process).collect();
    if workers.is_empty() {
        return false;
    }
    let before: u64 = workers.iter().filter_map(used).sum();
    thread::sleep(WATCHED);
    let after: u64 = workers.iter().filter_map(used).sum();
    after.saturating_sub(before) >= BUSY
}

fn worker_ids() -> Vec<u32> {
    let mut ids = Vec::new();
    let mut entry = PROCESSENTRY32W {
        dwSize: u32::try_from(size_of::<PROCESSENTRY32W>()).unwrap_or_default(),
        ..PROCESSENTRY32W::default()
    };
    // SAFETY: the snapshot is open, `entry` is writable and says its size.
    unsafe {
        let Ok(snapshot) = CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0).map(Handle) else { return ids };
        let mut next = Process32FirstW(snapshot.0, &raw mut entry);
        while next.is_ok() {
            let length = entry.szExeFile.iter().position(|unit| *unit == 0).unwrap_or_default();
            let name = String::from_utf16_lossy(entry.szExeFile.get(..length).unwrap_or_default());
            if name.eq_ignore_ascii_case("TiWorker.exe") {
                ids.push(entry.th32ProcessID);
            }
            next = Process32NextW(snapshot.0, &raw mut entry);
        }
    }
    ids
}

fn process(id: u32) -> Option<Handle> {
    // SAFETY: asks for a handle by number.
    unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, false, id) }.ok().map(Handle)
}

/// Processor time so far, in units of 100 ns.
fn used(process: &Handle) -> Option<u64> {
    let mut times = [FILETIME::default(); 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: the handle is open, all four are writable.
    unsafe { GetProcessTimes(process.0, created, ended, kernel, user) }.ok()?;
    let whole = |time: &FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Some(whole(kernel) + whole(user))
}
