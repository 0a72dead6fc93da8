//! `v1::Condition`.

use super::{FieldError, checked_text, cleaned_text, optional_uuid, time_from_us, uuid_to_wire, wire_enum};
use crate::{
    condition::{Architecture, Condition, DeviceRole, ProductType, UnavailableSource, UpdateAuthority},
    v1,
};

const MAX_NAME: usize = 128;
const MAX_REASON: usize = 256;
const MAX_LIST: usize = 16;

wire_enum!(architecture_from, architecture_to, v1::Architecture, Architecture, {
    X64 => X64, Arm64 => Arm64, X86 => X86,
});
wire_enum!(product_from, product_to, v1::ProductType, ProductType, {
    Client => Client, DomainController => DomainController, Server => Server,
});
wire_enum!(authority_from, authority_to, v1::UpdateAuthority, UpdateAuthority, {
    WindowsUpdate => WindowsUpdate,
    Wufb => Wufb,
    Wsus => Wsus,
    ConfigMgr => ConfigMgr,
    CoManaged => CoManaged,
    ThirdParty => ThirdParty,
});
wire_enum!(role_from, role_to, v1::DeviceRole, DeviceRole, {
    Workstation => Workstation, Kiosk => Kiosk, Shared => Shared, Oobe => Oobe, Uwf => Uwf,
});

fn short_list<T>(field: &'static str, list: &[T]) -> Result<(), FieldError> {
    if list.len() > MAX_LIST {
        return Err(FieldError::new(field, format!("{} entries, at most {MAX_LIST} are allowed", list.len())));
    }
    Ok(())
}

impl TryFrom<v1::Condition> for Condition {
    type Error = FieldError;

    fn try_from(wire: v1::Condition) -> Result<Self, FieldError> {
        short_list("condition.reboot_pending", &wire.reboot_pending)?;
        short_list("condition.unavailable", &wire.unavailable)?;
        if !(-14 * 60..=14 * 60).contains(&wire.utc_offset_minutes) {
            return Err(FieldError::new("condition.utc_offset_minutes", "is beyond 14 hours"));
        }
        let battery_percent = match wire.battery_percent {
            255 => None,
            percent @ 0..=100 => u8::try_from(percent).ok(),
            other => return Err(FieldError::new("condition.battery_percent", format!("{other} is no percentage"))),
        };
        let name = |field, text: &str| checked_text(field, text, MAX_NAME);
        let ek_hash = match wire.ek_hash.len() {
            0 => None,
            32 => Some(wire.ek_hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            other => return Err(FieldError::new("condition.ek_hash", format!("{other} bytes long, a SHA-256 has 32"))),
        };
        Ok(Self {
            collected_at: time_from_us("condition.collected_at_us", wire.collected_at_us)?,
            computer_name: name("condition.computer_name", &wire.computer_name)?,
            serial: name("condition.serial", &wire.serial)?,
            smbios_uuid: optional_uuid("condition.smbios_uuid", &wire.smbios_uuid)?,
            ek_hash,
            os_build: wire.os_build,
            ubr: wire.ubr,
            display_version: name("condition.display_version", &wire.display_version)?,
            edition: name("condition.edition", &wire.edition)?,
            manufacturer: name("condition.manufacturer", &wire.manufacturer)?,
            model: name("condition.model", &wire.model)?,
            architecture: architecture_from("condition.architecture", wire.architecture)?,
            product_type: product_from("condition.product_type", wire.product_type)?,
            time_zone: name("condition.time_zone", &wire.time_zone)?,
            utc_offset_minutes: wire.utc_offset_minutes,
            update_authority: authority_from("condition.update_authority", wire.update_authority)?,
            role: role_from("condition.role", wire.role)?,
            reboot_pending: wire
                .reboot_pending
                .iter()
                .map(|text| checked_text("condition.reboot_pending", text, MAX_REASON))
                .collect::<Result<_, _>>()?,
            system_free_bytes: wire.system_free_bytes.min(i64::MAX.cast_unsigned()),
            on_ac_power: wire.on_ac_power,
            battery_percent,
            agent_version: name("condition.agent_version", &wire.agent_version)?,
            unavailable_sources: wire
                .unavailable
                .iter()
                .map(|it| {
                    Ok(UnavailableSource {
                        source: checked_text("condition.unavailable.source", &it.source, MAX_NAME)?,
                        reason: checked_text("condition.unavailable.reason", &it.reason, MAX_REASON)?,
                    })
                })
                .collect::<Result<_, _>>()?,
            reset_feature: wire.reset_feature,
        })
    }
}

impl From<&Condition> for v1::Condition {
    fn from(it: &Condition) -> Self {
        let name = |text: &str| cleaned_text(text, MAX_NAME);
        let ek_hash = it.ek_hash.as_deref().and_then(|hex| hex.parse::<crate::PackageHash>().ok());
        Self {
            collected_at_us: it.collected_at.timestamp_micros(),
            computer_name: name(&it.computer_name),
            serial: name(&it.serial),
            smbios_uuid: uuid_to_wire(it.smbios_uuid),
            ek_hash: ek_hash.map_or_else(prost::bytes::Bytes::new, |h| prost::bytes::Bytes::copy_from_slice(&h.0)),
            os_build: it.os_build,
            ubr: it.ubr,
            display_version: name(&it.display_version),
            edition: name(&it.edition),
            manufacturer: name(&it.manufacturer),
            model: name(&it.model),
            architecture: architecture_to(it.architecture),
            product_type: product_to(it.product_type),
            time_zone: name(&it.time_zone),
            utc_offset_minutes: it.utc_offset_minutes,
            update_authority: authority_to(it.update_authority),
            role: role_to(it.role),
            reboot_pending: it.reboot_pending.iter().take(MAX_LIST).map(|t| cleaned_text(t, MAX_REASON)).collect(),
            system_free_bytes: it.system_free_bytes,
            on_ac_power: it.on_ac_power,
            battery_percent: it.battery_percent.map_or(255, u32::from),
            agent_version: name(&it.agent_version),
            unavailable: it
                .unavailable_sources
                .iter()
                .take(MAX_LIST)
                .map(|it| v1::UnavailableSource {
                    source: name(&it.source),
                    reason: cleaned_text(&it.reason, MAX_REASON),
                })
                .collect(),
            reset_feature: it.reset_feature,
        }
    }
}
