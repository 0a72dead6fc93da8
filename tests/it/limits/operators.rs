//! What people and scripts may take of the operators' listener: connections, streams, sizes.

use axum::{Router, routing::get};
use fleetmend_controller::{
    config::{OperatorLimits, Size},
    http::{ApiState, router},
};
use fleetmend_tests::tls::TlsClient;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    end_of,
    fixture::{Fleet, Operators, soon},
    raw::{self, RawClient},
};
use crate::api::fixture;

/// `/fast` answers at once, `/slow` never.
pub fn two_routes() -> Router {
    Router::new()
        .route("/fast", get(|| async { "here" }))
        .route("/slow", get(|| async { std::future::pending::<&str>().await }))
}

/// One HTTP/1.1 request on a connection of its own; the answer's status line and body.
pub async fn http1(operators: &Operators, tls: &TlsClient, request: &str) -> String {
    let mut stream = tls.http1().connect(operators.addr).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // A server that closes without the TLS farewell still answered.
    let _ = soon("an answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn get_text(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

#[tokio::test]
async fn a_connection_above_the_cap_is_closed_and_the_others_live() {
    let fleet = Fleet::new();
    let operators = fleet.operators(&OperatorLimits { max_connections: 1, ..OperatorLimits::default() }, two_routes());
    let mut first = RawClient::greet(fleet.nobody().connect(operators.addr).await.expect("connected")).await;
    operators.has_open(1).await;
    fleet.nobody().connect(operators.addr).await.expect_err("no place");
    first.send(&[raw::get(1, "/fast", &[])]).await;
    soon("an answer", first.until(|frame| frame.kind == raw::HEADERS)).await.expect("the first one lives");
}

#[tokio::test]
async fn one_address_may_hold_only_so_many_unfinished_handshakes() {
    let fleet = Fleet::new();
    let operators = fleet.operators(&OperatorLimits { per_address: 1, ..OperatorLimits::default() }, two_routes());
    let _silent = TcpStream::connect(operators.addr).await.expect("connected");
    let mut another = TcpStream::connect(operators.addr).await.expect("connected");
    end_of(&mut another).await.expect("closed at once");
}

#[tokio::test]
async fn one_stream_too_many_is_refused() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { max_concurrent_streams: 2, ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let mut client = RawClient::greet(fleet.nobody().connect(operators.addr).await.expect("connected")).await;
    client.send(&[1, 3, 5].map(|stream| raw::get(stream, "/slow", &[]))).await;
    let refused = soon("a refusal", client.until(|frame| frame.kind == raw::RST_STREAM)).await.expect("a refusal");
    assert_eq!((refused.stream, refused.code()), (5, Some(raw::REFUSED_STREAM)));
    operators.has_open(1).await;
}

#[tokio::test]
async fn streams_opened_and_reset_at_once_end_the_connection() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { max_pending_reset_streams: 5, ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let mut client = RawClient::greet(fleet.nobody().connect(operators.addr).await.expect("connected")).await;
    let flood: Vec<_> = (0..200).flat_map(|n| [raw::get(2 * n + 1, "/slow", &[]), raw::reset(2 * n + 1)]).collect();
    client.send(&flood).await;
    let end = soon("an end", client.until(|frame| frame.kind == raw::GOAWAY)).await.expect("a reason");
    assert_eq!(end.code(), Some(raw::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_client_whose_streams_must_be_reset_again_and_again_loses_its_connection() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { max_local_error_reset_streams: 3, ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let mut client = RawClient::greet(fleet.nobody().connect(operators.addr).await.expect("connected")).await;
    let wrong = |stream| {
        [raw::call(stream, "/slow", &[("content-length", "1")]), raw::frame(raw::DATA, 0, stream, b"too much")].concat()
    };
    client.send(&[1, 3, 5, 7].map(wrong)).await;
    let end = soon("an end", client.until(|frame| frame.kind == raw::GOAWAY)).await.expect("a reason");
    assert_eq!(end.code(), Some(raw::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn headers_above_the_limit_reach_no_handler() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { max_header_list: Size::kib(8), ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let bulk = |bytes: usize| format!("X-Bulk: {}\r\n", "a".repeat(bytes));
    let fine = http1(&operators, &fleet.nobody(), &get_text("/fast", &bulk(4 * 1024))).await;
    assert!(fine.starts_with("HTTP/1.1 200") && fine.ends_with("here"), "{fine}");
    let refused = http1(&operators, &fleet.nobody(), &get_text("/fast", &bulk(12 * 1024))).await;
    assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");

    operators.has_open(0).await;
    let mut client = RawClient::greet(fleet.nobody().connect(operators.addr).await.expect("connected")).await;
    client.send(&[raw::get(1, "/fast", &[("x-bulk", &"a".repeat(12 * 1024))])]).await;
    soon("an answer", client.until(|frame| frame.stream == 1)).await.expect("an answer");
    assert_eq!(operators.connections.requested(), 0, "a handler was reached");
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let (fleet, api) = (Fleet::new(), fixture::Fleet::new().await);
    let limits = OperatorLimits { max_body: Size::kib(128), ..OperatorLimits::default() };
    let state = ApiState { max_body: limits.max_body.bytes(), ..api.state.clone() };
    let operators = fleet.operators(&limits, router(state));
    let body = r#"{"serials":["S1"]}"#;
    let post = |size: usize| {
        format!(
            "POST /api/v1/devices/approve HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {size}\r\n\
             Content-Type: application/json\r\nAuthorization: Bearer {}\r\n\r\n{body}{}",
            api.operator,
            " ".repeat(size - body.len())
        )
    };
    let fine = http1(&operators, &fleet.nobody(), &post(128 * 1024)).await;
    assert!(fine.starts_with("HTTP/1.1 200"), "{fine}");
    let refused = http1(&operators, &fleet.nobody(), &post(128 * 1024 + 1)).await;
    assert!(refused.starts_with("HTTP/1.1 413") && refused.contains("131072 bytes at most"), "{refused}");
}
