//! The catalogue: HRESULT -> symbol, category, where to enter the ladder and how high it makes sense to climb.

use fleetmend_proto::{HResult, Tier, words};
use serde::Serialize;

words!(
    /// Families of causes; each gives defaults for the codes in it.
    Category {
        AlreadyInstalled = "already_installed",
        TransientNetwork = "transient_network",
        ServerSide = "server_side",
        PolicyBlocked = "policy_blocked",
        DriverConflict = "driver_conflict",
        ComponentStoreCorruption = "component_store_corruption",
        CacheCorruption = "cache_corruption",
        ServiceDisabled = "service_disabled",
        DiskSpace = "disk_space",
        InUseRebootPending = "in_use_reboot_pending",
        PackageMismatch = "package_mismatch",
        Signature = "signature",
        CompatBlock = "compat_block",
        UserAction = "user_action",
        Unknown = "unknown",
    }
);

/// Where a code enters the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EntryPoint {
    /// Harmless: record, never climb (0 in the CSV and API).
    Benign,
    Tier(Tier),
    /// Nothing that runs by itself helps (null in API).
    People,
}

/// One row of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub code: HResult,
    pub symbol: String,
    pub category: Category,
    pub entry: EntryPoint,
    /// Highest tier that makes sense: 0 = none (benign), 1-6; `None` = people.
    pub max_tier: Option<u8>,
    pub retryable: bool,
    pub needs_reboot: bool,
    pub advice: String,
    pub source: String,
}

/// All rows, by code.
#[derive(Clone, Debug)]
pub struct Catalogue {
    entries: Vec<Entry>,
}

impl Catalogue {
    /// Version recorded with each decision; raised when a row changes.
    pub const VERSION: u32 = 1;

    /// The row of a code; `None` for an unknown one.
    #[must_use]
    pub fn get(&self, code: HResult) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.code == code)
    }
}
