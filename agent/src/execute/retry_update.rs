//! The last two steps of every repair: look for the update that failed, and install it again. What Windows answers is
//! recorded and proves nothing: the controller's verification does.

use std::time::Duration;

use async_trait::async_trait;
use fleetmend_proto::{HResult, UpdateRef};
use serde_json::{Value, json};

use super::{
    pause,
    span::Span,
    step::{Cx, Ended, Kind, Prepared, Seen, Step, Stop},
};
use crate::{
    journal::StepRecord,
    platform::{Offer, PlatformError},
};

/// Name of the step that looks for the update; what it leaves is asked by `verify` too.
pub(crate) const FIND: &str = "find_update";
/// Domain time to wait for an installer that works already.
const BUSY_LIMIT: Duration = Duration::from_secs(30 * 60);
const BUSY_LOOK: Duration = Duration::from_secs(60);

/// Both steps. `own`: they are the action's own work (a retry), so a search that fails makes the order fail.
pub(super) fn steps(own: bool) -> [Box<dyn Step>; 2] {
    [Box::new(FindUpdate { own }), Box::new(InstallUpdate { own })]
}

struct FindUpdate {
    own: bool,
}

struct InstallUpdate {
    own: bool,
}

#[async_trait]
impl Step for FindUpdate {
    fn name(&self) -> String {
        FIND.to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    fn changes(&self) -> bool {
        false
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        if let Ok(Some(until)) = pause::by_person(cx.platform, cx.now()).await {
            return Ok(Prepared::Skip(format!("a person paused updates {until}: the update is not tried")));
        }
        Ok(Prepared::Go { undo: None, data: Value::Null })
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let update = cx.order.update();
        match cx.platform.is_installed(&update).await {
            Ok(true) => return Ok(Ended::done("already installed, or replaced by what is installed")),
            Ok(false) => {}
            Err(error) => return self.not_found("the installed updates cannot be read", error),
        }
        match cx.platform.pending_reboot().await {
            Ok(reasons) if !reasons.is_empty() => {
                return Ok(Ended::done(format!("a restart is owed before it can be tried: {}", reasons.join(", "))));
            }
            Ok(_) | Err(_) => {}
        }
        if let Some(ended) = wait_for_others(cx).await {
            return Ok(ended);
        }
        match cx.platform.offers(cx.run).await {
            Ok(offers) => Ok(choose(&update, &offers)),
            Err(error) => self.not_found("the search for updates failed", error),
        }
    }
}

impl FindUpdate {
    fn not_found(&self, what: &str, error: PlatformError) -> Result<Ended, Stop> {
        let detail = format!("{what}: {error}");
        match error {
            PlatformError::Unavailable { .. } if self.own => Err(Stop::Unavailable(detail)),
            PlatformError::Failed { .. } | PlatformError::TimedOut { .. } | PlatformError::Io { .. } if self.own => {
                Ok(Ended::faulted(detail))
            }
            PlatformError::Unavailable { .. }
            | PlatformError::Failed { .. }
            | PlatformError::TimedOut { .. }
            | PlatformError::Io { .. } => Ok(Ended::skipped(detail)),
        }
    }
}

async fn wait_for_others(cx: &Cx<'_>) -> Option<Ended> {
    let mut span = Span::new(BUSY_LIMIT);
    while matches!(cx.platform.is_update_client_busy().await, Ok(true)) {
        if span.is_over() {
            return Some(Ended::skipped("another installation was under way for 30 minutes: the update is not tried"));
        }
        span.wait(cx.clock, BUSY_LOOK, Duration::ZERO).await;
    }
    None
}

/// The offer for `update`: itself rather than one that replaces it.
fn choose(update: &UpdateRef, offers: &[Offer]) -> Ended {
    let same = offers.iter().find(|it| it.update.is_same(update));
    match same.or_else(|| offers.iter().find(|it| it.update.satisfies(update))) {
        None => Ended::done("neither installed nor offered: nothing to try").with_data(json!({ "absent": true })),
        Some(offer) if offer.hidden => Ended::done("hidden: not tried"),
        Some(offer) => Ended::done("offered").with_data(json!({ "offer": offer.update })),
    }
}

#[async_trait]
impl Step for InstallUpdate {
    fn name(&self) -> String {
        "install_update".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::AtMostOnce
    }

    fn is_optional(&self) -> bool {
        !self.own
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        match offer(cx) {
            Some(update) => Ok(Prepared::Go { undo: None, data: json!(update) }),
            None => Ok(Prepared::Skip("nothing to install".to_owned())),
        }
    }

    async fn run(&self, cx: &Cx<'_>, data: &Value) -> Result<Ended, Stop> {
        let update: UpdateRef = serde_json::from_value(data.clone())
            .map_err(|error| Stop::Failed(format!("the journal's offer is unreadable: {error}")))?;
        match cx.platform.install(cx.run, &update).await {
            Ok(answer) => {
                let restart = if answer.reboot_required { ", a restart is needed to finish" } else { "" };
                let what = if answer.code.is_failure() { "the installation failed with" } else { "installed with" };
                let code = if answer.code == HResult::OK { "0x00000000".to_owned() } else { answer.code.to_string() };
                Ok(Ended::done(format!("{what} {code}{restart}")))
            }
            Err(error @ PlatformError::TimedOut { .. }) if self.is_optional() => Ok(Ended::unknown(error.to_string())),
            Err(error @ PlatformError::TimedOut { .. }) => Err(Stop::Unknown(error.to_string())),
            Err(error @ PlatformError::Unavailable { .. }) if !self.is_optional() => Err(error.into()),
            Err(
                error @ (PlatformError::Failed { .. } | PlatformError::Io { .. } | PlatformError::Unavailable { .. }),
            ) => Ok(Ended::done(format!("the installation could not be begun: {error}"))),
        }
    }

    async fn probe(&self, cx: &Cx<'_>, _record: &StepRecord) -> Result<Seen, Stop> {
        if let Some(ended) = wait_for_others(cx).await {
            return Ok(Seen::Done(Ended { state: fleetmend_proto::order::StepState::Unknown, ..ended }));
        }
        match cx.platform.is_installed(&cx.order.update()).await {
            Ok(true) => Ok(Seen::Done(Ended::done("installed: seen after the agent was started again"))),
            Ok(false) | Err(_) => Ok(Seen::NotDone),
        }
    }
}

fn offer(cx: &Cx<'_>) -> Option<UpdateRef> {
    cx.data(FIND).and_then(|it| it.get("offer")).and_then(|it| serde_json::from_value(it.clone()).ok())
}
