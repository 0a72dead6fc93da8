//! Taking effects back: what a step stores with its intent, and how each is applied. Applying twice is the same as once,
//! so a crash in the middle of undoing is no special case.

use std::time::Duration;

use fleetmend_proto::{OrderId, UpdateRef, order::StepState};
use serde::{Deserialize, Serialize};

use super::{ExecuteError, Executor, pause, services};
use crate::{
    journal::{StepEnd, StepRecord},
    platform::{Folder, Platform, PlatformError, Run, ServiceState, StartType},
};

/// How often a failing undo is tried before it is left for the next start of the agent.
const TRIES: u32 = 3;
/// Domain time between two tries.
const BETWEEN: Duration = Duration::from_secs(10);

/// How to take a step's effect back; stored as JSON in the journal, so it needs nothing of the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub(super) enum Undo {
    StartService { name: String },
    StopService { name: String },
    PutBack { folder: FolderWord, suffix: String },
    StartTypes { services: Vec<(String, StartWord)> },
    ClearPause { values: Vec<(String, String)> },
    Unhide { update: UpdateRef },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FolderWord {
    DataStore,
    Download,
    Catroot2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartWord {
    Automatic,
    AutomaticDelayed,
    Manual,
    Disabled,
}

impl Undo {
    async fn apply(&self, platform: &dyn Platform, run: Run) -> Result<String, PlatformError> {
        match self {
            Self::StartService { name } => match platform.service(name).await? {
                Some(service) if service.state != ServiceState::Running => {
                    platform.start_service(run, name).await?;
                    Ok(format!("{name} started"))
                }
                Some(_) => Ok(format!("{name} runs")),
                None => Ok(format!("{name} is not there")),
            },
            Self::StopService { name } => {
                services::stop_if_running(platform, run, name).await?;
                Ok(format!("{name} stopped"))
            }
            Self::PutBack { folder, suffix } => {
                let folder = folder.folder();
                if !platform.aside_exists(&folder, suffix).await? {
                    return Ok("nothing was set aside".to_owned());
                }
                // Windows may have started one of them by itself meanwhile; those that ran before are started by the
                // undo of their own step, which comes after this one.
                for name in services::STOP_ORDER {
                    services::stop_if_running(platform, run, name).await?;
                }
                platform.put_back(run, &folder, suffix).await?;
                Ok("put back".to_owned())
            }
            Self::StartTypes { services } => {
                for (name, start) in services {
                    if platform.service(name).await?.is_some_and(|it| it.start_type != start.start_type()) {
                        platform.set_start_type(run, name, start.start_type()).await?;
                    }
                }
                Ok("start types restored".to_owned())
            }
            Self::ClearPause { values } => {
                pause::clear(platform, run, values).await?;
                Ok("pause lifted".to_owned())
            }
            Self::Unhide { update } => {
                platform.set_hidden(run, update, false).await?;
                Ok("offered again".to_owned())
            }
        }
    }
}

impl FolderWord {
    pub const fn folder(self) -> Folder {
        match self {
            Self::DataStore => Folder::DataStore,
            Self::Download => Folder::Download,
            Self::Catroot2 => Folder::Catroot2,
        }
    }
}

impl StartWord {
    pub const fn start_type(self) -> StartType {
        match self {
            Self::Automatic => StartType::Automatic,
            Self::AutomaticDelayed => StartType::AutomaticDelayed,
            Self::Manual => StartType::Manual,
            Self::Disabled => StartType::Disabled,
        }
    }
}

impl From<StartType> for StartWord {
    fn from(start: StartType) -> Self {
        match start {
            StartType::Automatic => Self::Automatic,
            StartType::AutomaticDelayed => Self::AutomaticDelayed,
            StartType::Manual => Self::Manual,
            StartType::Disabled => Self::Disabled,
        }
    }
}

/// Undoes one step and says how it stands then. A failure stays owed: it is tried again at the next start.
pub(super) async fn step(executor: &Executor, order: OrderId, record: &StepRecord) -> StepEnd {
    let run = Run { order, step: record.index };
    let undo = record.undo.as_deref().and_then(|it| serde_json::from_str::<Undo>(it).ok());
    let mut result = Err("the journal's undo record is unreadable to this agent".to_owned());
    if let Some(undo) = undo {
        for attempt in 1..=TRIES {
            result = undo.apply(&*executor.platform, run).await.map_err(|error| error.to_string());
            if result.is_ok() || attempt == TRIES {
                break;
            }
            tokio::time::sleep(executor.clock.real(BETWEEN)).await;
        }
    }
    let (state, what, undo_owed) = match result {
        Ok(what) => (StepState::Undone, format!("undone: {what}"), false),
        Err(why) => {
            tracing::error!(order_id = %order, step = record.name, "undoing failed: {}", why.escape_debug());
            (StepState::Failed, format!("undoing failed, tried again at the next start of the agent: {why}"), true)
        }
    };
    let before = record.detail.split("; undoing failed").next().unwrap_or_default();
    let detail = if before.is_empty() { what } else { format!("{before}; {what}") };
    StepEnd {
        index: record.index,
        state,
        detail,
        data: None,
        findings: record.findings.clone(),
        at: executor.clock.now(),
        undo_owed,
    }
}

/// Tries again what could not be undone when its order ended.
pub(super) async fn settle_owed(executor: &Executor) -> Result<(), ExecuteError> {
    for (order, record) in executor.journal.owed().await? {
        let end = step(executor, order, &record).await;
        executor.journal.ended(order, &end, None).await?;
    }
    Ok(())
}
