//! The form of a scenario file: a device, a policy, a code, and a timeline with what is expected at each point.

use std::fmt;

use chrono::{DateTime, Duration, Utc};
use fleetmend_domain::{
    ladder::Device,
    policy::{Policy, Posture, ResetRoute},
    window::Window,
};
use fleetmend_proto::{
    HResult, Kb, Operation, PackageHash, Tier, UpdateKind, UpdateRef,
    condition::{DeviceRole, ProductType, UpdateAuthority},
    order::Refusal,
};
use serde::{Deserialize, Deserializer, de::Error as _};
use uuid::Uuid;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// What the update fails with unless a step says otherwise.
    pub code: HResult,
    /// When it begins; a Monday afternoon where that does not matter.
    pub start: Option<DateTime<Utc>>,
    #[serde(default)]
    pub update: UpdatePatch,
    #[serde(default)]
    pub device: DevicePatch,
    #[serde(default)]
    pub policy: PolicyPatch,
    pub step: Vec<Step>,
}

#[derive(Debug, Deserialize)]
pub struct Step {
    /// Domain time that passes before it.
    #[serde(default)]
    pub after: Span,
    #[serde(flatten)]
    pub what: What,
    #[serde(default)]
    pub expect: Expect,
}

/// What happens.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// Nothing but time.
    Time {},
    Failed(Seen),
    Aborted(Seen),
    Succeeded(Seen),
    SucceededWithErrors(Seen),
    PendingReboot(Seen),
    /// The order in hand ends; `end` is an order's final state.
    Order {
        end: fleetmend_domain::order::State,
        refusal: Option<Refusal>,
    },
    /// The verification of the order that ended speaks.
    Verdict {
        verdict: VerdictWord,
        code: Option<HResult>,
    },
    /// The order in hand succeeds and the update fails on: one rung that did not help.
    NoHelp {
        code: Option<HResult>,
    },
    Manual {
        tier: Option<Tier>,
        #[serde(default)]
        now: bool,
    },
    Device(DevicePatch),
    Policy(PolicyPatch),
    Event {
        event: EventWord,
    },
}

/// An outcome as the device reports it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    pub code: Option<HResult>,
    #[serde(default)]
    pub update: UpdatePatch,
    pub operation: Option<Operation>,
    /// How long before now it happened.
    #[serde(default)]
    pub ago: Span,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictWord {
    Installed,
    StillFailing,
    RebootOwed,
    DeadlinePassed,
}

/// Events of people and devices that no other step makes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventWord {
    Installed,
    Released,
    Returned,
    Dismissed,
    Held,
}

/// What is checked after a step. With `rule` or `next` a decision is made, checked and applied.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    #[serde(rename = "match")]
    pub matched: Option<String>,
    pub rule: Option<String>,
    pub next: Option<String>,
    pub action: Option<String>,
    /// From now.
    pub until: Option<Span>,
    pub hold: Option<String>,
    /// From now: how long the order waits for its device.
    pub expires: Option<Span>,
    /// Words of the reason.
    pub reason: Option<String>,
    pub state: Option<String>,
    pub tier: Option<Tier>,
    /// Incidents opened so far.
    pub opened: Option<usize>,
    /// Tier that fixed it; 0 = none did.
    pub fixed_by: Option<u8>,
    /// The event has no meaning here.
    #[serde(default)]
    pub illegal: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdatePatch {
    pub kind: Option<UpdateKind>,
    pub kb: Option<Kb>,
    /// Small numbers stand for update ids; 1 is the failing update.
    pub id: Option<u64>,
    #[serde(default)]
    pub supersedes: Vec<u64>,
}

impl UpdatePatch {
    pub fn apply(&self, base: &UpdateRef) -> UpdateRef {
        let other = self.id.is_some();
        UpdateRef {
            update_id: self.id.map(update_id).or(base.update_id),
            revision: base.revision,
            kb: self.kb.or(if other { None } else { base.kb }),
            title: base.title.clone(),
            kind: self.kind.unwrap_or(base.kind),
            supersedes: self.supersedes.iter().copied().map(update_id).collect(),
        }
    }
}

fn update_id(number: u64) -> Uuid {
    Uuid::from_u128(number.into())
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicePatch {
    pub quarantined: Option<bool>,
    pub excluded: Option<bool>,
    pub product_type: Option<ProductType>,
    pub role: Option<DeviceRole>,
    pub authority: Option<UpdateAuthority>,
    pub reboot_pending: Option<bool>,
    pub utc_offset_minutes: Option<i32>,
    /// Whether a vetted package is there.
    pub package: Option<bool>,
    /// Whether two packages fit, so that there is none.
    pub package_clash: Option<bool>,
}

impl DevicePatch {
    pub fn apply(&self, device: &mut Device) {
        device.quarantined = self.quarantined.unwrap_or(device.quarantined);
        device.excluded = self.excluded.unwrap_or(device.excluded);
        device.product_type = self.product_type.unwrap_or(device.product_type);
        device.role = self.role.unwrap_or(device.role);
        device.authority = self.authority.unwrap_or(device.authority);
        device.reboot_pending = self.reboot_pending.unwrap_or(device.reboot_pending);
        device.utc_offset_minutes = self.utc_offset_minutes.unwrap_or(device.utc_offset_minutes);
        if let Some(clash) = self.package_clash {
            device.package_clash = clash.then(|| "a.msu and b.msu are different packages: remove one".to_owned());
        }
        if let Some(there) = self.package {
            device.package = there.then_some(PackageHash([7; 32]));
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyPatch {
    pub posture: Option<Posture>,
    pub reset_route: Option<ResetRoute>,
    pub retry_attempts: Option<u32>,
    pub max_attempts: Option<u32>,
    pub max_orders: Option<u32>,
    pub hide_after: Option<u32>,
    pub incident_deadline: Option<Span>,
    pub cooldown_light: Option<Span>,
    pub cooldown_heavy: Option<Span>,
    pub reset_evidence_age: Option<Span>,
    pub retry_backoff: Option<Vec<Span>>,
    pub windows: Option<Vec<Window>>,
}

impl PolicyPatch {
    pub fn apply(&self, policy: &mut Policy) {
        policy.posture = self.posture.unwrap_or(policy.posture);
        policy.reset_route = self.reset_route.unwrap_or(policy.reset_route);
        policy.retry_attempts = self.retry_attempts.unwrap_or(policy.retry_attempts);
        policy.max_attempts = self.max_attempts.unwrap_or(policy.max_attempts);
        policy.max_orders = self.max_orders.unwrap_or(policy.max_orders);
        policy.hide_after = self.hide_after.unwrap_or(policy.hide_after);
        policy.incident_deadline = self.incident_deadline.map_or(policy.incident_deadline, |span| span.0);
        policy.cooldown_light = self.cooldown_light.map_or(policy.cooldown_light, |span| span.0);
        policy.cooldown_heavy = self.cooldown_heavy.map_or(policy.cooldown_heavy, |span| span.0);
        policy.reset_evidence_age = self.reset_evidence_age.map_or(policy.reset_evidence_age, |span| span.0);
        policy.windows = self.windows.clone().unwrap_or_else(|| policy.windows.clone());
        if let Some(waits) = &self.retry_backoff {
            policy.retry_backoff = waits.iter().map(|span| span.0).collect();
        }
    }
}

/// `15m`, `4h`, `21d`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    pub fn since(now: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        Self(until - now)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0.num_minutes())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || D::Error::custom(format!("{text:?} is no span: write it like 15m, 4h or 21d"));
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
        let number: i64 = number.parse().map_err(|_| bad())?;
        match unit {
            "m" => Ok(Self(Duration::minutes(number))),
            "h" => Ok(Self(Duration::hours(number))),
            "d" => Ok(Self(Duration::days(number))),
            _ => Err(bad()),
        }
    }
}
