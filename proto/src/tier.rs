//! The six tiers of the ladder, in order of weight.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A rung of the ladder. Ordered: a later one is heavier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum Tier {
    Retry = 1,
    Troubleshoot = 2,
    RepairImage = 3,
    ResetComponents = 4,
    InstallManually = 5,
    ResetPc = 6,
}

/// A number that names no tier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tier: expected 1 to 6")]
pub struct NotATier(pub String);

impl Tier {
    pub const ALL: [Self; 6] = [
        Self::Retry,
        Self::Troubleshoot,
        Self::RepairImage,
        Self::ResetComponents,
        Self::InstallManually,
        Self::ResetPc,
    ];

    /// 1 to 6.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The next heavier tier; `None` after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::try_from(self.number() + 1).ok()
    }

    /// The name people read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "Retry",
            Self::Troubleshoot => "Troubleshoot",
            Self::RepairImage => "RepairImage",
            Self::ResetComponents => "ResetComponents",
            Self::InstallManually => "InstallManually",
            Self::ResetPc => "ResetPc",
        }
    }
}

impl TryFrom<u8> for Tier {
    type Error = NotATier;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Self::ALL.into_iter().find(|tier| tier.number() == number).ok_or_else(|| NotATier(number.to_string()))
    }
}

impl From<Tier> for u8 {
    fn from(tier: Tier) -> Self {
        tier.number()
    }
}

impl FromStr for Tier {
    type Err = NotATier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number: u8 = text.parse().map_err(|_| NotATier(text.to_owned()))?;
        Self::try_from(number).map_err(|_| NotATier(text.to_owned()))
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.name())
    }
}
