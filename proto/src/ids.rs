//! Newtypes for identities and positions. Made by the controller (device, incident, order, fence) or the agent
//! (position); never parsed out of anything but their own text or byte form.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

uuid_id!(
    /// The fleet, made once by `fleetmend init`.
    FleetId
);
uuid_id!(
    /// An enrolled Windows endpoint; random, given at enrolment, carried by the certificate alone.
    DeviceId
);
uuid_id!(
    /// One update failing on one device.
    IncidentId
);
uuid_id!(
    /// One action for one device (UUIDv7: sorts by time of making).
    OrderId
);

/// Per-device counter, raised whenever an order is leased. The agent refuses what is not above the highest it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub i64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an outcome stands in a device's own numbering. Both parts start at 1 and only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub epoch: i64,
    pub seq: i64,
}
