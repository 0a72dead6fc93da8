//! The append-only record of who changed what, written in the transaction that changed it.

use chrono::{DateTime, Utc};
use fleetmend_proto::{DeviceId, IncidentId, OrderId};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{
    StoreError,
    engine::{Tx, bulk_insert},
    error::During as _,
};

/// Who makes a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    Device(DeviceId),
    Person(String),
    /// A loop of the controller, by name.
    Loop(&'static str),
}

impl Actor {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Device(_) => "device",
            Self::Person(_) => "person",
            Self::Loop(_) => "loop",
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Device(device) => device.to_string(),
            Self::Person(name) => name.clone(),
            Self::Loop(name) => (*name).to_owned(),
        }
    }
}

/// One change, to be appended.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Event {
    at: DateTime<Utc>,
    actor_kind: &'static str,
    actor: String,
    kind: &'static str,
    device_id: Option<Uuid>,
    incident_id: Option<Uuid>,
    order_id: Option<Uuid>,
    data: String,
}

impl Event {
    pub(super) fn new(actor: &Actor, kind: &'static str, at: DateTime<Utc>) -> Self {
        Self {
            at,
            actor_kind: actor.kind(),
            actor: actor.name(),
            kind,
            device_id: None,
            incident_id: None,
            order_id: None,
            data: "{}".to_owned(),
        }
    }

    pub(super) fn device(mut self, device: DeviceId) -> Self {
        self.device_id = Some(device.0);
        self
    }

    pub(super) fn incident(mut self, incident: IncidentId) -> Self {
        self.incident_id = Some(incident.0);
        self
    }

    pub(super) fn order(mut self, order: OrderId) -> Self {
        self.order_id = Some(order.0);
        self
    }

    pub(super) fn data(mut self, data: &Value) -> Self {
        self.data = data.to_string();
        self
    }
}

/// Appends in the same transaction as the change itself.
pub(super) async fn append(tx: &mut Tx, events: &[Event]) -> Result<(), StoreError> {
    if !events.is_empty() {
        bulk_insert!(
            tx,
            "events append",
            events,
            "events",
            [at: timestamptz "$1", actor_kind: text "$2", actor: text "$3", kind: text "$4", device_id: uuid "$5",
             incident_id: uuid "$6", order_id: uuid "$7", data: text "$8"],
            ""
        )?;
    }
    Ok(())
}
