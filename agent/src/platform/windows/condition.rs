//! The inventory: what this PC is and how it is now. What cannot be read is named in it, never guessed.
//!
//! Not tried on real Windows: the values that tell a kiosk, a shared PC, a write filter and co-management apart. Check:
//! compare `fleetmend-agent status --condition` with Settings on one PC of each kind.

use chrono::{Offset as _, TimeZone as _};
use fleetmend_proto::{
    Condition,
    clock::wall_now,
    condition::{Architecture, DeviceRole, ProductType, UnavailableSource, UpdateAuthority},
};
use windows::Win32::System::{
    SystemInformation::{IMAGE_FILE_MACHINE, IMAGE_FILE_MACHINE_AMD64, IMAGE_FILE_MACHINE_ARM64},
    Threading::{GetCurrentProcess, IsWow64Process2},
};

use super::{files, machine, power, registry, services};
use crate::{link::failure::chain, platform::Result};

const VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";
const SETUP: &str = r"SYSTEM\Setup";

/// Everything but the pending restart, which takes COM.
pub(super) fn condition(mut unavailable: Vec<UnavailableSource>, reboot_pending: Vec<String>) -> Result<Condition> {
    let firmware = machine::firmware();
    let mut note = |source: &str, reason: String| {
        unavailable.push(UnavailableSource { source: source.to_owned(), reason });
    };
    if firmware.serial.is_empty() && firmware.uuid.is_none() {
        note("firmware", "the SMBIOS table names neither a serial number nor a UUID".to_owned());
    }
    let time_zone = iana_time_zone::get_timezone().unwrap_or_else(|error| {
        note("time zone", format!("its IANA name is not known ({error}): taken as UTC with the offset given"));
        "Etc/UTC".to_owned()
    });
    let (on_ac_power, battery_percent) = power::power().unwrap_or_else(|error| {
        note("power", chain(&error));
        (false, None)
    });
    let system_free_bytes = files::free_bytes().unwrap_or_else(|error| {
        note("free space", chain(&error));
        0
    });
    let build = registry::number(VERSION, "CurrentBuildNumber").unwrap_or_else(|| {
        note("version of Windows", "its build number is not in the registry".to_owned());
        0
    });
    Ok(Condition {
        collected_at: wall_now(),
        computer_name: machine::computer_name()?,
        serial: firmware.serial,
        smbios_uuid: firmware.uuid,
        ek_hash: None,
        os_build: build,
        ubr: registry::number(VERSION, "UBR").unwrap_or_default(),
        display_version: registry::text(VERSION, "DisplayVersion")
            .or_else(|| registry::text(VERSION, "ReleaseId"))
            .unwrap_or_default(),
        edition: registry::text(VERSION, "EditionID").unwrap_or_default(),
        manufacturer: firmware.manufacturer,
        model: firmware.model,
        architecture: architecture(),
        product_type: product_type(),
        time_zone,
        utc_offset_minutes: utc_offset_minutes(),
        update_authority: update_authority(),
        role: role(),
        reboot_pending,
        system_free_bytes,
        on_ac_power,
        battery_percent,
        agent_version: crate::VERSION.to_owned(),
        unavailable_sources: unavailable,
        reset_feature: false,
    })
}

fn architecture() -> Architecture {
    let (mut process, mut native) = (IMAGE_FILE_MACHINE::default(), IMAGE_FILE_MACHINE::default());
    // SAFETY: the pseudo handle of this process is always good; both are writable.
    let asked = unsafe { IsWow64Process2(GetCurrentProcess(), &raw mut process, Some(&raw mut native)) };
    match asked {
        Ok(()) if native == IMAGE_FILE_MACHINE_ARM64 => Architecture::Arm64,
        Ok(()) if native != IMAGE_FILE_MACHINE_AMD64 && native != IMAGE_FILE_MACHINE::default() => Architecture::X86,
        Ok(()) | Err(_) => Architecture::X64,
    }
}

fn product_type() -> ProductType {
    match registry::text(r"SYSTEM\CurrentControlSet\Control\ProductOptions", "ProductType").as_deref() {
        Some("LanmanNT") => ProductType::DomainController,
        Some("ServerNT") => ProductType::Server,
        Some(_) | None => ProductType::Client,
    }
}

fn utc_offset_minutes() -> i32 {
    let now = wall_now().naive_utc();
    chrono::Local.offset_from_utc_datetime(&now).fix().local_minus_utc() / 60
}

/// Configuration Manager's client comes first: it points Windows Update at its own server.
fn update_authority() -> UpdateAuthority {
    if matches!(services::service("CcmExec"), Ok(Some(_))) {
        let flags = registry::number(r"SOFTWARE\Microsoft\CCM", "CoManagementFlags").unwrap_or_default();
        // Bit 4: the workload "Windows Update policies" is with Intune.
        return if flags & 0x10 == 0 { UpdateAuthority::ConfigMgr } else { UpdateAuthority::CoManaged };
    }
    let has_server = registry::text(POLICY, "WUServer").is_some();
    if has_server && registry::number(&format!(r"{POLICY}\AU"), "UseWUServer") == Some(1) {
        return UpdateAuthority::Wsus;
    }
    let defers = ["DeferQualityUpdates", "DeferFeatureUpdates", "TargetReleaseVersion"];
    let by_policy = defers.iter().any(|value| registry::number(POLICY, value) == Some(1));
    if by_policy || registry::has_values(r"SOFTWARE\Microsoft\PolicyManager\current\device\Update") {
        return UpdateAuthority::Wufb;
    }
    UpdateAuthority::WindowsUpdate
}

fn role() -> DeviceRole {
    let is_set = |value: &str| registry::number(SETUP, value) == Some(1);
    if is_set("SystemSetupInProgress") || is_set("OOBEInProgress") {
        return DeviceRole::Oobe;
    }
    // The filter's driver starts with the system only where the filter is on.
    if registry::number(r"SYSTEM\CurrentControlSet\Services\uwfvol", "Start") == Some(0) {
        return DeviceRole::Uwf;
    }
    if registry::has_keys(r"SOFTWARE\Microsoft\Windows\AssignedAccessConfiguration\Configs") {
        return DeviceRole::Kiosk;
    }
    if registry::has_values(r"SOFTWARE\Microsoft\Windows\CurrentVersion\SharedPC") {
        return DeviceRole::Shared;
    }
    DeviceRole::Workstation
}
