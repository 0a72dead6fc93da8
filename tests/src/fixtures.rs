//! Values that tests of several rooms need, the same everywhere.

use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Condition,
    condition::{Architecture, DeviceRole, ProductType, UpdateAuthority},
};

/// What a workstation says of itself: Windows 11 24H2, updated by Windows Update for Business, nothing pending.
#[must_use]
pub fn condition(at: DateTime<Utc>) -> Condition {
    Condition {
        collected_at: at,
        computer_name: "PC-1".to_owned(),
        serial: "S1".to_owned(),
        smbios_uuid: None,
        ek_hash: None,
        os_build: 26100,
        ubr: 1742,
        display_version: "24H2".to_owned(),
        edition: "Professional".to_owned(),
        manufacturer: "Contoso".to_owned(),
        model: "Model 5".to_owned(),
        architecture: Architecture::X64,
        product_type: ProductType::Client,
        time_zone: "Europe/Berlin".to_owned(),
        utc_offset_minutes: 60,
        update_authority: UpdateAuthority::Wufb,
        role: DeviceRole::Workstation,
        reboot_pending: Vec::new(),
        system_free_bytes: 100 << 30,
        on_ac_power: true,
        battery_percent: None,
        agent_version: "0.1.0".to_owned(),
        unavailable_sources: Vec::new(),
        reset_feature: false,
    }
}
