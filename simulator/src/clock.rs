//! Domain time that runs faster than real time, for the demo, the fault tests and every simulated PC.
//!
//! Processes that are given the same origin and speed agree on the time of day. Link time (leases, time-outs) never
//! passes through here.

use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use fleetmend_proto::{Clock, clock::wall_now};
use serde::{Deserialize, Serialize};

/// `now() = origin_domain + (wall clock - origin_real) * speed`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaledClock {
    origin_real: DateTime<Utc>,
    origin_domain: DateTime<Utc>,
    /// Domain seconds a real second; at least 0.001.
    speed: f64,
}

/// A speed that no clock can run at.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("a speed of {0} is not possible: give a number from 0.001 to 1000000 (1 = real time)")]
pub struct BadSpeed(pub f64);

impl ScaledClock {
    /// A clock that starts now, at today's date.
    ///
    /// # Errors
    /// [`BadSpeed`] for what is no usable factor.
    pub fn starting_now(speed: f64) -> Result<Self, BadSpeed> {
        let now = wall_now();
        Self::with_origin(now, now, speed)
    }

    /// A clock that agrees with others of the same origin.
    ///
    /// # Errors
    /// [`BadSpeed`] for what is no usable factor.
    pub fn with_origin(origin_real: DateTime<Utc>, origin_domain: DateTime<Utc>, speed: f64) -> Result<Self, BadSpeed> {
        if !(0.001..=1_000_000.0).contains(&speed) {
            return Err(BadSpeed(speed));
        }
        Ok(Self { origin_real, origin_domain, speed })
    }

    /// The wall-clock time at which this clock began.
    #[must_use]
    pub const fn origin(&self) -> DateTime<Utc> {
        self.origin_real
    }

    /// What a wall-clock time is in domain time.
    #[must_use]
    pub fn domain_at(&self, real: DateTime<Utc>) -> DateTime<Utc> {
        let real_us = (real - self.origin_real).num_microseconds().unwrap_or(i64::MAX);
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // saturates; microseconds are enough
        let domain_us = (real_us as f64 * self.speed) as i64;
        self.origin_domain
            .checked_add_signed(TimeDelta::microseconds(domain_us))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
            .trunc_subsecs(6)
    }
}

impl Clock for ScaledClock {
    fn now(&self) -> DateTime<Utc> {
        self.domain_at(wall_now())
    }

    fn real(&self, domain: Duration) -> Duration {
        // No longer than a year: a tokio timer takes no more, and no simulation lasts as long.
        Duration::from_secs_f64((domain.as_secs_f64() / self.speed).min(31_536_000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    #[test]
    fn an_hour_passes_in_a_second_at_3600() {
        let clock = ScaledClock::with_origin(at("2026-01-01T00:00:00Z"), at("2026-05-01T08:00:00Z"), 3600.0)
            .expect("a usable speed");
        assert_eq!(clock.domain_at(at("2026-01-01T00:00:02Z")), at("2026-05-01T10:00:00Z"));
        assert_eq!(clock.real(Duration::from_secs(7200)), Duration::from_secs(2));
    }

    #[test]
    fn unusable_speeds_are_refused() {
        for speed in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(ScaledClock::starting_now(speed).is_err(), "{speed} was taken");
        }
    }
}
