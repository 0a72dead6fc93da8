//! The way to the controller: TLS, one HTTP/2 connection, backoff, and the calls made on it.
//!
//! `connect` with a `ServerRoot` and an `Endpoint` is all that a client without a disk needs; the rest belongs to the
//! whole agent. SECURITY: nothing of an order is parsed here; its bytes go to the guard.

mod alert;
pub mod backoff;
mod channel;
pub mod dead_letters;
mod directives;
mod endpoint;
pub mod failure;
pub mod lease;
pub mod orders;
pub mod renewal;
pub mod report;
pub mod session;
mod tls;

pub use backoff::{Backoff, BackoffSettings};
pub use channel::{Channel, ChannelSettings, MAX_MESSAGE, connect};
pub use endpoint::{Endpoint, NotAnEndpoint};
pub use failure::{LinkError, Patience};
pub use tls::{ServerRoot, ServerRootError, Tls};

use std::time::Duration;

/// A unary call with its time-out; failures as a [`LinkError`].
///
/// # Errors
/// What the call failed with, or that it was not answered in time.
pub async fn within<T>(
    limit: Duration,
    channel: &Channel,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, LinkError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(channel.failure(status)),
        Err(_) => Err(LinkError::NoAnswer { limit }),
    }
}
