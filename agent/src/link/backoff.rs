//! How long to wait before the next connection: full jitter, so that a fleet that was cut off together does not come
//! back together. Pure: the caller brings randomness and time.

use std::time::Duration;

use super::Patience;

/// Bounds of the wait. Link time: always real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffSettings {
    /// Upper bound of the first wait.
    pub base: Duration,
    /// Upper bound of any wait.
    pub cap: Duration,
    /// A connection that lasted this long starts the count anew.
    pub stable_after: Duration,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_secs(300), stable_after: Duration::from_secs(600) }
    }
}

/// Counts failures in a row.
#[derive(Clone, Debug)]
pub struct Backoff {
    settings: BackoffSettings,
    failures: u32,
}

impl Backoff {
    #[must_use]
    pub const fn new(settings: BackoffSettings) -> Self {
        Self { settings, failures: 0 }
    }

    /// The next wait: uniform below `base * 2^failures`, capped. `unit` is uniform in 0..1.
    pub fn next_wait(&mut self, unit: f64) -> Duration {
        let ceiling = self.settings.base.saturating_mul(1_u32 << self.failures.min(20)).min(self.settings.cap);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(unit.clamp(0.0, 1.0))
    }

    /// The next wait as the failure asks for it.
    pub fn wait(&mut self, patience: Patience, unit: f64) -> Duration {
        match patience {
            Patience::Usual => self.next_wait(unit),
            Patience::Told(told) => self.told_to_wait(told, unit),
            Patience::Long => self.long_wait(unit),
        }
    }

    /// A wait for an answer that will not change soon (banned, refused): between half the cap and the cap.
    pub fn long_wait(&mut self, unit: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.settings.cap.mul_f64(0.5 + 0.5 * unit.clamp(0.0, 1.0))
    }

    /// The peer named a time: that, plus up to `base` of jitter so that peers told the same do not meet.
    pub fn told_to_wait(&mut self, told: Duration, unit: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        told.min(self.settings.cap.max(self.settings.base) * 2) + self.settings.base.mul_f64(unit.clamp(0.0, 1.0))
    }

    /// A connection ended that had lasted `uptime`; a short one does not make the next wait shorter.
    pub fn connection_ended(&mut self, uptime: Duration) {
        if uptime >= self.settings.stable_after {
            self.failures = 0;
        }
    }

    /// An independent operation (a call, not a connection) was answered.
    pub fn answered(&mut self) {
        self.failures = 0;
    }
}

/// Uniform in 0..1, for the waits above.
#[must_use]
pub fn unit() -> f64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(BackoffSettings::default())
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let mut it = backoff();
        let ceilings: Vec<_> = (0..11).map(|_| it.next_wait(1.0).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        for _ in 0..100 {
            assert_eq!(it.next_wait(1.0).as_secs(), 300);
        }
    }

    #[test]
    fn the_wait_is_anywhere_below_the_ceiling() {
        let mut it = backoff();
        assert_eq!(it.next_wait(0.0), Duration::ZERO);
        assert_eq!(it.next_wait(0.5), Duration::from_secs(1));
    }

    #[test]
    fn only_a_stable_connection_resets() {
        let mut it = backoff();
        for _ in 0..5 {
            it.next_wait(1.0);
        }
        it.connection_ended(Duration::from_secs(599));
        assert_eq!(it.next_wait(1.0), Duration::from_secs(32));
        it.connection_ended(Duration::from_secs(600));
        assert_eq!(it.next_wait(1.0), Duration::from_secs(1));
    }

    #[test]
    fn a_named_time_is_kept_and_bounded() {
        let mut it = backoff();
        assert_eq!(it.told_to_wait(Duration::from_secs(7), 0.0), Duration::from_secs(7));
        assert_eq!(it.told_to_wait(Duration::from_secs(7), 1.0), Duration::from_secs(8));
        assert_eq!(
            it.told_to_wait(Duration::MAX, 0.0),
            Duration::from_secs(600),
            "a peer cannot park a device for ever"
        );
    }

    #[test]
    fn a_refused_device_comes_back_rarely() {
        let mut it = backoff();
        assert_eq!(it.long_wait(0.0), Duration::from_secs(150));
        assert_eq!(it.long_wait(1.0), Duration::from_secs(300));
    }
}
