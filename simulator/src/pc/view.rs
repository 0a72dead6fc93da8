//! One start of the agent's process on a PC: what every call of it goes through. `platform` holds the calls.

use std::{sync::Arc, time::Duration};

use fleetmend_agent::platform::{PlatformError, Result, Run};
use tokio::sync::watch;

use super::{Pc, change::Change, state::State};

/// One start of the agent's process on a PC.
pub struct AgentView {
    pub(super) pc: Arc<Pc>,
    instance: u64,
    pub(super) boot: u64,
    boots: watch::Receiver<u64>,
}

/// Tells when the PC under an agent has gone down.
#[derive(Clone, Debug)]
pub struct RebootSignal {
    boot: u64,
    boots: watch::Receiver<u64>,
}

impl RebootSignal {
    /// Returns once the boot that this signal belongs to is over.
    pub async fn wait(&mut self) {
        let boot = self.boot;
        if self.boots.wait_for(|now| *now != boot).await.is_err() {
            // The PC itself is gone: it never goes down again.
            std::future::pending::<()>().await;
        }
    }
}

impl AgentView {
    pub(super) fn new(pc: Arc<Pc>, instance: u64, boot: u64) -> Arc<Self> {
        let boots = pc.boots.subscribe();
        Arc::new(Self { pc, instance, boot, boots })
    }

    /// Which start of the agent's process this is, counted over the life of the PC.
    #[must_use]
    pub const fn instance(&self) -> u64 {
        self.instance
    }

    /// The boot this process runs in.
    #[must_use]
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    #[must_use]
    pub fn reboot_signal(&self) -> RebootSignal {
        RebootSignal { boot: self.boot, boots: self.boots.clone() }
    }

    #[must_use]
    pub fn pc(&self) -> &Arc<Pc> {
        &self.pc
    }

    /// A process of a boot that is over gets no answer, ever.
    pub(super) async fn alive(&self) {
        if *self.boots.borrow() != self.boot {
            std::future::pending::<()>().await;
        }
    }

    pub(super) async fn read<T>(&self, look: impl FnOnce(&State) -> T + Send) -> Result<T> {
        self.alive().await;
        Ok(self.pc.state(look))
    }

    /// Notes the effect, then does `work` on a task of its own. A PC that went down in between never answers.
    pub(super) async fn effect<T, F>(
        &self,
        run: Run,
        primitive: &'static str,
        detail: String,
        work: impl FnOnce(Arc<Pc>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.alive().await;
        self.pc.begin(self, run, primitive, detail).map_err(|error| io(primitive, error))?;
        let task = tokio::spawn(work(Arc::clone(&self.pc)));
        let answer = task.await.map_err(|error| io(primitive, std::io::Error::other(error)))?;
        self.alive().await;
        answer
    }

    /// Waits and then lets the changes be true, unless the PC went down meanwhile.
    pub(super) async fn later(pc: &Arc<Pc>, boot: u64, duration: Duration, changes: Vec<Change>) -> Result<()> {
        pc.pass(duration).await;
        let mut inner = pc.inner();
        if inner.state.boot == boot {
            pc.commit(&mut inner, changes).map_err(|error| io("the change", error))?;
        }
        Ok(())
    }

    /// How long a service takes to stop; one stop in a hundred hangs.
    pub(super) fn stopping(&self, name: &str) -> Duration {
        let attempts = self.pc.state(|state| state.attempts);
        if self.pc.profile.dice.chance(&format!("{name} hangs {attempts}"), 0.01) {
            self.seconds(&format!("hung {name}"), 60, 400)
        } else {
            self.seconds(&format!("stop {name}"), 2, 20)
        }
    }

    pub(super) fn seconds(&self, name: &str, low: u64, high: u64) -> Duration {
        let attempts = self.pc.state(|state| state.attempts);
        Duration::from_secs(self.pc.profile.dice.between(&format!("{name} {attempts}"), low, high))
    }
}

/// A program or install at work; counted so that others see a busy PC.
pub(super) struct Busy {
    pc: Arc<Pc>,
    boot: u64,
}

impl Busy {
    pub(super) fn new(pc: &Arc<Pc>, boot: u64) -> Self {
        pc.inner().busy += 1;
        Self { pc: Arc::clone(pc), boot }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut inner = self.pc.inner();
        if inner.state.boot == self.boot {
            inner.busy = inner.busy.saturating_sub(1);
        }
    }
}

pub(super) fn io(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PlatformError {
    PlatformError::Io { what: what.to_owned(), source: std::io::Error::other(error) }
}
