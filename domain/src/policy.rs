//! An administrator's rules: posture and limits. Files and versions come later; the values live here.

use chrono::Duration;
use fleetmend_proto::words;

use crate::window::Window;

words!(
    /// How much Fleetmend does by itself.
    Posture {
        /// Decides and shows what it would do; orders nothing. What a new installation ships with.
        Observe = "observe",
        /// Tiers 1-4 by themselves, 5 where a package is there.
        Recommended = "recommended",
        Full = "full",
    }
);
words!(
    /// How tier 6 goes.
    ResetRoute { Handover = "handover", Signed = "signed" }
);

/// Limits of rule 3, windows of rule 9 and the posture; every default is the one of the architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub posture: Posture,
    pub reset_route: ResetRoute,
    /// Attempts of tier 1 in one incident.
    pub retry_attempts: u32,
    /// Attempts of every other tier in one incident.
    pub max_attempts: u32,
    pub max_orders: u32,
    pub incident_deadline: Duration,
    /// Waits before the 2nd, 3rd, ... attempt of tier 1.
    pub retry_backoff: Vec<Duration>,
    /// After tiers 1 and 2.
    pub cooldown_light: Duration,
    /// From tier 3 on.
    pub cooldown_heavy: Duration,
    /// How long a verification waits for Windows' own word before it counts as still failing.
    pub verify_deadline: Duration,
    /// How long a queued order waits for its device.
    pub order_expiry: Duration,
    /// How long a begun order may run.
    pub run_deadline: Duration,
    /// An offer that failed benignly this often is hidden.
    pub hide_after: u32,
    /// Evidence of rule 11 must be this young.
    pub reset_evidence_age: Duration,
    /// When restarts and tiers 5 and 6 may run; none = at any time.
    pub windows: Vec<Window>,
    /// Version recorded with each decision.
    pub version: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            posture: Posture::Observe,
            reset_route: ResetRoute::Handover,
            retry_attempts: 3,
            max_attempts: 1,
            max_orders: 8,
            incident_deadline: Duration::days(21),
            retry_backoff: vec![Duration::minutes(15), Duration::hours(1), Duration::hours(4)],
            cooldown_light: Duration::hours(4),
            cooldown_heavy: Duration::hours(24),
            verify_deadline: Duration::hours(2),
            order_expiry: Duration::days(3),
            run_deadline: Duration::hours(8),
            hide_after: 3,
            reset_evidence_age: Duration::days(30),
            windows: Vec::new(),
            version: 1,
        }
    }
}
