//! Which fleet a database belongs to. Checked at every start, so that two fleets never share rows.

use chrono::{DateTime, Utc};
use fleetmend_proto::{FleetId, clock::wall_now};
use uuid::Uuid;

use super::{
    Actor, Store, StoreError,
    engine::within,
    error::During as _,
    events::{self, Event},
};

/// The one row of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    pub id: FleetId,
    /// Made with the database; another value than the one kept on disk means a restored backup.
    pub db_epoch: Uuid,
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// Claims an empty database for `fleet`, or checks that it is this fleet's.
    ///
    /// # Errors
    /// [`StoreError::OtherFleet`] when the database is another fleet's.
    pub async fn fleet_ensure(&self, fleet: FleetId) -> Result<Fleet, StoreError> {
        let mut tx = self.begin("fleet ensure").await?;
        let now = wall_now();
        let made = within!(&mut tx, conn => sqlx::query(
            "INSERT INTO fleet (only_row, fleet_id, db_epoch, created_at) VALUES (1, $1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(fleet.0)
        .bind(Uuid::new_v4())
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
        .during("fleet ensure")?;
        if made == 1 {
            let actor = Actor::Loop("start");
            events::append(&mut tx, &[Event::new(&actor, "fleet_claimed", now)]).await?;
        }
        let (id, db_epoch, created_at): (Uuid, Uuid, DateTime<Utc>) = within!(&mut tx, conn =>
            sqlx::query_as("SELECT fleet_id, db_epoch, created_at FROM fleet").fetch_one(conn).await)
        .during("fleet ensure")?;
        if id != fleet.0 {
            return Err(StoreError::OtherFleet { found: id.to_string(), configured: fleet.to_string() });
        }
        tx.commit().await.during("fleet ensure")?;
        Ok(Fleet { id: fleet, db_epoch, created_at })
    }
}
