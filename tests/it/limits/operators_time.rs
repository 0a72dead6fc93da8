//! How long, and how fast, clients of the operators' listener may be.

use std::time::Duration;

use fleetmend_controller::config::OperatorLimits;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use super::{
    FAIR, SHORT, SLACK, end_of,
    fixture::{Fleet, soon},
    operators::{http1, two_routes},
    raw::{self, RawClient},
};

const FAST: &str = "GET /fast HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const SLOW: &str = "GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_handshake_time_out() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { handshake_timeout: SHORT, ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let opened = Instant::now();
    let mut silent = TcpStream::connect(operators.addr).await.expect("connected");
    end_of(&mut silent).await.expect("a plain close");
    assert!(opened.elapsed() >= SHORT.0 - SLACK, "closed after {:?}", opened.elapsed());
}

#[tokio::test]
async fn handshakes_above_the_cap_wait_for_one_that_ends() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { max_handshakes: 1, handshake_timeout: FAIR, ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let opened = Instant::now();
    let _silent = TcpStream::connect(operators.addr).await.expect("connected");
    let answer = http1(&operators, &fleet.nobody(), FAST).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(opened.elapsed() >= FAIR.0 - SLACK, "served after {:?}", opened.elapsed());
}

#[tokio::test]
async fn connections_are_accepted_no_faster_than_the_rate() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { accepts_per_second: 20, ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let began = Instant::now();
    // 20 at once, then one each 50 ms.
    let connects = (0..30).map(|_| fleet.nobody()).map(|tls| async move { tls.connect(operators.addr).await });
    futures::future::join_all(connects).await;
    assert!(began.elapsed() >= Duration::from_millis(450), "30 connections after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_without_a_whole_request_is_cut() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { first_request_timeout: SHORT, ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let mut quiet = RawClient::greet(fleet.nobody().connect(operators.addr).await.expect("connected")).await;
    assert!(soon("an end", quiet.until(|_| false)).await.is_none(), "closed without a request");
    let mut half = fleet.nobody().http1().connect(operators.addr).await.expect("connected");
    half.write_all(b"GET /fast HTTP/1.1\r\nHost: local").await.expect("written");
    // Cut, with or without a farewell.
    let _ = end_of(&mut half).await;
    operators.has_open(0).await;
}

#[tokio::test]
async fn a_slow_handler_is_given_up() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { request_timeout: FAIR, ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let asked = Instant::now();
    let answer = http1(&operators, &fleet.nobody(), SLOW).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("try again later"), "{answer}");
    assert!(asked.elapsed() >= FAIR.0 - SLACK, "given up after {:?}", asked.elapsed());
    let answer = http1(&operators, &fleet.nobody(), FAST).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_cut() {
    let fleet = Fleet::new();
    let limits = OperatorLimits { keepalive_interval: SHORT, keepalive_timeout: SHORT, ..OperatorLimits::default() };
    let operators = fleet.operators(&limits, two_routes());
    let mut dead = RawClient::greet(fleet.nobody().connect(operators.addr).await.expect("connected")).await;
    dead.send(&[raw::get(1, "/slow", &[])]).await;
    assert!(soon("an end", dead.until(|_| false)).await.is_none());
    operators.has_open(0).await;
}
