//! What tokens for people's programs and for devices have in common: making and ending them is a person's, and an event.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Actor, Store, StoreError,
    engine::{Tx, within},
    error::During as _,
    events::{self, Event},
};

/// A kind of token.
pub(super) struct Tokens {
    /// For people.
    pub name: &'static str,
    /// Ends one: id, time.
    pub revoke: &'static str,
    pub made: &'static str,
    pub revoked: &'static str,
}

impl Store {
    /// Ends a token.
    pub(super) async fn revoke(&self, kind: &Tokens, id: Uuid, by: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
        let mut tx = self.begin("token revoke").await?;
        let changed = within!(&mut tx, conn =>
            sqlx::query(kind.revoke).bind(id).bind(now).execute(conn).await.map(|done| done.rows_affected()))
        .during("token revoke")?;
        if changed == 0 {
            return Err(StoreError::not_found(kind.name, id));
        }
        done(tx, kind.revoked, by.to_owned(), &serde_json::json!({ "token": id }), now).await
    }
}

/// Ends the transaction in which a person did something to a token.
pub(super) async fn done(
    mut tx: Tx,
    event: &'static str,
    by: String,
    data: &Value,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    events::append(&mut tx, &[Event::new(&Actor::Person(by), event, now).data(data)]).await?;
    tx.commit().await.during("token")
}
