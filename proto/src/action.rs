//! What an order may ask for: a closed set. Nothing else can be put on the wire.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Tier;

/// An action and what it needs to know. A package is named by its hash alone: no path, no URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Action {
    Retry,
    Troubleshoot,
    RepairImage,
    ResetComponents,
    InstallManually {
        package: PackageHash,
    },
    /// In-place repair from media: milder than a reset, charged to tier 5.
    RepairInstall {
        media: PackageHash,
    },
    ResetPc(ResetPc),
    /// Charged to no tier.
    Reboot,
    /// Reversible; charged to no tier.
    HideUpdate,
}

impl Action {
    /// The name used in order text, tables and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Troubleshoot => "troubleshoot",
            Self::RepairImage => "repair_image",
            Self::ResetComponents => "reset_components",
            Self::InstallManually { .. } => "install_manually",
            Self::RepairInstall { .. } => "repair_install",
            Self::ResetPc(_) => "reset_pc",
            Self::Reboot => "reboot",
            Self::HideUpdate => "hide_update",
        }
    }

    /// The tier an order of this action is charged to; `None` for `Reboot` and `HideUpdate`.
    #[must_use]
    pub const fn tier(&self) -> Option<Tier> {
        match self {
            Self::Retry => Some(Tier::Retry),
            Self::Troubleshoot => Some(Tier::Troubleshoot),
            Self::RepairImage => Some(Tier::RepairImage),
            Self::ResetComponents => Some(Tier::ResetComponents),
            Self::InstallManually { .. } | Self::RepairInstall { .. } => Some(Tier::InstallManually),
            Self::ResetPc(_) => Some(Tier::ResetPc),
            Self::Reboot | Self::HideUpdate => None,
        }
    }
}

/// SHA-256 of a package file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PackageHash(pub [u8; 32]);

/// Text that is no SHA-256 in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a SHA-256 as 64 lower-case hex digits")]
pub struct NotAHash;

impl fmt::Display for PackageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PackageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackageHash({self})")
    }
}

impl FromStr for PackageHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !plain {
            return Err(NotAHash);
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| NotAHash)?;
        }
        Ok(Self(hash))
    }
}

impl From<PackageHash> for String {
    fn from(hash: PackageHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for PackageHash {
    type Error = NotAHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The settings of a reset. `doWipeProtected` has no value here on purpose: it may leave a PC that cannot boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetPc {
    pub method: ResetMethod,
    pub source: ResetSource,
    /// Keep provisioning packages; only with `RemoveEverything`.
    pub keep_provisioning: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetMethod {
    KeepFiles,
    RemoveEverything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetSource {
    Local,
    Cloud,
}
