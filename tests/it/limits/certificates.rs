//! Every certificate a listener must turn away.

use chrono::TimeDelta;
use fleetmend_controller::config::Limits;
use fleetmend_proto::{DeviceId, FleetId, clock::wall_now, v1};
use fleetmend_tests::tls::{Identity, TlsClient};
use rustls::version::TLS12;
use tonic::Code;
use uuid::Uuid;

use super::{fixture::Fleet, report, turned_away};

#[tokio::test]
async fn a_client_without_a_certificate_is_turned_away() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    let said = turned_away(&agents, &fleet.nobody()).await;
    assert!(said.contains("CertificateRequired"), "{said}");
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_turned_away() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    let agents = fleet.agents(&Limits::default());
    // Names this fleet, but is signed by another.
    let device = DeviceId(Uuid::new_v4());
    let forged = Identity::issued(&stranger.issuer, fleet.config.fleet, device, wall_now()).expect("issued");
    let said = turned_away(&agents, &fleet.client(&forged)).await;
    assert!(said.contains("UnknownCA") || said.contains("DecryptError"), "{said}");
}

#[tokio::test]
async fn a_certificate_of_another_fleet_is_turned_away_though_the_ca_is_ours() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    let device = DeviceId(Uuid::new_v4());
    let foreign = Identity::issued(&fleet.issuer, FleetId(Uuid::new_v4()), device, wall_now()).expect("issued");
    let said = turned_away(&agents, &fleet.client(&foreign)).await;
    assert!(said.contains("AccessDenied"), "{said}");
}

#[tokio::test]
async fn a_certificate_expired_for_too_long_is_turned_away() {
    let fleet = Fleet::made_at(wall_now() - TimeDelta::days(200));
    let agents = fleet.agents(&Limits::default());
    let old = fleet.identity(wall_now() - TimeDelta::days(14 + 91));
    let said = turned_away(&agents, &fleet.client(&old)).await;
    assert!(said.contains("CertificateExpired"), "{said}");
}

#[tokio::test]
async fn a_certificate_expired_lately_may_renew_and_nothing_else() {
    let fleet = Fleet::made_at(wall_now() - TimeDelta::days(200));
    let agents = fleet.agents(&Limits::default());
    let slept = fleet.client(&fleet.identity(wall_now() - TimeDelta::days(14 + 60)));
    let mut client = agents.client(&slept).await;
    client.renew(v1::RenewRequest::default()).await.expect("renewal");
    for refused in [
        client.report(v1::ReportRequest::default()).await.map(|_| ()),
        client.subscribe(v1::Hello::default()).await.map(|_| ()),
        client.begin(v1::BeginRequest::default()).await.map(|_| ()),
    ] {
        let refused = refused.expect_err("renewal only");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        assert!(refused.message().contains("renew"), "{refused}");
    }
}

#[tokio::test]
async fn a_certificate_from_the_future_is_turned_away() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    let early = fleet.identity(wall_now() + TimeDelta::days(3));
    let said = turned_away(&agents, &fleet.client(&early)).await;
    assert!(said.contains("CertificateExpired"), "TLS has one alert for both: {said}");
}

#[tokio::test]
async fn tls_1_2_is_turned_away() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    let identity = fleet.identity(wall_now());
    let old = TlsClient::speaking(&fleet.server_root, Some(&identity), &TLS12).expect("a client");
    let said = turned_away(&agents, &old).await;
    assert!(said.contains("ProtocolVersion"), "{said}");
}

#[tokio::test]
async fn an_agent_turns_away_a_controller_of_another_root() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    let agents = fleet.agents(&Limits::default());
    let identity = fleet.identity(wall_now());
    let client = TlsClient::new(&stranger.server_root, Some(&identity)).expect("a client");
    let error = client.connect(agents.addr).await.expect_err("another root");
    assert!(error.to_string().contains("UnknownIssuer") || error.to_string().contains("BadSignature"), "{error}");
}

#[tokio::test]
async fn no_session_can_be_resumed() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    // The client would resume if it had got a ticket.
    let tls = fleet.device();
    for _ in 0..2 {
        report(&agents, &tls).await.expect("a report");
        let stream = tls.connect(agents.addr).await.expect("connected");
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}
