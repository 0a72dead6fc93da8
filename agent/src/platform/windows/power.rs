//! Restarts of the PC, calling one off, and where its power comes from.
//!
//! Not tried on real Windows: the notice that Windows shows before the restart. Check: order a reboot for a test PC.

use std::time::Duration;

use windows::{
    Win32::{
        Foundation::{HANDLE, LUID},
        Security::{
            AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_PRIVILEGE_ENABLED, SE_SHUTDOWN_NAME,
            TOKEN_ADJUST_PRIVILEGES, TOKEN_PRIVILEGES, TOKEN_QUERY,
        },
        System::{
            Power::{GetSystemPowerStatus, SYSTEM_POWER_STATUS},
            Shutdown::{
                AbortSystemShutdownW, InitiateSystemShutdownExW, SHTDN_REASON_FLAG_PLANNED,
                SHTDN_REASON_MAJOR_OPERATINGSYSTEM, SHTDN_REASON_MINOR_HOTFIX,
            },
            Threading::{GetCurrentProcess, OpenProcessToken},
        },
    },
    core::{HSTRING, PCWSTR},
};

use super::{error::failed, handles::Handle};
use crate::platform::Result;

/// Windows takes no longer notice than ten years; nobody waits a day for a restart.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Asks for a restart and returns. Programs that ask about unsaved work are ended when `delay` is over: it is what warns
/// people, and without it one dialog would keep the restart away for good.
pub(super) fn reboot(delay: Duration, reason: &str) -> Result<()> {
    let what = "asking for a restart";
    allow_shutdown().map_err(|error| failed(what, &error))?;
    let seconds = u32::try_from(delay.min(LONGEST).as_secs()).unwrap_or_default();
    let reasons = SHTDN_REASON_FLAG_PLANNED | SHTDN_REASON_MAJOR_OPERATINGSYSTEM | SHTDN_REASON_MINOR_HOTFIX;
    // SAFETY: the texts end with a zero.
    unsafe { InitiateSystemShutdownExW(PCWSTR::null(), &HSTRING::from(reason), seconds, true, true, reasons) }
        .map_err(|error| failed(what, &error))
}

/// Calls off a restart whose delay still runs.
pub(super) fn call_off_reboot() -> Result<()> {
    let what = "calling off a restart";
    allow_shutdown().map_err(|error| failed(what, &error))?;
    // SAFETY: a null name means this machine.
    unsafe { AbortSystemShutdownW(PCWSTR::null()) }.map_err(|error| failed(what, &error))
}

/// Whether the PC hangs on mains power, and its charge; `None` = no battery.
pub(super) fn power() -> Result<(bool, Option<u8>)> {
    const NO_BATTERY: u8 = 128;
    const UNKNOWN: u8 = 255;
    let mut status = SYSTEM_POWER_STATUS::default();
    // SAFETY: `status` is writable.
    unsafe { GetSystemPowerStatus(&raw mut status) }.map_err(|error| failed("the state of the battery", &error))?;
    let has_battery = status.BatteryFlag & NO_BATTERY == 0 && status.BatteryFlag != UNKNOWN;
    // A desktop PC may say that its line status is unknown.
    let on_ac = status.ACLineStatus == 1 || (status.ACLineStatus != 0 && !has_battery);
    Ok((on_ac, has_battery.then_some(status.BatteryLifePercent).filter(|percent| *percent <= 100)))
}

fn allow_shutdown() -> windows::core::Result<()> {
    let mut token = HANDLE::default();
    let mut luid = LUID::default();
    // SAFETY: the pseudo handle of this process is always good; everything pointed to is alive and writable.
    unsafe {
        OpenProcessToken(GetCurrentProcess(), TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY, &raw mut token)?;
        let token = Handle(token);
        LookupPrivilegeValueW(PCWSTR::null(), SE_SHUTDOWN_NAME, &raw mut luid)?;
        let privilege = LUID_AND_ATTRIBUTES { Luid: luid, Attributes: SE_PRIVILEGE_ENABLED };
        let privileges = TOKEN_PRIVILEGES { PrivilegeCount: 1, Privileges: [privilege] };
        AdjustTokenPrivileges(token.0, false, Some(&raw const privileges), 0, None, None)
    }
}
