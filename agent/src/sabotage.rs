//! A promise broken on purpose, so that the fault tests can be seen to fail. Asked where it is kept; always off unless
//! built with the feature `sabotage`, which no product build has (`tests/sabotage` uses it).

/// Whether `FLEETMEND_SABOTAGE` says that stale fences are to be taken.
#[cfg(feature = "sabotage")]
pub(crate) fn fence_ignored() -> bool {
    std::env::var("FLEETMEND_SABOTAGE").is_ok_and(|on| on == "fence-ignored")
}

#[cfg(not(feature = "sabotage"))]
pub(crate) const fn fence_ignored() -> bool {
    false
}
