//! Sessions: closes rows of this process whose stream has gone without closing them (the database was away, the call was
//! cut between row and stream). Until then dispatch would look at their orders for nothing.

use std::time::Duration;

use super::Pass;
use crate::{
    store::{Store, StoreError},
    streams::Streams,
};

/// Between two looks. Link time.
pub const EVERY: Duration = Duration::from_secs(60);
/// A row comes before its stream: one without is looked at again after this long. Link time.
pub const GRACE: Duration = Duration::from_secs(10);

/// One pass.
///
/// # Errors
/// When the store fails; the next pass does it again.
pub async fn pass(store: &Store, replica: &str, streams: &Streams, grace: Duration) -> Result<Pass, StoreError> {
    let mut gone = store.sessions_open(replica).await?;
    gone.retain(|(device, epoch)| !streams.holds(*device, *epoch));
    if gone.is_empty() {
        return Ok(Pass::Idle);
    }
    tokio::time::sleep(grace).await;
    gone.retain(|(device, epoch)| !streams.holds(*device, *epoch));
    let closed = store.sessions_close(&gone).await?;
    // A stream that came this late after its row ends with it: the device connects again and gets both.
    gone.iter().for_each(|(device, epoch)| streams.close(*device, *epoch));
    if closed > 0 {
        tracing::info!(sessions = closed, "sessions without a stream closed");
    }
    Ok(Pass::Idle)
}
