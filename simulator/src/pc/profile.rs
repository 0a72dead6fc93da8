//! What a simulated PC is: identity, place, language, and which updates it meets with which trouble. All of it follows
//! from seed and index alone, so nothing here is kept on disk.

use std::time::Duration;

use fleetmend_agent::platform::Machine;
use fleetmend_proto::{HResult, Kb, UpdateKind, UpdateRef, condition::Architecture};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{
    causes::{self, Cause},
    dice::Dice,
};

/// A Windows release with its build number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    pub build: u32,
    pub display_version: &'static str,
    pub product: &'static str,
    /// First number of this release's KBs; see [`lcu_kb`].
    kb_base: u32,
}

const RELEASES: &[Release] = &[
    Release { build: 26100, display_version: "24H2", product: "Windows 11 Version 24H2", kb_base: 5_991_000 },
    Release { build: 22631, display_version: "23H2", product: "Windows 11 Version 23H2", kb_base: 5_992_000 },
    Release { build: 19045, display_version: "22H2", product: "Windows 10 Version 22H2", kb_base: 5_993_000 },
];

/// Where a PC stands: IANA zone, minutes east of UTC (no daylight saving in this world), language of its titles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub zone: &'static str,
    pub offset_minutes: i32,
    pub language: Language,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    English,
    German,
    French,
    Japanese,
}

const PLACES: &[Place] = &[
    Place { zone: "Europe/London", offset_minutes: 0, language: Language::English },
    Place { zone: "America/New_York", offset_minutes: -300, language: Language::English },
    Place { zone: "Asia/Kolkata", offset_minutes: 330, language: Language::English },
    Place { zone: "Europe/Berlin", offset_minutes: 60, language: Language::German },
    Place { zone: "Europe/Paris", offset_minutes: 60, language: Language::French },
    Place { zone: "Asia/Tokyo", offset_minutes: 540, language: Language::Japanese },
];

const MODELS: &[(&str, &str)] = &[
    ("Contoso", "Slate 13"),
    ("Contoso", "Tower 7"),
    ("Fabrikam", "Book 14 G3"),
    ("Fabrikam", "Mini 2"),
    ("Northwind", "Station Z"),
];

const DRIVERS: &[&str] = &[
    "Contoso - Net - 12.3.4.5",
    "Fabrikam - Extension - 31.0.101.4502",
    "Northwind - MEDIA - 6.0.9501.1",
    "Contoso - System - 2.1.0.8",
];

/// How many months of updates have a package in a packages folder.
pub const PACKAGED_MONTHS: u32 = 6;

/// The facts of one PC.
#[derive(Clone, Debug)]
pub struct Profile {
    pub index: u32,
    pub machine: Machine,
    pub release: &'static Release,
    pub architecture: Architecture,
    pub place: &'static Place,
    pub manufacturer: &'static str,
    pub model: &'static str,
    pub edition: &'static str,
    pub has_battery: bool,
    pub dice: Dice,
    fleet: Dice,
}

/// The `number`th update that a PC is offered, and what will happen to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    pub number: u32,
    pub update: UpdateRef,
    /// `None`: it installs.
    pub trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub cause: Cause,
    pub code: HResult,
    /// What Windows Update's own records say instead of `code`; `code` is then in the Setup log only.
    pub wrapper: Option<HResult>,
}

impl Profile {
    /// The PC number `index` of the fleet `seed`.
    #[must_use]
    pub fn new(seed: u64, index: u32) -> Self {
        let dice = Dice::of_device(seed, index);
        let (manufacturer, model) = *dice.pick("model", MODELS);
        let architecture = if dice.chance("arm64", 0.08) { Architecture::Arm64 } else { Architecture::X64 };
        let release = dice.pick_weighted("release", RELEASES, |it| if it.build == 26100 { 6 } else { 2 });
        let smbios_uuid = dice.uuid("smbios");
        Self {
            index,
            machine: Machine {
                computer_name: format!("PC-{index:05}"),
                serial: format!("SIM{:08X}", dice.between("serial", 0, 1 << 32)),
                smbios_uuid: Some(smbios_uuid),
                ek_hash: dice.chance("tpm", 0.9).then(|| Sha256::digest(smbios_uuid.as_bytes()).into()),
            },
            release,
            architecture,
            place: dice.pick("place", PLACES),
            manufacturer,
            model,
            edition: if dice.chance("edition", 0.7) { "Enterprise" } else { "Professional" },
            has_battery: dice.chance("battery", 0.6),
            dice,
            fleet: Dice::of_fleet(seed),
        }
    }

    /// When the `number`th update arrives, counted from the PC's first start, in domain time.
    #[must_use]
    pub fn arrival(&self, number: u32) -> Duration {
        let first = self.dice.between("first arrival", 5 * 60, 8 * 3600);
        let later = (1..=number).map(|n| self.dice.between(&format!("arrival {n}"), 40 * 3600, 110 * 3600));
        Duration::from_secs(first + later.sum::<u64>())
    }

    /// The `number`th update; month 0 fails on most PCs, later ones on fewer.
    #[must_use]
    pub fn episode(&self, number: u32) -> Episode {
        let likely = if number == 0 { 0.85 } else { 0.35 };
        if !self.dice.chance(&format!("fails {number}"), likely) {
            return Episode { number, update: self.quality_update(number), trouble: None };
        }
        let (cause, code) = causes::draw(&self.dice, number);
        self.episode_of(number, cause, code)
    }

    /// The `number`th update with a trouble of the caller's choice, for tests of one cause.
    #[must_use]
    pub fn episode_of(&self, number: u32, cause: Cause, code: HResult) -> Episode {
        let update = match cause.row().kind {
            UpdateKind::Driver => self.driver_update(number),
            UpdateKind::Quality
            | UpdateKind::Feature
            | UpdateKind::Definition
            | UpdateKind::App
            | UpdateKind::Unknown => {
                if cause == Cause::BadUpdate {
                    self.bad_update()
                } else {
                    self.quality_update(number)
                }
            }
        };
        // Only codes of the servicing stack reach Windows Update wrapped.
        let servicing = matches!(code.0 >> 16, 0x800F) || matches!(code.0, 0x8007_3712 | 0x8007_3701 | 0x8007_0570);
        let wrapped = servicing && self.dice.chance(&format!("wrapped {number}"), 0.35);
        Episode {
            number,
            update,
            trouble: Some(Trouble { cause, code, wrapper: wrapped.then_some(HResult(0x8024_200B)) }),
        }
    }

    /// The cumulative update of a month for this PC's release and architecture.
    #[must_use]
    pub fn quality_update(&self, month: u32) -> UpdateRef {
        let arch = architecture_word(self.architecture);
        let kb = Kb(lcu_kb(self.release, month));
        let product = self.release.product;
        let stamp = format!("2026-{:02}", month % 12 + 1);
        let title = match self.place.language {
            Language::English => format!("{stamp} Cumulative Update for {product} for {arch}-based Systems ({kb})"),
            Language::German => format!("{stamp} Kumulatives Update für {product} für {arch}-basierte Systeme ({kb})"),
            Language::French => {
                format!("{stamp} Mise à jour cumulative pour {product} pour les systèmes {arch} ({kb})")
            }
            Language::Japanese => format!("{stamp} {arch} ベース システム用 {product} の累積更新プログラム ({kb})"),
        };
        UpdateRef {
            update_id: Some(self.fleet.uuid(&format!("update {kb} {arch}"))),
            revision: 200,
            kb: Some(kb),
            title,
            kind: UpdateKind::Quality,
            supersedes: Vec::new(),
        }
    }

    fn driver_update(&self, number: u32) -> UpdateRef {
        let title = *self.dice.pick(&format!("driver {number}"), DRIVERS);
        UpdateRef {
            update_id: Some(self.fleet.uuid(&format!("driver {title} {number}"))),
            revision: 1,
            kb: None,
            title: title.to_owned(),
            kind: UpdateKind::Driver,
            supersedes: Vec::new(),
        }
    }

    /// The update that fails everywhere.
    #[must_use]
    pub fn bad_update(&self) -> UpdateRef {
        let product = self.release.product;
        UpdateRef {
            update_id: Some(self.bad_update_id()),
            revision: 200,
            kb: Some(Kb(5_999_441)),
            title: format!("2026-01 Security Update for {product} (KB5999441)"),
            kind: UpdateKind::Quality,
            supersedes: Vec::new(),
        }
    }

    /// What its maker puts in the place of the update that fails everywhere.
    #[must_use]
    pub fn replacement_of_bad_update(&self) -> UpdateRef {
        let product = self.release.product;
        UpdateRef {
            update_id: Some(self.fleet.uuid("replacement")),
            revision: 201,
            kb: Some(Kb(5_999_442)),
            title: format!("2026-02 Security Update for {product} (KB5999442)"),
            kind: UpdateKind::Quality,
            supersedes: vec![self.bad_update_id()],
        }
    }

    fn bad_update_id(&self) -> Uuid {
        self.fleet.uuid("bad update")
    }
}

/// The KB of a release's cumulative update of a month.
#[must_use]
pub const fn lcu_kb(release: &Release, month: u32) -> u32 {
    release.kb_base + month * 7 + 11
}

/// Packages a company would have vetted: file name and KB of each release, architecture and month.
pub fn packages() -> impl Iterator<Item = (String, Kb, Architecture)> {
    RELEASES.iter().flat_map(|release| {
        (0..PACKAGED_MONTHS).flat_map(move |month| {
            let kb = Kb(lcu_kb(release, month));
            [Architecture::X64, Architecture::Arm64].map(|arch| (format!("{kb}-{}.msu", arch.word()), kb, arch))
        })
    })
}

/// As update titles write it.
const fn architecture_word(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X64 => "x64",
        Architecture::Arm64 => "arm64",
        Architecture::X86 => "x86",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_index_fix_a_pc() {
        let (one, again) = (Profile::new(42, 7), Profile::new(42, 7));
        assert_eq!(one.machine, again.machine);
        for number in 0..5 {
            assert_eq!(one.episode(number), again.episode(number));
            assert_eq!(one.arrival(number), again.arrival(number));
        }
        assert_ne!(one.machine, Profile::new(43, 7).machine);
    }

    #[test]
    fn the_same_month_is_the_same_update_on_alike_pcs() {
        let pcs: Vec<_> = (0..40).map(|index| Profile::new(1, index)).collect();
        let of = |pc: &&Profile| pc.release.build == 26100 && pc.architecture == Architecture::X64;
        let ids: Vec<_> = pcs.iter().filter(of).map(|pc| pc.quality_update(0).update_id).collect();
        assert!(ids.len() > 5);
        assert!(ids.iter().all(|id| *id == ids[0]));
    }

    #[test]
    fn many_languages_and_offsets_are_met() {
        let offsets: std::collections::BTreeSet<_> =
            (0..100).map(|index| Profile::new(1, index).place.offset_minutes).collect();
        assert!(offsets.len() >= 4, "{offsets:?}");
    }
}
