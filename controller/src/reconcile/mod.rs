//! The loops: decide, dispatch, verify, expire, renew, sessions. None takes input: each runs on a timer and a nudge, re-reads the store,
//! acts, and is idempotent, so that first run, retry and restart are one path.

pub mod decide;
pub mod dispatch;
pub mod expire;
pub mod renew;
pub mod sessions;
pub mod verify;

use std::{future::Future, sync::Arc, time::Duration};

use rand::RngExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::store::StoreError;

/// What one pass of a loop found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Nothing more now: wait for the timer or a nudge.
    Idle,
    /// There may be more: go again at once.
    More,
}

/// After an error, at most this long until the next try (doubling from the tick).
const ERROR_WAIT: Duration = Duration::from_secs(30);

/// For one pass: a database that neither answers nor closes its connection must not hold a loop for ever. Link time.
pub const PASS_LIMIT: Duration = Duration::from_secs(120);

/// Runs `pass` until shutdown: on a nudge, and every `tick` (real time, +-20 % so that replicas do not march in step).
pub async fn run<F, Fut>(name: &'static str, tick: Duration, nudge: &Notify, shutdown: &CancellationToken, mut pass: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Pass, StoreError>>,
{
    let mut errors = 0_u32;
    loop {
        let ended = tokio::time::timeout(PASS_LIMIT, pass()).await;
        let ended = ended.unwrap_or_else(|_| Err(gave_up()));
        let wait = match ended {
            Ok(Pass::More) => {
                errors = 0;
                if shutdown.is_cancelled() {
                    return;
                }
                tokio::task::yield_now().await;
                continue;
            }
            Ok(Pass::Idle) => {
                if errors > 0 {
                    tracing::info!(name, "loop works again");
                }
                errors = 0;
                tick.mul_f64(rand::rng().random_range(0.8..1.2))
            }
            Err(error) => {
                errors += 1;
                tracing::error!(name, error = &error as &dyn std::error::Error, "loop failed, will try again");
                tick.saturating_mul(1 << errors.min(8)).min(ERROR_WAIT)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = nudge.notified(), if errors == 0 => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn gave_up() -> StoreError {
    StoreError::Busy { operation: "a pass over the store", source: Arc::new(sqlx::Error::PoolTimedOut) }
}
