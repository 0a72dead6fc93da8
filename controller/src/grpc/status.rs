//! The one map from store errors to `tonic::Status`.

use tonic::{Status, metadata::MetadataValue};

use crate::store::StoreError;

/// How long a peer should wait when this process is too busy, in milliseconds.
const BUSY_RETRY_MS: u64 = 2_000;

/// `RESOURCE_EXHAUSTED` with `retry-after-ms`.
pub fn busy(what: &str) -> Status {
    let mut status = Status::resource_exhausted(format!("{what}: try again later"));
    status.metadata_mut().insert("retry-after-ms", MetadataValue::from(BUSY_RETRY_MS));
    status
}

/// Logs what people of this side must see, and tells the peer no more than it needs.
pub fn from_store(operation: &'static str, error: &StoreError) -> Status {
    match error {
        StoreError::NotFound { .. } => Status::not_found(error.to_string()),
        StoreError::Invalid { .. } => Status::invalid_argument(error.to_string()),
        StoreError::Conflict { .. } => Status::aborted(error.to_string()),
        other @ (StoreError::BadUrl { .. }
        | StoreError::Unreachable { .. }
        | StoreError::Busy { .. }
        | StoreError::NewerSchema { .. }
        | StoreError::OlderSchema { .. }
        | StoreError::OtherFleet { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Database { .. }) => {
            tracing::error!(operation, error = other as &dyn std::error::Error, "store call failed");
            Status::unavailable(format!("{operation}: the controller's database is not reachable"))
        }
    }
}
