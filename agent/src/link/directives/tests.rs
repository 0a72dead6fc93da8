//! A stream whose first directive takes long: what comes behind it is not held up.

use std::sync::Mutex;

use async_trait::async_trait;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::*;
use crate::{execute::Lease as _, link::orders::ProofFirst, state::StateError};

/// Takes its time for an order, and writes down what it was told.
#[derive(Default)]
struct Slow(Mutex<Vec<&'static str>>);

impl Slow {
    fn heard(&self) -> Vec<&'static str> {
        self.0.lock().expect("no test panicked").clone()
    }

    fn hear(&self, what: &'static str) {
        self.0.lock().expect("no test panicked").push(what);
    }
}

#[async_trait]
impl ProofFirst for Slow {
    async fn proof_sent(&self, _order: OrderId) {}
}

#[async_trait]
impl Directed for Slow {
    async fn hello(&self) -> Result<v1::Hello, StateError> {
        Ok(v1::Hello::default())
    }

    async fn order(&self, _note: Bytes) {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        self.hear("order");
    }

    async fn cancel(&self, _order: OrderId, _fence: Fence) {
        self.hear("cancel");
    }

    async fn refresh(&self) {
        self.hear("refresh");
    }
}

fn order() -> OrderId {
    OrderId(Uuid::from_u128(7))
}

fn directive(kind: v1::directive::Kind) -> Result<v1::Directive, Status> {
    Ok(v1::Directive { kind: Some(kind), ..v1::Directive::default() })
}

type Directive = Result<v1::Directive, Status>;

fn sent(kinds: impl IntoIterator<Item = v1::directive::Kind>) -> (mpsc::Sender<Directive>, ReceiverStream<Directive>) {
    let (sender, receiver) = mpsc::channel(200);
    for kind in kinds {
        sender.try_send(directive(kind)).expect("there is room");
    }
    (sender, ReceiverStream::new(receiver))
}

fn an_order() -> v1::directive::Kind {
    v1::directive::Kind::Order(v1::Order { note: Bytes::from_static(b"note") })
}

fn a_lease(seconds: u32) -> v1::directive::Kind {
    let order_id = order().0.as_bytes().to_vec().into();
    v1::directive::Kind::Lease(v1::Lease { order_id, fence: 1, seconds })
}

fn a_cancel() -> v1::directive::Kind {
    v1::directive::Kind::Cancel(v1::Cancel { order_id: order().0.as_bytes().to_vec().into(), fence: 1 })
}

#[tokio::test]
async fn a_lease_counts_from_its_arrival_and_a_cancellation_does_not_wait() {
    let (lease, slow) = (HeldLease::default(), Slow::default());
    // It lives for a second: ten are taken off every lease.
    let (_open, stream) = sent([an_order(), a_lease(11), a_cancel(), v1::directive::Kind::Refresh(v1::Refresh {})]);
    let is_live = async || {
        // A question is patient; here, a late yes is a no.
        tokio::time::timeout(Duration::from_millis(10), lease.is_live(order(), Fence(1))).await == Ok(true)
    };
    let looking = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(slow.heard(), ["cancel"], "the cancellation waits behind an order");
        assert!(is_live().await, "the lease waits behind an order");
        while slow.heard().len() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(slow.heard(), ["cancel", "order", "cancel", "refresh"], "what the order brought is cancelled too");
        assert!(!is_live().await, "the lease counts from when the order before it was done");
    };
    tokio::select! {
        end = take_all(stream, &lease, &slow) => panic!("{end:?}"),
        () = looking => {}
    }
}

#[tokio::test]
async fn a_cancellation_with_nothing_before_it_is_heard_once() {
    let (lease, slow) = (HeldLease::default(), Slow::default());
    let (_, stream) = sent([a_cancel(), v1::directive::Kind::Drain(v1::Drain { reconnect_after_ms: 5 })]);
    assert!(matches!(take_all(stream, &lease, &slow).await, Ended::Drained(_)));
    assert_eq!(slow.heard(), ["cancel"]);
}

#[tokio::test]
async fn a_flood_ends_the_connection() {
    let (lease, slow) = (HeldLease::default(), Slow::default());
    let (_open, stream) = sent((0..200).map(|_| an_order()));
    assert!(matches!(take_all(stream, &lease, &slow).await, Ended::Flooded));
}
