//! Everything that happened to an incident, in order of time.

use chrono::{DateTime, Utc};
use fleetmend_domain::ladder::{Next, Verdict};
use fleetmend_proto::{OrderId, Outcome, Position, Tier};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::order::{Order, Step};
use crate::store::{self, MomentKind};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub at: DateTime<Utc>,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// Windows recorded an attempt; `at` is Windows' own time.
    Outcome { position: Position, outcome: Outcome },
    /// The ladder was asked: what to do, by which rule, and why.
    Decision {
        rule: String,
        reason: String,
        next: Next,
        order_id: Option<OrderId>,
        policy_version: i64,
        catalogue_version: i64,
        /// The whole case as the ladder saw it.
        inputs: Value,
    },
    /// An order was made; its fields are those of now.
    Order { order: Box<Order> },
    /// The device reported a step.
    Step { order_id: OrderId, step: Step },
    /// What was found when the failed update was looked at again.
    Verification {
        order_id: Option<OrderId>,
        verdict: Verdict,
        /// The outcome that proves it; null = nothing was heard before the deadline.
        evidence: Option<Position>,
    },
    /// A person asked for a remedy.
    RemedyRequested { tier: Option<Tier>, now: bool, by: String },
    /// A change and who made it.
    Event { name: String, actor_kind: String, actor: String, order_id: Option<OrderId>, data: Value },
}

impl From<store::Moment> for Moment {
    fn from(moment: store::Moment) -> Self {
        Self { at: moment.at, what: moment.what.into() }
    }
}

impl From<MomentKind> for What {
    fn from(kind: MomentKind) -> Self {
        match kind {
            MomentKind::Outcome { position, outcome } => Self::Outcome { position, outcome },
            MomentKind::Decision { rule, reason, next, order, policy_version, catalogue_version, inputs } => {
                Self::Decision { rule, reason, next, order_id: order, policy_version, catalogue_version, inputs }
            }
            MomentKind::Order { order } => Self::Order { order: Box::new((*order).into()) },
            MomentKind::Step { step } => Self::Step { order_id: step.order, step: step.into() },
            MomentKind::Verification { order, verdict, evidence } => {
                Self::Verification { order_id: order, verdict, evidence }
            }
            MomentKind::RemedyRequested { tier, now, by } => Self::RemedyRequested { tier, now, by },
            MomentKind::Event { name, actor_kind, actor, order, data } => {
                Self::Event { name, actor_kind, actor, order_id: order, data }
            }
        }
    }
}
