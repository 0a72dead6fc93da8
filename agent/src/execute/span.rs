//! How much domain time a wait has taken, told by the monotonic clock: a wall clock that is set meanwhile neither
//! stretches nor cuts it.

use std::time::Duration;

use fleetmend_proto::Clock;
use tokio::time::Instant;

/// A wait of at most `limit` domain time, from its making on.
pub(super) struct Span {
    limit: Duration,
    passed: Duration,
    last: Instant,
}

impl Span {
    pub fn new(limit: Duration) -> Self {
        Self { limit, passed: Duration::ZERO, last: Instant::now() }
    }

    pub fn is_over(&self) -> bool {
        self.passed > self.limit
    }

    /// Lets `domain` pass, and `real` at least.
    pub async fn wait(&mut self, clock: &dyn Clock, domain: Duration, real: Duration) {
        let step = clock.real(domain);
        tokio::time::sleep(step.max(real)).await;
        let took = self.last.elapsed();
        self.last = Instant::now();
        // Domain time runs evenly: what really passed, in steps of `domain`.
        let steps = if step.is_zero() { 1.0 } else { (took.as_secs_f64() / step.as_secs_f64()).max(1.0) };
        self.passed = self
            .passed
            .saturating_add(Duration::try_from_secs_f64(domain.as_secs_f64() * steps).unwrap_or(Duration::MAX));
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    /// Runs a hundred thousand times faster than real time and shows a wall clock that somebody sets at every look.
    struct Jumping(std::sync::atomic::AtomicI64);

    impl Clock for Jumping {
        fn now(&self) -> DateTime<Utc> {
            let years = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 2 * 20;
            DateTime::from_timestamp(years * 31_536_000, 0).expect("a time")
        }

        fn real(&self, domain: Duration) -> Duration {
            domain / 100_000
        }
    }

    #[tokio::test]
    async fn a_wall_clock_that_jumps_changes_no_wait() {
        let clock = Jumping(0.into());
        let began = Instant::now();
        let mut span = Span::new(Duration::from_secs(3600));
        while !span.is_over() {
            let _ = clock.now();
            span.wait(&clock, Duration::from_secs(60), Duration::ZERO).await;
        }
        let took = began.elapsed();
        assert!((Duration::from_millis(36)..Duration::from_secs(5)).contains(&took), "{took:?}");
    }

    #[tokio::test]
    async fn a_longer_sleep_counts_as_long_as_it_was() {
        let clock = Jumping(0.into());
        let mut span = Span::new(Duration::from_secs(3600));
        span.wait(&clock, Duration::from_secs(1), Duration::from_millis(40)).await;
        assert!(span.is_over(), "40 ms are 4000 s of this clock");
    }
}
