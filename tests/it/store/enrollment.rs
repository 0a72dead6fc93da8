//! Tokens: counted down once each, never more; hardware that two claim; serial numbers given before.

use chrono::TimeDelta;
use fleetmend_controller::store::{DeviceFilter, DeviceState, EnrollRefused, PageRequest, Selector};
use fleetmend_proto::clock::wall_now;

use super::world::{World, enrolling};

async fn one_use_is_one_device_however_many_ask(world: World) {
    let token = world.token(1, false).await;
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let store = world.store.clone();
        let enrolling = enrolling(token, world.now);
        tries.spawn(async move {
            // A try that found the database busy has spent nothing and comes again.
            loop {
                match store.device_enroll(enrolling.clone(), wall_now()).await {
                    Ok(answer) => return answer,
                    Err(error) if error.is_transient() => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let answers = tries.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Err(EnrollRefused::UsedUp)).count(), 999);
    let devices = world.store.device_list(&DeviceFilter::default(), &PageRequest::default()).await.expect("a list");
    assert_eq!(devices.items.len(), 1);
    assert_eq!(world.store.token_list().await.expect("tokens")[0].uses_left, 0);
}

async fn a_refusal_says_why(world: World) {
    let refused = async |token| {
        let answer = world.store.device_enroll(enrolling(token, world.now), wall_now()).await.expect("an answer");
        answer.expect_err("no device")
    };
    assert_eq!(refused([9; 32]).await, EnrollRefused::Unknown);
    let token = world.token(5, false).await;
    let late = wall_now() + TimeDelta::hours(1);
    let answer = world.store.device_enroll(enrolling(token, world.now), late).await.expect("an answer");
    assert_eq!(answer.expect_err("too late"), EnrollRefused::Expired);
    let id = world.store.token_list().await.expect("tokens")[0].id;
    world.store.token_revoke(id, "ada", world.now).await.expect("a token to revoke");
    assert_eq!(refused(token).await, EnrollRefused::Unknown);
}

async fn a_new_device_waits_for_approval_unless_expected(world: World) {
    let token = world.token(10, false).await;
    let first = enrolling(token, world.now);
    let enrolled = world.store.device_enroll(first.clone(), wall_now()).await.expect("an answer").expect("a device");
    assert!(enrolled.quarantined);
    assert_eq!(enrolled.generation, 1);

    let expected = enrolling(token, world.now);
    let serials = vec![expected.serial.clone(), first.serial.clone(), "NEVER-SEEN".to_owned()];
    let approved =
        world.store.devices_approve(Selector::Serials(serials), "ada", world.now).await.expect("an approval");
    assert_eq!(approved.approved, vec![first.device]);
    let mut remembered = vec![expected.serial.clone(), "NEVER-SEEN".to_owned()];
    remembered.sort();
    assert_eq!(approved.remembered, remembered);
    let state = world.store.device_identity(first.device).await.expect("a look-up").expect("a device").state;
    assert_eq!(state, DeviceState::Active);
    let enrolled = world.store.device_enroll(expected, wall_now()).await.expect("an answer").expect("a device");
    assert!(!enrolled.quarantined);
}

async fn the_same_hardware_twice_is_quarantined_even_when_expected(world: World) {
    let token = world.token(10, true).await;
    let first = enrolling(token, world.now);
    let mut twin = enrolling(token, world.now);
    twin.serial.clone_from(&first.serial);
    let mut sister = enrolling(token, world.now);
    sister.smbios_uuid = first.smbios_uuid;
    let enroll = async |it| world.store.device_enroll(it, wall_now()).await.expect("an answer").expect("a device");
    assert!(!enroll(first.clone()).await.quarantined);
    assert!(enroll(twin.clone()).await.quarantined);
    assert!(enroll(sister.clone()).await.quarantined);
}

async fn a_ban_is_not_undone_by_enrolling_again(world: World) {
    let token = world.token(10, false).await;
    let enroll = async |it| world.store.device_enroll(it, wall_now()).await.expect("an answer").expect("a device");
    let expect = async |serial: &String| {
        let serials = Selector::Serials(vec![serial.clone()]);
        world.store.devices_approve(serials, "ada", world.now).await.expect("an approval")
    };
    let first = enrolling(token, world.now);
    assert_eq!(expect(&first.serial).await.remembered, std::slice::from_ref(&first.serial));
    assert!(!enroll(first.clone()).await.quarantined);
    assert_eq!(expect(&first.serial).await.remembered, Vec::<String>::new(), "it is here");
    world.store.device_ban(first.device, "stolen", "ada", world.now).await.expect("a ban");
    assert_eq!(expect(&first.serial).await.banned, std::slice::from_ref(&first.serial));
    for with in ["serial", "smbios"] {
        let mut again = enrolling(world.token(1, true).await, world.now);
        if with == "serial" {
            again.serial.clone_from(&first.serial);
        } else {
            again.smbios_uuid = first.smbios_uuid;
        }
        assert!(enroll(again.clone()).await.quarantined, "{with}");
        let row = world.store.device_get(again.device).await.expect("a look-up").expect("a device");
        assert_eq!(row.state_reason.as_deref(), Some("a banned device has this serial number or SMBIOS UUID"));
    }
}

async fn an_expected_serial_number_lets_one_device_in(world: World) {
    let token = world.token(10, false).await;
    let enroll = async |it| world.store.device_enroll(it, wall_now()).await.expect("an answer").expect("a device");
    let mut first = enrolling(token, world.now);
    let serials = Selector::Serials(vec![first.serial.clone()]);
    world.store.devices_approve(serials, "ada", world.now).await.expect("an approval");
    assert!(!enroll(first.clone()).await.quarantined);
    // The machine before it was taken out of the fleet: the number has been used all the same.
    world.execute("DELETE FROM devices WHERE id = $1", first.device.0).await;
    first.device = enrolling(token, world.now).device;
    first.key_hash = [3; 32];
    assert!(enroll(first).await.quarantined);
}

async fn a_machine_that_missed_the_answer_gets_it_again(world: World) {
    let token = world.token(1, true).await;
    let first = enrolling(token, world.now);
    let enroll = async |it| world.store.device_enroll(it, wall_now()).await.expect("an answer");
    let given = enroll(first.clone()).await.expect("a device");
    assert_eq!(given.device, first.device);
    let mut again = first.clone();
    again.device = enrolling(token, world.now).device;
    assert_eq!(enroll(again.clone()).await.expect("the same device"), given);
    // With uses left as well, and none is spent.
    let many = world.token(5, true).await;
    let mut other = enrolling(many, world.now);
    let given = enroll(other.clone()).await.expect("a device");
    other.device = again.device;
    assert_eq!(enroll(other.clone()).await.expect("the same device"), given);
    let tokens = world.store.token_list().await.expect("tokens");
    assert_eq!(tokens.iter().map(|it| it.uses_left).collect::<Vec<_>>(), [4, 0]);
    // Another key is another machine, or one that lost its key.
    let mut stranger = again.clone();
    stranger.key_hash = [9; 32];
    assert_eq!(enroll(stranger).await, Err(EnrollRefused::UsedUp));
    // A device that was here has its certificate.
    world.session(first.device, "a").await;
    assert_eq!(enroll(again).await, Err(EnrollRefused::UsedUp));
}

on_both!(
    one_use_is_one_device_however_many_ask,
    a_refusal_says_why,
    a_new_device_waits_for_approval_unless_expected,
    the_same_hardware_twice_is_quarantined_even_when_expected,
    a_ban_is_not_undone_by_enrolling_again,
    an_expected_serial_number_lets_one_device_in,
    a_machine_that_missed_the_answer_gets_it_again,
);
