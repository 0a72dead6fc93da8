//! A model of a Windows PC behind the agent's `Platform`: hidden causes, primitives that truly change it, durations,
//! restarts and power loss. Windows' own records lie as files in its folder, so that detection is the real code.
//!
//! A [`Pc`] outlives the agent that runs on it. An agent gets an [`AgentView`], which is one start of the agent's
//! process: when the PC goes down every call of that view stops answering, as a dead process would, and the agent has to
//! be started again with a new view. All that happens is in the PC's `pc.log`; the state is its replay.
//!
//! What it does not model:
//! - how causes arise and influence one another (each update brings at most one new trouble), and users at work;
//! - files, registry and services beyond the few that the agent's steps touch; ACLs, reparse points, antivirus locks;
//! - service dependencies other than appidsvc on cryptsvc, trigger starts; services that hang while they start;
//! - downloads as bytes: an install has a duration and an outcome; WSUS, ConfigMgr and update policies do not exist;
//! - children that survive the agent's process when that is a process of its own: they die with it, as in a power loss;
//! - feature updates, Store apps and Defender definitions; supersedence beyond one replaced update;
//! - the update history of the update client's API (records are files), CBS.log and dism.log;
//! - the reset of a PC: it answers that the feature is not installed;
//! - daylight saving, wrong clocks, batteries that run down, metered networks.

pub mod causes;
pub mod change;
pub mod dice;
pub mod effects;
mod install;
mod life;
pub mod log;
mod packages;
mod platform;
pub mod profile;
mod programs;
pub mod records;
pub mod state;
mod view;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_proto::Clock;
use tokio::sync::watch;

pub use life::Habits;
pub use packages::write_packages;
pub use view::{AgentView, RebootSignal};

use self::{
    change::{Attempt, Change, Offered},
    install::{Route, Verdict},
    log::{Effect, Line, Log, LogError},
    profile::{Episode, Profile},
    state::State,
};

/// How a PC is kept.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sync the log before an effect is believed. Off only where losing the PC's own memory does no harm (demo).
    pub fsync: bool,
    /// Where package files lie, as the agent's configuration names it.
    pub packages: Option<PathBuf>,
}

/// A simulated PC.
pub struct Pc {
    profile: Profile,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    options: Options,
    inner: Mutex<Inner>,
    /// Number of the running boot; views of earlier ones are dead.
    boots: watch::Sender<u64>,
    /// Wakes [`Pc::live`] when something was planned.
    planned: tokio::sync::Notify,
}

struct Inner {
    state: State,
    log: Log,
    /// Programs and installs at work right now.
    busy: u32,
}

impl Pc {
    /// Opens the PC of a folder as it was left, or makes a new one; it is running on return. A PC that was switched on
    /// before and has a planned restart behind it starts anew.
    ///
    /// # Errors
    /// [`LogError`] where the folder cannot be used.
    pub fn open(dir: &Path, profile: Profile, clock: Arc<dyn Clock>, options: Options) -> Result<Arc<Self>, LogError> {
        let (log, lines) = Log::open(dir, options.fsync)?;
        let mut state = State::default();
        let mut attempts = Vec::new();
        for line in &lines {
            if let Line::Change(change) = line {
                state.apply(change);
                if let Change::Tried { attempt } = change {
                    attempts.push(&**attempt);
                }
            }
        }
        records::complete(dir, &profile, attempts.into_iter())?;
        let pc = Arc::new(Self {
            boots: watch::Sender::new(state.boot),
            profile,
            dir: dir.to_owned(),
            clock,
            options,
            inner: Mutex::new(Inner { state, log, busy: 0 }),
            planned: tokio::sync::Notify::new(),
        });
        // Services are processes of their own: what stopped when this one died has stopped since.
        let stopping = pc.state(State::stopping);
        let stopped = stopping.into_iter().map(|name| Change::ServiceStopped { name }).collect();
        pc.commit(&mut pc.inner(), stopped)?;
        let overdue = pc.state(|state| state.reboot_planned.is_some_and(|at| at <= pc.clock.now()));
        if overdue || pc.boot() == 0 {
            pc.restart(true)?;
        }
        Ok(pc)
    }

    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The PC's folder: its log and Windows' records.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks at the truth. For the model, tests and summaries; never for an agent.
    pub fn state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner().state)
    }

    /// Number of the running boot.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.state(|state| state.boot)
    }

    /// Starts an agent process: what it gets is good until the PC goes down.
    ///
    /// # Errors
    /// [`LogError`] where the log cannot be written.
    pub fn start_agent(self: &Arc<Self>) -> Result<Arc<AgentView>, LogError> {
        let (instance, boot) = {
            let mut inner = self.inner();
            let instance = inner.state.instance + 1;
            self.commit(&mut inner, vec![Change::AgentStarted { instance }])?;
            (instance, inner.state.boot)
        };
        Ok(AgentView::new(Arc::clone(self), instance, boot))
    }

    /// Goes down and starts again: `clean` = a restart, else the power failed. Every view dies.
    ///
    /// # Errors
    /// [`LogError`] where the log cannot be written.
    pub fn restart(&self, clean: bool) -> Result<(), LogError> {
        let boot = {
            let mut inner = self.inner();
            let at = self.clock.now();
            let boot = inner.state.boot + 1;
            let pending: Vec<_> = inner.state.offers.iter().filter(|offer| offer.pending).cloned().collect();
            let done = pending.into_iter().map(|offer| self.completed_by_restart(offer, at));
            inner.busy = 0;
            let changes = std::iter::once(Change::Booted { at, boot, clean }).chain(done).collect();
            self.commit(&mut inner, changes)?;
            boot
        };
        self.boots.send_replace(boot);
        Ok(())
    }

    /// An update arrives, with the trouble it brings, and Windows tries to install it at once.
    ///
    /// # Errors
    /// [`LogError`] where the log cannot be written.
    pub fn arrive(&self, episode: &Episode) -> Result<(), LogError> {
        let (offered, faults) = install::arrive(episode, &self.profile.dice, self.clock.now());
        let update = offered.update.clone();
        {
            let mut inner = self.inner();
            if inner.state.is_installed(&update) || inner.state.offer(&update).is_some() {
                // Two months of a small catalogue may be one update; the second brings nothing new.
                let mut none = offered;
                none.update = self.profile.quality_update(episode.number + 600);
                let arrived = Change::Arrived { number: episode.number, offered: Box::new(none), faults };
                return self.commit(&mut inner, vec![arrived]);
            }
            let arrived = Change::Arrived { number: episode.number, offered: Box::new(offered), faults };
            self.commit(&mut inner, vec![arrived])?;
        }
        self.try_by_itself(&update)
    }

    /// Windows' own automatic attempt at one offer; takes no time here.
    ///
    /// # Errors
    /// [`LogError`] where the log cannot be written.
    pub fn try_by_itself(&self, update: &fleetmend_proto::UpdateRef) -> Result<(), LogError> {
        let mut inner = self.inner();
        let Some(offer) = inner.state.offer(update).filter(|offer| !offer.pending && !offer.hidden).cloned() else {
            return Ok(());
        };
        let verdict = install::attempt(&inner.state, &offer, Route::UpdateClient, &self.profile.dice, self.clock.now());
        self.settle(&mut inner, &offer, verdict, "MoUpdateOrchestrator", true)
    }

    /// Writes what an attempt came to: attempt, records, spent flaw, and the restart that Windows plans for itself.
    fn settle(
        &self,
        inner: &mut Inner,
        offer: &Offered,
        verdict: Verdict,
        client: &str,
        by_update_client: bool,
    ) -> Result<(), LogError> {
        let at = self.clock.now();
        let attempt = Attempt {
            at,
            update: offer.update.clone(),
            reported: verdict.reported,
            servicing: verdict.servicing,
            client: client.to_owned(),
            by_update_client,
            reboot_owed: verdict.reboot_owed,
        };
        let mut changes = vec![Change::Tried { attempt: Box::new(attempt) }];
        if let (true, Some(update_id)) = (verdict.spends_flaw, offer.update.update_id) {
            changes.push(Change::FlawSpent { update_id });
        }
        if verdict.reboot_owed && inner.state.reboot_planned.is_none() {
            let name = format!("night {}", inner.state.attempts);
            let hours = self.profile.dice.between(&name, 3, 12);
            changes.push(Change::RebootPlanned { at: at + TimeDelta::hours(i64::try_from(hours).unwrap_or(3)) });
        }
        self.commit(inner, changes)?;
        self.planned.notify_one();
        Ok(())
    }

    /// Notes that an agent asks for a change, before anything changes.
    fn begin(
        &self,
        view: &AgentView,
        run: fleetmend_agent::platform::Run,
        primitive: &str,
        detail: String,
    ) -> Result<(), LogError> {
        let effect = Effect {
            at: self.clock.now(),
            order: run.order,
            step: run.step,
            primitive: primitive.to_owned(),
            detail,
            instance: view.instance(),
            boot: view.boot(),
        };
        self.inner().log.append(&[Line::Effect(effect)])
    }

    /// Durable first, then true, then told in Windows' records.
    fn commit(&self, inner: &mut Inner, changes: Vec<Change>) -> Result<(), LogError> {
        let lines: Vec<_> = changes.into_iter().map(Line::Change).collect();
        inner.log.append(&lines)?;
        for line in &lines {
            if let Line::Change(change) = line {
                inner.state.apply(change);
                if let Change::Tried { attempt } = change {
                    records::append(&self.dir, &self.profile, inner.state.attempts, attempt)?;
                }
            }
        }
        Ok(())
    }

    /// A service hangs in the middle of stopping.
    #[cfg(test)]
    fn stop_in_the_middle(&self, name: &str) {
        let change = Change::ServiceStopping { name: name.to_owned() };
        self.commit(&mut self.inner(), vec![change]).expect("the log can be written");
    }

    fn completed_by_restart(&self, offer: Offered, at: DateTime<Utc>) -> Change {
        let serviced = offer.update.kb.is_some();
        let attempt = Attempt {
            at,
            update: offer.update,
            reported: fleetmend_proto::HResult::OK,
            servicing: serviced.then_some(fleetmend_proto::HResult::OK),
            client: "MoUpdateOrchestrator".to_owned(),
            by_update_client: true,
            reboot_owed: false,
        };
        Change::Tried { attempt: Box::new(attempt) }
    }

    /// Returns when nothing runs on the PC any more.
    pub async fn idle(&self) {
        while self.inner().busy > 0 {
            self.pass(Duration::from_secs(60)).await;
            tokio::task::yield_now().await;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic of another task leaves a state whose changes are all in the log: it is still the truth.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self, domain: Duration) {
        tokio::time::sleep(self.clock.real(domain)).await;
    }
}

#[cfg(test)]
mod tests;
