//! Promises broken on purpose, so that the fault tests can be seen to fail. Asked where a promise is kept; always off
//! unless built with the feature `sabotage`, which no product build has (`tests/sabotage` uses it).

/// What to break; one of them is named in `FLEETMEND_SABOTAGE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    #[cfg(feature = "sabotage")]
    AckBeforeCommit,
    #[cfg(feature = "sabotage")]
    IndexDropped,
    FenceIgnored,
}

impl Sabotage {
    #[cfg(feature = "sabotage")]
    pub(crate) fn is_on(self) -> bool {
        let name = match self {
            Self::AckBeforeCommit => "ack-before-commit",
            Self::IndexDropped => "index-dropped",
            Self::FenceIgnored => "fence-ignored",
        };
        std::env::var("FLEETMEND_SABOTAGE").is_ok_and(|on| on == name)
    }

    #[cfg(not(feature = "sabotage"))]
    pub(crate) const fn is_on(self) -> bool {
        let Self::FenceIgnored = self;
        false
    }
}
