//! Operators' bearer tokens: hashed, with a role and an expiry.

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
pub struct NewApiToken {
    /// SHA-256 of the token's text.
    pub hash: [u8; 32],
    /// Whom it stands for, in events and lists.
    pub name: String,
    /// `viewer`, `operator`, ...; checked by the API that reads it.
    pub role: String,
    /// Wall clock.
    pub expires_at: DateTime<Utc>,
    pub created_by: String,
    pub now: DateTime<Utc>,
}

/// A token as listed and found.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ApiToken {
    pub id: Uuid,
    pub name: String,
    pub role: String,
    pub expires_at: DateTime<Utc>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

const TOKENS: Tokens = Tokens {
    name: "API token",
    revoke: "UPDATE api_tokens SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1",
    made: "api_token_made",
    revoked: "api_token_revoked",
};

impl Store {
    /// Keeps a new token; returns its id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn api_token_insert(&self, token: NewApiToken) -> Result<Uuid, StoreError> {
        let id = new_id();
        let mut tx = self.begin("API token insert").await?;
        within!(&mut tx, conn => sqlx::query(
            "INSERT INTO api_tokens (id, hash, name, role, expires_at, created_by, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(id)
        .bind(&token.hash[..])
        .bind(&token.name)
        .bind(&token.role)
        .bind(token.expires_at)
        .bind(&token.created_by)
        .bind(token.now)
        .execute(conn)
        .await
        .map(|_| ()))
        .during("API token insert")?;
        let data = serde_json::json!({ "token": id, "name": token.name, "role": token.role });
        done(tx, TOKENS.made, token.created_by, &data, token.now).await?;
        Ok(id)
    }

    /// All tokens, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn api_token_list(&self) -> Result<Vec<ApiToken>, StoreError> {
        on!(self.db, pool => sqlx::query_as(
            "SELECT id, name, role, expires_at, created_by, created_at, revoked_at FROM api_tokens ORDER BY id DESC",
        )
        .fetch_all(pool)
        .await)
        .during("API token list")
    }

    /// The token of a hash, if it is still good at `now` (wall clock).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn api_token_find(&self, hash: [u8; 32], now: DateTime<Utc>) -> Result<Option<ApiToken>, StoreError> {
        on!(self.db, pool => sqlx::query_as(
            "SELECT id, name, role, expires_at, created_by, created_at, revoked_at FROM api_tokens \
             WHERE hash = $1 AND expires_at > $2 AND revoked_at IS NULL",
        )
        .bind(&hash[..])
        .bind(now)
        .fetch_optional(pool)
        .await)
        .during("API token look-up")
    }

    /// Ends a token.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such token.
    pub async fn api_token_revoke(&self, id: Uuid, by: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
        self.revoke(&TOKENS, id, by, now).await
    }
}
