//! Whether an order may run on this device: signature, then text, then what this device allows. Called by `execute`
//! before anything of an order is believed. Pure: facts come in as arguments.
//!
//! SECURITY: the exact bytes are verified first and only verified bytes are parsed. An agent may always refuse; nothing
//! an order says can widen what the local policy allows.

pub mod conditions;

use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Action, DeviceId, Fence, FleetId, OrderId, Tier,
    order::{NoteError, OrderText, OrderVerifier, Refusal, SignedOrder, TextError},
};

/// What the owner of this PC allows, whatever the fleet decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPolicy {
    /// Heaviest tier accepted.
    pub max_tier: Tier,
    /// Refuse everything; orders under way are undone.
    pub halt: bool,
    /// Tier 4 also registers update libraries again. Off: Windows' own servicing keeps these registrations.
    pub register_libraries: bool,
    /// Folder for the logs of DISM, as an absolute path of this PC; `None` = where DISM puts them itself.
    pub log_dir: Option<String>,
}

impl Default for LocalPolicy {
    fn default() -> Self {
        Self { max_tier: Tier::InstallManually, halt: false, register_libraries: false, log_dir: None }
    }
}

/// What the check compares an order with.
#[derive(Clone, Debug)]
pub struct LocalFacts<'a> {
    pub fleet: FleetId,
    pub device: DeviceId,
    pub policy: &'a LocalPolicy,
    /// Highest fence of any verified order.
    pub max_fence: Fence,
    /// Domain time.
    pub now: DateTime<Utc>,
    /// The order under way, if any.
    pub busy: Option<OrderId>,
    /// Until when safe mode lasts, if it is on.
    pub safe_until: Option<DateTime<Utc>>,
    /// Orders made before this may have run by a journal that was lost.
    pub forgot_before: Option<DateTime<Utc>>,
}

/// Why an order does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The verified text; `None` when the order was not proven to be for this device.
    pub order: Option<Box<OrderText>>,
    pub refusal: Refusal,
    pub detail: String,
}

/// Verifies the bytes and gives the text, if it is an order for this device.
///
/// # Errors
/// [`Refused`] without a text.
pub fn open(note: &[u8], keys: &[OrderVerifier], fleet: FleetId, device: DeviceId) -> Result<OrderText, Refused> {
    let refused = |refusal, detail: String| Refused { order: None, refusal, detail };
    let order = SignedOrder(note.to_vec()).open(keys).map_err(|error| {
        let refusal = match &error {
            NoteError::TooLarge | NoteError::Malformed(_) | NoteError::Text(TextError::Line { .. }) => {
                Refusal::Malformed
            }
            NoteError::Unsigned | NoteError::BadSignature(_) => Refusal::BadSignature,
            NoteError::Text(TextError::UnknownAction(_)) => Refusal::UnknownAction,
        };
        let why = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
        refused(refusal, format!("{error}{why}"))
    })?;
    if order.fleet != fleet {
        return Err(refused(
            Refusal::WrongFleet,
            format!("the order is for fleet {}, this device is of {fleet}", order.fleet),
        ));
    }
    if order.device != device {
        return Err(refused(
            Refusal::WrongDevice,
            format!("the order is for device {}, this is {device}", order.device),
        ));
    }
    Ok(order)
}

/// Compares a verified order with what this device allows now.
///
/// # Errors
/// The first [`Refusal`] that applies, with its reason in words.
pub fn admit(order: &OrderText, facts: &LocalFacts<'_>) -> Result<(), (Refusal, String)> {
    let refuse = |refusal, detail: String| Err((refusal, detail));
    if order.fence <= facts.max_fence && !crate::sabotage::fence_ignored() {
        let detail = format!("fence {} is not above {}, the highest seen", order.fence, facts.max_fence);
        return refuse(Refusal::StaleFence, detail);
    }
    if let Some(lost) = facts.forgot_before.filter(|lost| order.not_before < *lost) {
        let detail = format!("the journal was lost at {lost}: an order from {} may have run already", order.not_before);
        return refuse(Refusal::StaleFence, detail);
    }
    if facts.now < order.not_before {
        let detail = format!("not before {}, and the clock here says {}", order.not_before, facts.now);
        return refuse(Refusal::NotYetValid, detail);
    }
    if facts.now > order.not_after {
        let detail = format!("not after {}, and the clock here says {}", order.not_after, facts.now);
        return refuse(Refusal::Expired, detail);
    }
    if facts.policy.halt {
        return refuse(Refusal::Halted, "the local policy says halt".to_owned());
    }
    if let Some(until) = facts.safe_until {
        let detail = format!("safe mode until {until}: the agent started too often in a short time");
        return refuse(Refusal::SafeMode, detail);
    }
    if matches!(order.action, Action::ResetPc(_)) {
        let detail = "a reset needs signatures of people, which this order does not carry".to_owned();
        return refuse(Refusal::ResetNotSigned, detail);
    }
    if let Some(tier) = order.action.tier().filter(|tier| *tier > facts.policy.max_tier) {
        let detail = format!("tier {tier} is above {}, the local policy's highest", facts.policy.max_tier);
        return refuse(Refusal::AboveMaxTier, detail);
    }
    if let Some(busy) = facts.busy.filter(|busy| *busy != order.order) {
        return refuse(Refusal::Busy, format!("order {busy} is under way"));
    }
    Ok(())
}

/// Both checks in their order: what an order must pass before its preconditions are looked at.
///
/// # Errors
/// The first [`Refusal`] that applies, with its reason in words.
pub fn check(note: &[u8], keys: &[OrderVerifier], facts: &LocalFacts<'_>) -> Result<OrderText, Refused> {
    let order = open(note, keys, facts.fleet, facts.device)?;
    match admit(&order, facts) {
        Ok(()) => Ok(order),
        Err((refusal, detail)) => Err(Refused { order: Some(Box::new(order)), refusal, detail }),
    }
}

#[cfg(test)]
mod tests;
