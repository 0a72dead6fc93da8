//! Every limit of a listener, tested by a client that breaks it, and every certificate it must turn away. Time limits are set
//! small; nothing is waited for but its condition.

#[path = "limits/fixture.rs"]
mod fixture;
#[path = "limits/raw.rs"]
mod raw;

use std::{io, time::Duration};

use chrono::TimeDelta;
use fixture::{Fleet, GRACE, LARGE_GENERATION, Running, eventually, next_directive, soon};
use fleetmend_controller::config::{Limits, Size, Span};
use fleetmend_proto::{
    DeviceId, FleetId,
    clock::wall_now,
    v1::{self, enrollment_client::EnrollmentClient},
};
use fleetmend_tests::tls::{Identity, TlsClient};
use raw::RawClient;
use rustls::version::TLS12;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::TcpStream,
    time::Instant,
};
use tonic::{Code, Status};
use uuid::Uuid;

const REPORT: &str = "/fleetmend.v1.AgentService/Report";
const SUBSCRIBE: &str = "/fleetmend.v1.AgentService/Subscribe";
const SHORT: Span = Span(Duration::from_millis(300));

/// Reads to the end; `Ok` for a plain close, `Err` with the alert otherwise.
async fn end_of(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = [0; 4096];
    soon("the end of a connection", async {
        while stream.read(&mut buffer).await? > 0 {}
        Ok(())
    })
    .await
}

async fn report(agents: &Running, tls: &TlsClient) -> Result<(), Status> {
    agents.client(tls).await.report(v1::ReportRequest::default()).await.map(|_| ())
}

// ---- sizes

#[tokio::test]
async fn an_oversized_message_is_refused_and_a_smaller_one_is_not() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { max_decoding: Size::kib(4), ..Limits::default() });
    let mut client = agents.client(&fleet.device()).await;
    let request = |bytes| v1::RenewRequest { csr_der: vec![0; bytes].into(), generation: 1 };
    let refused = client.renew(request(5000)).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    client.renew(request(3000)).await.expect("small enough, on the same connection");
}

#[tokio::test]
async fn an_answer_above_the_limit_is_not_sent() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { max_encoding: Size::kib(4), ..Limits::default() });
    let mut client = agents.client(&fleet.device()).await;
    let asked = client.renew(v1::RenewRequest { csr_der: Vec::new().into(), generation: LARGE_GENERATION }).await;
    assert_eq!(asked.expect_err("too large").code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_header_list_above_the_limit_never_reaches_a_handler() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { max_header_list: Size::kib(2), ..Limits::default() });
    let mut client = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    client.send(&[raw::call(1, REPORT, &[("x-bulk", &"a".repeat(3000))])]).await;
    client.until(|frame| frame.stream == 1).await.expect("an answer");
    assert_eq!(
        agents.connections.of(agents.connections.devices()[0]).iter().filter(|conn| conn.requested()).count(),
        0
    );
}

#[tokio::test]
async fn a_frame_above_the_limit_ends_the_connection() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    let mut client = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    client.send(&[raw::call(1, REPORT, &[]), raw::frame(raw::DATA, 0, 1, &vec![0; 16 * 1024 + 1])]).await;
    let end = client.until(|frame| frame.kind == raw::GOAWAY).await.expect("a reason");
    assert_eq!(end.code(), Some(raw::FRAME_SIZE_ERROR));
}

#[tokio::test]
async fn the_settings_frame_states_every_limit() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    let mut client = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    let settings = client.until(|frame| frame.kind == raw::SETTINGS).await.expect("settings").settings();
    // RFC 9113 6.5.2: 3 streams, 4 window, 5 frame, 6 header list. A value left at the protocol's own default may be absent.
    for (id, value, default) in [(3, 8, None), (4, 65_536, Some(65_535)), (5, 16_384, Some(16_384)), (6, 8_192, None)] {
        let stated = settings.iter().find(|(it, _)| *it == id).map(|(_, value)| *value);
        assert_eq!(stated.or(default), Some(value), "setting {id} in {settings:?}");
    }
}

// ---- streams and requests of one connection

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
    let agents = fleet.agents(&Limits { unary_timeout: SHORT, ..Limits::default() });
    let mut client = agents.client(&fleet.device()).await;
    let mut stream = client.subscribe(v1::Hello::default()).await.expect("a stream").into_inner();
    let asked = Instant::now();
    let late = client.begin(v1::BeginRequest::default()).await.expect_err("never answered");
    assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late}");
    assert!(asked.elapsed() >= SHORT.0);
    let opened = Instant::now();
    while opened.elapsed() < SHORT.0 {
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

// ---- connections and handshakes

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_handshake_time_out() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { handshake_timeout: SHORT, ..Limits::default() });
    let opened = Instant::now();
    let mut silent = TcpStream::connect(agents.addr).await.expect("connected");
    end_of(&mut silent).await.expect("a plain close");
    assert!(opened.elapsed() >= SHORT.0 - Duration::from_millis(50), "closed after {:?}", opened.elapsed());
}

#[tokio::test]
async fn a_connection_without_a_request_is_cut_and_one_with_a_request_stays() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits { first_request_timeout: SHORT, ..Limits::default() });
    let mut idle_later = agents.client(&fleet.device()).await;
    idle_later.report(v1::ReportRequest::default()).await.expect("a first request");
    let opened = Instant::now();
    let mut slow = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    agents.has_open(2).await;
    assert!(slow.until(|_| false).await.is_none(), "closed without a request");
    assert!(opened.elapsed() >= SHORT.0 - Duration::from_millis(50), "closed after {:?}", opened.elapsed());
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
    let agents = fleet.agents(&Limits { max_handshakes: 1, handshake_timeout: SHORT, ..Limits::default() });
    let opened = Instant::now();
    let _silent = TcpStream::connect(agents.addr).await.expect("connected");
    report(&agents, &fleet.device()).await.expect("served after the silent one was closed");
    assert!(opened.elapsed() >= SHORT.0 - Duration::from_millis(50), "served after {:?}", opened.elapsed());
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
    let limits = Limits { keepalive_interval: SHORT, keepalive_timeout: SHORT, ..Limits::default() };
    let agents = fleet.agents(&limits);
    let mut alive = agents.client(&fleet.device()).await;
    let mut stream = alive.subscribe(v1::Hello::default()).await.expect("a stream").into_inner();
    let mut dead = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    dead.send(&[raw::call(1, SUBSCRIBE, &[])]).await;
    assert!(soon("an end", dead.until(|_| false)).await.is_none());
    agents.has_open(1).await;
    next_directive(&mut stream).await.expect("answers pings, so it lives").expect("a directive");
}

// ---- devices

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
    let cut = Instant::now();
    for stream in &mut streams[..2] {
        while let Some(Ok(_)) = next_directive(stream).await {}
    }
    assert!(cut.elapsed() < Duration::from_secs(1), "ended after {:?}", cut.elapsed());
    next_directive(&mut streams[2]).await.expect("the other one lives").expect("a directive");
    assert_eq!(agents.connections.devices(), [other.device]);
}

// ---- certificates

/// What a client sees of a listener that turned it away: the alert at its first read, or no connection at all.
async fn turned_away(agents: &Running, tls: &TlsClient) -> String {
    match tls.connect(agents.addr).await {
        Err(error) => error.to_string(),
        Ok(mut stream) => end_of(&mut stream).await.expect_err("an alert").to_string(),
    }
}

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

// ---- enrolment

#[tokio::test]
async fn enrolment_is_one_call_and_the_only_one() {
    let fleet = Fleet::new();
    let enrollment = fleet.enrollment(&Limits::enrollment());
    let channel = fleet.nobody().channel(enrollment.addr).await.expect("connected");
    let mut client = EnrollmentClient::new(channel.clone());
    client.enroll(v1::EnrollRequest::default()).await.expect("the one call");
    let refused = client.enroll(v1::EnrollRequest::default()).await.expect_err("a second call");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // The connection is closed by the listener, though the client keeps its channel.
    enrollment.has_open(0).await;

    let agent = fleet.nobody().channel(enrollment.addr).await.expect("connected");
    let mut agent = v1::agent_service_client::AgentServiceClient::new(agent);
    let refused = agent.report(v1::ReportRequest::default()).await.expect_err("not on this port");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test]
async fn a_method_that_is_in_no_table_is_not_answered() {
    let fleet = Fleet::new();
    let agents = fleet.agents(&Limits::default());
    let channel = fleet.device().channel(agents.addr).await.expect("connected");
    let mut enrollment = EnrollmentClient::new(channel);
    let refused = enrollment.enroll(v1::EnrollRequest::default()).await.expect_err("not on this port");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

// ---- the end

#[tokio::test]
async fn a_drain_lets_calls_end_then_cuts_what_stays() {
    let fleet = Fleet::new();
    let mut agents = fleet.agents(&Limits::default());
    let mut client = agents.client(&fleet.device()).await;
    let mut stream = client.subscribe(v1::Hello::default()).await.expect("a stream").into_inner();
    let began = Instant::now();
    agents.shutdown.cancel();
    next_directive(&mut stream).await.expect("still open within the grace").expect("a directive");
    eventually("no longer accepting", || std::net::TcpStream::connect(agents.addr).is_err()).await;
    soon("the end of serving", &mut agents.served).await.expect("no panic").expect("no error");
    assert!(began.elapsed() >= GRACE && began.elapsed() < Duration::from_secs(4), "drained in {:?}", began.elapsed());
    while let Some(Ok(_)) = next_directive(&mut stream).await {}
}

#[tokio::test]
async fn a_drain_without_calls_takes_no_grace() {
    let fleet = Fleet::new();
    let mut agents = fleet.agents(&Limits::default());
    report(&agents, &fleet.device()).await.expect("a report");
    agents.shutdown.cancel();
    let began = Instant::now();
    soon("the end of serving", &mut agents.served).await.expect("no panic").expect("no error");
    assert!(began.elapsed() < GRACE, "drained in {:?}", began.elapsed());
}
