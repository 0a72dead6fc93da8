//! Identity: bans, renewals, clones; lists by page; operators' tokens.

use chrono::TimeDelta;
use fleetmend_controller::store::{
    Approved, DeviceFilter, DeviceState, NewApiToken, PageRequest, Renewal, Renewed, Selector, StoreError,
};
use fleetmend_domain::incident::StateName;
use fleetmend_proto::{Action, DeviceId, clock::wall_now};
use uuid::Uuid;

use super::world::{World, enrolling};

async fn a_ban_is_seen_and_cancels_what_waits(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let other = world.device().await;
    world.store.device_ban(device, "stolen", "ada", world.now).await.expect("a ban");
    let unknown = DeviceId(Uuid::new_v4());
    let banned = world.store.devices_banned(&[device, other, unknown]).await.expect("a sweep");
    assert_eq!(banned, vec![device]);
    let order = world.store.order_get(order).await.expect("a look-up").expect("the order");
    assert_eq!(order.state, fleetmend_domain::order::State::Cancelled);
    assert!(world.due(world.now + TimeDelta::days(1)).await.is_empty(), "a banned device gets no decisions");
    let row = world.store.incident_get(incident).await.expect("a look-up").expect("the incident");
    assert_eq!((row.state, row.reason.as_deref()), (StateName::Dismissed, Some("ada")), "nobody could end it later");
    let missing = world.store.device_ban(unknown, "x", "ada", world.now).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
}

/// `from`: the generation and key in use (a new device has 1 and the key 1); `key`: the one asked for.
fn renewal(world: &World, device: DeviceId, from: (i64, u8), key: u8) -> Renewal {
    Renewal {
        device,
        presented_generation: from.0,
        presented_key_hash: [from.1; 32],
        key_hash: [key; 32],
        not_after: world.now + TimeDelta::days(14),
        now: world.now,
    }
}

async fn a_generation_is_renewed_once(world: World) {
    let device = world.device().await;
    let renew =
        async |from, key| world.store.device_renew(renewal(&world, device, from, key)).await.expect("an answer");
    assert_eq!(renew((1, 1), 2).await, Renewed::Renewed { generation: 2 });
    // The answer was lost: the same machine asks again for the same key.
    assert_eq!(renew((1, 1), 2).await, Renewed::Renewed { generation: 2 });
    assert_eq!(renew((2, 2), 3).await, Renewed::Renewed { generation: 3 });
    // An agent may keep its key.
    assert_eq!(renew((3, 3), 3).await, Renewed::Renewed { generation: 4 });
    assert_eq!(renew((3, 3), 3).await, Renewed::Renewed { generation: 4 });
    // Another key with a generation that was used: two machines.
    assert_eq!(renew((3, 3), 4).await, Renewed::CloneSuspected);
    let identity = world.store.device_identity(device).await.expect("a look-up").expect("a device");
    assert_eq!((identity.state, identity.generation), (DeviceState::Quarantined, 4));
    world.store.devices_approve(Selector::Id(device), "ada", world.now).await.expect("an approval");
    assert_eq!(renew((4, 3), 5).await, Renewed::Renewed { generation: 5 });
}

async fn a_renewal_with_another_machines_key_is_a_clone(world: World) {
    // The generation is only said; the key is proved.
    for (from, key) in [((2, 1), 9), ((2, 7), 9), ((1, 7), 2), ((i64::MIN, 2), 2), ((3, 2), 9)] {
        let (device, incident) = world.failing().await;
        let order = world.order(incident, Action::RepairImage, world.now).await;
        let renew = async |it| world.store.device_renew(it).await.expect("an answer");
        assert_eq!(renew(renewal(&world, device, (1, 1), 2)).await, Renewed::Renewed { generation: 2 });
        assert_eq!(renew(renewal(&world, device, from, key)).await, Renewed::CloneSuspected, "{from:?}");
        let identity = world.store.device_identity(device).await.expect("a look-up").expect("a device");
        assert_eq!((identity.state, identity.generation), (DeviceState::Quarantined, 2), "{from:?}");
        let order = world.store.order_get(order).await.expect("a look-up").expect("the order");
        assert_eq!(order.state, fleetmend_domain::order::State::Cancelled);
    }
}

async fn serial_numbers_end_no_ban(world: World) {
    let token = world.token(10, false).await;
    let (banned, raced) = (enrolling(token, world.now), enrolling(token, world.now));
    for it in [&banned, &raced] {
        world.store.device_enroll(it.clone(), wall_now()).await.expect("an answer").expect("a device");
    }
    world.store.device_ban(banned.device, "stolen", "ada", world.now).await.expect("a ban");
    let approve = |serials: Vec<String>| {
        let (store, now) = (world.store.clone(), world.now);
        async move { store.devices_approve(Selector::Serials(serials), "ada", now).await }
    };
    let approved = approve(vec![banned.serial.clone()]).await.expect("an answer");
    assert_eq!(approved, Approved { banned: vec![banned.serial.clone()], ..Approved::default() });
    // A ban that is under way while the approval has already seen a quarantined device.
    let approving = world.while_locked(
        "UPDATE devices SET state = 'banned', state_reason = 'stolen' WHERE id = $1",
        raced.device.0,
        approve(vec![raced.serial.clone()]),
    );
    let approved = approving.await.expect("an answer");
    assert_eq!(approved.approved, Vec::<DeviceId>::new());
    let state = async |device| world.store.device_identity(device).await.expect("a look-up").expect("a device").state;
    assert_eq!((state(banned.device).await, state(raced.device).await), (DeviceState::Banned, DeviceState::Banned));
    // Its id does.
    let approved = world.store.devices_approve(Selector::Id(banned.device), "ada", world.now).await.expect("an answer");
    assert_eq!((approved.approved, state(banned.device).await), (vec![banned.device], DeviceState::Active));
}

async fn devices_come_by_page_in_order_of_name(world: World) {
    let mut expected = Vec::new();
    for _ in 0..25 {
        expected.push(world.device().await);
    }
    let filter = DeviceFilter { state: Some(DeviceState::Active), name_prefix: Some("PC-".to_owned()) };
    let mut request = PageRequest { cursor: None, limit: Some(10) };
    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let page = world.store.device_list(&filter, &request).await.expect("a page");
        sizes.push(page.items.len());
        seen.extend(page.items);
        let Some(next) = page.next else { break };
        request.cursor = Some(next);
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert!(seen.windows(2).all(|pair| (&pair[0].name, pair[0].id) < (&pair[1].name, pair[1].id)));
    let mut ids: Vec<_> = seen.iter().map(|device| device.id).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    let none = DeviceFilter { name_prefix: Some("XX".to_owned()), ..DeviceFilter::default() };
    assert!(world.store.device_list(&none, &PageRequest::default()).await.expect("a page").items.is_empty());
    let broken = PageRequest { cursor: Some("nonsense".to_owned()), limit: None };
    assert!(world.store.device_list(&filter, &broken).await.is_err());
}

async fn an_api_token_is_good_until_it_expires_or_is_revoked(world: World) {
    let token = NewApiToken {
        hash: [4; 32],
        name: "grafana".to_owned(),
        role: "viewer".to_owned(),
        expires_at: wall_now() + TimeDelta::days(90),
        created_by: "ada".to_owned(),
        now: wall_now(),
    };
    let id = world.store.api_token_insert(token).await.expect("a token");
    let found = world.store.api_token_find([4; 32], wall_now()).await.expect("a look-up").expect("the token");
    assert_eq!((found.id, found.role.as_str()), (id, "viewer"));
    assert!(world.store.api_token_find([5; 32], wall_now()).await.expect("a look-up").is_none());
    let later = wall_now() + TimeDelta::days(91);
    assert!(world.store.api_token_find([4; 32], later).await.expect("a look-up").is_none());
    world.store.api_token_revoke(id, "ada", wall_now()).await.expect("a token to revoke");
    assert!(world.store.api_token_find([4; 32], wall_now()).await.expect("a look-up").is_none());
    assert_eq!(world.store.api_token_list().await.expect("tokens").len(), 1);
}

on_both!(
    a_ban_is_seen_and_cancels_what_waits,
    a_generation_is_renewed_once,
    a_renewal_with_another_machines_key_is_a_clone,
    serial_numbers_end_no_ban,
    devices_come_by_page_in_order_of_name,
    an_api_token_is_good_until_it_expires_or_is_revoked,
);
