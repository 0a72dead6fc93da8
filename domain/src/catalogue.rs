//! The catalogue: HRESULT -> symbol, category, where to enter the ladder and how high it makes sense to climb.
//! Rows live in `catalog/error-codes.csv`, compiled in. Read by the ladder, the API and detection; changed by nobody
//! at run time.

mod parse;
mod wrapper;

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use fleetmend_proto::{HResult, Tier, words};
use serde::{Serialize, Serializer, ser::SerializeStruct};

pub use parse::{CatalogueError, Fault};
pub use wrapper::{WRAPPERS, is_wrapper};

/// The embedded rows, as text.
pub const EMBEDDED_CSV: &str = include_str!("../catalog/error-codes.csv");

/// Where a code enters that the catalogue does not know.
pub const UNKNOWN_ENTRY: Tier = Tier::Retry;
/// How high such a code climbs by itself.
pub const UNKNOWN_MAX: Tier = Tier::RepairImage;

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

impl Category {
    /// The highest tier that helps against this family, as a number; 0 = none does.
    #[must_use]
    pub const fn max_tier(self) -> u8 {
        match self {
            Self::AlreadyInstalled => 0,
            Self::TransientNetwork | Self::ServerSide | Self::PolicyBlocked | Self::UserAction => 1,
            Self::Unknown | Self::ServiceDisabled => 3,
            Self::DriverConflict
            | Self::ComponentStoreCorruption
            | Self::CacheCorruption
            | Self::DiskSpace
            | Self::InUseRebootPending
            | Self::PackageMismatch
            | Self::Signature
            | Self::CompatBlock => 6,
        }
    }

    /// Whether the cause lies outside the device, so that repairing it cannot help.
    #[must_use]
    pub const fn is_outside_the_device(self) -> bool {
        match self {
            Self::TransientNetwork | Self::ServerSide | Self::PolicyBlocked | Self::UserAction => true,
            Self::AlreadyInstalled
            | Self::DriverConflict
            | Self::ComponentStoreCorruption
            | Self::CacheCorruption
            | Self::ServiceDisabled
            | Self::DiskSpace
            | Self::InUseRebootPending
            | Self::PackageMismatch
            | Self::Signature
            | Self::CompatBlock
            | Self::Unknown => false,
        }
    }
}

/// Where a code enters the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPoint {
    /// Harmless: record, never climb (0 in the CSV and API).
    Benign,
    Tier(Tier),
    /// Nothing that runs by itself helps (null in API).
    People,
}

impl EntryPoint {
    /// 0 = benign, 1 to 6 = that tier, `None` = people.
    #[must_use]
    pub const fn number(self) -> Option<u8> {
        match self {
            Self::Benign => Some(0),
            Self::Tier(tier) => Some(tier.number()),
            Self::People => None,
        }
    }
}

/// One row of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub code: HResult,
    /// As Windows' headers name it; may be empty.
    pub symbol: String,
    pub category: Category,
    pub entry: EntryPoint,
    /// Highest tier that makes sense: 0 = none (benign), 1-6; `None` = people.
    pub max_tier: Option<u8>,
    pub retryable: bool,
    pub needs_reboot: bool,
    /// For an administrator: what it means and what to do.
    pub advice: String,
    /// Where the facts are from, and how sure they are.
    pub source: String,
}

impl Entry {
    /// The highest tier that makes sense; `None` where no tier does.
    #[must_use]
    pub fn highest(&self) -> Option<Tier> {
        self.max_tier.and_then(|number| Tier::try_from(number).ok())
    }
}

/// The fields that the API shows, under its names.
impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_struct("Entry", 9)?;
        row.serialize_field("code", &self.code)?;
        row.serialize_field("symbol", &self.symbol)?;
        row.serialize_field("category", &self.category)?;
        row.serialize_field("entry_tier", &self.entry.number())?;
        row.serialize_field("max_tier", &self.max_tier)?;
        row.serialize_field("retryable", &self.retryable)?;
        row.serialize_field("needs_reboot", &self.needs_reboot)?;
        row.serialize_field("advice", &self.advice)?;
        row.serialize_field("source", &self.source)?;
        row.end()
    }
}

/// All rows, by code.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// In the order of the file: by code.
    entries: Vec<Entry>,
    by_code: HashMap<HResult, usize>,
}

impl Catalogue {
    /// Version recorded with each decision; raised when a row changes.
    pub const VERSION: u32 = 1;

    /// The catalogue this program was built with.
    ///
    /// # Panics
    /// Where the embedded file is no catalogue: a test reads it, so no build that was tested can.
    #[must_use]
    pub fn embedded() -> &'static Self {
        static EMBEDDED: LazyLock<Catalogue> =
            LazyLock::new(|| Catalogue::parse(EMBEDDED_CSV).expect("the embedded catalogue is tested"));
        &EMBEDDED
    }

    /// Reads a catalogue from CSV with the header of the embedded one.
    ///
    /// # Errors
    /// [`CatalogueError`] naming line and column of the first fault.
    pub fn parse(csv: &str) -> Result<Self, CatalogueError> {
        let entries = parse::rows(csv)?;
        let by_code = entries.iter().enumerate().map(|(at, entry)| (entry.code, at)).collect();
        Ok(Self { entries, by_code })
    }

    /// All rows, by code.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The row of a code (an NTSTATUS made an HRESULT is looked up as itself too); `None` for an unknown one.
    #[must_use]
    pub fn get(&self, code: HResult) -> Option<&Entry> {
        let at = self.by_code.get(&code).or_else(|| self.by_code.get(&code.without_nt_bit()))?;
        self.entries.get(*at)
    }

    /// The row of a code, or for an unknown one what its facility tells: category unknown, enters at tier 1, never
    /// above tier 3.
    #[must_use]
    pub fn resolve(&self, code: HResult) -> Cow<'_, Entry> {
        self.get(code).map_or_else(|| Cow::Owned(unknown(code)), Cow::Borrowed)
    }
}

fn unknown(code: HResult) -> Entry {
    Entry {
        code,
        symbol: String::new(),
        category: Category::Unknown,
        entry: EntryPoint::Tier(UNKNOWN_ENTRY),
        max_tier: Some(UNKNOWN_MAX.number()),
        retryable: true,
        needs_reboot: false,
        advice: format!(
            "The catalogue does not know this code; by its number it comes from {}. Retrying comes first, then the \
             troubleshooter, then a repair of the system files; if it is still there after that, collect the logs and \
             look the code up.",
            facility(code)
        ),
        source: "facility of the code; not in the catalogue".to_owned(),
    }
}

/// What the upper part of a code tells about its origin, most specific first.
fn facility(code: HResult) -> &'static str {
    match (code.0 >> 16, (code.0 >> 12) & 0xF) {
        (0x8024, 4) => "the update protocol (talk with the update server)",
        (0x8024, _) => "the Windows Update agent",
        (0x800F, _) => "component servicing",
        (0x8007, 2) => "the network layer",
        (0x8020, _) => "the background transfer service",
        (0x80D0, _) => "Delivery Optimization",
        (0xC190, _) => "Windows setup",
        (0x8007, _) => "Windows itself (a Win32 error)",
        (0x8009 | 0x800B, _) => "the certificate and signature checks",
        (_, _) => "a part of Windows that Fleetmend has no name for",
    }
}

#[cfg(test)]
mod tests;
