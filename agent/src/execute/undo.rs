//! Taking effects back: what a step stores with its intent, and how each is applied. Applying twice is the same as once,
//! so a crash in the middle of undoing is no special case.

use std::time::Duration;

use fleetmend_proto::{Clock, OrderId, UpdateRef, order::StepState};
use serde::{Deserialize, Serialize};

use super::{Core, ExecuteError, pause, services};
use crate::{
    journal::{StepEnd, StepRecord},
    platform::{Folder, Platform, PlatformError, Run, StartType},
};

/// How often a failing undo is tried before it is left for later.
const TRIES: u32 = 3;
/// Domain time between two tries.
const BETWEEN: Duration = Duration::from_secs(10);
/// How the detail of a step begins to say so.
const FAILED: &str = "undoing failed";

/// How to take a step's effect back; stored as JSON in the journal, so it needs nothing of the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub(super) enum Undo {
    StartService {
        name: String,
    },
    StopService {
        name: String,
    },
    PutBack {
        folder: FolderWord,
        suffix: String,
        /// What ran when the undoing began and is started again after it.
        #[serde(default)]
        start: Vec<String>,
    },
    StartTypes {
        services: Vec<(String, StartWord)>,
        /// What did not run before the step started it.
        #[serde(default)]
        stop: Vec<String>,
    },
    ClearPause {
        values: Vec<(String, String)>,
    },
    Unhide {
        update: UpdateRef,
    },
    /// Of a restart that has not come yet.
    CallOffRestart,
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
    fn of(record: &StepRecord) -> Option<Self> {
        serde_json::from_str(record.undo.as_deref()?).ok()
    }

    /// With what must be known before it is applied: the services that it stops and starts again.
    async fn noted(self, platform: &dyn Platform) -> Result<Self, PlatformError> {
        let Self::PutBack { folder, suffix, mut start } = self else { return Ok(self) };
        if platform.aside_exists(&folder.folder(), &suffix).await? {
            let running = services::not_stopped(platform, &services::STOP_ORDER).await?;
            start.extend(
                running
                    .into_iter()
                    .filter(|name| !start.iter().any(|it| it == name))
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
            );
        }
        Ok(Self::PutBack { folder, suffix, start })
    }

    async fn apply(&self, platform: &dyn Platform, clock: &dyn Clock, run: Run) -> Result<String, PlatformError> {
        match self {
            Self::StartService { name } => services::start(platform, clock, run, name).await,
            Self::StopService { name } => {
                services::stop_if_running(platform, run, name).await?;
                Ok(format!("{name} stopped"))
            }
            Self::PutBack { folder, suffix, start } => {
                let moved = put_back(platform, run, &folder.folder(), suffix).await;
                // Whatever came of it: what Windows or people had running must run again.
                let started = start_again(platform, clock, run, start).await;
                moved.and_then(|what| started.map(|()| what))
            }
            Self::StartTypes { services, stop } => {
                for name in stop {
                    services::stop_if_running(platform, run, name).await?;
                }
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
            Self::CallOffRestart => {
                platform.call_off_reboot(run).await?;
                Ok("the restart was called off".to_owned())
            }
        }
    }
}

async fn put_back(platform: &dyn Platform, run: Run, folder: &Folder, suffix: &str) -> Result<String, PlatformError> {
    if !platform.aside_exists(folder, suffix).await? {
        return Ok("nothing was set aside".to_owned());
    }
    // Windows may have started one of them by itself meanwhile.
    for name in services::STOP_ORDER {
        services::stop_if_running(platform, run, name).await?;
    }
    platform.put_back(run, folder, suffix).await?;
    Ok("put back".to_owned())
}

/// Starts all of `names` that can be, and gives the first error.
async fn start_again(
    platform: &dyn Platform,
    clock: &dyn Clock,
    run: Run,
    names: &[String],
) -> Result<(), PlatformError> {
    let mut result = Ok(());
    for name in services::START_ORDER.into_iter().filter(|name| names.iter().any(|it| it == name)) {
        result = result.and(services::start(platform, clock, run, name).await.map(drop));
    }
    result
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

/// Whether a step asked for a restart that can be called off.
pub(super) fn is_call_off(record: &StepRecord) -> bool {
    Undo::of(record) == Some(Undo::CallOffRestart)
}

/// Undoes one step and says how it stands then. A failure stays owed: it is tried again later.
pub(super) async fn step(core: &Core, order: OrderId, record: &StepRecord) -> Result<StepEnd, ExecuteError> {
    let Some(undo) = Undo::of(record) else {
        return Ok(ended(core, record, Err("the journal's undo record is unreadable to this agent".to_owned()), true));
    };
    if undo == Undo::CallOffRestart {
        return Ok(call_off(core, order, record).await);
    }
    let run = Run { order, step: record.index };
    let mut result = Ok(String::new());
    for attempt in 1..=TRIES {
        result = once(core, run, record, &undo).await?.map_err(|error| services::why(&error));
        if result.is_ok() || attempt == TRIES {
            break;
        }
        tokio::time::sleep(core.clock.real(BETWEEN)).await;
    }
    if let Err(why) = &result {
        tracing::error!(order_id = %order, step = record.name, "undoing failed: {}", why.escape_debug());
    }
    Ok(ended(core, record, result, true))
}

async fn once(
    core: &Core,
    run: Run,
    record: &StepRecord,
    undo: &Undo,
) -> Result<Result<String, PlatformError>, ExecuteError> {
    let noted = match undo.clone().noted(&*core.platform).await {
        Ok(noted) => noted,
        Err(error) => return Ok(Err(error)),
    };
    let text = serde_json::to_string(&noted).map_err(crate::state::content("undo"))?;
    if record.undo.as_ref() != Some(&text) {
        core.journal.undo_noted(run.order, run.step, &text).await?;
    }
    Ok(noted.apply(&*core.platform, &*core.clock, run).await)
}

/// A restart that nobody can call off any more is not owed: it comes, or has come.
async fn call_off(core: &Core, order: OrderId, record: &StepRecord) -> StepEnd {
    let run = Run { order, step: record.index };
    match core.platform.boot_id().await {
        Ok(boot_id) if boot_id == record.boot_id => {
            let result = Undo::CallOffRestart.apply(&*core.platform, &*core.clock, run).await;
            let result =
                result.map_err(|error| format!("the restart could not be called off: {}", services::why(&error)));
            ended(core, record, result, false)
        }
        Ok(_) => StepEnd {
            state: StepState::Done,
            ..ended(core, record, Ok("the PC was restarted before".to_owned()), false)
        },
        Err(error) => ended(core, record, Err(services::why(&error)), false),
    }
}

fn ended(core: &Core, record: &StepRecord, result: Result<String, String>, may_owe: bool) -> StepEnd {
    let undo_owed = result.is_err() && may_owe;
    let (state, what) = match result {
        Ok(what) => (StepState::Undone, format!("undone: {what}")),
        Err(why) if may_owe => (StepState::Failed, format!("{FAILED}, tried again later: {why}")),
        Err(why) => (StepState::Unknown, format!("{FAILED}: {why}")),
    };
    let before = record.detail.split(FAILED).next().unwrap_or_default().trim_end_matches("; ");
    let detail = if before.is_empty() { what } else { format!("{before}; {what}") };
    let findings = record.findings.clone();
    StepEnd { index: record.index, state, detail, data: None, findings, at: core.clock.now(), undo_owed }
}

/// Tries again what could not be undone when its order ended, and drops what is better left. `true`: some of it stays.
pub(super) async fn settle_owed(core: &Core) -> Result<bool, ExecuteError> {
    let mut stays = false;
    for (order, record) in core.journal.owed().await? {
        let end = match needless(core, order, &record).await? {
            Some(why) => {
                tracing::info!(order_id = %order, step = record.name, "not undone any more: {why}");
                StepEnd {
                    state: StepState::Failed,
                    ..ended(core, &record, Err(format!("left as it is: {why}")), false)
                }
            }
            None => step(core, order, &record).await?,
        };
        stays |= end.undo_owed;
        // The same failure again is no news.
        if !end.undo_owed || end.detail != record.detail {
            core.journal.ended(order, &end, None).await?;
        }
    }
    Ok(stays)
}

/// Why an owed undo would do harm now: its order ended, and time went on.
async fn needless(core: &Core, order: OrderId, record: &StepRecord) -> Result<Option<String>, ExecuteError> {
    let (platform, clock) = (&*core.platform, &*core.clock);
    Ok(match Undo::of(record) {
        Some(Undo::StopService { name }) => Some(format!("{name} runs, and updates need it")),
        Some(Undo::StartService { name }) => match platform.service(&name).await {
            Ok(Some(service)) if service.start_type == StartType::Disabled => {
                Some(format!("{name} was disabled meanwhile"))
            }
            Ok(_) | Err(_) => None,
        },
        Some(Undo::PutBack { folder, start, .. }) => {
            let newer = core.journal.done_since(order, &record.name).await?;
            let rebuilt = platform.folder_exists(&folder.folder()).await.unwrap_or(false);
            let why = match (newer, rebuilt) {
                (true, _) => "a newer order set the folder aside too",
                (false, true) => "Windows built the folder anew",
                (false, false) => return Ok(None),
            };
            // An earlier try may have been cut off between stopping and starting.
            let run = Run { order, step: record.index };
            start_again(platform, clock, run, &start).await.is_ok().then(|| why.to_owned())
        }
        Some(Undo::StartTypes { .. } | Undo::ClearPause { .. } | Undo::Unhide { .. } | Undo::CallOffRestart) | None => {
            None
        }
    })
}
