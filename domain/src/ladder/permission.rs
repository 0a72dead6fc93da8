//! Rule 10: which tiers a kind of device may get, whatever the policy says. Read by the ladder and shown by the API.

use fleetmend_proto::{
    Tier,
    condition::{DeviceRole, ProductType, UpdateAuthority},
};

use super::Device;

/// What a device may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// A third party manages its updates.
    ReportOnly,
    /// It is still being set up.
    SetupFirst,
    /// Tiers up to this one.
    UpTo(Tier),
}

/// What a device may get: the strictest that its authority, role, kind and exclusion say.
#[must_use]
pub fn permission(device: &Device) -> Permission {
    let of_authority = match device.authority {
        UpdateAuthority::ThirdParty => return Permission::ReportOnly,
        UpdateAuthority::WindowsUpdate
        | UpdateAuthority::Wufb
        | UpdateAuthority::Wsus
        | UpdateAuthority::ConfigMgr
        | UpdateAuthority::CoManaged => Tier::ResetPc,
    };
    let of_role = match device.role {
        DeviceRole::Oobe => return Permission::SetupFirst,
        // A write filter throws repairs away at the next restart.
        DeviceRole::Uwf => Tier::Troubleshoot,
        DeviceRole::Workstation | DeviceRole::Kiosk | DeviceRole::Shared => Tier::ResetPc,
    };
    let of_kind = match device.product_type {
        ProductType::Server | ProductType::DomainController => Tier::ResetComponents,
        ProductType::Client => Tier::ResetPc,
    };
    let of_exclusion = if device.excluded { Tier::ResetComponents } else { Tier::ResetPc };
    Permission::UpTo(of_authority.min(of_role).min(of_kind).min(of_exclusion))
}

impl Permission {
    /// The heaviest tier permitted; `None` = none.
    #[must_use]
    pub const fn highest(self) -> Option<Tier> {
        match self {
            Self::ReportOnly | Self::SetupFirst => None,
            Self::UpTo(tier) => Some(tier),
        }
    }
}

/// Why a device is capped, as in "... because it is a server".
pub(super) fn because(device: &Device) -> &'static str {
    match (device.role, device.product_type) {
        (DeviceRole::Uwf, _) => "a write filter throws heavier repairs away at the next restart",
        (_, ProductType::DomainController) => "it is a domain controller",
        (_, ProductType::Server) => "it is a server",
        (_, ProductType::Client) => "it is on the exclusion list",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(authority: UpdateAuthority, role: DeviceRole, product_type: ProductType, excluded: bool) -> Device {
        Device {
            quarantined: false,
            excluded,
            product_type,
            role,
            authority,
            reboot_pending: false,
            utc_offset_minutes: 0,
            package: None,
            package_clash: None,
        }
    }

    #[test]
    fn the_table() {
        for authority in UpdateAuthority::ALL.iter().copied() {
            for role in DeviceRole::ALL.iter().copied() {
                for product in ProductType::ALL.iter().copied() {
                    for excluded in [false, true] {
                        let found = permission(&device(authority, role, product, excluded));
                        let highest = match (authority.word(), role.word(), product.word(), excluded) {
                            ("third_party", _, _, _) | (_, "oobe", _, _) => None,
                            (_, "uwf", _, _) => Some(2),
                            (_, _, "server" | "domain_controller", _) | (_, _, _, true) => Some(4),
                            (_, "workstation" | "kiosk" | "shared", "client", false) => Some(6),
                            (_, other, _, _) => panic!("no row for {other}"),
                        };
                        let found = found.highest().map(Tier::number);
                        assert_eq!(found, highest, "{authority} {role} {product} excluded={excluded}");
                    }
                }
            }
        }
    }
}
