//! Wake-ups between the parts of one process. A nudge is a hint: a loop that misses one finds its work at its next tick.

use std::sync::Arc;

use tokio::sync::Notify;

/// One hint a loop; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Nudges {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    decide: Notify,
    dispatch: Notify,
    verify: Notify,
    renew: Notify,
}

impl Nudges {
    /// Incidents may be due for a decision.
    pub fn decide(&self) {
        self.inner.decide.notify_one();
    }

    /// Orders may be waiting for their device.
    pub fn dispatch(&self) {
        self.inner.dispatch.notify_one();
    }

    /// Evidence for a verification may have come.
    pub fn verify(&self) {
        self.inner.verify.notify_one();
    }

    /// Devices at work may have something to hear: an order was cancelled.
    pub fn renew(&self) {
        self.inner.renew.notify_one();
    }

    pub(crate) fn decide_wanted(&self) -> &Notify {
        &self.inner.decide
    }

    pub(crate) fn dispatch_wanted(&self) -> &Notify {
        &self.inner.dispatch
    }

    pub(crate) fn renew_wanted(&self) -> &Notify {
        &self.inner.renew
    }

    pub(crate) fn verify_wanted(&self) -> &Notify {
        &self.inner.verify
    }
}
