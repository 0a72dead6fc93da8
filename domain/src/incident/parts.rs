//! An incident's state as three columns (state, tier, reason) and back. Called by the store; decides nothing.

use fleetmend_proto::Tier;

use super::{HoldReason, State, StateName};

/// The columns of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    pub name: StateName,
    /// Only of `Remediating` and `Verifying`; `None` there = charged to no tier.
    pub tier: Option<u8>,
    /// Why it is held, or who dismissed it.
    pub reason: Option<&'a str>,
}

/// Columns that are no state: the row was written by something else than this program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParts {
    #[error("incident state {0:?} is unknown: was the database written by a newer fleetmend?")]
    UnknownState(String),
    #[error("incident state {name} needs a reason")]
    NoReason { name: StateName },
    #[error("incident state {name} cannot have the reason {reason:?}")]
    BadReason { name: StateName, reason: String },
    #[error("incident state {name} cannot have tier {tier}")]
    BadTier { name: StateName, tier: u8 },
}

impl State {
    #[must_use]
    pub const fn name(&self) -> StateName {
        match self {
            Self::Open => StateName::Open,
            Self::Held { .. } => StateName::Held,
            Self::Scheduled => StateName::Scheduled,
            Self::Remediating { .. } => StateName::Remediating,
            Self::Verifying { .. } => StateName::Verifying,
            Self::Exhausted => StateName::Exhausted,
            Self::HandedOver => StateName::HandedOver,
            Self::AwaitingApproval => StateName::AwaitingApproval,
            Self::Resolved => StateName::Resolved,
            Self::Benign => StateName::Benign,
            Self::Dismissed { .. } => StateName::Dismissed,
        }
    }

    /// What the order in hand is charged to.
    #[must_use]
    pub const fn tier(&self) -> Option<Tier> {
        match self {
            Self::Remediating { tier } | Self::Verifying { tier } => *tier,
            Self::Open
            | Self::Held { .. }
            | Self::Scheduled
            | Self::Exhausted
            | Self::HandedOver
            | Self::AwaitingApproval
            | Self::Resolved
            | Self::Benign
            | Self::Dismissed { .. } => None,
        }
    }

    /// Its columns.
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        let reason = match self {
            Self::Held { reason } => Some(reason.word()),
            Self::Dismissed { by } => Some(by.as_str()),
            Self::Open
            | Self::Scheduled
            | Self::Remediating { .. }
            | Self::Verifying { .. }
            | Self::Exhausted
            | Self::HandedOver
            | Self::AwaitingApproval
            | Self::Resolved
            | Self::Benign => None,
        };
        Parts { name: self.name(), tier: self.tier().map(Tier::number), reason }
    }

    /// The state of three columns.
    ///
    /// # Errors
    /// [`BadParts`] where they are no state.
    pub fn from_parts(name: &str, tier: Option<u8>, reason: Option<&str>) -> Result<Self, BadParts> {
        let name = StateName::from_word(name).ok_or_else(|| BadParts::UnknownState(name.to_owned()))?;
        let known_tier = || {
            tier.map(|number| Tier::try_from(number).map_err(|_| BadParts::BadTier { name, tier: number })).transpose()
        };
        let some_reason = || reason.ok_or(BadParts::NoReason { name });
        let state = match name {
            StateName::Remediating => Self::Remediating { tier: known_tier()? },
            StateName::Verifying => Self::Verifying { tier: known_tier()? },
            StateName::Held => {
                let word = some_reason()?;
                let bad = || BadParts::BadReason { name, reason: word.to_owned() };
                Self::Held { reason: HoldReason::from_word(word).ok_or_else(bad)? }
            }
            StateName::Dismissed => Self::Dismissed { by: some_reason()?.to_owned() },
            StateName::Open => Self::Open,
            StateName::Scheduled => Self::Scheduled,
            StateName::Exhausted => Self::Exhausted,
            StateName::HandedOver => Self::HandedOver,
            StateName::AwaitingApproval => Self::AwaitingApproval,
            StateName::Resolved => Self::Resolved,
            StateName::Benign => Self::Benign,
        };
        let stray = state.parts();
        match (tier, reason) {
            (Some(tier), _) if stray.tier.is_none() => Err(BadParts::BadTier { name, tier }),
            (_, Some(reason)) if stray.reason.is_none() => Err(BadParts::BadReason { name, reason: reason.to_owned() }),
            (None | Some(_), None | Some(_)) => Ok(state),
        }
    }
}
