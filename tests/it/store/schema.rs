//! Schema versions, fleet ownership, addresses.

use fleetmend_controller::store::{Store, StoreError};
use fleetmend_proto::FleetId;
use uuid::Uuid;

use super::world::World;

async fn migrating_twice_applies_nothing(world: World) {
    assert_eq!(world.store.migrate().await.expect("a second migration"), Vec::<&str>::new());
    world.store.schema_check().await.expect("the newest schema");
}

async fn a_newer_schema_is_refused_by_name(world: World) {
    let row =
        "INSERT INTO schema (version, name, min_binary, applied_at) VALUES (9999, '9999_later', '99.1.0', 'later')";
    if world.url.starts_with("sqlite") {
        let pool = sqlx::SqlitePool::connect(&world.url).await.expect("the database");
        sqlx::query(row).execute(&pool).await.expect("a row");
    } else {
        let pool = sqlx::PgPool::connect(&world.url).await.expect("the database");
        sqlx::query(row).execute(&pool).await.expect("a row");
    }
    for refused in [world.store.schema_check().await.err(), world.store.migrate().await.err()] {
        let error = refused.expect("a newer database is refused");
        assert!(matches!(error, StoreError::NewerSchema { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("database needs fleetmend 99.1.0 or newer; this is "), "{text}");
    }
}

async fn a_database_belongs_to_one_fleet(world: World) {
    let fleet = FleetId(Uuid::new_v4());
    let first = world.store.fleet_ensure(fleet).await.expect("an unclaimed database");
    let again = world.store.fleet_ensure(fleet).await.expect("its own fleet");
    assert_eq!(first, again);
    let other = world.store.fleet_ensure(FleetId(Uuid::new_v4())).await;
    assert!(matches!(other, Err(StoreError::OtherFleet { .. })), "{other:?}");
}

on_both!(migrating_twice_applies_nothing, a_newer_schema_is_refused_by_name, a_database_belongs_to_one_fleet,);

#[tokio::test]
async fn an_empty_database_wants_migration() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("empty.db").display());
    let store = Store::connect(&url).await.expect("a new file");
    let error = store.schema_check().await.expect_err("there is no schema yet");
    assert!(error.to_string().contains("fleetmend migrate"), "{error}");
}

#[tokio::test]
async fn an_unreachable_database_is_named_without_its_password() {
    let url = "postgres://fleetmend:secret@127.0.0.1:1/fleet";
    let error = Store::connect(url).await.expect_err("nobody listens on port 1");
    assert!(error.is_transient() && matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("postgres://fleetmend@127.0.0.1:1/fleet"), "{error}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn other_addresses_are_not_understood() {
    for url in ["mysql://localhost/x", "controller.db", ""] {
        let error = Store::connect(url).await.expect_err("not a database we know");
        assert!(matches!(error, StoreError::BadUrl { .. }), "{url}: {error:?}");
    }
}
