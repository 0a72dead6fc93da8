//! Who this PC is: its name, what its firmware says, and which start of Windows this is.

use uuid::Uuid;
use windows::{
    Win32::System::SystemInformation::{
        ComputerNamePhysicalDnsHostname, FIRMWARE_TABLE_PROVIDER, GetComputerNameExW, GetSystemFirmwareTable,
    },
    core::PWSTR,
};
use windows_registry::LOCAL_MACHINE;

use super::{
    error::{failed, is_missing},
    registry,
};
use crate::platform::{
    Machine, Result,
    smbios::{self, SystemRecord},
};

/// Lives until Windows starts anew: a volatile key is kept in memory only. A fast start (hibernated kernel) keeps it, and
/// indeed ends none of what a restart is owed for.
const THIS_START: &str = r"SOFTWARE\Fleetmend\ThisStart";
const BIOS: &str = r"HARDWARE\DESCRIPTION\System\BIOS";

pub(super) fn machine() -> Result<Machine> {
    let firmware = firmware();
    Ok(Machine { computer_name: computer_name()?, serial: firmware.serial, smbios_uuid: firmware.uuid, ek_hash: None })
}

/// The name as it is now; the next one after a rename counts from the next start on.
pub(super) fn computer_name() -> Result<String> {
    let mut buffer = [0u16; 256];
    let mut length = u32::try_from(buffer.len()).unwrap_or_default();
    // SAFETY: the buffer is as long as said.
    unsafe { GetComputerNameExW(ComputerNamePhysicalDnsHostname, Some(PWSTR(buffer.as_mut_ptr())), &raw mut length) }
        .map_err(|error| failed("the computer's name", &error))?;
    Ok(String::from_utf16_lossy(buffer.get(..usize::try_from(length).unwrap_or_default()).unwrap_or_default()))
}

/// The system record of the SMBIOS table; what it leaves empty comes from the registry's copy, where there is one.
pub(super) fn firmware() -> SystemRecord {
    const RSMB: FIRMWARE_TABLE_PROVIDER = FIRMWARE_TABLE_PROVIDER(u32::from_be_bytes(*b"RSMB"));
    // SAFETY: without a buffer it only says how long one must be.
    let length = unsafe { GetSystemFirmwareTable(RSMB, 0, None) };
    let mut table = vec![0; usize::try_from(length).unwrap_or_default()];
    // SAFETY: the buffer is writable for its length.
    unsafe { GetSystemFirmwareTable(RSMB, 0, Some(&mut table)) };
    let mut record = smbios::system_record(&table).unwrap_or_default();
    let or_registry = |text: &mut String, value: &str| {
        if text.is_empty() {
            *text = registry::text(BIOS, value).unwrap_or_default();
        }
    };
    or_registry(&mut record.manufacturer, "SystemManufacturer");
    or_registry(&mut record.model, "SystemProductName");
    record
}

/// Changes with every start of Windows.
pub(super) fn boot_id() -> Result<String> {
    let read = || -> windows_registry::Result<String> {
        match LOCAL_MACHINE.open(THIS_START).and_then(|key| key.get_string("Id")) {
            Err(error) if is_missing(&error) => {
                let key = LOCAL_MACHINE.options().read().write().create().volatile().open(THIS_START)?;
                let id = Uuid::new_v4().to_string();
                key.set_string("Id", &id)?;
                Ok(id)
            }
            known => known,
        }
    };
    read().map_err(|error| failed("the id of this start of Windows", &error))
}
