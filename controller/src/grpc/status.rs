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
        StoreError::Unreachable { .. } | StoreError::Busy { .. } => {
            tracing::error!(operation, error = error as &dyn std::error::Error, "store call failed");
            Status::unavailable(format!("{operation}: the controller's database is not reachable"))
        }
        StoreError::BadUrl { .. }
        | StoreError::NewerSchema { .. }
        | StoreError::OlderSchema { .. }
        | StoreError::OtherFleet { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Database { .. } => {
            tracing::error!(operation, error = error as &dyn std::error::Error, "store call failed");
            Status::internal(format!("{operation} failed; the controller's log says why"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Code;

    use super::*;

    #[test]
    fn only_a_database_that_does_not_answer_is_called_unreachable() {
        let corrupt = StoreError::Corrupt { what: "tier", detail: "9".to_owned() };
        let refused = StoreError::Database { operation: "report", source: Arc::new(sqlx::Error::RowNotFound) };
        for error in [corrupt, refused] {
            let status = from_store("report", &error);
            assert_eq!(
                (status.code(), status.message()),
                (Code::Internal, "report failed; the controller's log says why")
            );
        }
        let busy = StoreError::Busy { operation: "report", source: Arc::new(sqlx::Error::PoolTimedOut) };
        assert_eq!(from_store("report", &busy).code(), Code::Unavailable);
    }
}
