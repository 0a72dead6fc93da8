//! The end of serving.

use std::time::Duration;

use fleetmend_controller::config::Limits;
use fleetmend_proto::v1;
use tokio::time::Instant;

use super::{
    FAIR,
    fixture::{Fleet, eventually, next_directive, soon},
    report,
};

#[tokio::test]
async fn a_drain_lets_calls_end_then_cuts_what_stays() {
    let fleet = Fleet::new();
    let mut agents = fleet.agents_with_grace(&Limits::default(), FAIR.0);
    let mut client = agents.client(&fleet.device()).await;
    let mut stream = client.subscribe(v1::Hello::default()).await.expect("a stream").into_inner();
    let began = Instant::now();
    agents.shutdown.cancel();
    next_directive(&mut stream).await.expect("still open within the grace").expect("a directive");
    eventually("no longer accepting", || std::net::TcpStream::connect(agents.addr).is_err()).await;
    soon("the end of serving", &mut agents.served).await.expect("no panic").expect("no error");
    assert!(began.elapsed() >= FAIR.0, "drained in {:?}", began.elapsed());
    while let Some(Ok(_)) = next_directive(&mut stream).await {}
}

#[tokio::test]
async fn a_drain_without_calls_takes_no_grace() {
    let fleet = Fleet::new();
    let mut agents = fleet.agents_with_grace(&Limits::default(), Duration::from_secs(300));
    report(&agents, &fleet.device()).await.expect("a report");
    agents.shutdown.cancel();
    soon("the end of serving", &mut agents.served).await.expect("no panic").expect("no error");
}
