//! A device's inventory at a time. History: each one is kept.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::words;

/// What a device looked like when `collected_at`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    pub collected_at: DateTime<Utc>,
    pub computer_name: String,
    pub serial: String,
    pub smbios_uuid: Option<Uuid>,
    /// SHA-256 of the TPM endorsement key, lower-case hex.
    pub ek_hash: Option<String>,
    pub os_build: u32,
    pub ubr: u32,
    pub display_version: String,
    pub edition: String,
    pub manufacturer: String,
    pub model: String,
    pub architecture: Architecture,
    pub product_type: ProductType,
    /// IANA name.
    pub time_zone: String,
    pub utc_offset_minutes: i32,
    pub update_authority: UpdateAuthority,
    pub role: DeviceRole,
    /// Why a restart is owed, one reason each; empty = none owed.
    pub reboot_pending: Vec<String>,
    pub system_free_bytes: u64,
    pub on_ac_power: bool,
    /// `None` = no battery.
    pub battery_percent: Option<u8>,
    pub agent_version: String,
    /// Record sources that could not be read, with why.
    pub unavailable_sources: Vec<UnavailableSource>,
    /// Whether the separate reset feature is installed.
    pub reset_feature: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnavailableSource {
    pub source: String,
    pub reason: String,
}

words!(
    /// The machine's native architecture.
    Architecture { X64 = "x64", Arm64 = "arm64", X86 = "x86" }
);
words!(
    /// Win32_OperatingSystem.ProductType.
    ProductType { Client = "client", DomainController = "domain_controller", Server = "server" }
);
words!(
    /// Who decides which updates the device is offered.
    UpdateAuthority {
        WindowsUpdate = "windows_update",
        Wufb = "wufb",
        Wsus = "wsus",
        ConfigMgr = "config_mgr",
        CoManaged = "co_managed",
        ThirdParty = "third_party",
    }
);
words!(
    /// What the device is for.
    DeviceRole {
        Workstation = "workstation",
        Kiosk = "kiosk",
        Shared = "shared",
        Oobe = "oobe",
        Uwf = "uwf",
    }
);
