//! Limits of one device, whatever connections it makes.

use fleetmend_controller::config::Limits;
use fleetmend_proto::{clock::wall_now, v1};
use tonic::Code;

use super::{
    fixture::{Fleet, next_directive, soon},
    report,
};

#[tokio::test]
async fn a_device_above_its_rate_is_told_how_long_to_wait_and_others_are_not() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { device_messages_per_minute: 60, device_burst: 3, ..Limits::default() });
    let identity = fleet.identity(wall_now());
    // The rate is the device's, not the connection's.
    for _ in 0..3 {
        report(&agents, &fleet.client(&identity)).await.expect("within the burst");
    }
    let refused = report(&agents, &fleet.client(&identity)).await.expect_err("too fast");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let wait: u64 =
        refused.metadata().get("retry-after-ms").and_then(|it| it.to_str().ok()?.parse().ok()).expect("a wait");
    assert!((1..=1000).contains(&wait), "{wait} ms");
    report(&agents, &fleet.device()).await.expect("another device");
}

#[tokio::test]
async fn a_device_can_be_cut_off_with_all_its_connections() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    let (banned, other) = (fleet.identity(wall_now()), fleet.identity(wall_now()));
    let mut streams = Vec::new();
    for identity in [&banned, &banned, &other] {
        let mut client = agents.client(&fleet.client(identity)).await;
        streams.push(client.subscribe(v1::Hello::default()).await.expect("a stream").into_inner());
    }
    assert_eq!(agents.connections.kill(banned.device), 2);
    for stream in &mut streams[..2] {
        soon("the end of a cut stream", async { while let Some(Ok(_)) = next_directive(stream).await {} }).await;
    }
    next_directive(&mut streams[2]).await.expect("the other one lives").expect("a directive");
    assert_eq!(agents.connections.devices(), [other.device]);
}

#[tokio::test]
async fn a_connection_too_many_of_a_device_ends_its_oldest() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { per_device: 2, ..Limits::default() });
    let (mine, others) = (fleet.client(&fleet.identity(wall_now())), fleet.device());
    let mut streams = Vec::new();
    for tls in [&mine, &others, &mine, &mine] {
        let mut client = agents.client(tls).await;
        streams.push(client.subscribe(v1::Hello::default()).await.expect("a stream").into_inner());
    }
    agents.has_open(3).await;
    soon("the end of the oldest", async { while let Some(Ok(_)) = next_directive(&mut streams[0]).await {} }).await;
    for stream in &mut streams[1..] {
        next_directive(stream).await.expect("the others live").expect("a directive");
    }
}
