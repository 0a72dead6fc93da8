//! Enrolment tokens as people make, list and revoke them. Spending one is `enrollment`'s.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Store, StoreError,
    engine::{on, within},
    error::During as _,
    new_id,
    tokens::{Tokens, done},
};

/// A token to be made. Only its hash is kept.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// SHA-256 of the token's text.
    pub hash: [u8; 32],
    pub uses: u32,
    /// Wall clock.
    pub expires_at: DateTime<Utc>,
    /// Where its devices begin.
    pub ring: String,
    /// Its devices need no approval (demo, bench).
    pub preapproved: bool,
    /// Person.
    pub created_by: String,
    pub note: String,
    pub now: DateTime<Utc>,
}

/// A token as listed.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct EnrollToken {
    pub id: Uuid,
    pub uses: i64,
    pub uses_left: i64,
    pub expires_at: DateTime<Utc>,
    pub ring: String,
    pub preapproved: bool,
    pub note: String,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

const TOKENS: Tokens = Tokens {
    name: "enrolment token",
    revoke: "UPDATE enroll_tokens SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1",
    made: "token_made",
    revoked: "token_revoked",
};

impl Store {
    /// Keeps a new token; returns its id, by which it can be revoked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_insert(&self, token: NewToken) -> Result<Uuid, StoreError> {
        let id = new_id();
        let mut tx = self.begin("token insert").await?;
        within!(&mut tx, conn => sqlx::query(
            "INSERT INTO enroll_tokens (id, hash, uses, uses_left, expires_at, ring, preapproved, note, created_by, \
             created_at) VALUES ($1, $2, $3, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(id)
        .bind(&token.hash[..])
        .bind(i64::from(token.uses))
        .bind(token.expires_at)
        .bind(&token.ring)
        .bind(token.preapproved)
        .bind(&token.note)
        .bind(&token.created_by)
        .bind(token.now)
        .execute(conn)
        .await
        .map(|_| ()))
        .during("token insert")?;
        let data = serde_json::json!({ "token": id, "uses": token.uses, "ring": token.ring });
        done(tx, TOKENS.made, token.created_by, &data, token.now).await?;
        Ok(id)
    }

    /// All tokens, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_list(&self) -> Result<Vec<EnrollToken>, StoreError> {
        on!(self.db, pool => sqlx::query_as(
            "SELECT id, uses, uses_left, expires_at, ring, preapproved, note, created_by, created_at, revoked_at \
             FROM enroll_tokens ORDER BY id DESC",
        )
        .fetch_all(pool)
        .await)
        .during("token list")
    }

    /// Ends a token. Devices that it enrolled stay.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such token.
    pub async fn token_revoke(&self, id: Uuid, by: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
        self.revoke(&TOKENS, id, by, now).await
    }
}
