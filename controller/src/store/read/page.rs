//! Pages by key, never by offset: a cursor says after which row to go on.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use crate::store::{StoreError, json_text};

/// Rows of a page unless its request says otherwise, and the most it may say.
pub const DEFAULT_LIMIT: u32 = 100;
pub const MAX_LIMIT: u32 = 1_000;

/// Which page.
#[derive(Clone, Debug, Default)]
pub struct PageRequest {
    /// `next` of the page before; `None` = the first page.
    pub cursor: Option<String>,
    /// Rows; `None` = [`DEFAULT_LIMIT`], at most [`MAX_LIMIT`].
    pub limit: Option<u32>,
}

/// Some rows, and how to ask for those after them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// `None` = that was all.
    pub next: Option<String>,
}

impl PageRequest {
    fn limit(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }

    /// How many rows to fetch: one more than the page, to know whether there are more.
    pub(in crate::store) fn fetch(&self) -> i64 {
        i64::from(self.limit()) + 1
    }

    /// The key of the last row of the page before.
    pub(in crate::store) fn after<K: DeserializeOwned>(&self) -> Result<Option<K>, StoreError> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        let key = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        key.map(Some).ok_or_else(|| StoreError::Conflict {
            operation: "list",
            reason: "the cursor is none that this list gave out; begin without one".to_owned(),
        })
    }

    /// Cuts the extra row off and makes the next cursor from the last one kept.
    pub(in crate::store) fn page<T, K: Serialize>(
        &self,
        mut rows: Vec<T>,
        key: impl Fn(&T) -> K,
    ) -> Result<Page<T>, StoreError> {
        let limit = self.limit() as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) if more => Some(URL_SAFE_NO_PAD.encode(json_text(&key(last))?)),
            _ => None,
        };
        Ok(Page { items: rows, next })
    }
}
