use std::sync::Arc;

use fleetmend_proto::DeviceId;
use uuid::Uuid;

use super::*;
use crate::pki::DeviceCertificate;

fn conn(device: Option<u128>) -> Arc<Conn> {
    let device = device.map(|id| DeviceCertificate {
        device: DeviceId(Uuid::from_u128(id)),
        not_after: fleetmend_proto::clock::wall_now(),
        key_hash: [0; 32],
    });
    Arc::new(Conn::new(([127, 0, 0, 1], 1).into(), device))
}

#[test]
fn killing_a_device_cuts_all_its_connections_and_no_other() {
    let registry = ConnectionRegistry::default();
    let [one, again, other, nobody] = [conn(Some(1)), conn(Some(1)), conn(Some(2)), conn(None)];
    let entries: Vec<_> = [&one, &again, &other, &nobody].map(|it| registry.insert(Arc::clone(it), 0)).into();
    assert_eq!(registry.count(), 4);
    assert_eq!(registry.devices(), [1, 2].map(|id| DeviceId(Uuid::from_u128(id))));

    assert_eq!(registry.kill(DeviceId(Uuid::from_u128(1))), 2);
    assert_eq!([&one, &again, &other, &nobody].map(|it| it.killed()), [true, true, false, false]);
    drop(entries);
    assert_eq!(registry.count(), 0);
    assert_eq!(registry.kill_all(), 0);
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_key() {
    let first = Listener::bind("agents", ([127, 0, 0, 1], 0).into()).expect("a free port");
    let error = Listener::bind("operators", first.addr()).expect_err("taken").to_string();
    assert!(error.contains(&first.addr().to_string()) && error.contains("[listen.operators]"), "{error}");
    assert!(error.contains("another process has that port"), "{error}");
}

#[test]
fn one_connection_too_many_of_a_device_cuts_its_oldest() {
    let registry = ConnectionRegistry::default();
    let conns: Vec<_> = [Some(1), Some(2), Some(1), Some(1), None, None, None].map(conn).into();
    let entries: Vec<_> = conns.iter().map(|it| registry.insert(Arc::clone(it), 2)).collect();
    let cut: Vec<_> = conns.iter().map(|it| it.killed()).collect();
    assert_eq!(cut, [true, false, false, false, false, false, false], "strangers have no device");
    drop(entries);
}
