//! What the programs of Windows do to the model and print. Their arguments are read as strictly as they read them.

use std::{path::Path, time::Duration};

use chrono::{DateTime, Utc};
use fleetmend_agent::platform::Exit;
use fleetmend_proto::{HResult, condition::Architecture};

use super::{
    change::{Change, Offered, Start},
    dice::Dice,
    install::{self, Route, Verdict},
    packages::{self, Package},
    state::State,
};

/// What running a program comes to.
pub enum Ran {
    /// It ends after `duration`; then the changes hold.
    Ended { duration: Duration, changes: Vec<Change>, exit: Exit },
    /// It installs an update.
    Installs { offer: Box<Offered>, verdict: Verdict, by_update_client: bool },
}

const ERROR_INVALID_PARAMETER: i32 = 87;

fn minutes(dice: &Dice, name: &str, low: u64, high: u64) -> Duration {
    Duration::from_secs(60 * dice.between(name, low, high))
}

fn ended(duration: Duration, code: i32, text: &str) -> Ran {
    Ran::Ended { duration, changes: Vec::new(), exit: Exit { code, stdout: text.as_bytes().to_vec() } }
}

fn with(mut ran: Ran, new: impl IntoIterator<Item = Change>) -> Ran {
    if let Ran::Ended { changes, .. } = &mut ran {
        changes.extend(new);
    }
    ran
}

fn has(args: &[String], switch: &str) -> bool {
    args.iter().any(|arg| arg.eq_ignore_ascii_case(switch))
}

fn value_of<'a>(args: &'a [String], switch: &str) -> Option<&'a str> {
    args.iter().find_map(|arg| {
        let head = arg.get(..switch.len())?;
        head.eq_ignore_ascii_case(switch).then(|| arg[switch.len()..].trim_matches('"'))
    })
}

/// `dism.exe`: only the online image, only the switches the agent has a use for.
pub fn dism(state: &State, host: Architecture, dice: &Dice, args: &[String], now: DateTime<Utc>) -> Ran {
    const DONE: &str = "The operation completed successfully.\r\n";
    if !has(args, "/Online") {
        return ended(Duration::from_secs(1), ERROR_INVALID_PARAMETER, "Error: 87\r\n");
    }
    if has(args, "/Add-Package") {
        let path = value_of(args, "/PackagePath:").unwrap_or_default();
        return package(state, host, dice, Path::new(path), now, false);
    }
    if !has(args, "/Cleanup-Image") {
        return ended(Duration::from_secs(1), ERROR_INVALID_PARAMETER, "Error: 87\r\n");
    }
    let health = match (state.store_corrupt, state.store_repairable) {
        (false, _) => "No component store corruption detected.\r\n",
        (true, true) => "The component store is repairable.\r\n",
        (true, false) => "The component store cannot be repaired.\r\n",
    };
    if has(args, "/CheckHealth") {
        ended(Duration::from_secs(5), 0, &format!("{health}{DONE}"))
    } else if has(args, "/ScanHealth") {
        ended(minutes(dice, "scan health", 3, 15), 0, &format!("{health}{DONE}"))
    } else if has(args, "/RestoreHealth") {
        restore_health(state, dice, now)
    } else if has(args, "/StartComponentCleanup") {
        let text = format!("[==========================100.0%==========================]\r\n{DONE}");
        with(ended(minutes(dice, "component cleanup", 2, 12), 0, &text), [Change::LeftoversRemoved])
    } else {
        ended(Duration::from_secs(1), ERROR_INVALID_PARAMETER, "Error: 87\r\n")
    }
}

fn restore_health(state: &State, dice: &Dice, now: DateTime<Utc>) -> Ran {
    let duration = minutes(dice, &format!("restore health {}", state.attempts), 8, 40);
    let failed = |code: u32, text: &str| {
        let bar = "[==========================62.3%=                          ]\r\n";
        ended(duration, code.cast_signed(), &format!("{bar}Error: 0x{code:08x}\r\n\r\n{text}\r\n"))
    };
    if state.disk_dying {
        failed(0x8007_045D, "The request could not be performed because of an I/O device error.")
    } else if state.disk_full {
        failed(0x8007_0070, "There is not enough space on the disk.")
    } else if state.store_corrupt && (!state.store_repairable || state.is_network_down(now)) {
        failed(0x800F_081F, "The source files could not be found.")
    } else {
        let text = "[==========================100.0%==========================]\r\n\
                    The restore operation completed successfully.\r\nThe operation completed successfully.\r\n";
        with(ended(duration, 0, text), [Change::StoreRepaired])
    }
}

/// `sfc.exe /scannow`: UTF-16LE, whatever the code page; repairs from the store, so only where that is sound.
pub fn sfc(state: &State, dice: &Dice, args: &[String]) -> Ran {
    if !has(args, "/scannow") {
        return ended(Duration::from_secs(1), 1, "");
    }
    let (code, text, repaired) = if state.reboot_reasons.iter().any(|reason| reason.contains("RebootPending")) {
        (
            1,
            "There is a system repair pending which requires reboot to complete. Restart Windows and run sfc again.",
            false,
        )
    } else if !state.system_files_corrupt {
        (0, "Windows Resource Protection did not find any integrity violations.", false)
    } else if state.store_corrupt || state.disk_dying {
        (1, "Windows Resource Protection found corrupt files but was unable to fix some of them.", false)
    } else {
        (0, "Windows Resource Protection found corrupt files and successfully repaired them.", true)
    };
    let stdout = format!("\r\n{text}\r\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let changes = if repaired { vec![Change::SystemFilesRepaired] } else { Vec::new() };
    Ran::Ended { duration: minutes(dice, "sfc", 5, 25), changes, exit: Exit { code, stdout } }
}

/// `wusa.exe FILE /quiet /norestart`.
pub fn wusa(state: &State, host: Architecture, dice: &Dice, args: &[String], now: DateTime<Utc>) -> Ran {
    if !has(args, "/quiet") || !has(args, "/norestart") {
        // It would wait for a click in a session that nobody sees.
        return ended(Duration::from_secs(4 * 3600), ERROR_INVALID_PARAMETER, "");
    }
    if state.is_disabled("wuauserv") {
        return ended(Duration::from_secs(2), 0x8007_0422_u32.cast_signed(), "");
    }
    let file = args
        .iter()
        .find(|arg| !arg.starts_with("/quiet") && !arg.starts_with("/norestart") && !arg.starts_with("/log"));
    package(state, host, dice, Path::new(file.map_or("", |file| file.trim_matches('"'))), now, true)
}

fn package(
    state: &State,
    host: Architecture,
    dice: &Dice,
    path: &Path,
    now: DateTime<Utc>,
    by_update_client: bool,
) -> Ran {
    let quick = Duration::from_secs(20);
    let Some(Package { kb, architecture }) = packages::read(path) else {
        return ended(quick, 0x8007_0002_u32.cast_signed(), "");
    };
    if architecture != host {
        return ended(quick, 0x8024_0017_u32.cast_signed(), ""); // not applicable
    }
    if state.installed.iter().any(|update| update.kb == Some(kb)) {
        return ended(quick, 0x0024_0006, ""); // already installed
    }
    let Some(offer) = state.offers.iter().find(|offer| offer.update.kb == Some(kb)) else {
        return ended(quick, 0x8024_0017_u32.cast_signed(), ""); // not applicable
    };
    let verdict = install::attempt(state, offer, Route::Package, dice, now);
    Ran::Installs { offer: Box::new(offer.clone()), verdict, by_update_client }
}

/// The exit code of an installer.
pub fn installer_exit(verdict: &Verdict, by_update_client: bool) -> Exit {
    const ERROR_SUCCESS_REBOOT_REQUIRED: i32 = 3010;
    let code = if verdict.reboot_owed {
        ERROR_SUCCESS_REBOOT_REQUIRED
    } else if by_update_client {
        verdict.reported.0.cast_signed()
    } else {
        verdict.servicing.unwrap_or(HResult::OK).0.cast_signed()
    };
    Exit { code, stdout: Vec::new() }
}

/// The legacy troubleshooter, on releases that still have it: it enables services and clears failed transfers.
pub fn troubleshooting_pack(state: &State) -> Ran {
    let disabled = install::NEEDED.iter().filter(|name| state.is_disabled(name));
    let defaults = super::state::SERVICES;
    let enable = disabled.filter_map(|name| {
        let (_, start) = defaults.iter().find(|(known, _)| known == name)?;
        let name = (*name).to_owned();
        let runs_by_itself = matches!(start, Start::Automatic | Start::AutomaticDelayed);
        let started = runs_by_itself.then(|| Change::ServiceStarted { name: name.clone() });
        Some([Some(Change::StartTypeSet { name, start: *start }), started].into_iter().flatten())
    });
    let changes: Vec<_> = enable.flatten().chain([Change::TransfersCancelled]).collect();
    with(ended(Duration::from_secs(180), 0, "Resolution complete\r\n"), changes)
}

/// Programs that answer and change nothing of the model.
pub fn harmless(seconds: u64, text: &str) -> Ran {
    ended(Duration::from_secs(seconds), 0, text)
}
