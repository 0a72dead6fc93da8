//! Takes directives off the stream the moment they arrive. Leases count from then and cancellations take effect then,
//! whatever an order before them is waiting for; orders and refreshes are carried out one after another.
//!
//! INVARIANT: nothing here waits between two directives: one that lay unread would be younger than it is when it is read.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use fleetmend_proto::{Fence, OrderId, convert::uuid_from_wire, v1};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::{LinkError, lease::HeldLease, session::Directed};

/// Directives that wait at most; a controller that sends more without an answer is not believed any longer.
const WAITING: usize = 64;
/// How long a drained connection waits for what it was told before. Link time.
const LAST_WORK: Duration = Duration::from_secs(10);

/// How a stream ended.
#[derive(Debug)]
pub(super) enum Ended {
    Drained(Duration),
    Closed,
    Failed(Status),
    Flooded,
}

/// What is carried out in its turn.
#[derive(Debug)]
enum Work {
    Order(Bytes),
    /// Again, behind an order that may be the one it means.
    Cancel(OrderId, Fence),
    Refresh,
}

/// The two ways on from the stream.
struct Queues<'a> {
    work: mpsc::Sender<Work>,
    cancels: mpsc::Sender<(OrderId, Fence)>,
    /// Work that has not ended.
    undone: &'a AtomicUsize,
}

/// Carries out directives until the stream ends.
pub(super) async fn take_all(
    stream: impl Stream<Item = Result<v1::Directive, Status>> + Unpin,
    lease: &HeldLease,
    directed: &dyn Directed,
) -> Ended {
    let (work, mut to_do) = mpsc::channel(WAITING);
    let (cancels, mut to_cancel) = mpsc::channel(WAITING);
    let undone = AtomicUsize::new(0);
    let reading = read(stream, lease, Queues { work, cancels, undone: &undone });
    let working = async {
        while let Some(next) = to_do.recv().await {
            match next {
                Work::Order(note) => directed.order(note).await,
                Work::Cancel(order, fence) => directed.cancel(order, fence).await,
                Work::Refresh => directed.refresh().await,
            }
            undone.fetch_sub(1, SeqCst);
        }
    };
    let cancelling = async {
        while let Some((order, fence)) = to_cancel.recv().await {
            directed.cancel(order, fence).await;
        }
    };
    let carrying_out = async { tokio::join!(working, cancelling) };
    tokio::pin!(reading, carrying_out);
    let end = tokio::select! {
        end = &mut reading => end,
        // It ends only after `reading` did, with its queues.
        _ = &mut carrying_out => return Ended::Closed,
    };
    if matches!(end, Ended::Drained(_)) && tokio::time::timeout(LAST_WORK, carrying_out).await.is_err() {
        tracing::warn!("an order was under way when the controller asked to connect again; it is delivered anew");
    }
    end
}

async fn read(
    mut stream: impl Stream<Item = Result<v1::Directive, Status>> + Unpin,
    lease: &HeldLease,
    queues: Queues<'_>,
) -> Ended {
    loop {
        match stream.next().await {
            Some(Ok(directive)) => {
                if let Err(end) = take(directive, Instant::now(), lease, &queues) {
                    return end;
                }
            }
            Some(Err(status)) => return Ended::Failed(status),
            None => return Ended::Closed,
        }
    }
}

fn take(directive: v1::Directive, arrived: Instant, lease: &HeldLease, queues: &Queues<'_>) -> Result<(), Ended> {
    use v1::directive::Kind;
    match directive.kind {
        Some(Kind::Order(order)) => queues.work(Work::Order(order.note))?,
        Some(Kind::Refresh(v1::Refresh {})) => queues.work(Work::Refresh)?,
        Some(Kind::Cancel(it)) => match uuid_from_wire("order_id", &it.order_id) {
            Ok(order) => queues.cancel(OrderId(order), Fence(it.fence))?,
            Err(error) => tracing::warn!(%error, "directive ignored"),
        },
        Some(Kind::Lease(it)) => match uuid_from_wire("order_id", &it.order_id) {
            Ok(order) => lease.granted(OrderId(order), Fence(it.fence), arrived, it.seconds),
            Err(error) => tracing::warn!(%error, "directive ignored"),
        },
        Some(Kind::Drain(it)) => return Err(Ended::Drained(Duration::from_millis(it.reconnect_after_ms.into()))),
        None => tracing::debug!("directive of a kind this agent does not know"),
    }
    Ok(())
}

impl Queues<'_> {
    fn work(&self, work: Work) -> Result<(), Ended> {
        self.undone.fetch_add(1, SeqCst);
        self.work.try_send(work).map_err(|_| Ended::Flooded)
    }

    fn cancel(&self, order: OrderId, fence: Fence) -> Result<(), Ended> {
        self.cancels.try_send((order, fence)).map_err(|_| Ended::Flooded)?;
        if self.undone.load(SeqCst) == 0 { Ok(()) } else { self.work(Work::Cancel(order, fence)) }
    }
}

impl Ended {
    /// Why the connection is given up; `Err` = the controller asked for that, and for how long.
    pub(super) fn failure(self, channel: &super::Channel) -> Result<LinkError, Duration> {
        match self {
            Self::Drained(after) => Err(after),
            Self::Closed => {
                Ok(LinkError::Busy { reason: "the controller ended the stream".to_owned(), retry_after: None })
            }
            Self::Failed(status) => Ok(channel.failure(status)),
            Self::Flooded => {
                Ok(LinkError::Call { reason: format!("more than {WAITING} directives came before one was done") })
            }
        }
    }
}

#[cfg(test)]
mod tests;
