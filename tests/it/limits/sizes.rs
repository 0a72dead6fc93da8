//! Sizes: messages, headers, frames, flow-control windows.

use fleetmend_controller::config::{Limits, Size};
use fleetmend_proto::v1;
use tonic::Code;

use super::{
    BEGIN, REPORT,
    fixture::{Fleet, LARGE_GENERATION, Running, soon},
    raw::{self, RawClient},
};

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

/// A call with 160 KiB of message in one frame, whatever the windows say: nothing can be given back in between.
async fn flooded(agents: &Running, fleet: &Fleet) -> RawClient {
    let mut client = RawClient::greet(fleet.device().connect(agents.addr).await.expect("connected")).await;
    client.until(|frame| frame.kind == raw::SETTINGS).await.expect("settings");
    let message = [&[0, 0, 2, 128, 0][..], &[0; 160 * 1024]].concat();
    // A window counts from the client's word that it knows it.
    let known = raw::frame(raw::SETTINGS, raw::ACK, 0, &[]);
    client.send(&[known, raw::call(1, BEGIN, &[]), raw::frame(raw::DATA, 0, 1, &message)]).await;
    client
}

#[tokio::test]
async fn more_data_than_a_window_is_an_error_of_the_connection_or_the_stream() {
    let fleet = Fleet::new();
    let wide = Limits {
        max_frame: Size::kib(512),
        stream_window: Size::kib(1024),
        connection_window: Size::kib(1024),
        ..Limits::default()
    };
    for (limits, kind) in [
        (Limits { connection_window: Size::kib(64), ..wide.clone() }, raw::GOAWAY),
        (Limits { stream_window: Size::kib(64), ..wide.clone() }, raw::RST_STREAM),
    ] {
        let agents = fleet.agents(&limits);
        let mut client = flooded(&agents, &fleet).await;
        let end = soon("an end", client.until(|frame| [raw::GOAWAY, raw::RST_STREAM].contains(&frame.kind))).await;
        let end = end.expect("a reason");
        assert_eq!((end.kind, end.code()), (kind, Some(raw::FLOW_CONTROL_ERROR)));
    }
    let agents = fleet.agents(&wide);
    let mut client = flooded(&agents, &fleet).await;
    let answers = [raw::HEADERS, raw::GOAWAY, raw::RST_STREAM];
    let answer = soon("an answer", client.until(|frame| answers.contains(&frame.kind))).await;
    assert_eq!(answer.map(|frame| (frame.kind, frame.stream)), Some((raw::HEADERS, 1)), "the windows are wide enough");
}
