//! The one place that reads the wall clock, and the seam by which domain time is injected.
//!
//! Domain time (cooldowns, windows, deadlines) is what `now` gives and may run faster than real time in a simulation.
//! Link time (leases, RPC time-outs, backoff) is always tokio's own and never passes through here.

use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};

/// Source of domain time.
pub trait Clock: Send + Sync + 'static {
    /// Now, in whole microseconds: no store keeps more.
    fn now(&self) -> DateTime<Utc>;

    /// How long to wait in real time for `domain` to pass.
    fn real(&self, domain: Duration) -> Duration;
}

/// Domain time that is real time: the only clock of production binaries.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        wall_now()
    }

    fn real(&self, domain: Duration) -> Duration {
        domain
    }
}

/// The machine's wall clock in whole microseconds; for link time (leases) and certificates.
#[must_use]
#[allow(clippy::disallowed_methods)] // the one place
pub fn wall_now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
