//! Hidden causes as data: what is really wrong, which codes Windows reports for it, and what truly cures it.
//!
//! Codes mislead on purpose: at least 30 % of what PCs meet is reported under a code whose catalogue entry points to
//! another tier than the one that cures. A ladder that trusted codes alone would look good on a kinder table than this.

use fleetmend_domain::catalogue::{Category, EntryPoint};
use fleetmend_proto::{HResult, Tier, UpdateKind, words};

use super::dice::Dice;

words!(
    /// What is really wrong. Nothing but the model and its tests may look at it.
    Cause {
        Transient = "transient",
        NetworkDown = "network_down",
        ServiceDisabled = "service_disabled",
        StoreCorruption = "store_corruption",
        /// Payload that Windows cannot fetch again: only media would help.
        StoreBeyondRepair = "store_beyond_repair",
        CacheCorruption = "cache_corruption",
        CatalogueCorruption = "catalogue_corruption",
        DiskFullOfLeftovers = "disk_full_of_leftovers",
        DiskFullOfDocuments = "disk_full_of_documents",
        RebootPending = "reboot_pending",
        DriverInUse = "driver_in_use",
        BenignDriver = "benign_driver",
        BadUpdate = "bad_update",
        BrokenDelivery = "broken_delivery",
        DeadDisk = "dead_disk",
    }
);

/// What ends the trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// This tier's action, and no lighter one.
    Tier(Tier),
    Reboot,
    /// It passes; a later try succeeds.
    Time,
    /// Nothing is wrong.
    Benign,
    /// Nothing that runs by itself.
    People,
}

/// A code that Windows reports for a cause.
#[derive(Clone, Copy, Debug)]
pub struct Reported {
    pub code: HResult,
    pub weight: u32,
}

/// One cause with how often it is met, its cure and its codes.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub cause: Cause,
    /// Share among failing updates, in percent.
    pub share: u32,
    pub cure: Cure,
    pub kind: UpdateKind,
    /// The first is what the cause is called when nothing hides it.
    pub codes: &'static [Reported],
}

const fn reported(code: u32, weight: u32) -> Reported {
    Reported { code: HResult(code), weight }
}

const fn row(cause: Cause, share: u32, cure: Cure, kind: UpdateKind, codes: &'static [Reported]) -> Row {
    Row { cause, share, cure, kind, codes }
}

/// All causes. Shares add up to 100.
pub const ROWS: &[Row] = &[
    row(
        Cause::Transient,
        13,
        Cure::Tier(Tier::Retry),
        UpdateKind::Quality,
        &[
            reported(0x8024_0FFF, 4), // WU_E_UNEXPECTED
            reported(0x8024_6007, 3), // WU_E_DM_NOTDOWNLOADED
            reported(0x8007_0643, 2), // ERROR_INSTALL_FAILURE: enters at 2
            reported(0x8007_000D, 1), // ERROR_INVALID_DATA: enters at 4
        ],
    ),
    row(
        Cause::NetworkDown,
        9,
        Cure::Time,
        UpdateKind::Quality,
        &[
            reported(0x8024_402C, 4), // WU_E_PT_WINHTTP_NAME_NOT_RESOLVED
            reported(0x8007_2EE2, 3), // WININET_E_TIMEOUT
            reported(0x8007_2EFD, 2), // WININET_E_CANNOT_CONNECT
            reported(0x8024_401C, 1), // WU_E_PT_HTTP_STATUS_REQUEST_TIMEOUT
        ],
    ),
    row(
        Cause::ServiceDisabled,
        9,
        Cure::Tier(Tier::Troubleshoot),
        UpdateKind::Quality,
        &[
            reported(0x8007_0422, 5), // ERROR_SERVICE_DISABLED
            reported(0x8007_06D9, 2), // EPT_S_NOT_REGISTERED
            reported(0x8024_0FFF, 2), // enters at 1
            reported(0x8024_6007, 1), // enters at 1
        ],
    ),
    row(
        Cause::StoreCorruption,
        13,
        Cure::Tier(Tier::RepairImage),
        UpdateKind::Quality,
        &[
            reported(0x8007_3712, 4), // ERROR_SXS_COMPONENT_STORE_CORRUPT
            reported(0x800F_0831, 2), // CBS_E_STORE_CORRUPTION
            reported(0x800F_0922, 2), // CBS_E_INSTALLERS_FAILED: enters at 2
            reported(0x8007_0643, 2), // enters at 2
            reported(0x8024_0FFF, 1), // enters at 1
        ],
    ),
    row(
        Cause::StoreBeyondRepair,
        2,
        Cure::People,
        UpdateKind::Quality,
        &[reported(0x800F_081F, 3), reported(0x8007_3701, 1)],
    ),
    row(
        Cause::CacheCorruption,
        14,
        Cure::Tier(Tier::ResetComponents),
        UpdateKind::Quality,
        &[
            reported(0x8024_2006, 3), // WU_E_UH_INVALIDMETADATA
            reported(0x8024_8007, 3), // WU_E_DS_NODATA
            reported(0x8007_000D, 2), // ERROR_INVALID_DATA
            reported(0x8007_0002, 2), // ERROR_FILE_NOT_FOUND: enters at 3
            reported(0x8024_200D, 2), // WU_E_UH_NEEDANOTHERDOWNLOAD: enters at 1
            reported(0x8007_0643, 1), // enters at 2
        ],
    ),
    row(
        Cause::CatalogueCorruption,
        4,
        Cure::Tier(Tier::ResetComponents),
        UpdateKind::Quality,
        &[reported(0x8009_2004, 3), reported(0x8009_6004, 2)], // CRYPT_E_NOT_FOUND, TRUST_E_CERT_SIGNATURE
    ),
    row(
        Cause::DiskFullOfLeftovers,
        4,
        Cure::Tier(Tier::Troubleshoot),
        UpdateKind::Quality,
        &[reported(0x800F_0922, 2), reported(0x8007_0643, 1), reported(0x8024_0FFF, 2)],
    ),
    row(
        Cause::DiskFullOfDocuments,
        3,
        Cure::People,
        UpdateKind::Quality,
        &[reported(0x8007_0070, 3), reported(0x8007_3712, 1)], // ERROR_DISK_FULL
    ),
    row(
        Cause::RebootPending,
        7,
        Cure::Reboot,
        UpdateKind::Quality,
        &[
            reported(0x8007_0BC9, 3), // ERROR_FAIL_REBOOT_REQUIRED
            reported(0x8024_0016, 2), // WU_E_INSTALL_NOT_ALLOWED
            reported(0x8007_0643, 2), // enters at 2
            reported(0x800F_0922, 1), // enters at 2
        ],
    ),
    row(Cause::DriverInUse, 3, Cure::Reboot, UpdateKind::Driver, &[reported(0x8007_0103, 1)]),
    row(Cause::BenignDriver, 7, Cure::Benign, UpdateKind::Driver, &[reported(0x8007_0103, 1)]),
    row(
        Cause::BadUpdate,
        4,
        Cure::People,
        UpdateKind::Quality,
        &[reported(0x8007_0643, 1)], // as KB5034441 did in January 2024
    ),
    row(
        Cause::BrokenDelivery,
        5,
        Cure::Tier(Tier::InstallManually),
        UpdateKind::Quality,
        &[
            reported(0x800F_0823, 2), // CBS_E_NEW_SERVICING_STACK_REQUIRED
            reported(0x8024_6007, 3), // enters at 1: the whole climb
            reported(0x8024_2006, 2), // enters at 4
            reported(0x8007_3712, 1), // enters at 3
            reported(0x8007_0643, 1), // enters at 2
        ],
    ),
    row(
        Cause::DeadDisk,
        3,
        Cure::People,
        UpdateKind::Quality,
        &[
            reported(0x8007_045D, 1), // ERROR_IO_DEVICE
            reported(0x8007_0570, 2), // ERROR_FILE_CORRUPT: enters at 3
            reported(0x8007_3712, 1), // enters at 3
        ],
    ),
];

impl Cause {
    /// The row of this cause.
    #[must_use]
    pub fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.cause == self).unwrap_or(&ROWS[0])
    }

    /// What this cause is called when nothing hides it.
    #[must_use]
    pub fn plain_code(self) -> HResult {
        self.row().codes[0].code
    }
}

/// A cause and the code it is reported under, for one device and its `episode`th update.
#[must_use]
pub fn draw(dice: &Dice, episode: u32) -> (Cause, HResult) {
    let row = dice.pick_weighted(&format!("cause {episode}"), ROWS, |row| row.share);
    let reported = dice.pick_weighted(&format!("code {episode}"), row.codes, |reported| reported.weight);
    (row.cause, reported.code)
}

/// Whether a catalogue row points straight at what cures.
#[must_use]
pub fn agrees(cure: Cure, category: Category, entry: EntryPoint) -> bool {
    let reboot_first = category == Category::InUseRebootPending;
    match (cure, entry) {
        (Cure::Benign, EntryPoint::Benign) | (Cure::People, EntryPoint::People) => true,
        (Cure::Reboot, EntryPoint::Tier(_)) => reboot_first,
        (Cure::Tier(tier), EntryPoint::Tier(entry)) => tier == entry && !reboot_first,
        (Cure::Time, EntryPoint::Tier(entry)) => entry == Tier::Retry,
        (Cure::Benign | Cure::Time, _) | (Cure::People | Cure::Reboot | Cure::Tier(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_one_row_and_shares_add_up() {
        for cause in Cause::ALL {
            assert_eq!(ROWS.iter().filter(|row| row.cause == *cause).count(), 1, "{cause}");
        }
        assert_eq!(ROWS.iter().map(|row| row.share).sum::<u32>(), 100);
    }

    #[test]
    fn agreement_is_what_a_reader_would_call_it() {
        let three = EntryPoint::Tier(Tier::RepairImage);
        assert!(agrees(Cure::Tier(Tier::RepairImage), Category::ComponentStoreCorruption, three));
        assert!(!agrees(Cure::Tier(Tier::ResetComponents), Category::ComponentStoreCorruption, three));
        assert!(agrees(Cure::Reboot, Category::InUseRebootPending, EntryPoint::Tier(Tier::Retry)));
        assert!(!agrees(Cure::Reboot, Category::Unknown, EntryPoint::Tier(Tier::Troubleshoot)));
        assert!(!agrees(Cure::People, Category::ComponentStoreCorruption, three));
    }
}
