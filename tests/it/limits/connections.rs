//! Connections, handshakes, the rate of accepting, pings.

use std::time::Duration;

use fleetmend_controller::config::Limits;
use fleetmend_proto::v1;
use tokio::{net::TcpStream, time::Instant};

use super::{
    FAIR, SHORT, SLACK, SUBSCRIBE, end_of,
    fixture::{Fleet, Running, next_directive, soon},
    raw::{self, RawClient},
    report,
};

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_handshake_time_out() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { handshake_timeout: SHORT, ..Limits::default() });
    let opened = Instant::now();
    let mut silent = TcpStream::connect(agents.addr).await.expect("connected");
    end_of(&mut silent).await.expect("a plain close");
    assert!(opened.elapsed() >= SHORT.0 - SLACK, "closed after {:?}", opened.elapsed());
}

#[tokio::test]
async fn a_connection_without_a_request_is_cut_and_one_with_a_request_stays() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { first_request_timeout: FAIR, ..Limits::default() });
    let mut idle_later = agents.client(&fleet.device()).await;
    idle_later.report(v1::ReportRequest::default()).await.expect("a first request");
    let opened = Instant::now();
    let mut slow = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    agents.has_open(2).await;
    assert!(slow.until(|_| false).await.is_none(), "closed without a request");
    assert!(opened.elapsed() >= FAIR.0 - SLACK, "closed after {:?}", opened.elapsed());
    agents.has_open(1).await;
    idle_later.report(v1::ReportRequest::default()).await.expect("the other one lives");
}

#[tokio::test]
async fn a_connection_above_the_cap_is_closed_at_once_and_a_freed_place_is_used() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { max_connections: 2, ..Limits::default() });
    let first = agents.client(&fleet.device()).await;
    let _second = agents.client(&fleet.device()).await;
    agents.has_open(2).await;
    fleet.device().connect(agents.addr).await.expect_err("no place");
    assert_eq!(agents.connections.count(), 2);

    drop(first);
    agents.has_open(1).await;
    let freed = soon("a place", async {
        loop {
            // The place is free a moment after the connection left the list.
            match fleet.device().channel(agents.addr).await {
                Ok(channel) => return channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    agents.has_open(2).await;
    drop(freed);
}

#[tokio::test]
async fn handshakes_above_the_cap_wait_for_one_that_ends() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { max_handshakes: 1, handshake_timeout: FAIR, ..Limits::default() });
    let opened = Instant::now();
    let _silent = TcpStream::connect(agents.addr).await.expect("connected");
    report(&agents, &fleet.device()).await.expect("served after the silent one was closed");
    assert!(opened.elapsed() >= FAIR.0 - SLACK, "served after {:?}", opened.elapsed());
}

#[tokio::test]
async fn one_address_may_hold_only_so_many_unfinished_handshakes() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { per_address: 1, ..Limits::default() });
    let silent = TcpStream::connect(agents.addr).await.expect("connected");
    let mut another = TcpStream::connect(agents.addr).await.expect("connected");
    end_of(&mut another).await.expect("closed at once");
    drop(silent);
    soon("a handshake", async {
        while report_quietly(&agents, &fleet).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Finished handshakes do not count: a company may sit behind one address.
    let (_one, _two) = (agents.client(&fleet.device()).await, agents.client(&fleet.device()).await);
}

async fn report_quietly(agents: &Running, fleet: &Fleet) -> Result<(), tonic::transport::Error> {
    fleet.device().channel(agents.addr).await.map(|_| ())
}

#[tokio::test]
async fn connections_are_accepted_no_faster_than_the_rate() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { accepts_per_second: 20, ..Limits::default() });
    let began = Instant::now();
    // 20 at once, then one each 50 ms.
    let connects = (0..30).map(|_| fleet.nobody()).map(|tls| async move { tls.connect(agents.addr).await });
    futures::future::join_all(connects).await;
    assert!(began.elapsed() >= Duration::from_millis(450), "30 connections after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_cut() {
    let fleet = Fleet::new();
    let limits = Limits { keepalive_interval: SHORT, keepalive_timeout: FAIR, ..Limits::default() };
    let agents = fleet.agents(&limits);
    let mut alive = agents.client(&fleet.device()).await;
    let mut stream = alive.subscribe(v1::Hello::default()).await.expect("a stream").into_inner();
    let mut dead = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    dead.send(&[raw::call(1, SUBSCRIBE, &[])]).await;
    assert!(soon("an end", dead.until(|_| false)).await.is_none());
    agents.has_open(1).await;
    next_directive(&mut stream).await.expect("answers pings, so it lives").expect("a directive");
}
