//! The door that anybody can knock at.

use fleetmend_controller::config::Limits;
use fleetmend_proto::v1::{self, agent_service_client::AgentServiceClient, enrollment_client::EnrollmentClient};
use tonic::Code;

use super::{
    SHORT,
    fixture::Fleet,
    raw::{self, RawClient},
};

const ENROLL: &str = "/fleetmend.v1.Enrollment/Enroll";

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
    let mut agent = AgentServiceClient::new(agent);
    let refused = agent.report(v1::ReportRequest::default()).await.expect_err("not on this port");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    // A refused call was the one call too: else strangers could fill the port and stay.
    enrollment.has_open(0).await;
    drop(agent);
}

#[tokio::test]
async fn a_call_whose_body_never_comes_keeps_no_place() {
    let fleet = Fleet::new();
    let enrollment = fleet.enrollment(&Limits { unary_timeout: SHORT, ..Limits::enrollment() });
    let mut waiting = RawClient::greet(fleet.nobody().connect(enrollment.addr).await.expect("connected")).await;
    waiting.send(&[raw::call(1, ENROLL, &[])]).await;
    let mut reset = RawClient::greet(fleet.nobody().connect(enrollment.addr).await.expect("connected")).await;
    reset.send(&[raw::call(1, ENROLL, &[])]).await;
    enrollment.has_open(2).await;
    reset.send(&[raw::reset(1)]).await;
    enrollment.has_open(0).await;
    assert!(waiting.until(|_| false).await.is_none(), "closed by the listener");
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
