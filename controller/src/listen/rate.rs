//! Rates: how often something may happen, on average and at once. All are one rule (GCRA): each event moves a "not before"
//! mark forward by its share of time, and the mark may run ahead of now only as far as the burst allows. One instant a
//! subject is all there is to remember, and a mark in the past is as good as none.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleetmend_proto::DeviceId;
use tokio::time::Instant;

use crate::config::EnrollmentSettings;

/// `events` in `period`, and at most `burst` at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    share: Duration,
    ahead: Duration,
}

impl Rate {
    pub(super) fn new(events: u32, period: Duration, burst: u32) -> Self {
        let share = period / events.max(1);
        Self { share, ahead: share * burst.saturating_sub(1) }
    }

    /// Takes one event. A refusal says how long to wait, and takes nothing.
    pub(super) fn take(self, mark: &mut Instant, now: Instant) -> Result<(), Duration> {
        let from = (*mark).max(now);
        let early = from.duration_since(now);
        if early > self.ahead {
            return Err(early - self.ahead);
        }
        *mark = from + self.share;
        Ok(())
    }
}

/// A rate for each of many subjects. Forgets those whose mark has passed when it would grow.
#[derive(Debug)]
struct PerSubject<K> {
    rate: Rate,
    marks: HashMap<K, Instant>,
    sweep_at: usize,
}

impl<K: Eq + Hash> PerSubject<K> {
    const SMALLEST_SWEEP: usize = 1024;

    fn new(rate: Rate) -> Self {
        Self { rate, marks: HashMap::new(), sweep_at: Self::SMALLEST_SWEEP }
    }

    fn take(&mut self, subject: K, now: Instant) -> Result<(), Duration> {
        if self.marks.len() >= self.sweep_at {
            self.marks.retain(|_, mark| *mark > now);
            self.sweep_at = (self.marks.len() * 2).max(Self::SMALLEST_SWEEP);
        }
        self.rate.take(self.marks.entry(subject).or_insert(now), now)
    }
}

/// Requests of a device. Clones share the marks.
#[derive(Clone, Debug)]
pub struct DeviceRate(Option<Arc<Mutex<PerSubject<DeviceId>>>>);

impl DeviceRate {
    /// `per_minute` 0: no limit.
    #[must_use]
    pub fn new(per_minute: u32, burst: u32) -> Self {
        let rate = Rate::new(per_minute, Duration::from_secs(60), burst);
        Self((per_minute > 0).then(|| Arc::new(Mutex::new(PerSubject::new(rate)))))
    }

    /// Takes one request.
    ///
    /// # Errors
    /// How long the device has to wait.
    pub fn take(&self, device: DeviceId) -> Result<(), Duration> {
        self.take_at(device, Instant::now())
    }

    fn take_at(&self, device: DeviceId, now: Instant) -> Result<(), Duration> {
        let Some(marks) = &self.0 else { return Ok(()) };
        marks.lock().unwrap_or_else(PoisonError::into_inner).take(device, now)
    }
}

/// Enrolments, of one address and of all together. Clones share the marks.
#[derive(Clone, Debug)]
pub struct EnrollmentRate(Arc<Mutex<(PerSubject<IpAddr>, Rate, Instant)>>);

impl EnrollmentRate {
    #[must_use]
    pub fn new(settings: &EnrollmentSettings) -> Self {
        let second = Duration::from_secs(1);
        let one = Rate::new(settings.per_address_per_second, second, settings.per_address_per_second);
        let all = Rate::new(settings.per_second, second, settings.per_second);
        Self(Arc::new(Mutex::new((PerSubject::new(one), all, Instant::now()))))
    }

    /// Whether one more may enrol from `address` now.
    #[must_use]
    pub fn admit(&self, address: IpAddr) -> bool {
        self.admit_at(address, Instant::now())
    }

    fn admit_at(&self, address: IpAddr, now: Instant) -> bool {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (one, all, mark) = &mut *rates;
        // One address that asks too often must not use up what all others share.
        one.take(address, now).is_ok() && all.take(mark, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_average_holds() {
        let rate = Rate::new(60, Duration::from_secs(60), 3);
        let start = Instant::now();
        let mut mark = start;
        for _ in 0..3 {
            assert_eq!(rate.take(&mut mark, start), Ok(()));
        }
        assert_eq!(rate.take(&mut mark, start), Err(Duration::from_secs(1)));
        // A refusal costs nothing: the wait it named is enough.
        assert_eq!(rate.take(&mut mark, start + Duration::from_secs(1)), Ok(()));
        assert!(rate.take(&mut mark, start + Duration::from_secs(1)).is_err());
        // A long silence earns a burst, not more.
        let later = start + Duration::from_secs(3600);
        let passed = (0..10).filter(|_| rate.take(&mut mark, later).is_ok()).count();
        assert_eq!(passed, 3);
    }

    #[test]
    fn subjects_do_not_pay_for_each_other_and_are_forgotten() {
        let mut rates = PerSubject::new(Rate::new(1, Duration::from_secs(1), 1));
        let start = Instant::now();
        for subject in 0..2000_u32 {
            assert!(rates.take(subject, start).is_ok());
            assert!(rates.take(subject, start).is_err());
        }
        assert!(rates.take(9999, start + Duration::from_secs(2)).is_ok());
        for subject in 0..3000_u32 {
            let _ = rates.take(subject, start + Duration::from_secs(2));
        }
        assert!(rates.marks.len() <= 4096, "{}", rates.marks.len());
    }

    #[test]
    fn one_address_cannot_use_up_everybodys_enrolments() {
        let rate = EnrollmentRate::new(&EnrollmentSettings { per_address_per_second: 2, per_second: 3 });
        let start = Instant::now();
        let [greedy, other] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        let passed = (0..50).filter(|_| rate.admit_at(greedy, start)).count();
        assert_eq!(passed, 2);
        assert!(rate.admit_at(other, start));
        assert!(!rate.admit_at(other, start), "the fleet's rate holds too");
        assert!(rate.admit_at(greedy, start + Duration::from_secs(1)));
    }

    #[test]
    fn a_device_is_told_how_long_to_wait() {
        let rate = DeviceRate::new(60, 2);
        let device = DeviceId(uuid::Uuid::nil());
        let now = Instant::now();
        assert_eq!((rate.take_at(device, now), rate.take_at(device, now)), (Ok(()), Ok(())));
        assert_eq!(rate.take_at(device, now), Err(Duration::from_secs(1)));
        assert_eq!(DeviceRate::new(0, 1).take(device), Ok(()));
        assert_eq!(DeviceRate::new(0, 1).take(device), Ok(()));
    }
}
