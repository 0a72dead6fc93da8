//! What a PC must be like before an action starts, read through `Platform` when an order arrives and recorded with it.
//! A condition that fails defers the order (the controller sends a new one later); it never counts as tried.

use fleetmend_proto::{
    Action, Tier,
    condition::{Condition, DeviceRole, ProductType},
};

use crate::{
    execute::pause,
    platform::{Platform, PlatformError},
};

const GIB: u64 = 1 << 30;
/// Least charge in percent for tiers 3 to 5 on battery.
const BATTERY: u8 = 40;

/// Reads what `action` needs. `Ok`: the values, for the journal. `Err`: what stands in the way, with the values.
///
/// # Errors
/// The reason to defer, in words.
pub async fn evaluate(
    platform: &dyn Platform,
    action: &Action,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<String, String> {
    let tier = action.tier();
    let mut seen = Vec::new();
    let mut wrong = Vec::new();

    if tier.is_some() {
        match platform.pending_reboot().await {
            Ok(reasons) if reasons.is_empty() => seen.push("no restart owed".to_owned()),
            Ok(reasons) => wrong.push(format!("a restart is owed first: {}", reasons.join(", "))),
            Err(error) => unknown(&mut seen, &mut wrong, "restart owed", &error),
        }
    }
    let must_be_idle = match action {
        Action::Troubleshoot | Action::HideUpdate => false,
        // A restart in the middle of an installation makes it fail.
        Action::Reboot
        | Action::Retry
        | Action::RepairImage
        | Action::ResetComponents
        | Action::InstallManually { .. }
        | Action::RepairInstall { .. }
        | Action::ResetPc(_) => true,
    };
    if must_be_idle {
        match platform.is_servicing_busy().await {
            Ok(false) => seen.push("no other installer works".to_owned()),
            Ok(true) => wrong.push("another installer works".to_owned()),
            Err(error) => unknown(&mut seen, &mut wrong, "other installers", &error),
        }
    }
    if *action == Action::Reboot {
        match platform.is_update_client_busy().await {
            Ok(false) => seen.push("no update is being installed".to_owned()),
            Ok(true) => wrong.push("an update is being installed".to_owned()),
            Err(error) => unknown(&mut seen, &mut wrong, "the update client", &error),
        }
    }
    if tier == Some(Tier::Retry) {
        match pause::by_person(platform, now).await {
            Ok(None) => seen.push("updates are not paused".to_owned()),
            Ok(Some(pause)) => wrong.push(format!("a person paused updates: {pause}")),
            Err(error) => unknown(&mut seen, &mut wrong, "pause", &error),
        }
    }
    let needed = space(action);
    if needed > 0 {
        match platform.free_bytes().await {
            Ok(free) if free >= needed => seen.push(format!("{} free, {} needed", size(free), size(needed))),
            Ok(free) => wrong.push(format!("{} free on the system volume, {} needed", size(free), size(needed))),
            Err(error) => unknown(&mut seen, &mut wrong, "free space", &error),
        }
    }
    match platform.condition().await {
        Ok(condition) => machine(&condition, tier, &mut seen, &mut wrong),
        Err(error) => unknown(&mut seen, &mut wrong, "power and role", &error),
    }

    if wrong.is_empty() {
        Ok(seen.join("; "))
    } else {
        Err(wrong.into_iter().chain(seen).collect::<Vec<_>>().join("; "))
    }
}

fn machine(condition: &Condition, tier: Option<Tier>, seen: &mut Vec<String>, wrong: &mut Vec<String>) {
    if condition.role == DeviceRole::Oobe {
        wrong.push("the first setup of this PC is not finished".to_owned());
    } else {
        seen.push(format!("role {}", condition.role));
    }
    let Some(tier) = tier else { return };
    if condition.role == DeviceRole::Uwf && tier >= Tier::RepairImage {
        wrong.push("the unified write filter would undo this at the next restart".to_owned());
    }
    if condition.product_type != ProductType::Client && tier >= Tier::InstallManually {
        wrong.push("servers and domain controllers never go above tier 4".to_owned());
    }
    if tier < Tier::RepairImage {
        return;
    }
    match (condition.on_ac_power, condition.battery_percent) {
        (true, _) | (false, None) => seen.push("on mains power".to_owned()),
        (false, Some(percent)) if percent >= BATTERY => seen.push(format!("battery at {percent} %")),
        (false, Some(percent)) => wrong.push(format!("on battery at {percent} %, {BATTERY} % or mains power needed")),
    }
}

/// Bytes an action needs free on the system volume. Package and cache sizes are not known here, so the fixed part of
/// the figures is taken.
const fn space(action: &Action) -> u64 {
    match action {
        Action::RepairImage => 5 * GIB,
        Action::ResetComponents => 2 * GIB,
        Action::InstallManually { .. } => 8 * GIB,
        Action::RepairInstall { .. } => 20 * GIB,
        Action::ResetPc(_) => 10 * GIB,
        Action::Retry | Action::Troubleshoot | Action::Reboot | Action::HideUpdate => 0,
    }
}

/// What this system cannot tell does not stop an order; what it failed to tell does.
fn unknown(seen: &mut Vec<String>, wrong: &mut Vec<String>, what: &str, error: &PlatformError) {
    match error {
        PlatformError::Unavailable { .. } => seen.push(format!("{what}: {error}")),
        PlatformError::Failed { .. } | PlatformError::TimedOut { .. } | PlatformError::Io { .. } => {
            wrong.push(format!("{what} could not be read: {error}"));
        }
    }
}

fn size(bytes: u64) -> String {
    format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
}
