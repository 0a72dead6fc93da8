//! Streams and requests of one connection.

use fleetmend_controller::config::Limits;
use fleetmend_proto::v1;
use tokio::time::Instant;
use tonic::Code;

use super::{
    FAIR, REPORT, SUBSCRIBE,
    fixture::{Fleet, next_directive, soon},
    raw::{self, RawClient},
};

#[tokio::test]
async fn one_stream_too_many_is_refused_and_the_others_live() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { max_concurrent_streams: 3, ..Limits::default() });
    let mut client = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    let calls: Vec<_> = [1, 3, 5, 7].map(|stream| raw::call(stream, SUBSCRIBE, &[])).into();
    client.send(&calls).await;
    let refused = client.until(|frame| frame.kind == raw::RST_STREAM).await.expect("a refusal");
    assert_eq!((refused.stream, refused.code()), (7, Some(raw::REFUSED_STREAM)));
    assert_eq!(agents.connections.count(), 1);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_end_the_connection() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { max_pending_reset_streams: 5, ..Limits::default() });
    let mut client = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    let flood: Vec<_> = (0..200).flat_map(|n| [raw::call(2 * n + 1, REPORT, &[]), raw::reset(2 * n + 1)]).collect();
    client.send(&flood).await;
    let end = client.until(|frame| frame.kind == raw::GOAWAY).await.expect("a reason");
    assert_eq!(end.code(), Some(raw::ENHANCE_YOUR_CALM));
    agents.has_open(0).await;
}

#[tokio::test]
async fn one_request_too_many_at_once_is_shed() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { concurrency_per_connection: 1, ..Limits::default() });
    let client = agents.client(&fleet.device()).await;
    let (mut waiting, mut second) = (client.clone(), client);
    let held = tokio::spawn(async move { waiting.begin(v1::BeginRequest::default()).await });
    // The first request may arrive after the second: ask until it is there.
    let refused = soon("a refusal", async {
        loop {
            if let Err(status) = second.report(v1::ReportRequest::default()).await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    held.abort();
}

#[tokio::test]
async fn a_slow_handler_is_cut_by_the_unary_time_out_and_a_stream_is_not() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { unary_timeout: FAIR, ..Limits::default() });
    let mut client = agents.client(&fleet.device()).await;
    let mut stream = client.subscribe(v1::Hello::default()).await.expect("a stream").into_inner();
    let asked = Instant::now();
    let late = client.begin(v1::BeginRequest::default()).await.expect_err("never answered");
    assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late}");
    assert!(asked.elapsed() >= FAIR.0);
    let opened = Instant::now();
    while opened.elapsed() < FAIR.0 {
        next_directive(&mut stream).await.expect("the stream goes on").expect("a directive");
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_ends_the_request_alone() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    let mut client = agents.client(&fleet.device()).await;
    let failed = client.update_order(v1::UpdateOrderRequest::default()).await.expect_err("panicked");
    assert_eq!(failed.code(), Code::Internal, "{failed}");
    client.report(v1::ReportRequest::default()).await.expect("the connection still works");
}

#[tokio::test]
async fn a_client_whose_streams_must_be_reset_again_and_again_loses_its_connection() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { max_local_error_reset_streams: 5, ..Limits::default() });
    let mut client = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    // More body than announced: an error of that stream alone, each time.
    let wrong = |stream| {
        [raw::call(stream, SUBSCRIBE, &[("content-length", "1")]), raw::frame(raw::DATA, 0, stream, b"too much")]
            .concat()
    };
    for n in 0..5 {
        client.send(&[wrong(2 * n + 1)]).await;
        let reset = client.until(|frame| frame.kind == raw::RST_STREAM).await.expect("the stream alone is reset");
        assert_eq!((reset.stream, reset.code()), (2 * n + 1, Some(raw::PROTOCOL_ERROR)));
    }
    client.send(&[wrong(11)]).await;
    let end = client.until(|frame| frame.kind == raw::GOAWAY).await.expect("a reason");
    assert_eq!(end.code(), Some(raw::ENHANCE_YOUR_CALM));
    agents.has_open(0).await;
}
