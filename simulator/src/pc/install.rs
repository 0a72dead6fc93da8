//! Whether an install succeeds, judged from the truth alone: which obstacle is in the way, and under which code Windows
//! reports it. Pure.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_proto::{HResult, UpdateKind};

use super::{
    causes::Cause,
    change::{Fault, Flaw, Offered, Place},
    dice::Dice,
    profile::Episode,
    state::State,
};

/// How an update gets onto the PC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Windows Update downloads and installs it.
    UpdateClient,
    /// A package file, by `wusa` or DISM.
    Package,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// As Windows Update says.
    pub reported: HResult,
    /// As the servicing stack says, where it took part.
    pub servicing: Option<HResult>,
    pub reboot_owed: bool,
    pub duration: Duration,
    /// One try of a transient flaw was used up.
    pub spends_flaw: bool,
}

/// Windows says that a restart completes it (WU_S_REBOOT_REQUIRED).
pub const REBOOT_REQUIRED: HResult = HResult(0x0024_0005);

/// Services without which Windows Update installs nothing.
pub const NEEDED: &[&str] = &["wuauserv", "bits", "cryptsvc", "UsoSvc", "DoSvc"];

/// Judges one attempt at an offered update.
#[must_use]
pub fn attempt(state: &State, offer: &Offered, route: Route, dice: &Dice, now: DateTime<Utc>) -> Verdict {
    let name = format!("{} {}", offer.update.title, state.attempts);
    let minutes = |low, high| Duration::from_secs(60 * dice.between(&format!("minutes {name}"), low, high));
    let serviced = offer.update.kind == UpdateKind::Quality;
    let Some(cause) = obstacle(state, offer, route, now) else {
        let reboot_owed = serviced && dice.chance(&format!("reboot owed {}", offer.update.title), 0.4);
        let reported = if reboot_owed { REBOOT_REQUIRED } else { HResult::OK };
        return Verdict {
            reported,
            servicing: serviced.then_some(HResult::OK),
            reboot_owed,
            duration: minutes(8, 35),
            spends_flaw: false,
        };
    };
    let own = offer.cause.is_some_and(|own| is_alike(own, cause));
    let code = if own { offer.code } else { cause.plain_code() };
    let wrapper = if own { offer.wrapper } else { None };
    let reaches_servicing = serviced && (route == Route::Package || wrapper.is_some() || is_in_servicing(cause));
    Verdict {
        reported: wrapper.unwrap_or(code),
        servicing: reaches_servicing.then_some(code),
        reboot_owed: false,
        duration: minutes(2, 12),
        spends_flaw: matches!(offer.flaw, Flaw::Transient(_)) && cause == Cause::Transient,
    }
}

/// The first thing in the way; `None`: the install succeeds.
fn obstacle(state: &State, offer: &Offered, route: Route, now: DateTime<Utc>) -> Option<Cause> {
    let by_client = route == Route::UpdateClient;
    if state.disk_dying {
        Some(Cause::DeadDisk)
    } else if by_client && NEEDED.iter().any(|name| state.is_down(name)) || state.is_down("cryptsvc") {
        Some(Cause::ServiceDisabled)
    } else if by_client && state.is_network_down(now) {
        Some(Cause::NetworkDown)
    } else if !state.reboot_reasons.is_empty() {
        Some(Cause::RebootPending)
    } else if state.disk_full {
        Some(if state.disk_leftovers { Cause::DiskFullOfLeftovers } else { Cause::DiskFullOfDocuments })
    } else if by_client && (state.is_corrupt(Place::DataStore) || state.is_corrupt(Place::Download)) {
        Some(Cause::CacheCorruption)
    } else if state.is_corrupt(Place::Catroot2) {
        Some(Cause::CatalogueCorruption)
    } else if state.store_corrupt && offer.update.kind == UpdateKind::Quality {
        Some(if state.store_repairable { Cause::StoreCorruption } else { Cause::StoreBeyondRepair })
    } else {
        flaw(offer.flaw, by_client)
    }
}

const fn flaw(flaw: Flaw, by_client: bool) -> Option<Cause> {
    match flaw {
        Flaw::None => None,
        Flaw::Transient(_) if by_client => Some(Cause::Transient),
        Flaw::BrokenDelivery if by_client => Some(Cause::BrokenDelivery),
        Flaw::Transient(_) | Flaw::BrokenDelivery => None,
        Flaw::BenignDriver => Some(Cause::BenignDriver),
        Flaw::Bad => Some(Cause::BadUpdate),
    }
}

/// Whether an obstacle is what the update's own trouble brought.
fn is_alike(own: Cause, met: Cause) -> bool {
    own == met || own == Cause::DriverInUse && met == Cause::RebootPending
}

/// Whether the trouble shows in the servicing stack, beyond download and preparation.
const fn is_in_servicing(cause: Cause) -> bool {
    match cause {
        Cause::StoreCorruption
        | Cause::StoreBeyondRepair
        | Cause::CatalogueCorruption
        | Cause::BadUpdate
        | Cause::RebootPending
        | Cause::DeadDisk => true,
        Cause::Transient
        | Cause::NetworkDown
        | Cause::ServiceDisabled
        | Cause::CacheCorruption
        | Cause::DiskFullOfLeftovers
        | Cause::DiskFullOfDocuments
        | Cause::DriverInUse
        | Cause::BenignDriver
        | Cause::BrokenDelivery => false,
    }
}

/// What arrives with an update: the offer, and the faults that its trouble puts into the PC.
#[must_use]
pub fn arrive(episode: &Episode, dice: &Dice, now: DateTime<Utc>) -> (Offered, Vec<Fault>) {
    let mut offered = Offered {
        update: episode.update.clone(),
        flaw: Flaw::None,
        cause: None,
        code: HResult::OK,
        wrapper: None,
        mandatory: false,
        hidden: false,
        pending: false,
        last_tried: None,
    };
    let Some(trouble) = episode.trouble else {
        return (offered, Vec::new());
    };
    (offered.cause, offered.code, offered.wrapper) = (Some(trouble.cause), trouble.code, trouble.wrapper);
    let name = |what: &str| format!("{what} {}", episode.number);
    let owed = |reason: &str| vec![Fault::RebootOwed { reason: reason.to_owned() }];
    let faults = match trouble.cause {
        Cause::Transient => {
            let tries = dice.between(&name("tries"), 1, 3);
            offered.flaw = Flaw::Transient(u32::try_from(tries).unwrap_or(1));
            Vec::new()
        }
        Cause::NetworkDown => {
            let hours = dice.between(&name("hours offline"), 2, 16);
            vec![Fault::NetworkDown { until: now + TimeDelta::hours(i64::try_from(hours).unwrap_or(2)) }]
        }
        Cause::ServiceDisabled => {
            let service = *dice.pick(&name("service"), NEEDED);
            vec![Fault::ServiceDisabled { name: service.to_owned() }]
        }
        Cause::StoreCorruption => vec![Fault::StoreCorrupt { repairable: true }],
        Cause::StoreBeyondRepair => vec![Fault::StoreCorrupt { repairable: false }],
        Cause::CacheCorruption => vec![Fault::CacheCorrupt],
        Cause::CatalogueCorruption => vec![Fault::CataloguesCorrupt],
        Cause::DiskFullOfLeftovers => vec![Fault::DiskFilled { leftovers: true }],
        Cause::DiskFullOfDocuments => vec![Fault::DiskFilled { leftovers: false }],
        Cause::RebootPending => owed("Component Based Servicing\\RebootPending"),
        Cause::DriverInUse => owed("Component Based Servicing\\PackagesPending"),
        Cause::BenignDriver => {
            offered.flaw = Flaw::BenignDriver;
            Vec::new()
        }
        Cause::BadUpdate => {
            offered.flaw = Flaw::Bad;
            Vec::new()
        }
        Cause::BrokenDelivery => {
            offered.flaw = Flaw::BrokenDelivery;
            Vec::new()
        }
        Cause::DeadDisk => vec![Fault::DiskDying],
    };
    (offered, faults)
}
