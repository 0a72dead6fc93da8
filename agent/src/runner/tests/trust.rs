//! Who may speak to whom, and what people are told when it fails.

use super::*;
use crate::{
    enroll::EnrollError,
    identity::Identity,
    link::{LinkError, Patience, connect, failure::chain, renewal, within},
    runner::enroll_once,
};
use fleetmend_proto::v1;

fn nowhere() -> CollectedPc {
    CollectedPc::open(None).expect("needs no folder")
}

#[tokio::test]
async fn a_controller_under_another_root_is_not_believed() {
    let (controller, other, pc) = (FakeController::start().await, FakeController::start().await, Pc::new());
    let config = Config { server_root: other.server_root.clone(), ..pc.config(&controller) };
    let error = enroll_once(&config, &nowhere()).await.expect_err("enrolled at a stranger");
    assert!(matches!(&error, RunError::Enroll(EnrollError::Link(LinkError::WrongServerRoot { .. }))), "{error:?}");
    let said = chain(&error);
    assert!(said.contains("not signed by the pinned server root") && said.contains("server_root"), "{said}");
    assert!(pc.token().exists(), "the token is gone although nothing was enrolled");
}

#[tokio::test]
async fn an_unknown_token_is_named_and_kept() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    std::fs::write(pc.token(), "guess").expect("write");
    let error = pc.start(&controller).error().await;
    assert!(matches!(&error, RunError::Enroll(EnrollError::TokenRefused { .. })), "{error:?}");
    assert!(Identity::load(&pc.data()).expect("readable").is_none());
}

#[tokio::test]
async fn a_controller_of_another_fleet_is_told_apart() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let config = Config { fleet: fleetmend_proto::FleetId(uuid::Uuid::from_u128(1)), ..pc.config(&controller) };
    let error = enroll_once(&config, &nowhere()).await.expect_err("enrolled into another fleet");
    assert!(matches!(error, RunError::Enroll(EnrollError::OtherFleet { .. })));
    assert!(Identity::load(&pc.data()).expect("readable").is_none());
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let url = format!("https://{free}").parse().expect("an address");
    let config = Config { enrollment: url, ..pc.config(&controller) };
    let error = enroll_once(&config, &nowhere()).await.expect_err("enrolled at nobody's");
    assert!(matches!(&error, RunError::Enroll(EnrollError::Link(LinkError::Unreachable { .. }))), "{error:?}");
}

#[tokio::test]
async fn a_certificate_that_ran_out_is_named() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let identity = controller.identity((2020, 1, 1), (2020, 1, 15));
    let config = pc.config(&controller);
    let tls = config.server_root.with_identity(&identity).expect("usable");
    let error = match connect(&config.agent, &tls, &config.link.channel).await {
        Ok(channel) => match renewal::renew(&channel, &config.link.channel, &identity, &pc.data()).await {
            Err(renewal::RenewError::Link(error)) => error,
            other => panic!("{other:?}"),
        },
        Err(error) => error,
    };
    assert!(matches!(error, LinkError::DeviceCertificateExpired), "{error:?}");
    // The running agent does not even try after 90 days, and says what to do.
    std::fs::create_dir_all(pc.data()).expect("a folder");
    identity.save(&pc.data()).expect("saves");
    let said = chain(&pc.start(&controller).error().await);
    assert!(said.contains("enrol again with a new token"), "{said}");
}

#[tokio::test]
async fn a_certificate_of_another_fleets_ca_is_refused() {
    let (controller, other, pc) = (FakeController::start().await, FakeController::start().await, Pc::new());
    let identity = other.identity((2020, 1, 1), (4000, 1, 1));
    let config = pc.config(&controller);
    let tls = config.server_root.with_identity(&identity).expect("usable");
    let error = match connect(&config.agent, &tls, &config.link.channel).await {
        Ok(channel) => {
            let hello = channel.agent().subscribe(v1::Hello::default()).await.map(|_| ()).expect_err("let in");
            channel.failure(hello)
        }
        Err(error) => error,
    };
    assert!(matches!(error, LinkError::DeviceCertificateRefused), "{error:?}");
    assert_eq!(error.patience(), Patience::Long);
}

#[tokio::test]
async fn a_banned_device_comes_back_when_it_is_let_in_again() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    controller.mood().banned = true;
    pc.record(5_200_000..5_200_002);
    let agent = pc.start(&controller);
    controller.until("some refused connections", |calls| hellos(calls) >= 2).await;
    assert!(controller.stored().is_empty());
    controller.mood().banned = false;
    controller.until_stored(2).await;
    agent.stop().await;
}

#[tokio::test]
async fn renewal_is_due_at_half_of_a_certificates_life() {
    let controller = FakeController::start().await;
    let identity = controller.identity((2026, 1, 1), (2026, 1, 21));
    let day = |unit| identity.renew_at(unit).format("%m-%d").to_string();
    assert_eq!((day(0.0), day(0.5), day(1.0)), ("01-10".to_owned(), "01-11".to_owned(), "01-12".to_owned()));
    assert!(identity.is_renewable(identity.not_after()) && identity.is_expired(identity.not_after()));
}

#[tokio::test]
async fn a_call_that_is_never_answered_ends() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let config = pc.config(&controller);
    let identity = controller.identity((2020, 1, 1), (4000, 1, 1));
    let tls = config.server_root.with_identity(&identity).expect("usable");
    let channel = connect(&config.agent, &tls, &config.link.channel).await.expect("connects");
    let never = std::future::pending::<Result<tonic::Response<()>, tonic::Status>>();
    let error = within(Duration::from_millis(1), &channel, never).await.expect_err("answered");
    assert!(matches!(error, LinkError::NoAnswer { .. }));
}

#[tokio::test]
async fn a_certificate_past_half_of_its_life_is_renewed_and_used() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let old = controller.identity((2020, 1, 1), (2027, 12, 31));
    std::fs::create_dir_all(pc.data()).expect("a folder");
    old.save(&pc.data()).expect("saves");
    pc.record(5_200_000..5_200_001);
    let agent = pc.start(&controller);
    controller
        .until("a connection after the renewal", |calls| {
            let renewed = calls.iter().position(|it| matches!(it, Call::Renew { generation: 1, .. }));
            renewed.is_some_and(|at| hellos(&calls[at..]) > 0)
        })
        .await;
    controller.until_stored(1).await;
    agent.stop().await;
    let new = Identity::load(&pc.data()).expect("readable").expect("is there");
    assert_eq!((new.device(), new.generation()), (old.device(), 2));
    assert!(new.not_after() > old.not_after());
}

fn keys(calls: &[Call]) -> Vec<Vec<u8>> {
    let key = |it: &Call| match it {
        Call::Renew { key, .. } | Call::Enroll { key } => Some(key.clone()),
        Call::Hello { .. } | Call::Report { .. } | Call::Begin { .. } | Call::Update { .. } => None,
    };
    calls.iter().filter_map(key).collect()
}

#[tokio::test]
async fn each_certificate_has_a_key_of_its_own_and_a_lost_answer_is_asked_for_again() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let old = controller.identity((2020, 1, 1), (2027, 12, 31));
    std::fs::create_dir_all(pc.data()).expect("a folder");
    old.save(&pc.data()).expect("saves");
    controller.mood().lost_certificates = 1_000;
    let agent = pc.start(&controller);
    controller.until("two renewals", |calls| keys(calls).len() >= 2).await;
    agent.kill().await;
    let kept = Identity::load(&pc.data()).expect("readable").expect("is there");
    assert_eq!(kept.key_der(), old.key_der(), "the old certificate was given up before the new one was there");
    controller.mood().lost_certificates = 0;
    let agent = pc.start(&controller);
    controller.until("the renewal after the restart", |calls| keys(calls).len() >= 3 && hellos(calls) >= 3).await;
    agent.stop().await;
    let asked = keys(&controller.calls());
    assert!(asked.iter().all(|key| *key == asked[0]), "asked for several keys: the answer can never be repeated");
    let new = Identity::load(&pc.data()).expect("readable").expect("is there");
    assert_eq!(new.generation(), 2);
    assert_ne!(new.key_der(), old.key_der(), "renewed with the same key: a copy of the disk is never noticed");
    let next = crate::identity::PendingKey::kept(&pc.data(), Some(&new)).expect("a key");
    assert_ne!(next.signing_request().expect("signs"), Vec::<u8>::new());
    assert!(!format!("{next:?}").contains("key_der"));
}

#[tokio::test]
async fn a_lost_enrolment_is_repeated_with_the_same_key() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    controller.mood().lost_certificates = 1_000;
    let agent = pc.start(&controller);
    controller.until("two enrolments", |calls| keys(calls).len() >= 2).await;
    agent.kill().await;
    controller.mood().lost_certificates = 0;
    let agent = pc.start(&controller);
    controller.until("a hello", |calls| hellos(calls) > 0).await;
    agent.stop().await;
    let asked = keys(&controller.calls());
    assert!(asked.len() >= 3 && asked.iter().all(|key| *key == asked[0]), "{} keys", asked.len());
    assert!(!pc.data().join("next-key.json").exists(), "the key has its certificate");
}
