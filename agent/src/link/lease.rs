//! The controller's leave to act, kept on the monotonic clock. Given by `Begin` and by lease directives, asked by the
//! executor before what it may do only with leave.
//!
//! INVARIANT: a lease ends here 10 s before the controller thinks that it ends, counted from before it was asked for.

use std::time::Duration;

use async_trait::async_trait;
use fleetmend_proto::{Fence, OrderId};
use tokio::{sync::watch, time::Instant};

use crate::execute::Lease;

/// Taken off every lease: clocks drift, answers travel.
const MARGIN: Duration = Duration::from_secs(10);

/// How long a question waits for a renewal that is on its way. Link time.
const PATIENCE: Duration = Duration::from_secs(5);

/// The one lease a device can hold.
#[derive(Debug)]
pub struct HeldLease {
    held: watch::Sender<Option<Held>>,
    patience: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    order: OrderId,
    fence: Fence,
    until: Instant,
}

impl Default for HeldLease {
    fn default() -> Self {
        Self { held: watch::Sender::new(None), patience: PATIENCE }
    }
}

impl HeldLease {
    /// The controller gave or renewed a lease of `seconds`; `asked_at` is before its answer was on the way.
    pub fn granted(&self, order: OrderId, fence: Fence, asked_at: Instant, seconds: u32) {
        let life = Duration::from_secs(seconds.into()).saturating_sub(MARGIN);
        let next = Held { order, fence, until: asked_at + life };
        self.held.send_modify(|held| {
            // A late answer never shortens what a later one gave, and never revives an older fence.
            let older = held.is_some_and(|it| it.fence > fence || (it.fence == fence && it.until > next.until));
            if !older {
                *held = Some(next);
            }
        });
    }

    fn lives(&self, order: OrderId, fence: Fence, now: Instant) -> bool {
        self.held.borrow().is_some_and(|it| it.order == order && it.fence == fence && now < it.until)
    }
}

#[async_trait]
impl Lease for HeldLease {
    async fn is_live(&self, order: OrderId, fence: Fence) -> bool {
        let mut changes = self.held.subscribe();
        let deadline = Instant::now() + self.patience;
        loop {
            changes.mark_unchanged();
            if self.lives(order, fence, Instant::now()) {
                return true;
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> OrderId {
        OrderId(uuid::Uuid::from_u128(7))
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn it_ends_ten_seconds_early() {
        let (lease, asked) = (HeldLease::default(), Instant::now());
        lease.granted(order(), Fence(3), asked, 60);
        assert!(lease.lives(order(), Fence(3), asked + seconds(49)));
        assert!(!lease.lives(order(), Fence(3), asked + seconds(50)));
        lease.granted(order(), Fence(3), asked + seconds(20), 60);
        assert!(lease.lives(order(), Fence(3), asked + seconds(69)), "a renewal did not count");
        lease.granted(order(), Fence(3), asked, 60);
        assert!(lease.lives(order(), Fence(3), asked + seconds(69)), "a late answer took time away");
    }

    #[test]
    fn a_short_lease_never_lives() {
        let (lease, asked) = (HeldLease::default(), Instant::now());
        lease.granted(order(), Fence(3), asked, 10);
        assert!(!lease.lives(order(), Fence(3), asked));
    }

    #[test]
    fn it_is_for_one_order_and_fence() {
        let (lease, asked) = (HeldLease::default(), Instant::now());
        lease.granted(order(), Fence(3), asked, 60);
        assert!(!lease.lives(order(), Fence(4), asked));
        assert!(!lease.lives(OrderId(uuid::Uuid::from_u128(8)), Fence(3), asked));
        lease.granted(order(), Fence(2), asked, 600);
        assert!(lease.lives(order(), Fence(3), asked), "an older fence took the lease away");
    }

    #[tokio::test]
    async fn a_renewal_on_its_way_is_waited_for() {
        let lease = HeldLease::default();
        let (answer, ()) = tokio::join!(lease.is_live(order(), Fence(1)), async {
            tokio::task::yield_now().await;
            lease.granted(order(), Fence(1), Instant::now(), 60);
        });
        assert!(answer);
    }

    #[tokio::test]
    async fn without_one_the_answer_is_no() {
        let lease = HeldLease { patience: Duration::from_millis(1), ..HeldLease::default() };
        assert!(!lease.is_live(order(), Fence(1)).await);
    }
}
