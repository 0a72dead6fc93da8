//! Runs orders. The link calls it with what came over the wire and tells the controller what it answers; at the start
//! of the agent it takes up what a crash or a restart left. One file an action builds the list of its steps, `runner`
//! walks it, `undo` takes back what must be taken back.
//!
//! INVARIANT: nothing runs that is not in the `Action` enum; each effect has its intent in the journal first; one order
//! at a time.

mod admit;
mod hide_update;
mod install_manually;
mod judged;
mod output;
pub(crate) mod pause;
mod plan;
mod reboot;
mod repair_image;
mod repair_install;
mod reset_components;
mod reset_pc;
mod restart;
mod restore;
mod retry;
mod retry_update;
mod runner;
mod services;
mod span;
mod step;
mod troubleshoot;
mod undo;

use std::{sync::Arc, time::Duration};

pub(crate) use retry_update::FIND as FIND_UPDATE;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Clock, DeviceId, Fence, FleetId, OrderId,
    order::{OrderPhase, OrderText, OrderVerifier, Refusal},
};
use tokio::sync::Mutex;

use crate::{
    guard::LocalPolicy,
    journal::{Journal, OrderUpdate},
    platform::Platform,
    state::{AgentDb, StateError},
};

/// The controller's leave to act, kept by the link from `Begin` and lease directives.
#[async_trait]
pub trait Lease: Send + Sync {
    /// Whether the lease of this order lives now. May wait for a renewal for a moment.
    async fn is_live(&self, order: OrderId, fence: Fence) -> bool;
}

/// Hears of each durable change of an order at once. What gets lost here is found again by `Journal::untold`.
#[async_trait]
pub trait ProgressSink: Send + Sync {
    async fn progress(&self, update: &OrderUpdate);
}

/// What became of a delivered order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Recorded. Call `Begin` at the controller, then [`Executor::execute`] or [`Executor::abandon`].
    Accepted(Box<OrderText>),
    /// Delivered before: this is what the journal holds of it (it may still be under way). Tell it.
    Duplicate(OrderUpdate),
    /// Not run. With `order`, it is in the journal and [`Journal::untold`] tells it (except a stale fence).
    Refused { order: Option<(OrderId, Fence)>, refusal: Refusal, detail: String },
}

/// Why a run was cut short. The journal holds how far it came; [`Executor::resume`] takes it up.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("order cannot go on: its journal cannot be written")]
    State(#[from] StateError),
    #[error("orders are not run any more: the agent is ending")]
    Closed,
    #[error("order {0} is not in the journal: it must be accepted first")]
    NotAccepted(OrderId),
}

/// Domain time between two tries to take back what could not be taken back.
const SETTLE_EVERY: Duration = Duration::from_secs(5 * 60);
/// Real time between them at least.
const SETTLE_AT_MOST_EVERY: Duration = Duration::from_millis(200);

/// What runs and undoes steps: knows no device and no controller.
struct Core {
    platform: Arc<dyn Platform>,
    journal: Journal,
    clock: Arc<dyn Clock>,
    local: LocalPolicy,
    keys: Vec<OrderVerifier>,
}

/// Runs orders on one PC.
pub struct Executor {
    core: Core,
    fleet: FleetId,
    device: DeviceId,
    /// Held while an order is admitted.
    admitting: Mutex<()>,
    /// Held while an order runs: two tiers never overlap.
    running: Mutex<()>,
}

/// The very first thing at the start of the agent, before whatever may fail: needs no identity and no network. Takes
/// back what an earlier run owes, and the orders that are being undone or may not go on; with `no_authority`, which
/// says why, all that had begun.
///
/// # Errors
/// When the journal failed.
pub async fn restore(
    platform: Arc<dyn Platform>,
    db: AgentDb,
    clock: Arc<dyn Clock>,
    local: LocalPolicy,
    no_authority: Option<&str>,
) -> Result<(), ExecuteError> {
    let core = Core { platform, journal: Journal::new(db), clock, local, keys: Vec::new() };
    undo::settle_owed(&core).await?;
    restore::begun_orders(&core, no_authority).await
}

impl Executor {
    #[must_use]
    pub fn new(
        platform: Arc<dyn Platform>,
        db: AgentDb,
        clock: Arc<dyn Clock>,
        local: LocalPolicy,
        keys: Vec<OrderVerifier>,
        fleet: FleetId,
        device: DeviceId,
    ) -> Self {
        let core = Core { platform, journal: Journal::new(db), clock, local, keys };
        Self { core, fleet, device, admitting: Mutex::default(), running: Mutex::default() }
    }

    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.core.journal
    }

    /// Judges a delivered order: signature, text, fence, local policy, preconditions; records the answer.
    ///
    /// # Errors
    /// When the journal cannot be read or written; then the order must not run.
    pub async fn accept(&self, note: &[u8]) -> Result<Admission, ExecuteError> {
        admit::accept(self, note).await
    }

    /// Runs an accepted order after the controller answered `Begin`, to its end or to the restart it waits for.
    ///
    /// # Errors
    /// When the journal failed: nothing more is done then.
    pub async fn execute(
        &self,
        order: OrderId,
        lease: &dyn Lease,
        progress: &dyn ProgressSink,
    ) -> Result<OrderUpdate, ExecuteError> {
        let _one = self.running.lock().await;
        runner::drive(&self.core, order, lease, progress).await
    }

    /// Ends an accepted order that may not begin.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn abandon(&self, order: OrderId, refusal: Refusal, detail: &str) -> Result<(), ExecuteError> {
        let Some(record) = self.core.journal.order(order).await? else { return Err(ExecuteError::NotAccepted(order)) };
        if !record.begun && !record.phase.is_final() {
            let now = self.core.clock.now();
            self.core.journal.phase(order, OrderPhase::Refused, Some(refusal), detail, now).await?;
        }
        Ok(())
    }

    /// Asks an order to stop: one that has not begun ends at once, a running one is undone at its next step. `false`:
    /// no such order is under way.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn cancel(&self, order: OrderId, fence: Fence) -> Result<bool, ExecuteError> {
        let known = self.core.journal.cancel(order, fence).await?;
        if known && let Some(record) = self.core.journal.order(order).await?.filter(|it| !it.begun) {
            let detail = "cancelled before it began";
            self.core.journal.phase(record.order, OrderPhase::Cancelled, None, detail, self.core.clock.now()).await?;
        }
        Ok(known)
    }

    /// Accepted orders whose `Begin` was not answered before the agent stopped: ask the controller again, then
    /// [`Executor::execute`] or [`Executor::abandon`].
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn unbegun(&self) -> Result<Vec<(OrderId, Fence)>, ExecuteError> {
        let orders = self.core.journal.unfinished().await?;
        Ok(orders.into_iter().filter(|it| !it.begun).map(|it| (it.order, it.fence)).collect())
    }

    /// Until when no order may begin, if the agent started too often.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn safe_until(&self) -> Result<Option<DateTime<Utc>>, ExecuteError> {
        Ok(self.core.journal.safe_until(self.core.clock.now()).await?)
    }

    /// Whether something of an ended order is still to be taken back: call [`Executor::settle_later`].
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn is_owing(&self) -> Result<bool, ExecuteError> {
        Ok(!self.core.journal.owed().await?.is_empty())
    }

    /// Waits a while and tries again to take back what could not be taken back.
    ///
    /// # Errors
    /// When the journal failed.
    pub async fn settle_later(&self) -> Result<(), ExecuteError> {
        tokio::time::sleep(self.core.clock.real(SETTLE_EVERY).max(SETTLE_AT_MOST_EVERY)).await;
        let _one = self.running.lock().await;
        undo::settle_owed(&self.core).await?;
        Ok(())
    }

    /// The order under way, for `Hello`.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn running_order(&self) -> Result<Option<(OrderId, Fence)>, ExecuteError> {
        Ok(self.core.journal.unfinished().await?.first().map(|it| (it.order, it.fence)))
    }

    /// First thing at the start of the agent, before any new order, and without a network: undoes what earlier runs
    /// could not, then takes up every order that had begun. Gives how those ended.
    ///
    /// # Errors
    /// When the journal failed.
    pub async fn resume(
        &self,
        lease: &dyn Lease,
        progress: &dyn ProgressSink,
    ) -> Result<Vec<OrderUpdate>, ExecuteError> {
        let _one = self.running.lock().await;
        undo::settle_owed(&self.core).await?;
        let mut ended = Vec::new();
        for record in self.core.journal.unfinished().await? {
            if record.begun {
                ended.push(runner::drive(&self.core, record.order, lease, progress).await?);
            }
        }
        Ok(ended)
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("device", &self.device).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
