//! What happens on a PC by itself: updates arrive, Windows tries them every day, restarts when it planned to, and now
//! and then the power fails.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use super::{
    Pc,
    change::{Change, Flaw, Offered},
    log::LogError,
    state::State,
};

/// Between two automatic attempts at the same update.
const DAILY: TimeDelta = TimeDelta::hours(22);
/// When its maker replaces the update that fails everywhere, after the PC's first start.
const REPLACED_AFTER: TimeDelta = TimeDelta::hours(120);
/// Never busier than this, whatever the speed.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// How eventful the life of a PC is.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Power failures in a day of domain time.
    pub power_losses_per_day: f64,
    /// Cancelled: no further update arrives. What is open goes on.
    pub no_more_failures: CancellationToken,
}

impl Default for Habits {
    fn default() -> Self {
        Self { power_losses_per_day: 0.02, no_more_failures: CancellationToken::new() }
    }
}

enum Happening {
    Arrival(u32),
    Attempt(fleetmend_proto::UpdateRef),
    Replacement,
    Restart,
    PowerLoss,
}

impl Pc {
    /// Lives until `stop`. Whoever starts agents watches [`super::AgentView::reboot_signal`].
    ///
    /// # Errors
    /// [`LogError`] where the log cannot be written.
    pub async fn live(self: Arc<Self>, habits: Habits, stop: CancellationToken) -> Result<(), LogError> {
        let mut power_losses = 0_u32;
        while !stop.is_cancelled() {
            let quiet = habits.no_more_failures.is_cancelled();
            let power_loss = (!quiet).then(|| self.power_loss(power_losses, habits.power_losses_per_day)).flatten();
            let next = self.next_happening(quiet, power_loss);
            let wait = next.as_ref().map_or(TimeDelta::hours(1), |(at, _)| *at - self.clock.now());
            let wait = self.clock.real(wait.to_std().unwrap_or_default()).max(SHORTEST_WAIT);
            tokio::select! {
                () = stop.cancelled() => break,
                () = habits.no_more_failures.cancelled(), if !quiet => continue,
                () = self.planned.notified() => continue,
                () = tokio::time::sleep(wait) => {}
            }
            match next {
                Some((at, happening)) if at <= self.clock.now() => {
                    power_losses += u32::from(matches!(happening, Happening::PowerLoss));
                    self.happen(happening)?;
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    fn happen(&self, happening: Happening) -> Result<(), LogError> {
        match happening {
            Happening::Arrival(number) => self.arrive(&self.profile.episode(number)),
            Happening::Attempt(update) => self.try_by_itself(&update),
            Happening::Replacement => self.replace_bad_update(),
            Happening::Restart => self.restart(true),
            Happening::PowerLoss => self.restart(false),
        }
    }

    fn next_happening(&self, quiet: bool, power_loss: Option<DateTime<Utc>>) -> Option<(DateTime<Utc>, Happening)> {
        self.state(|state| {
            let mut all: Vec<(DateTime<Utc>, Happening)> = Vec::new();
            let first_boot = state.first_boot?;
            if !quiet {
                let arrival = TimeDelta::from_std(self.profile.arrival(state.arrived)).unwrap_or(TimeDelta::MAX);
                all.push((first_boot + arrival, Happening::Arrival(state.arrived)));
            }
            if self.may_be_replaced(state) {
                all.push((first_boot + REPLACED_AFTER, Happening::Replacement));
            }
            let tried = state.offers.iter().filter(|offer| !offer.hidden && !offer.pending);
            all.extend(tried.map(|offer| (self.next_attempt(state, offer), Happening::Attempt(offer.update.clone()))));
            all.extend(state.reboot_planned.map(|at| (at, Happening::Restart)));
            all.extend(power_loss.map(|at| (at, Happening::PowerLoss)));
            all.into_iter().min_by_key(|(at, _)| *at)
        })
    }

    fn next_attempt(&self, state: &State, offer: &Offered) -> DateTime<Utc> {
        let name = format!("again {} {}", offer.update.title, state.attempts);
        let minutes = i64::try_from(self.profile.dice.between(&name, 0, 240)).unwrap_or(0);
        offer.last_tried.map_or_else(|| self.clock.now(), |at| at + DAILY + TimeDelta::minutes(minutes))
    }

    fn power_loss(&self, number: u32, per_day: f64) -> Option<DateTime<Utc>> {
        let first_boot = self.state(|state| state.first_boot)?;
        // Gaps between rare events are exponential.
        let days: f64 =
            (0..=number).map(|n| -(1.0 - self.profile.dice.fraction(&format!("power loss {n}"))).ln() / per_day).sum();
        let seconds = days * 86_400.0;
        #[allow(clippy::cast_possible_truncation)] // bounded just before
        (seconds < 1e9).then(|| first_boot + TimeDelta::seconds(seconds as i64))
    }

    fn may_be_replaced(&self, state: &State) -> bool {
        let replacement = self.profile.replacement_of_bad_update();
        state.offers.iter().any(|offer| offer.flaw == Flaw::Bad)
            && state.offer(&replacement).is_none()
            && !state.is_installed(&replacement)
    }

    /// The maker of the update that fails everywhere puts another in its place, and Windows tries that at once.
    ///
    /// # Errors
    /// [`LogError`] where the log cannot be written.
    pub fn replace_bad_update(&self) -> Result<(), LogError> {
        let update = self.profile.replacement_of_bad_update();
        let offered = Offered {
            update: update.clone(),
            flaw: Flaw::None,
            cause: None,
            code: fleetmend_proto::HResult::OK,
            wrapper: None,
            mandatory: false,
            hidden: false,
            pending: false,
            last_tried: None,
        };
        self.commit(&mut self.inner(), vec![Change::Replaced { offered: Box::new(offered) }])?;
        self.try_by_itself(&update)
    }
}
