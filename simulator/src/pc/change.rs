//! The changes that a PC's log is made of: the only way in which its truth changes. What is serialised here is read back
//! after the agent's or the PC's process died.

use chrono::{DateTime, Utc};
use fleetmend_agent::platform::{Folder, StartType};
use fleetmend_proto::{HResult, UpdateRef};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::causes::Cause;

/// What is wrong with an update on this PC, whatever the PC's own health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    None,
    /// So many more tries fail.
    Transient(u32),
    BenignDriver,
    Bad,
    BrokenDelivery,
}

/// An update that Windows offers and has not installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    pub update: UpdateRef,
    pub flaw: Flaw,
    /// What hides behind its failures, with the code it is reported under.
    pub cause: Option<Cause>,
    pub code: HResult,
    pub wrapper: Option<HResult>,
    pub mandatory: bool,
    #[serde(default)]
    pub hidden: bool,
    /// Windows says installed once restarted.
    #[serde(default)]
    pub pending: bool,
    #[serde(default)]
    pub last_tried: Option<DateTime<Utc>>,
}

/// Trouble of the whole PC that arrives together with an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    StoreCorrupt { repairable: bool },
    CacheCorrupt,
    CataloguesCorrupt,
    ServiceDisabled { name: String },
    NetworkDown { until: DateTime<Utc> },
    DiskFilled { leftovers: bool },
    RebootOwed { reason: String },
    DiskDying,
}

/// What Windows notes of an install attempt; the record files are made from these alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub at: DateTime<Utc>,
    pub update: UpdateRef,
    /// As Windows Update reports it.
    pub reported: HResult,
    /// As the servicing stack reports it, where it took part.
    pub servicing: Option<HResult>,
    pub client: String,
    /// Whether Windows Update took part; else only the Setup log knows.
    pub by_update_client: bool,
    /// It succeeds at the next start.
    pub reboot_owed: bool,
}

/// One thing that changed, as a line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// The PC started. `boot` counts from 1.
    Booted {
        at: DateTime<Utc>,
        boot: u64,
        clean: bool,
    },
    /// An agent process started on the running PC; counts from 1.
    AgentStarted {
        instance: u64,
    },
    Arrived {
        number: u32,
        offered: Box<Offered>,
        faults: Vec<Fault>,
    },
    /// Its maker offers it in place of what it supersedes.
    Replaced {
        offered: Box<Offered>,
    },
    StartTypeSet {
        name: String,
        start: Start,
    },
    ServiceStarted {
        name: String,
    },
    ServiceStopping {
        name: String,
    },
    ServiceStopped {
        name: String,
    },
    SetAside {
        place: Place,
        suffix: String,
    },
    PutBack {
        place: Place,
        suffix: String,
    },
    StoreRepaired,
    SystemFilesRepaired,
    LeftoversRemoved,
    RegistrySet {
        key: String,
        value: String,
        data: Option<String>,
    },
    HiddenSet {
        update_id: Uuid,
        hidden: bool,
    },
    TransfersCancelled,
    Tried {
        attempt: Box<Attempt>,
    },
    /// A try that a flaw consumed.
    FlawSpent {
        update_id: Uuid,
    },
    RebootPlanned {
        at: DateTime<Utc>,
    },
    /// What was planned does not come; `next`: what Windows itself plans instead.
    RebootCalledOff {
        next: Option<DateTime<Utc>>,
    },
}

/// [`StartType`] as the log keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    Automatic,
    AutomaticDelayed,
    Manual,
    Disabled,
}

/// [`Folder`] as the log keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    DataStore,
    Download,
    Catroot2,
}

impl From<Start> for StartType {
    fn from(start: Start) -> Self {
        match start {
            Start::Automatic => Self::Automatic,
            Start::AutomaticDelayed => Self::AutomaticDelayed,
            Start::Manual => Self::Manual,
            Start::Disabled => Self::Disabled,
        }
    }
}

impl From<StartType> for Start {
    fn from(start: StartType) -> Self {
        match start {
            StartType::Automatic => Self::Automatic,
            StartType::AutomaticDelayed => Self::AutomaticDelayed,
            StartType::Manual => Self::Manual,
            StartType::Disabled => Self::Disabled,
        }
    }
}

impl From<&Folder> for Place {
    fn from(folder: &Folder) -> Self {
        match folder {
            Folder::DataStore => Self::DataStore,
            Folder::Download => Self::Download,
            Folder::Catroot2 => Self::Catroot2,
        }
    }
}
